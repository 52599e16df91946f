"""`recllm eval`: metrics of a trained run beside simple baselines, as a table and results.json."""

import json
import pathlib
import sys

from rich.console import Console

from recllm_tasks.commands import setup
from recllm_tasks.progress import console


def run(args) -> int:
    setup.use_data_dir(args)
    setup.register_tasks(args)
    args.gin_file = args.gin_file or ["runs/eval.gin"]
    evaluate = setup.configured(args, "evaluation.evaluate")
    path = pathlib.Path(setup.macro("MODEL_DIR")) / "results.json"
    results = evaluate(record=lambda results: _write(results, path))

    from recllm_tasks.report.terminal import print_results

    if args.json:
        sys.stdout.write(json.dumps(results, indent=2) + "\n")
    else:
        print_results(results, Console(highlight=False))
    console.print(f"written to {path}")
    return 0


def _write(results: dict, path: pathlib.Path) -> None:
    """Adds the baselines and writes the file."""
    from recllm_tasks.baselines.house import measure_baselines
    from recllm_tasks.engine import run_folder

    results["baselines"] = measure_baselines(
        results["dataset"], results["split"], list(results["metrics"]), results["num_examples"]
    )
    run_folder.write_json(path, results)
