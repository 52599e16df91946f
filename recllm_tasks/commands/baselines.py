"""`recllm baselines`: fits and measures recommenders that are not language models."""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from recllm_tasks.baselines import rows
from recllm_tasks.baselines.recbole.budget import Budget
from recllm_tasks.commands import session
from recllm_tasks.errors import UserError, check_whole
from recllm_tasks.progress import console
from recllm_tasks.runs.decoding import LEAVE_OUT, seen_rule

_LISTED = "\n".join(f"  {row.name:18} {row.what}" for row in rows.ROWS.values())

SUMMARY = "fit and measure simple and classical recommenders"
EPILOG = f"""\
rows:
{_LISTED}
  {", ".join(rows.GROUPS):18} groups of rows

sasrec is trained here: a few minutes on Toys with two cores. The epoch that is best on validation
is measured, and a stopped training resumes from its last epoch with the same result (--seed).

The rows from Caser on are RecBole's models. They are trained in a separate environment, which
launch/install_baselines.sh makes, and the epoch that is best on validation is measured. A stopped
training resumes from its last epoch; with more --epochs or --minutes, a finished one continues.

Each row becomes a folder DIR/<row> with results.json, as `recllm eval` writes it, and
per_user/<split>/<task>.parquet: the rank and list, or the score, of every user. All rows learn from
the train split; in the test split, a history includes the validation item, as every model's prompt
does. A row that already exists with the same settings, rule and data is not computed again.

--seen is one rule for all rows, the same as SEEN of `recllm eval`: whether retrieval leaves out or
keeps items of the user's history, in validation too. The default leaves them out, unless the
dataset keeps repeats. Ranking orders all candidates under either rule. A row's folder holds one
rule's results; give the other rule another --out.

examples:
  recllm baselines toys --rows popularity,item_to_item,ease,markov --out runs/toys
  recllm baselines movielens_100k --rows house --out runs/movielens --json
  recllm baselines toys --rows sasrec --seed 1 --out runs/toys_1
  recllm baselines toys --rows sasrec_ce,bpr_mf --minutes 20 --out runs/toys
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="a prepared dataset, such as toys")
    parser.add_argument("--rows", required=True, metavar="ROW,…", help="see below")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the rows' folders")
    parser.add_argument("--split", default="test", help="test (default) or validation")
    parser.add_argument("--seen", help="leave_out or keep items of the user's history (see below)")
    parser.add_argument("--json", action="store_true", help="results as JSON, by row")
    training = parser.add_argument_group("training of RecBole's models")
    defaults = Budget()
    training.add_argument(
        "--epochs", type=int, default=defaults.epochs, help=f"at most ({defaults.epochs})"
    )
    training.add_argument(
        "--minutes",
        type=float,
        default=defaults.minutes,
        help=f"time per row, after which no epoch starts ({defaults.minutes:g})",
    )
    training.add_argument(
        "--patience",
        type=int,
        default=defaults.patience,
        help=f"stop after so many epochs without a better validation ({defaults.patience})",
    )
    training.add_argument(
        "--seed", type=int, default=defaults.seed, help="for training, that of sasrec too (0)"
    )
    training.add_argument("--threads", type=int, help="of PyTorch; the number of cores by default")
    training.add_argument(
        "--recbole_python",
        metavar="FILE",
        help="Python of RecBole's environment; that of .venv-baselines by default",
    )
    session.add_data_arguments(parser)


def run(args) -> int:
    chosen = rows.chosen(args.rows)
    if args.split not in ("validation", "test"):
        raise UserError(
            f"--split: got '{args.split}', expected validation or test; baselines learn from "
            "train and are measured on the other splits"
        )
    session.use_data_dir(args)
    info = session.dataset_info(args.dataset)
    seen = seen_rule(args.seen, info.keeps_repeats, "--seen")
    out = _folder(args.out)

    from recllm_tasks.baselines.interactions import Splits

    splits = Splits(args.dataset, args.split)
    maker_of = {rows.BUILT_IN: _BuiltIn(args), rows.RECBOLE: None}
    if any(row.origin == rows.RECBOLE for row in chosen):
        maker_of[rows.RECBOLE] = _RecBole(args)
    found = {}
    for number, row in enumerate(chosen, 1):
        if "rating" in row.kinds and not info.has_ratings:
            console.print(f"{row.name}: left out, '{args.dataset}' has no ratings")
            continue
        if row.needs_repeats and not info.keeps_repeats:
            console.print(f"{row.name}: left out, '{args.dataset}' keeps no repeats")
            continue
        if row.needs_repeats and seen == LEAVE_OUT:
            console.print(f"{row.name}: left out, as it lists nothing but seen items")
            continue
        console.print(f"{row.name} ({number} of {len(chosen)}): {row.what}")
        found[row.name] = _row(row, splits, info, out / row.name, maker_of[row.origin], seen)
    if not found:
        raise UserError(
            f"--rows for '{args.dataset}': got {args.rows}, which need ratings or repeats, "
            "expected rows that do not; choose among popularity, item_to_item, ease, markov"
        )
    if args.json:
        shown = {name: results.as_json() for name, results in found.items()}
        sys.stdout.write(json.dumps(shown, indent=2) + "\n")
    else:
        from recllm_tasks.report.terminal import print_rows

        print_rows(list(found.values()), Console(highlight=False))
    return 0


class _BuiltIn:
    """Built-in baselines, fitted in this process."""

    def __init__(self, args):
        """Raises UserError for an invalid seed."""
        check_whole("--seed", args.seed, 0, 2**31 - 1)
        self._seed = args.seed

    def settings(self, row) -> Mapping[str, Any]:
        from recllm_tasks.baselines import built_in

        return built_in.settings_of(row.name, self._seed)

    def measure(self, row, splits, folder: pathlib.Path, seen: str):
        from recllm_tasks.baselines import built_in

        return built_in.measure(row, splits, row.kinds, seen, _say, folder, self._seed)


class _RecBole:
    """RecBole's models, trained in RecBole's environment."""

    def __init__(self, args):
        """Raises UserError, before any work, for a wrong budget or if RecBole is missing."""
        from recllm_tasks.baselines.recbole import training

        self._training = training
        self._budget = Budget(args.epochs, args.minutes, args.patience, args.seed, args.threads)
        self._python = training.find_python(args.recbole_python)

    def settings(self, row) -> Mapping[str, Any]:
        return self._training.settings_of(row.name, self._budget)

    def measure(self, row, splits, folder: pathlib.Path, seen: str):
        return self._training.measure(
            row.name, splits, folder, self._python, self._budget, seen, _say
        )


def _say(text: str) -> None:
    console.print(f"  {text}")


def _row(row, splits, info, folder: pathlib.Path, maker: _BuiltIn | _RecBole, seen: str):
    """The results of a row, computed unless they already exist."""
    from recllm_tasks.baselines import measured
    from recllm_tasks.runs import memory

    row_fingerprint = measured.fingerprint(row, info, splits.split, maker.settings(row), seen)
    done = measured.finished(folder, splits.split, row_fingerprint)
    if done:
        _say(f"already finished with the same settings: {folder}")
        return done
    memory.reset_peak()
    found = maker.measure(row, splits, folder, seen)
    results = measured.save(folder, row, row_fingerprint, info, splits, found, seen)
    _say(f"{results.seconds:.1f} s, written to {folder}")
    return results


def _folder(name: str) -> pathlib.Path:
    folder = pathlib.Path(name).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out for '{name}': got {error.strerror}, expected a folder that exists or can be "
            "created; give another one"
        ) from error
    return folder
