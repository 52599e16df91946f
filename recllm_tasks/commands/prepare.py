"""`recllm prepare`: turns raw files into a stored dataset with its catalog and vocabulary."""

import argparse
import dataclasses
import json
import os
import shlex
import sys

from rich.console import Console
from rich.table import Table

from recllm_tasks.commands import session
from recllm_tasks.data.formats import FORMATS
from recllm_tasks.data.options import Options
from recllm_tasks.data.specs import SPECS, DatasetSpec, custom_spec, get_spec
from recllm_tasks.errors import UserError
from recllm_tasks.progress import console

SUMMARY = "read a raw interaction log and store it as a dataset"
EPILOG = """\
examples:
  recllm prepare movielens_100k --data_dir ~/recllm_data
  recllm prepare toys --data_dir ~/recllm_data --raw_dir ~/Downloads
  recllm prepare toys --data_dir ~/recllm_data --download
  recllm prepare mystore --interactions purchases.csv --items products.csv \\
    --columns user=customer,item=sku,time=date,title=name --noun products --verb purchased
  recllm prepare grocer --interactions log.csv --repeats keep --split time \\
    --validation_from 2014-01-31 --test_from 2014-03-31
  recllm prepare mystore --append --interactions week_49.csv --items products.csv \\
    --columns user=customer,item=sku,time=date,title=name
  recllm prepare mystore --interactions orders.csv --columns user=1,item=2,time=3 \\
    --separator ';' --encoding cp1252 --time_format '%d/%m/%Y' --dry_run
  recllm prepare books --format amazon_2023 --interactions Books.jsonl.gz \\
    --items meta_Books.jsonl.gz

custom files:
  Text (.csv, .tsv, .txt, .dat), JSON lines (.jsonl, .json) or Parquet, plain, .gz or .zst. Several
  files are read in the order given, the matches of a pattern ('part-*.csv') in order of their
  names. Columns are expected to be called user_id (or user), item_id (or item), timestamp (or
  time), rating, title, brand, price, categories, description; --columns role=name,… gives other
  names, or the numbers of fields, from 1, if text has no header; rating=- reads none. Times are
  seconds since 1970 or dates such as 2020-12-31 or 2020-12-31 23:59:00+01:00, in UTC without an
  offset. Ratings and items are optional. Start with --dry_run: it says what it understood.

--append:
  The dataset becomes what it would be if its files had held the new events too: other k-core,
  split and negatives. Its options stay, and so do the ids and texts of its items; new items follow
  after them (their texts: --items). Exports may overlap: an event that the log has already counts
  once. In a split by time the cuts stay where they are, unless they are given as shares or anew.
  Runs that were trained before go on with `recllm train DATASET --from OLD_RUN --out NEW_RUN`.
"""

# Records that --dry_run reads.
SAMPLE = 200_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help=f"{', '.join(SPECS)}, or a name for your data")
    parser.add_argument("--raw_dir", help="folder with the raw files of a published dataset")
    parser.add_argument(
        "--download",
        action="store_true",
        help="download the files of a published dataset that are not in --raw_dir",
    )
    custom = parser.add_argument_group("custom datasets")
    custom.add_argument("--interactions", nargs="+", metavar="FILE", help="files or patterns")
    custom.add_argument("--items", nargs="+", default=[], metavar="FILE", help="files or patterns")
    custom.add_argument("--columns", metavar="ROLE=NAME,…", help="column names, see below")
    custom.add_argument(
        "--format", help=f"of published files, which --columns may refine: {', '.join(FORMATS)}"
    )
    session.add_reading_arguments(parser)
    custom.add_argument("--noun", default="products", help="name of the items (products)")
    custom.add_argument(
        "--verb", default="purchased", help="what users did (purchased), or both forms: buy,bought"
    )
    custom.add_argument("--title", help="name of the dataset in tables; its own by default")
    options = parser.add_argument_group("options (defaults are the paper's)")
    defaults = Options()
    options.add_argument(
        "--k_core",
        type=int,
        default=defaults.k_core,
        help="minimum interactions of every user and item (5); 0 keeps all",
    )
    options.add_argument(
        "--like_threshold",
        type=float,
        default=defaults.like_threshold,
        help="ratings above this are likes (3)",
    )
    options.add_argument(
        "--window", type=int, default=defaults.window, help="maximum items of history (20)"
    )
    options.add_argument(
        "--candidates", type=int, default=defaults.candidates, help="number of items to rank (100)"
    )
    options.add_argument(
        "--candidate_sampling",
        default=defaults.candidate_sampling,
        help="negatives of ranking: drawn with_replacement (the default) or all distinct",
    )
    options.add_argument(
        "--seed", type=int, default=defaults.seed, help="for short ids, negatives and ties (0)"
    )
    options.add_argument(
        "--ties",
        default=defaults.ties,
        help="order at equal times: published (that of the files) or shuffled",
    )
    options.add_argument(
        "--repeats",
        default=defaults.repeats,
        help="items that a user has several times: first (default) keeps the first interaction, "
        "keep keeps all, for music or groceries",
    )
    options.add_argument(
        "--split",
        default=defaults.split,
        help="held out for validation and test: leave_one_out (default), each user's last two "
        "interactions; or time, each user's first one from --validation_from and --test_from on",
    )
    for split in ("validation", "test"):
        options.add_argument(
            f"--{split}_from",
            metavar="DATE",
            help=f"for --split time: where {split} begins, 2014-01-31 (UTC) or seconds since 1970",
        )
    for split in ("validation", "test"):
        options.add_argument(
            f"--{split}_share",
            type=float,
            default=0.0,
            metavar="SHARE",
            help=f"instead of dates: the share of the interactions in the {split} period, such as "
            ".1",
        )
    options.add_argument(
        "--withhold_items",
        type=float,
        default=defaults.withhold_items,
        metavar="SHARE",
        help="keep a share of the items, such as .05, out of training; they stay in histories and "
        "targets of validation and test, for id schemes that can name new items (--ids semantic)",
    )
    options.add_argument(
        "--catalog",
        default=defaults.catalog,
        help="items that there are: bought (default), those of the interactions; or all, those of "
        "--items too, which can then be recommended before anybody bought them",
    )
    options.add_argument(
        "--ids",
        default=defaults.ids,
        help="short ids: random numbers (random, the default), codes of the items' content "
        "(semantic), or numbers that are each one piece of the vocabulary (atomic)",
    )
    options.add_argument(
        "--embeddings",
        metavar="PATH",
        help="for semantic ids: the folder of a sentence-transformers model that embeds the items' "
        "texts; or a .parquet or .npy file with raw ids in 'item' and vectors in 'embedding'; by "
        "default, TF-IDF of the texts",
    )
    parser.add_argument(
        "--bad_records",
        default="error",
        help="error (default): stop at the first bad line; quarantine: set bad lines aside",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help=f"read the first {SAMPLE:,} records of each file, say what was understood and what "
        "would be left out, and store nothing",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a prepared dataset")
    parser.add_argument(
        "--append",
        action="store_true",
        help="--interactions are new events of a custom dataset that is prepared: see below",
    )
    parser.add_argument("--json", action="store_true", help="statistics as JSON")
    session.add_data_arguments(parser)


def _say(line: str) -> None:
    # Lines quote what files hold.
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def run(args) -> int:
    if args.dry_run:
        return _dry_run(args)
    if args.append and not args.interactions:
        raise UserError(
            f"interactions to append to '{args.dataset}': got none, expected the files of new "
            "events; give --interactions FILE"
        )
    data_dir = session.use_data_dir(args)
    from recllm_tasks.data.download import download_published
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
        append=args.append,
        progress=_say,
    )
    source = CatalogSource(args.dataset)
    if ensure_vocabulary(source):
        size = DatasetVocabulary(source.vocabulary_file).vocab_size
        console.print(f"wrote the vocabulary: {size:,} ids")
        if size > NUM_PIECES + SENTINELS:
            console.print(
                f"models/tiny.gin needs --gin.network.T5Config.vocab_size={size}; "
                f"`recllm train {args.dataset}` and models/ids.gin find the size themselves"
            )
    info = DatasetInfo.load(dataset_dir(data_dir, args.dataset))
    if args.json:
        sys.stdout.write(json.dumps(_as_json(info), indent=2) + "\n")
    else:
        Console().print(_table(info))
        console.print(f"prepared in {dataset_dir(data_dir, args.dataset)}", soft_wrap=True)
        data = f" --data_dir {shlex.quote(args.data_dir)}" if args.data_dir else ""
        _say(f"next: recllm train {args.dataset}{data} --out RUN")
    return 0


def _dry_run(args) -> int:
    from recllm_tasks.data.prepare import examine

    raw_dir = args.raw_dir and os.path.expanduser(args.raw_dir)
    info = examine(
        _dataset(args),
        raw_dir,
        SAMPLE,
        _say,
        **{field.name: getattr(args, field.name) for field in dataclasses.fields(Options)},
    )
    if args.json:
        sys.stdout.write(json.dumps(_as_json(info), indent=2) + "\n")
    else:
        Console().print(_table(info))
        console.print(f"nothing was stored; at most {SAMPLE:,} records of each file were read")
    return 0


def _dataset(args) -> str | DatasetSpec:
    """The name of a published dataset, or the spec of a custom one."""
    if args.interactions:
        return custom_spec(
            args.dataset,
            args.interactions,
            args.items,
            columns=args.columns,
            format=args.format,
            reading=session.reading_of(args),
            noun=args.noun,
            verb=args.verb,
            title=args.title,
        )
    if args.items or args.columns or args.format:
        raise UserError(
            f"interactions of '{args.dataset}': got no --interactions beside --items, --columns or "
            "--format, expected the files of a custom dataset; give --interactions"
        )
    return args.dataset


def _as_json(info) -> dict:
    """Statistics (paper Table 7) and facts."""
    return {
        "dataset": info.dataset,
        **info.statistics.to_json(),
        "has_ratings": info.has_ratings,
        "repeats": info.repeats,
        "duplicates_dropped": info.duplicates_dropped,
        "repeats_kept": info.repeats_kept,
        "short_users_dropped": info.short_users_dropped,
        "split": info.split,
        "validation_from": info.validation_from,
        "test_from": info.test_from,
        "withhold_items": info.withhold_items,
        "split_counts": info.split_counts and dataclasses.asdict(info.split_counts),
        "bad_records": info.bad_records,
        "ids": info.ids,
        "collisions": info.collisions and dataclasses.asdict(info.collisions),
        "appended": info.appended,
        "fingerprint": info.fingerprint,
    }


def _table(info) -> Table:
    """The counts of the paper's Table 7, for this dataset."""
    statistics = info.statistics
    table = Table(title=info.title, title_justify="left")
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
