"""The `recllm` command.

Every command exits with 0 when it is done, 1 when a check found something, and 2 when the user can
mend what went wrong; the message then says how. As shells have it, 130 means stopped with Ctrl-C,
and 141 that nobody reads the output any longer.
"""

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from recllm_tasks.commands import (
    baselines_options,
    huge_pages,
    prepare_options,
    report_options,
    setup,
)
from recllm_tasks.commands.interrupts import keep_interrupts, raise_lost
from recllm_tasks.errors import UserError

_GIN_HELP = """\
settings:
  --gin_file FILE (repeatable) reads settings; order matters: model, then run, then your own. Files
  are found here and among the installed ones (models/*.gin, runs/*.gin).
  --gin.NAME=VALUE overrides one of them; NAME is a macro (TRAIN_STEPS) or a parameter
  (mixtures.rate.rates).
"""

_EXAMPLES = {
    "prepare": prepare_options.HELP,
    "show": """\
examples:
  recllm show                                   lists every task and mixture
  recllm show movielens_100k_retrieval --data_dir ~/recllm_data
  recllm show toys_mlm --num 10 --seed 3 --json
  recllm show toys_reat --throughput            measures training's input, without a model
""",
    "audit": """\
It reads every record and runs every task, yours in --module too, over the whole dataset: no later
interaction in an earlier split, no target in its own history, no negative that the user has
interacted with, short ids in no order, and no validation or test pair in the tokens of any training
example. One line a check; a check that fails shows its first offending record.

exit code: 0 all checks passed, 1 one failed, 2 the dataset is not prepared or damaged.

examples:
  recllm audit toys --data_dir ~/recllm_data
  recllm audit toys --module my_tasks --seeds 5 --json
""",
    "stats": """\
Of the paper's datasets (toys, beauty, sports) its numbers stand beside those found here. The rating
task is counted where the dataset has ratings.

examples:
  recllm stats toys --data_dir ~/recllm_data
  recllm stats movielens_100k --json
""",
    "doctor": """\
It looks at Python, the packages against the ranges that recllm_tasks asks for, the devices that JAX
finds, and T5X, which is optional.

exit code: 0 everything that is needed fits together, 1 something is to mend; the line says how.
""",
    "train": _GIN_HELP
    + """
example:
  recllm train --gin_file=models/tiny.gin --gin_file=runs/finetune.gin \\
    --gin.MIXTURE_OR_TASK_NAME=movielens_100k_ut_at --gin.MODEL_DIR=/tmp/run \\
    --data_dir ~/recllm_data
  The same command goes on where a stopped run was.
""",
    "eval": _GIN_HELP
    + """
example:
  recllm eval --gin.MODEL_DIR=/tmp/run --data_dir ~/recllm_data
  The same command goes on where a killed one was.
""",
    "infer": _GIN_HELP
    + """
example:
  recllm infer --gin.MODEL_DIR=/tmp/run --gin.MIXTURE_OR_TASK_NAME=movielens_100k_retrieval \\
    --data_dir ~/recllm_data --out recommendations.jsonl
""",
    "baselines": baselines_options.HELP,
    "recommend": """\
items:
  A history names items, oldest first, separated by commas: short ids, raw ids, whole titles, or
  titles and parts of titles in quotes. The model sees the last 20.

examples:
  recllm recommend --checkpoint /tmp/run --data_dir ~/recllm_data \\
    --history "I17, I4, 'Toy Story'" --history "I3" -k 5
  recllm recommend --checkpoint /tmp/run --histories - --json < histories.txt
""",
    "report": report_options.HELP,
    "convert": """\
formats:
  hf      a folder of Hugging Face transformers: config.json, safetensors, in shards or not
  t5x     T5X's checkpoint_<step>, or the folder it lies in: Orbax and legacy are read, Orbax is
          written; --to t5x_legacy writes the form in which FLAN-T5 was published
  recllm  the MODEL_DIR of a run (its best state, else the last), or a converted folder

Parameters are moved one at a time, so that memory is that of the largest few. All names and shapes
are checked first, and DST appears when it is whole. --verify reads both again; where transformers
is installed and memory allows, torch reads the side of hf.

exit code: 0 done, 1 --verify found a difference, 2 SRC is not there, damaged, or does not fit.

examples:
  recllm convert --from recllm --to hf /tmp/run /tmp/for_transformers --verify
  recllm convert --from t5x --to hf ~/flan_t5_xl/checkpoint_1138000 /tmp/for_transformers
  recllm convert --from hf --to recllm ~/flan-t5-xl /tmp/flan_t5_xl --dtype bfloat16
""",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    keep_interrupts()
    try:
        args, rest = _parser().parse_known_args(argv)
        if argv is None and args.command == "train":
            huge_pages.ask_for_them()
        if args.command != "doctor":  # which is asked where an import fails
            setup.import_quietly()
        args.bindings = _gin_bindings(rest, allowed=args.command in ("train", "eval", "infer"))
        command = importlib.import_module(f"recllm_tasks.commands.{args.command}")
        with setup.damage_told():
            code = command.run(args)
            raise_lost()
            sys.stdout.flush()
            return code
    except UserError as error:
        # Gin adds the chain of its calls to every message that passes through it.
        message = str(error).split("\n  In call to configurable")[0]
        sys.stderr.write(f"recllm: error: {message}\n")
        return 2
    except BrokenPipeError:
        # What is still buffered would fail once more when Python closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        what = f" for '{error.filename}'" if error.filename else ""
        sys.stderr.write(
            f"recllm: error: file{what}: got {error.strerror}, expected to read and write there; "
            "check the path, its permissions and the room on the disk\n"
        )
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nrecllm: stopped\n")
        sys.stdout.flush()
        sys.stderr.flush()
        # At once: TensorFlow's and JAX's threads, still at work, can crash Python while it ends.
        os._exit(130)


def _gin_bindings(rest: Sequence[str], allowed: bool) -> list[str]:
    """`--gin.NAME=VALUE` arguments as gin bindings; anything else is an error."""
    from recllm_tasks.engine import configuration

    bindings = []
    for argument in rest:
        name, equals, value = argument.removeprefix("--gin.").partition("=")
        if not argument.startswith("--gin.") or not allowed:
            raise UserError(f"Unknown argument '{argument}'; see `recllm --help`")
        if not equals or not name:
            raise UserError(
                f"Wrong setting '{argument}': got no value, expected --gin.NAME=VALUE; add one"
            )
        bindings.append(f"{name} = {configuration.as_gin(value)}")
    return bindings


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; see `{self.prog} --help`")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="recllm",
        description="Fine-tune, evaluate and use language models that recommend.",
        epilog="`recllm COMMAND --help` explains a command.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    prepare = _command(
        commands, "prepare", "reads a raw interaction log and stores it as a dataset"
    )
    prepare_options.add_arguments(prepare)

    show = _command(commands, "show", "prints examples of a task as people read them")
    show.add_argument("task", nargs="?", help="task or mixture; none lists them all")
    show.add_argument("--split", default="train", help="train, validation or test")
    show.add_argument("--num", type=int, default=3, help="how many examples")
    show.add_argument("--seed", type=int, default=0, help="of order and sampling")
    show.add_argument("--inputs_length", type=int, default=1024, help="tokens of the input")
    show.add_argument("--targets_length", type=int, default=128, help="tokens of the target")
    show.add_argument("--vocabulary", help="SentencePiece model; the dataset's own by default")
    show.add_argument(
        "--throughput",
        action="store_true",
        help="measure how fast training batches are made, and what limits it",
    )
    show.add_argument("--json", action="store_true", help="one JSON object a line")

    audit = _command(
        commands, "audit", "proves that a dataset and its tasks give nothing held out away"
    )
    audit.add_argument("dataset", help="a prepared dataset, such as toys")
    audit.add_argument("--seeds", type=int, default=2, help="runs of each task that samples")
    audit.add_argument("--p5", action="store_true", help="P5's tasks too: twice the time")
    audit.add_argument("--json", action="store_true", help="checks as JSON")

    stats = _command(commands, "stats", "prints Tables 7 and 10 of the paper for a dataset")
    stats.add_argument("dataset", help="a prepared dataset, such as toys")
    stats.add_argument("--json", action="store_true", help="counts as JSON")

    doctor = _command(commands, "doctor", "says what is installed, what fits, and what to do")
    doctor.add_argument("--json", action="store_true", help="findings as JSON")

    for name, what in (
        ("train", "fine-tunes a model on a task or mixture"),
        ("eval", "measures a trained model and writes results.json"),
        ("infer", "writes a model's recommendations, one JSON line a user"),
    ):
        command = _command(commands, name, what)
        command.add_argument(
            "--gin_file", action="append", default=[], metavar="FILE", help="settings; repeatable"
        )
        if name == "infer":
            command.add_argument("--out", required=True, help="file to write")
        if name == "eval":
            command.add_argument("--json", action="store_true", help="results as JSON")
    baselines_options.add_arguments(
        _command(commands, "baselines", "fits and measures simple and classical recommenders")
    )
    for name in ("show", "train", "eval", "infer"):
        commands.choices[name].add_argument(
            "--p5_templates",
            metavar="FILE",
            help="P5's src/all_amazon_templates.py, read and not run: its templates make up "
            "<dataset>_p5",
        )
    recommend = _command(
        commands, "recommend", "prints the items that a trained model expects next"
    )
    recommend.add_argument("--checkpoint", required=True, metavar="DIR", help="the run's folder")
    recommend.add_argument(
        "--history", action="append", default=[], metavar="ITEMS", help="one history; repeatable"
    )
    recommend.add_argument(
        "--histories", metavar="FILE", help="a history a line; - is standard input"
    )
    recommend.add_argument("-k", type=int, default=10, help="how many items; 10 by default")
    recommend.add_argument(
        "--exclude_history", action="store_true", help="leave out what the history holds"
    )
    recommend.add_argument("--json", action="store_true", help="one JSON object a history")
    report = _command(commands, "report", "writes runs and baselines as one page beside the paper")
    report_options.add_arguments(report)
    with_data = list(commands.choices.values())
    _add_convert_arguments(_command(commands, "convert", "writes a checkpoint in another format"))
    for command in with_data:
        several = command is report
        command.add_argument(
            "--data_dir",
            action="append" if several else "store",
            default=[] if several else None,
            help="folder of prepared datasets; default $TFDS_DATA_DIR, or ~/tensorflow_datasets"
            + ("; repeatable" if several else ""),
        )
        command.add_argument(
            "--module",
            action="append",
            default=[],
            help="Python module that registers tasks of your own; repeatable",
        )
    return parser


def _add_convert_arguments(convert: argparse.ArgumentParser) -> None:
    convert.add_argument("source", metavar="SRC", help="folder to read")
    convert.add_argument("destination", metavar="DST", help="folder to make")
    convert.add_argument("--from", required=True, dest="source_format", metavar="FORMAT")
    convert.add_argument("--to", required=True, dest="target_format", metavar="FORMAT")
    convert.add_argument("--dtype", default="float32", help="float32 (default) or bfloat16")
    convert.add_argument(
        "--verify",
        action="store_true",
        help="compare log-probabilities of prompts in both; exit code 1 where they differ",
    )
    convert.add_argument(
        "--vocabulary", metavar="FILE", help="SentencePiece model for --verify; SRC's by default"
    )
    convert.add_argument("--step", type=int, help="of the target; the source's by default")
    convert.add_argument(
        "--overwrite", action="store_true", help="replace what an earlier conversion wrote"
    )


def _command(commands, name: str, what: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=_EXAMPLES[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


if __name__ == "__main__":
    sys.exit(main())
