"""`recllm recommend`: the items that a trained run expects next, for given histories."""

import argparse
import json
import pathlib
import sys

from rich.console import Console

from recllm_tasks.commands import session
from recllm_tasks.errors import UserError

SUMMARY = "print the items that a trained model expects next"
EPILOG = """\
items:
  A history lists items, oldest first, separated by commas: short ids, raw ids, whole titles, or
  titles and parts of titles in quotes. The model sees the last 20.

examples:
  recllm recommend --checkpoint /tmp/run --data_dir ~/recllm_data \\
    --history "I17, I4, 'Toy Story'" --history "I3" -k 5
  recllm recommend --checkpoint /tmp/run --histories - --json < histories.txt
"""

# Paper §4.1; a larger `-k` widens the beam.
_NUM_BEAMS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="the run's folder")
    parser.add_argument(
        "--history", action="append", default=[], metavar="ITEMS", help="one history; repeatable"
    )
    parser.add_argument(
        "--histories", metavar="FILE", help="one history per line; - is standard input"
    )
    parser.add_argument("-k", "--k", type=int, default=10, help="number of items (10)")
    parser.add_argument(
        "--exclude_history",
        action=argparse.BooleanOptionalAction,
        help="whether to leave out items of the history (yes, unless the dataset keeps repeats)",
    )
    parser.add_argument(
        "--prior_weight",
        type=session.number_or_text,
        default=0.0,
        metavar="W",
        help="rank by log p(model) + W log p(item-to-item): a number, or 'validation' for the "
        "weight that `recllm eval --gin.PRIOR_WEIGHT=validation` chose (0)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per history")
    session.add_data_arguments(parser)


def run(args) -> int:
    names = _histories(args)
    session.use_data_dir(args)
    session.register_tasks(args)
    from recllm_tasks.recommender import Recommender
    from recllm_tasks.report.terminal import print_recommendations
    from recllm_tasks.runs.decoding import KEEP, LEAVE_OUT, Decoding

    seen = {None: None, True: LEAVE_OUT, False: KEEP}[args.exclude_history]
    decoding = Decoding(
        num_beams=max(args.k, _NUM_BEAMS), seen=seen, prior_weight=args.prior_weight
    )
    recommender = Recommender.from_run(args.checkpoint, decoding)
    histories = [recommender.lookup.rows(history, what) for what, history in names]
    console = Console(highlight=False)
    for number, (rows, found) in enumerate(
        zip(histories, recommender.recommend_rows(histories, args.k))
    ):
        history = [recommender.catalog.names(row) for row in rows]
        ranked = [item._asdict() for item in found]
        if args.json:
            line = json.dumps({"history": history, "ranked": ranked}, ensure_ascii=False)
            sys.stdout.write(line + "\n")
        else:
            console.print("\n" * (number > 0), end="")
            print_recommendations(history, ranked, console)
    return 0


def _histories(args) -> list[tuple[str, list[str]]]:
    """(name in errors, items) of every history, those of --history first."""
    from recllm_tasks.data.item_lookup import split_names

    if args.k < 1:
        raise UserError(f"Number of items: got {args.k}, expected at least 1; correct -k")
    texts = [(f"--history {i}", text) for i, text in enumerate(args.history, 1)]
    if args.histories is not None:
        lines = _read(args.histories).rstrip("\n").split("\n")
        texts += [(f"{args.histories}, line {i}", line) for i, line in enumerate(lines, 1)]
    if not texts:
        raise UserError("Histories: got none, expected at least one; give --history or --histories")
    return [(what, split_names(text)) for what, text in texts]


def _read(path: str) -> str:
    """The text of a file, or of standard input if the path is `-`."""
    try:
        content = sys.stdin.buffer.read() if path == "-" else pathlib.Path(path).read_bytes()
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        raise UserError(f"Histories in '{path}': {error.strerror}; correct --histories") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"Histories in '{path}': got byte 0x{error.object[error.start]:02x}, expected UTF-8 "
            "text; convert the file"
        ) from error
