"""`recllm ensemble`: measures two trained runs that rank together."""

import argparse
import json
import pathlib
import sys

from rich.console import Console

from recllm_tasks.commands import session
from recllm_tasks.errors import UserError
from recllm_tasks.progress import console

SUMMARY = "measure two trained models that rank together"
EPILOG = """\
ranking:
  (1 - w) log p(first) + w log p(second) + W log p(item-to-item), over the items that the beam
  search of either run finds; both runs score all of them exactly. The runs were trained on one
  dataset, which may have other ids, and then another data folder, for the second. By default w is
  chosen on validation by NDCG@10, and so is W with --prior_weight validation. DIR gets results.json
  and per-user results, as `recllm eval` writes them: retrieval only.

examples:
  recllm ensemble runs/titles runs/ids --out runs/both --data_dir ~/recllm_data
  recllm ensemble runs/random runs/semantic --prior_weight validation --out runs/both \\
    --data_dir ~/recllm_data --data_dir ~/recllm_semantic
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs=2, metavar="RUN", help="a run's folder")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--weight",
        type=session.number_or_text,
        default="validation",
        metavar="w",
        help="of the second run, from 0 to 1, or 'validation' (default)",
    )
    parser.add_argument(
        "--prior_weight",
        type=session.number_or_text,
        default=0.0,
        metavar="W",
        help="of item-to-item: a number, or 'validation' (0)",
    )
    parser.add_argument("--split", default="test", help="test (default) or validation")
    parser.add_argument("--num_beams", type=int, default=20, help="of each search (20)")
    parser.add_argument(
        "--seen",
        help="leave_out or keep items of the user's history; by default they are left out, unless "
        "the dataset keeps repeats",
    )
    parser.add_argument("--num_examples", type=int, help="only the first users")
    parser.add_argument("--batch_size", type=int, default=32, help="users together (32)")
    parser.add_argument("--json", action="store_true", help="results as JSON")
    session.add_data_arguments(parser, several_dirs=True)


def run(args) -> int:
    folders = [str(pathlib.Path(folder).expanduser()) for folder in args.data_dir]
    if len(folders) > 2:
        raise UserError(
            f"--data_dir: got {len(folders)} folders, expected one for both runs or one for each; "
            "leave out the others"
        )
    for args.data_dir in folders[::-1] or [None]:
        session.use_data_dir(args)
        session.register_tasks(args)
    out = pathlib.Path(args.out).expanduser()
    out.mkdir(parents=True, exist_ok=True)

    from recllm_tasks.engine.ensemble import ensemble
    from recllm_tasks.report.terminal import print_rows
    from recllm_tasks.runs.decoding import Decoding

    decoding = Decoding(
        num_beams=args.num_beams,
        seen=args.seen,
        batch_size=args.batch_size,
        prior_weight=args.prior_weight,
    )
    results = ensemble(
        [str(pathlib.Path(run).expanduser()) for run in args.runs],
        str(out),
        data_dirs=folders,
        weight=args.weight,
        split=args.split,
        decoding=decoding,
        num_examples=args.num_examples,
    )
    if args.json:
        sys.stdout.write(json.dumps(results.as_json(), indent=2) + "\n")
    else:
        print_rows([results], Console(highlight=False))
    console.print(f"written to {out / 'results.json'}")
    return 0
