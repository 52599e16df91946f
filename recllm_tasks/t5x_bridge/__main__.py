"""`python -m recllm_tasks.t5x_bridge train|eval|infer`: runs T5X's own programs.

Stubs the packages that T5X imports but cannot find, adds our gin files to its search paths, and
runs t5x/train.py, eval.py or infer.py unchanged. Exits with 2 for an error that the user can fix,
with 143 after SIGTERM, when the state is saved.
"""

import argparse
import contextlib
import importlib
import os
import runpy
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from recllm_tasks.errors import UserError
from recllm_tasks.gin_files import as_gin, check, gin_errors, gin_search_paths
from recllm_tasks.t5x_bridge import imports

_EPILOG = """\
settings:
  --gin_file FILE (repeatable): model, then run, then mixture or your own file. Files are found in
  the current folder, among the installed ones (models/*.gin, runs/t5x_*.gin, mixtures/*.gin), and
  among T5X's. --gin.NAME=VALUE overrides a setting. Other flags (--multiprocess_gpu …) go to T5X.

examples:
  python -m recllm_tasks.t5x_bridge train --data_dir ~/recllm_data \\
    --gin_file=models/flan_t5_xl.gin --gin_file=runs/t5x_finetune.gin \\
    --gin.MIXTURE_OR_TASK_NAME=toys_reat --gin.MODEL_DIR=gs://bucket/toys_reat
  python -m recllm_tasks.t5x_bridge eval --data_dir ~/recllm_data \\
    --gin_file=models/flan_t5_xl.gin --gin_file=runs/t5x_eval.gin \\
    --gin.MIXTURE_OR_TASK_NAME=toys_retrieval --gin.MODEL_DIR=gs://bucket/toys_reat \\
    --gin.EVAL_OUTPUT_DIR=gs://bucket/toys_reat/test
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one of T5X's programs; returns the exit code."""
    try:
        args, rest = _parser().parse_known_args(argv)
        if not args.gin_file:
            raise UserError(
                "No settings: got no --gin_file, expected at least a model and a run; give for "
                "instance --gin_file=models/flan_t5_xl.gin "
                f"--gin_file=runs/{_PROGRAMS[args.program].run}.gin"
            )
        imports.prepare()
        for module in args.module:
            importlib.import_module(module)
        if args.distributed:
            join_processes()
        with (
            gin_errors(f"gin files {', '.join(args.gin_file)}"),
            checked_settings(args.gin_file, _PROGRAMS[args.program].function, args.shared_settings),
        ):
            run(args.program, t5x_arguments(args.gin_file, args.data_dir, rest))
        if args.program == "train":
            finetuning = importlib.import_module("recllm_tasks.t5x_bridge.finetuning")
            if finetuning.Watch.stopped:
                sys.stderr.write("t5x_bridge: stopped by SIGTERM; the same command resumes\n")
                return 128 + signal.SIGTERM
    except UserError as error:
        # Gin appends its call chain to every message that passes through it.
        message = str(error).split("\n  In call to configurable")[0]
        sys.stderr.write(f"t5x_bridge: error: {message}\n")
        return 2
    return 0


class _Program(NamedTuple):
    """One of T5X's programs: its gin file among ours, and the function that it calls."""

    run: str
    function: str


_PROGRAMS = {
    "train": _Program("t5x_finetune", "train"),
    "eval": _Program("t5x_eval", "evaluate"),
    "infer": _Program("t5x_infer", "infer"),
}


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m recllm_tasks.t5x_bridge",
        description="Train, evaluate and infer with T5X.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("program", choices=tuple(_PROGRAMS), help="T5X's program")
    parser.add_argument("--gin_file", action="append", default=[], metavar="FILE", help="settings")
    parser.add_argument("--data_dir", help="folder of prepared datasets")
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="join the other processes of a TPU pod or a Slurm job",
    )
    parser.add_argument(
        "--shared_settings",
        action="store_true",
        help="accept upper-case settings of our gin files that only another program reads; for "
        "scripts that give train and eval the same settings",
    )
    parser.add_argument(
        "--module", action="append", default=[], help="Python module that registers custom tasks"
    )
    return parser


def t5x_arguments(gin_files: Sequence[str], data_dir: str | None, rest: Sequence[str]) -> list[str]:
    """Flags of T5X's programs; `--gin.NAME=VALUE` gets the quotes that gin asks for."""
    folders = gin_search_paths()[1:]
    arguments = [f"--gin_search_paths={','.join(['.', *folders])}"]
    arguments += [f"--gin_file={name}" for name in gin_files]
    if data_dir:
        arguments.append(f"--tfds_data_dir={os.path.expanduser(data_dir)}")
    for argument in rest:
        name, equals, value = argument.partition("=")
        if argument.startswith("--gin.") and equals:
            argument = f"{name}={as_gin(value)}"
        arguments.append(argument)
    return arguments


@contextlib.contextmanager
def checked_settings(gin_files: Sequence[str], function: str, shared: bool) -> Iterator[None]:
    """While open, T5X's parser of settings checks them as `recllm` does, before it locks them."""
    import gin
    from t5x import gin_utils

    parse = gin_utils.parse_gin_flags

    def parse_and_check(search_paths, files, bindings):
        parse(search_paths, files, bindings, finalize_config=False)
        check(gin_files, bindings, f"__main__.{function}", shared)
        gin.finalize()

    gin_utils.parse_gin_flags = parse_and_check
    try:
        yield
    finally:
        gin_utils.parse_gin_flags = parse


def join_processes() -> None:
    """Joins the other processes, which JAX finds on Cloud TPU and under Slurm."""
    import jax

    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"--distributed: got '{error}', expected workers of a TPU pod or a Slurm job; omit "
            "the flag on a single machine, or describe the processes with T5X's --multiprocess_gpu "
            "--coordinator_address --process_count --process_index"
        ) from error


def run(program: str, arguments: Sequence[str]) -> None:
    """Runs t5x/<program>.py as `__main__`, as from the command line."""
    before = sys.argv
    sys.argv = [f"t5x/{program}.py", *arguments]
    try:
        runpy.run_module(f"t5x.{program}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    finally:
        sys.argv = before


if __name__ == "__main__":
    sys.exit(main())
