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
task is counted only if the dataset has ratings. The paper has no `ids_` tasks; every item after the
first of a training sequence is a target of theirs.

With --targets_length, it also prints how many of the masks of mim, mlm and ids_mim fit into targets
of that length, counted over one sampled epoch: the share of examples that lose a mask, and of all
masked items or corrupted tokens (mlm) that are lost.

examples:
  recllm stats toys --data_dir ~/recllm_data
  recllm stats movielens_100k --json
  recllm stats beauty --targets_length 256 --vocabulary spiece.model
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="a prepared dataset, such as toys")
    parser.add_argument("--targets_length", type=int, help="also count masks in so many tokens")
    parser.add_argument("--inputs_length", type=int, default=1024, help="tokens of the input")
    parser.add_argument("--vocabulary", help="SentencePiece model; the dataset's own by default")
    parser.add_argument("--seed", type=int, default=0, help="of the masks that are counted")
    parser.add_argument("--json", action="store_true", help="counts as JSON")
    session.add_data_arguments(parser)


def run(args) -> int:
    session.use_data_dir(args)
    from recllm_tasks.data.specs import SPECS, TABLE_10
    from recllm_tasks.data.time_split import describe

    info = session.dataset_info(args.dataset)
    table_7 = SPECS[args.dataset].table7 if args.dataset in SPECS else None
    table_10, samples = TABLE_10.get(args.dataset, {}), _samples(info)
    masks = _masks(args, info) if args.targets_length is not None else {}
    if args.json:
        results = {
            "dataset": info.dataset,
            "fingerprint": info.fingerprint,
            "ids": info.ids,
            "protocol": info.protocol,
            "single_item_users": info.single_item_users,
            "split_counts": info.split_counts and dataclasses.asdict(info.split_counts),
            "collisions": info.collisions and dataclasses.asdict(info.collisions),
            "table_7": {
                "paper": table_7 and dataclasses.asdict(table_7),
                "here": info.statistics.to_json(),
            },
            "table_10": {"paper": _as_json(table_10) or None, "here": _as_json(samples)},
        }
        if masks:
            lengths = {"inputs": args.inputs_length, "targets": args.targets_length}
            counts = {task: dataclasses.asdict(found) for task, found in masks.items()}
            results["masks"] = {"lengths": lengths, **counts}
        sys.stdout.write(json.dumps(results, indent=2) + "\n")
    else:
        console = Console(highlight=False)
        console.print(_table_7(info, table_7))
        console.print(_table_10(samples, table_10))
        if masks:
            console.print(_table_of_masks(args, info, masks))
        console.print(_ids(info))
        console.print(f"protocol {info.protocol}")
        for line in describe(info):
            console.print(line)
        if info.single_item_users:
            console.print(
                f"{info.single_item_users:,} users have a single item to train on: their examples "
                "have an empty history; --gin.windows.empty_histories.use='drop' trains without"
            )
        console.print(f"fingerprint {info.fingerprint}")
    return 0


def _masks(args, info) -> dict:
    """`realised_masks` of the dataset; the error for a length names the option."""
    import gin

    from recllm_tasks.errors import UserError
    from recllm_tasks.prompts.realised_masks import realised_masks
    from recllm_tasks.prompts.source import CatalogSource
    from recllm_tasks.prompts.templates import Wording
    from recllm_tasks.prompts.vocabulary import DatasetVocabulary

    for option in ("inputs_length", "targets_length"):
        value = getattr(args, option)
        if value < 3:
            raise UserError(f"--{option}: got {value}, expected at least 3 tokens; give more")
    if args.vocabulary:
        gin.bind_parameter("vocabulary.sentencepiece_file.path", args.vocabulary)
    source = CatalogSource(args.dataset)
    lengths = {"inputs": args.inputs_length, "targets": args.targets_length}
    vocabulary = DatasetVocabulary(source.vocabulary_file)
    wording = Wording(info.noun, info.verb, info.verb_past)
    return realised_masks(args.dataset, wording, vocabulary, lengths, args.seed)


def _table_of_masks(args, info, masks) -> Table:
    title = (
        f"Masks cut off by {args.inputs_length:,} + {args.targets_length:,} tokens (%), one "
        "sampled epoch"
    )
    table = Table(title=title, title_justify="left")
    for name in ("task", "examples", "cut", f"cut, of {info.window} items", "masks", "lost"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for task, found in masks.items():
        table.add_row(
            task,
            f"{found.examples:,}",
            _percent(found.cut, found.examples),
            _percent(found.cut_of_full, found.full),
            f"{found.masks:,}",
            _percent(found.lost, found.masks),
        )
    return table


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "–"


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
