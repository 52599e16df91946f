"""Arguments of `recllm baselines`, and what its help says."""

import argparse

from recllm_tasks.baselines.rows import GROUPS, ROWS

_LISTED = "\n".join(f"  {row.name:18} {row.what}" for row in ROWS.values())

HELP = f"""\
rows:
{_LISTED}
  {", ".join(GROUPS):18} groups of them

Each row becomes a folder DIR/<row> with results.json, as `recllm eval` writes it, and
per_user/<task>-<split>.parquet: rank and list, or score, of every user. All learn from the train
split; in the test, a history holds the validation item, as every model's prompt does. A row that is
there already, made with the same settings of the same data, is not made again.

examples:
  recllm baselines toys --rows popularity,item_to_item,ease,markov --out runs/toys
  recllm baselines movielens_100k --rows all --out runs/movielens --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="a prepared dataset, such as toys")
    parser.add_argument("--rows", required=True, metavar="ROW,…", help="see below")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the rows' folders")
    parser.add_argument("--split", default="test", help="test (default) or validation")
    parser.add_argument("--json", action="store_true", help="results as JSON, by row")
