"""`recllm eval`: metrics of a trained run and of simple baselines, as a table and results.json."""

import argparse
import json
import pathlib
import sys

from rich.console import Console

from recllm_tasks.commands import session
from recllm_tasks.progress import console

SUMMARY = "measure a trained model and write results.json"
EPILOG = (
    session.GIN_HELP
    + """
example:
  recllm eval --gin.MODEL_DIR=/tmp/run --data_dir ~/recllm_data
  The same command resumes a stopped evaluation.
"""
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_gin_arguments(parser)
    parser.add_argument("--json", action="store_true", help="results as JSON")
    session.add_p5_argument(parser)
    session.add_data_arguments(parser)


def run(args) -> int:
    session.use_data_dir(args)
    session.register_tasks(args)
    args.gin_file = args.gin_file or ["runs/eval.gin"]
    evaluate = session.configured(args, "evaluation.evaluate")
    path = pathlib.Path(session.macro("MODEL_DIR")) / "results.json"
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
