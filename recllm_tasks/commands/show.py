"""`recllm show`: prints examples of a task, or measures how fast training reads them."""

import argparse
import dataclasses
import itertools
import json
import sys

from rich.console import Console
from rich.text import Text

from recllm_tasks.commands import session
from recllm_tasks.errors import UserError
from recllm_tasks.progress import console

SUMMARY = "print examples of a task as text"
EPILOG = """\
examples:
  recllm show                                   lists the tasks and mixtures of prepared datasets
  recllm show movielens_100k_retrieval --data_dir ~/recllm_data
  recllm show toys_mlm --num 10 --seed 3 --json
  recllm show toys_reat --throughput            measures the training input, without a model
"""

# In the list, tasks that read no dataset of ours.
_OTHER = "other"

# How long `--throughput` measures.
_SECONDS = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "task", nargs="?", help="task or mixture; without one, lists those of prepared datasets"
    )
    parser.add_argument("--split", default="train", help="train, validation or test, or latest")
    parser.add_argument("--num", type=int, default=3, help="number of examples")
    parser.add_argument("--seed", type=int, default=0, help="for order and sampling")
    parser.add_argument("--inputs_length", type=int, default=1024, help="tokens of the input")
    parser.add_argument("--targets_length", type=int, default=256, help="tokens of the target")
    parser.add_argument("--vocabulary", help="SentencePiece model; the dataset's own by default")
    parser.add_argument(
        "--throughput",
        action="store_true",
        help="measure how fast training batches are made, and what limits it",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    session.add_p5_argument(parser)
    session.add_data_arguments(parser)


def run(args) -> int:
    data_dir = session.use_data_dir(args)
    session.register_tasks(args)
    if args.task is None and args.throughput:
        raise UserError("--throughput: got no task, expected a task or mixture; name one")
    if args.task is None:
        _list(data_dir)
        return 0
    import gin
    import seqio

    from recllm_tasks import tasks
    from recllm_tasks.prompts.source import SequenceSource

    if args.vocabulary:
        gin.bind_parameter("vocabulary.sentencepiece_file.path", args.vocabulary)
    if args.throughput:
        return _throughput(args)
    if args.num < 1:
        raise UserError(f"Number of examples: got {args.num}, expected at least 1; correct --num")
    found = tasks.get(args.task)
    if args.split not in found.splits:
        raise UserError(
            f"Split of '{args.task}': got '{args.split}', expected one of "
            f"{', '.join(sorted(found.splits))}; correct --split"
        )
    dataset = found.get_dataset(
        {"inputs": args.inputs_length, "targets": args.targets_length},
        split=args.split,
        shuffle=True,
        seed=args.seed,
    )
    vocabulary = found.output_features["inputs"].vocabulary
    number = 0
    for number, example in enumerate(itertools.islice(dataset.as_numpy_iterator(), args.num), 1):
        sides = {name: example[name].tolist() for name in ("inputs", "targets")}
        shown = {name: vocabulary.decode_with_sentinels(ids) for name, ids in sides.items()}
        counts = {f"{name}_tokens": len(ids) for name, ids in sides.items()}
        if args.json:
            user = example.get("user", b"").decode()
            row = {**({"user": user} if user else {}), **shown, **counts}
            sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
        else:
            _print(number, example.get("user"), shown, counts)
    sources = (task.source for task in seqio.get_subtasks(found))
    source = next((each for each in sources if isinstance(each, SequenceSource)), None)
    alone = source.info().single_item_users if source else 0
    if args.split == "train" and alone and not args.json:
        console.print(
            f"{alone:,} users of this dataset have a single item to train on: their "
            "examples have an empty history; --gin.windows.empty_histories.use='drop' of `recllm "
            "train` leaves them out",
            markup=False,
            soft_wrap=True,
        )
    if not number:
        raise UserError(
            f"Examples of '{args.task}': got none in the split '{args.split}', expected at least "
            "one; `recllm stats` says what the dataset has: prepare it from files with what the "
            "task needs (texts of items, users of four interactions or more), or choose another one"
        )
    return 0


def _throughput(args) -> int:
    from recllm_tasks import tasks
    from recllm_tasks.pipeline import throughput

    tasks.get(args.task)
    lengths = {"inputs": args.inputs_length, "targets": args.targets_length}
    found = throughput.measure(args.task, lengths, _SECONDS)
    if args.json:
        sys.stdout.write(json.dumps({**dataclasses.asdict(found), "limit": found.limit}) + "\n")
        return 0
    console = Console(highlight=False)
    console.print(f"{args.task}, {args.inputs_length}/{args.targets_length}, packed")
    console.print(f"{found.examples:,.0f} examples/s in {found.rows:,.0f} rows/s, all cores\n")
    total = sum(found.stages.values())
    console.print(f"{'stage, on one core':<40}{'µs per example':>14}{'share':>8}")
    for stage, micros in found.stages.items():
        console.print(f"{stage:<40}{micros:>14.1f}{micros / total:>8.0%}")
    console.print(f"\nlimited by: {found.limit}")
    if found.one_by_one:
        console.print(
            f"read one by one through SeqIO, which is slow: {', '.join(found.one_by_one)}"
        )
    return 0


def _print(number: int, user: bytes | None, shown: dict[str, str], counts: dict[str, int]) -> None:
    console = Console(highlight=False)
    console.rule(f"example {number}" + (f", user {user.decode()}" if user else ""), align="left")
    for name, label in (("inputs", "Input"), ("targets", "Output")):
        console.print(Text(f"{label} ({counts[name + '_tokens']} tokens): ", style="bold"), end="")
        console.print(Text(shown[name]))


def _list(data_dir: str) -> None:
    """Lists the tasks and mixtures of prepared datasets, and how to prepare the others."""
    import seqio

    from recllm_tasks import tasks
    from recllm_tasks.data.dataset_info import list_datasets

    console = Console(highlight=False)
    prepared = {*list_datasets(data_dir), _OTHER}
    offered: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    missing = set()
    for name in sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}):
        found = seqio.get_mixture_or_task(name)
        try:
            dataset = tasks.source_of(found).dataset_name
        except UserError:
            dataset = _OTHER
        if dataset not in prepared:
            missing.add(dataset)
            continue
        try:
            tasks.get(name)
            offered.setdefault(dataset, []).append(name)
        except UserError as error:
            reasons.setdefault(dataset, str(error))
    for dataset in sorted({*offered, *reasons}):
        console.print(f"[bold]{dataset}[/bold]")
        if dataset in offered:
            console.print("  " + "  ".join(offered[dataset]))
        if dataset in reasons:
            console.print("  not offered: ", end="")
            console.print(Text(reasons[dataset]))
    if missing:
        text = f"not prepared in {data_dir}: {', '.join(sorted(missing))}; run "
        console.print(Text(f"{text}`recllm prepare NAME --data_dir {data_dir}`"))
