"""Arguments of `recllm prepare`, and what its help says."""

import argparse

from recllm_tasks.data.formats import FORMATS
from recllm_tasks.data.options import Options
from recllm_tasks.data.specs import SPECS

HELP = """\
examples:
  recllm prepare movielens_100k --data_dir ~/recllm_data
  recllm prepare toys --data_dir ~/recllm_data --raw_dir ~/Downloads
  recllm prepare toys --data_dir ~/recllm_data --download
  recllm prepare mystore --interactions purchases.csv --items products.csv \\
    --columns user=customer,item=sku,time=date,title=name --noun products --verb purchased
  recllm prepare books --format amazon_2023 --interactions Books.jsonl.gz \\
    --items meta_Books.jsonl.gz

your own files:
  CSV, TSV, JSON lines or Parquet, plain, .gz or .zst. Several files are read in the order given,
  those of a pattern ('part-*.csv') in the order of their names. Columns are found under the names
  user_id (or user), item_id (or item), timestamp (or time), rating, title, brand, price,
  categories, description; --columns role=name,… names others, or numbers fields from 1 where text
  has no header. Times are dates or seconds since 1970 (--time_unit milliseconds). Ratings and items
  may be left out.
"""


def add_arguments(prepare: argparse.ArgumentParser) -> None:
    prepare.add_argument("dataset", help=f"{', '.join(SPECS)}, or a name of your own")
    prepare.add_argument("--raw_dir", help="folder with the raw files of a published dataset")
    prepare.add_argument(
        "--download",
        action="store_true",
        help="fetch a published dataset's files that are not in --raw_dir, from their publisher",
    )
    own = prepare.add_argument_group("a dataset of your own")
    own.add_argument("--interactions", nargs="+", metavar="FILE", help="files or patterns")
    own.add_argument("--items", nargs="+", default=[], metavar="FILE", help="files or patterns")
    own.add_argument("--columns", metavar="ROLE=NAME,…", help="names of the columns, see below")
    own.add_argument("--time_unit", default="seconds", help="seconds (default) or milliseconds")
    own.add_argument("--format", help=f"published as {', '.join(FORMATS)}; instead of --columns")
    own.add_argument("--noun", default="products", help="what the items are (products)")
    own.add_argument(
        "--verb", default="purchased", help="what users did (purchased), or both: buy,bought"
    )
    own.add_argument("--title", help="of the dataset in tables; its name by default")
    options = prepare.add_argument_group("options; the defaults are the paper's")
    defaults = Options()
    options.add_argument(
        "--k_core",
        type=int,
        default=defaults.k_core,
        help="least interactions of every user and item (5); 0: all",
    )
    options.add_argument(
        "--like_threshold",
        type=float,
        default=defaults.like_threshold,
        help="a rating above it is a like (3)",
    )
    options.add_argument(
        "--window", type=int, default=defaults.window, help="items of history at most (20)"
    )
    options.add_argument(
        "--candidates", type=int, default=defaults.candidates, help="items to rank (100)"
    )
    options.add_argument(
        "--seed", type=int, default=defaults.seed, help="of short ids, negatives and ties (0)"
    )
    options.add_argument(
        "--ties",
        default=defaults.ties,
        help="order at equal times: published (the files' own) or shuffled",
    )
    options.add_argument(
        "--ids",
        default=defaults.ids,
        help="how items are written: random numbers (random, the default), codes of their content "
        "(semantic), or numbers that are one piece of the vocabulary each (atomic)",
    )
    options.add_argument(
        "--embeddings",
        metavar="PATH",
        help="for semantic ids: a folder of a sentence-transformers model, which reads the items' "
        "texts; or .parquet or .npy with an item's raw id in 'item' and numbers in 'embedding'; "
        "without, TF-IDF of the texts",
    )
    prepare.add_argument(
        "--bad_records",
        default="error",
        help="error (default): stop at the first bad line; quarantine: put bad lines aside",
    )
    prepare.add_argument("--overwrite", action="store_true", help="replace what is prepared")
    prepare.add_argument("--json", action="store_true", help="statistics as JSON")
