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
    results = evaluate()

    from recllm_tasks.baselines.house import measure_baselines
    from recllm_tasks.engine import run_folder
    from recllm_tasks.report.terminal import print_results

    results["baselines"] = measure_baselines(
        results["dataset"], results["split"], list(results["metrics"]), results["num_examples"]
    )
    # Shown before it is written: where the folder cannot be written, hours of work are not lost.
    if args.json:
        sys.stdout.write(json.dumps(results, indent=2) + "\n")
    else:
        print_results(results, Console(highlight=False))
    path = pathlib.Path(setup.macro("MODEL_DIR")) / "results.json"
    run_folder.write_json(path, results)
    console.print(f"written to {path}")
    return 0
