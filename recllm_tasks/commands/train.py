"""`recllm train`: fine-tunes a model, or resumes a stopped run."""

import argparse

from recllm_tasks.commands import session
from recllm_tasks.progress import console

SUMMARY = "fine-tune a model on a task or mixture"
EPILOG = (
    session.GIN_HELP
    + """
example:
  recllm train --gin_file=models/tiny.gin --gin_file=runs/finetune.gin \\
    --gin.MIXTURE_OR_TASK_NAME=movielens_100k_ut_at --gin.MODEL_DIR=/tmp/run \\
    --data_dir ~/recllm_data
  The same command resumes a stopped run.
"""
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    session.add_gin_arguments(parser)
    session.add_p5_argument(parser)
    session.add_data_arguments(parser)


def run(args) -> int:
    session.use_data_dir(args)
    session.register_tasks(args)
    train = session.configured(args, "training.train")
    folder = train()
    console.print(f"trained; the checkpoint to use is in {folder}")
    return 0
