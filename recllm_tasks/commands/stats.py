"""`recllm stats`: counts of a prepared dataset beside Tables 7 and 10 of the paper."""

import argparse
import dataclasses
import json
import sys

from rich.console import Console
from rich.table import Table

from recllm_tasks.commands import session

SUMMARY = "print a dataset's counts as in Tables 7 and 10 of the paper"
EPILOG = """\
For the paper's datasets (toys, beauty, sports), the paper's numbers stand beside ours. The rating
task is counted only if the dataset has ratings.

examples:
  recllm stats toys --data_dir ~/recllm_data
  recllm stats movielens_100k --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="a prepared dataset, such as toys")
    parser.add_argument("--json", action="store_true", help="counts as JSON")
    session.add_data_arguments(parser)


def run(args) -> int:
    session.use_data_dir(args)
    from recllm_tasks.data.specs import SPECS, TABLE_10
    from recllm_tasks.data.time_split import describe

    info = session.dataset_info(args.dataset)
    table_7 = SPECS[args.dataset].table7 if args.dataset in SPECS else None
    table_10, samples = TABLE_10.get(args.dataset, {}), _samples(info)
    if args.json:
        results = {
            "dataset": info.dataset,
            "fingerprint": info.fingerprint,
            "ids": info.ids,
            "protocol": info.protocol,
            "split_counts": info.split_counts and dataclasses.asdict(info.split_counts),
            "collisions": info.collisions and dataclasses.asdict(info.collisions),
            "table_7": {
                "paper": table_7 and dataclasses.asdict(table_7),
                "here": info.statistics.to_json(),
            },
            "table_10": {"paper": _as_json(table_10) or None, "here": _as_json(samples)},
        }
        sys.stdout.write(json.dumps(results, indent=2) + "\n")
    else:
        console = Console(highlight=False)
        console.print(_table_7(info, table_7))
        console.print(_table_10(samples, table_10))
        console.print(_ids(info))
        console.print(f"protocol {info.protocol}")
        for line in describe(info):
            console.print(line)
        console.print(f"fingerprint {info.fingerprint}")
    return 0


def _ids(info) -> str:
    """The id scheme, and how many items need the last number of a semantic id."""
    if info.collisions is None:
        return f"ids {info.ids}"
    found = info.collisions
    return (
        f"ids {info.ids}: {found.items:,} of {info.statistics.items:,} items share their codes "
        f"with another item, in {found.groups:,} groups of at most {found.largest:,}"
    )


def _samples(info) -> dict:
    """Number of examples by task, as in Table 10."""
    from recllm_tasks.data.specs import SAMPLED, Samples
    from recllm_tasks.prompts.source import VALIDATION_USERS

    validation, test = info.users_of("validation"), info.users_of("test")
    made = Samples(info.statistics.train_windows, min(VALIDATION_USERS, validation), test)
    rating = {"rating": made} if info.has_ratings else {}
    return {
        "retrieval": made,
        "ranking": made,
        **rating,
        **dict.fromkeys(("mim", "mlm", "bpr"), SAMPLED),
    }


def _as_json(samples) -> dict:
    return {task: dataclasses.asdict(counts) for task, counts in samples.items()}


def _table_7(info, paper) -> Table:
    table = Table(title=f"{info.title}, Table 7", title_justify="left")
    for name in ("", "users", "items", "interactions", "sparsity (%)"):
        table.add_column(name, justify="right" if name else "left")
    for name, row in (("paper", paper), ("here", info.statistics)):
        if row:
            counts = (f"{n:,}" for n in (row.users, row.items, row.interactions))
            table.add_row(name, *counts, f"{row.sparsity:.2f}")
    return table


def _table_10(here, paper) -> Table:
    title = f"Table 10, examples{' (paper / here)' if paper else ''}; DS: sampled anew every epoch"
    table = Table(title=title, title_justify="left")
    table.add_column("task")
    for split in ("train", "validation", "test"):
        table.add_column(split, justify="right")
    for task in {**paper, **here}:
        cells = []
        for split in ("train", "validation", "test"):
            columns = [paper.get(task), here.get(task)] if paper else [here.get(task)]
            cells.append(" / ".join(_cell(samples, split) for samples in columns))
        table.add_row(task, *cells)
    return table


def _cell(samples, split: str) -> str:
    if samples is None:
        return "–"
    count = getattr(samples, split)
    return "DS" if count is None else f"{count:,}"
