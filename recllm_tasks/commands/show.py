"""`recllm show`: examples of a task as people read them, or how fast training reads them."""

import dataclasses
import itertools
import json
import sys

from rich.console import Console
from rich.text import Text

from recllm_tasks.commands import setup
from recllm_tasks.errors import UserError


def run(args) -> int:
    setup.use_data_dir(args)
    setup.register_tasks(args)
    if args.task is None and args.throughput:
        raise UserError("--throughput: got no task, expected a task or mixture; name one")
    if args.task is None:
        _list(args)
        return 0
    import gin

    from recllm_tasks import tasks

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
    return 0


# Seconds that `--throughput` measures.
_SECONDS = 10.0


def _throughput(args) -> int:
    from recllm_tasks import tasks
    from recllm_tasks.engine import throughput

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
    console.print(f"{'stage, on one core':<40}{'µs an example':>14}{'of all':>8}")
    for stage, micros in found.stages.items():
        console.print(f"{stage:<40}{micros:>14.1f}{micros / total:>8.0%}")
    console.print(f"\nlimited by: {found.limit}")
    if found.one_by_one:
        console.print(
            f"read through SeqIO one by one, which is slow: {', '.join(found.one_by_one)}"
        )
    return 0


def _print(number: int, user: bytes | None, shown: dict[str, str], counts: dict[str, int]) -> None:
    console = Console(highlight=False)
    console.rule(f"example {number}" + (f", user {user.decode()}" if user else ""), align="left")
    for name, label in (("inputs", "Input"), ("targets", "Output")):
        console.print(Text(f"{label} ({counts[name + '_tokens']} tokens): ", style="bold"), end="")
        console.print(Text(shown[name]))


def _list(args) -> None:
    """Tasks and mixtures of the datasets that are prepared, and what the others need."""
    import seqio

    from recllm_tasks import tasks

    console = Console(highlight=False)
    offered: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for name in sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}):
        found = seqio.get_mixture_or_task(name)
        try:
            dataset = tasks.source_of(found).dataset_name
        except UserError:
            dataset = "other"
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
