"""`recllm eval`: metrics of a trained run and of simple baselines, as a table and results.json."""

import argparse
import dataclasses
import json
import pathlib
import sys

from rich.console import Console

from recllm_tasks.commands import session
from recllm_tasks.progress import console

SUMMARY = "measure a trained model and write results.json"
EPILOG = (
    """\
examples:
  recllm eval /tmp/run --data_dir ~/recllm_data
  recllm eval /tmp/run --data_dir ~/recllm_data --gin.PRIOR_WEIGHT=validation
  The same command resumes a stopped evaluation.

"""
    + session.GIN_HELP
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_run_argument(parser)
    session.add_gin_arguments(parser)
    parser.add_argument("--json", action="store_true", help="results as JSON")
    session.add_p5_argument(parser)
    session.add_data_arguments(parser)


def run(args) -> int:
    session.use_data_dir(args)
    session.register_tasks(args)
    session.use_run(args, "runs/eval.gin")
    evaluate = session.configured(args, "evaluation.evaluate")
    model_dir = pathlib.Path(session.macro("MODEL_DIR"))
    results = evaluate(record=lambda results: _save(results, model_dir))

    from recllm_tasks.report.terminal import print_results

    if args.json:
        sys.stdout.write(json.dumps(results.as_json(), indent=2) + "\n")
    else:
        print_results(results, Console(highlight=False), _without_prior(results, model_dir))
    console.print(f"written to {model_dir / 'results.json'}")
    return 0


def _without_prior(results, model_dir: pathlib.Path):
    """What the same checkpoint gave without the prior, if that was measured; else None."""
    from recllm_tasks.runs.results import FOLDER, name_of, read

    if not results.decoding.prior_weight:
        return None
    decoding = dataclasses.replace(results.decoding, prior_weight=0.0)
    path = model_dir / FOLDER / f"{name_of(results.split, decoding)}.json"
    found = read(path) if path.is_file() else None
    same = found and (found.step, found.num_examples) == (results.step, results.num_examples)
    return found if same else None


def _save(results, model_dir: pathlib.Path):
    """Adds the baselines and writes the files; returns the results with them."""
    from recllm_tasks.baselines.built_in import measure_baselines

    baselines = measure_baselines(
        results.dataset, results.split, results.num_examples, results.seen
    )
    results = dataclasses.replace(results, baselines=baselines)
    results.save(model_dir)
    return results
