"""`recllm prepare`: raw files to a stored dataset with its catalog and vocabulary."""

import dataclasses
import json
import os
import sys

from rich.console import Console
from rich.table import Table

from recllm_tasks.commands import setup
from recllm_tasks.data.download import download_published
from recllm_tasks.data.options import Options
from recllm_tasks.data.specs import DatasetSpec, get_spec, own_spec
from recllm_tasks.errors import UserError
from recllm_tasks.progress import console


def run(args) -> int:
    data_dir = setup.use_data_dir(args)
    from recllm_tasks.data.prepare import DatasetInfo, dataset_dir, prepare
    from recllm_tasks.prompts.source import CatalogSource
    from recllm_tasks.prompts.vocabulary import SENTINELS, DatasetVocabulary
    from recllm_tasks.prompts.vocabulary_training import NUM_PIECES, ensure_vocabulary

    dataset, raw_dir = _dataset(args), args.raw_dir and os.path.expanduser(args.raw_dir)
    if args.download:
        spec = get_spec(dataset) if isinstance(dataset, str) else dataset
        raw_dir = raw_dir or os.path.join(data_dir, "downloads", spec.name)
        download_published(spec, raw_dir)
    prepare(
        dataset,
        data_dir,
        raw_dir,
        **{field.name: getattr(args, field.name) for field in dataclasses.fields(Options)},
        embeddings=args.embeddings,
        bad_records=args.bad_records,
        overwrite=args.overwrite,
        progress=console.print,
    )
    source = CatalogSource(args.dataset)
    if ensure_vocabulary(source):
        size = DatasetVocabulary(source.vocabulary_file).vocab_size
        console.print(f"trained the vocabulary: {size:,} ids")
        if size > NUM_PIECES + SENTINELS:
            console.print(f"a model must have as many: --gin.network.T5Config.vocab_size={size}")
    info = DatasetInfo.load(dataset_dir(data_dir, args.dataset))
    if args.json:
        sys.stdout.write(json.dumps(_as_json(info), indent=2) + "\n")
    else:
        Console().print(_table(info))
        console.print(f"prepared in {dataset_dir(data_dir, args.dataset)}")
    return 0


def _dataset(args) -> str | DatasetSpec:
    """The name of a published dataset, or what the arguments say of one's own."""
    if args.interactions:
        return own_spec(
            args.dataset,
            args.interactions,
            args.items,
            columns=args.columns,
            format=args.format,
            time_unit=args.time_unit,
            noun=args.noun,
            verb=args.verb,
            title=args.title,
        )
    if args.items or args.columns or args.format:
        raise UserError(
            f"interactions of '{args.dataset}': got no --interactions beside --items, --columns or "
            "--format, expected the files of a dataset of your own; give --interactions"
        )
    return args.dataset


def _as_json(info) -> dict:
    """Statistics (paper Table 7) and facts for programs."""
    return {"dataset": info.dataset, **info.statistics.to_json(), **_facts(info)}


def _facts(info) -> dict:
    return {
        "has_ratings": info.has_ratings,
        "duplicates_dropped": info.duplicates_dropped,
        "short_users_dropped": info.short_users_dropped,
        "bad_records": info.bad_records,
        "ids": info.ids,
        "collisions": info.collisions and dataclasses.asdict(info.collisions),
        "fingerprint": info.fingerprint,
    }


def _table(info) -> Table:
    """Table 7 of the paper, for this dataset."""
    statistics = info.statistics
    table = Table(title=f"{info.title} (as in Table 7 of the paper)", title_justify="left")
    for name in ("users", "items", "interactions", "sparsity (%)", "length", "training windows"):
        table.add_column(name, justify="right")
    table.add_row(
        f"{statistics.users:,}",
        f"{statistics.items:,}",
        f"{statistics.interactions:,}",
        f"{statistics.sparsity:.2f}",
        f"{statistics.mean_length:.2f} ± {statistics.std_length:.2f}",
        f"{statistics.train_windows:,}",
    )
    return table
