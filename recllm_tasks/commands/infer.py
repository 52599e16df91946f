"""`recllm infer`: writes a trained run's recommendations to a file."""

import argparse

from recllm_tasks.commands import session
from recllm_tasks.progress import console

SUMMARY = "write a model's recommendations, one JSON line per user"
EPILOG = (
    """\
examples:
  recllm infer /tmp/run --data_dir ~/recllm_data --out recommendations.jsonl
  recllm infer /tmp/run --gin.MIXTURE_OR_TASK_NAME=movielens_100k_ids_sequence_ranking \\
    --data_dir ~/recllm_data --out ranked.jsonl
  recllm infer /tmp/run --gin.SPLIT=latest --data_dir ~/recllm_data --out latest.jsonl

  The split `latest` answers every user as of the last event, without a target. `recllm recommend
  --all_users` does the same, resumes, and writes Parquet too.

"""
    + session.GIN_HELP
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_run_argument(parser)
    session.add_gin_arguments(parser)
    parser.add_argument("--out", required=True, help="file to write")
    session.add_p5_argument(parser)
    session.add_data_arguments(parser)


def run(args) -> int:
    session.use_data_dir(args)
    session.register_tasks(args)
    session.use_run(args, "runs/infer.gin")
    infer = session.configured(args, "inference.infer")
    lines = infer(output=args.out)
    console.print(f"{lines:,} lines written to {args.out}")
    return 0
