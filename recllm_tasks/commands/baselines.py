"""`recllm baselines`: the rows of the table that are no language models, a run's folder each."""

import json
import pathlib
import sys

from rich.console import Console

from recllm_tasks.commands import setup
from recllm_tasks.errors import UserError
from recllm_tasks.progress import console


def run(args) -> int:
    from recllm_tasks.baselines import rows

    chosen = rows.chosen(args.rows)
    if args.split not in ("validation", "test"):
        raise UserError(
            f"--split: got '{args.split}', expected validation or test; a baseline learns from "
            "train and is measured on the others"
        )
    setup.use_data_dir(args)
    info = setup.prepared(args.dataset)
    out = _folder(args.out)

    from recllm_tasks.baselines.interactions import Splits

    splits = Splits(args.dataset, args.split)
    maker_of = {rows.BUILT_IN: _BuiltIn(), rows.RECBOLE: None}
    if any(row.origin == rows.RECBOLE for row in chosen):
        maker_of[rows.RECBOLE] = _RecBole(args)
    found = {}
    for number, row in enumerate(chosen, 1):
        if "rating" in row.kinds and not info.has_ratings:
            console.print(f"{row.name}: left out, '{args.dataset}' has no ratings")
            continue
        console.print(f"{row.name} ({number} of {len(chosen)}): {row.what}")
        found[row.name] = _row(row, splits, info, out / row.name, maker_of[row.origin])
    if not found:
        raise UserError(
            f"--rows for '{args.dataset}': got {args.rows}, which need ratings, expected rows that "
            "do without; choose among popularity, item_to_item, ease, markov"
        )
    if args.json:
        shown = {name: results.as_json() for name, results in found.items()}
        sys.stdout.write(json.dumps(shown, indent=2) + "\n")
    else:
        from recllm_tasks.report.terminal import print_rows

        print_rows(list(found.values()), Console(highlight=False))
    return 0


class _BuiltIn:
    """Makes the rows that are fitted here."""

    seed = 0

    def settings(self, row) -> dict:
        from recllm_tasks.baselines import built_in

        return built_in.SETTINGS[row.name]

    def measure(self, row, splits, folder: pathlib.Path):
        del folder
        from recllm_tasks.baselines import built_in

        return built_in.measure(row, splits, row.kinds, _say)


class _RecBole:
    """Makes the rows that are trained in RecBole's environment."""

    def __init__(self, args):
        """Raises UserError, before any work, for a wrong budget or if RecBole is not there."""
        from recllm_tasks.baselines.recbole import training
        from recllm_tasks.baselines.recbole.budget import Budget

        self._training = training
        self._budget = Budget(args.epochs, args.minutes, args.patience, args.seed, args.threads)
        self._python = training.find_python(args.recbole_python)
        self.seed = args.seed

    def settings(self, row) -> dict:
        return self._training.settings_of(row.name, self._budget)

    def measure(self, row, splits, folder: pathlib.Path):
        return self._training.measure(row.name, splits, folder, self._python, self._budget, _say)


def _say(text: str) -> None:
    console.print(f"  {text}")


def _row(row, splits, info, folder: pathlib.Path, maker: _BuiltIn | _RecBole):
    """The results of a row, made now unless they are there."""
    from recllm_tasks.baselines import measured
    from recllm_tasks.runs import memory

    row_fingerprint = measured.fingerprint(row, info, splits.split, maker.settings(row))
    done = measured.finished(folder, splits.split, row_fingerprint)
    if done:
        _say(f"finished before with the same settings: {folder}")
        return done
    memory.reset_peak()
    found = maker.measure(row, splits, folder)
    results = measured.save(folder, row, row_fingerprint, info, splits, found, maker.seed)
    _say(f"{results.seconds:.1f} s, written to {folder}")
    return results


def _folder(name: str) -> pathlib.Path:
    folder = pathlib.Path(name).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--out for '{name}': got {error.strerror}, expected a folder that is there or can be "
            "made; give another one"
        ) from error
    return folder
