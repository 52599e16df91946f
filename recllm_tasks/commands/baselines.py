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

    from recllm_tasks.baselines.house_rows import Splits

    splits = Splits(args.dataset, args.split)
    found = {}
    for number, row in enumerate(chosen, 1):
        if "rating" in row.kinds and not info.has_ratings:
            console.print(f"{row.name}: left out, '{args.dataset}' has no ratings")
            continue
        console.print(f"{row.name} ({number} of {len(chosen)}): {row.what}")
        found[row.name] = _row(row, splits, info, out / row.name)
    if not found:
        raise UserError(
            f"--rows for '{args.dataset}': got {args.rows}, which need ratings, expected rows that "
            "do without; choose among popularity, item_to_item, ease, markov"
        )
    if args.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        from recllm_tasks.report.terminal import print_rows

        print_rows(list(found.values()), Console(highlight=False))
    return 0


def _row(row, splits, info, folder: pathlib.Path) -> dict:
    """The results of a row, made now unless they are there."""
    from recllm_tasks.baselines import house_rows, row_folder
    from recllm_tasks.engine import memory

    settings = house_rows.SETTINGS[row.name]
    row_fingerprint = row_folder.fingerprint(row, info, splits.split, settings)
    done = row_folder.finished(folder, row_fingerprint)
    if done:
        console.print(f"  finished before with the same settings: {folder}")
        return done
    memory.forget_peak()
    measured = house_rows.measure(row, splits, lambda text: console.print(f"  {text}"))
    results = row_folder.save(folder, row, row_fingerprint, info, splits, measured)
    console.print(f"  {results['seconds']:.1f} s, written to {folder}")
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
