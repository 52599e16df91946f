"""Arguments of `recllm baselines`, and what its help says."""

import argparse

from recllm_tasks.baselines.recbole.budget import Budget
from recllm_tasks.baselines.rows import GROUPS, ROWS

_LISTED = "\n".join(f"  {row.name:18} {row.what}" for row in ROWS.values())

HELP = f"""\
rows:
{_LISTED}
  {", ".join(GROUPS):18} groups of them

The rows from Caser on are RecBole's models, trained in an environment of their own, which
launch/install_baselines.sh makes. The best epoch on validation is measured. A training that was
stopped goes on from its last epoch, and with more --epochs or --minutes from its end.

Each row becomes a folder DIR/<row> with results.json, as `recllm eval` writes it, and
per_user/<split>/<task>.parquet: rank and list, or score, of every user. All learn from the train
split; in the test, a history holds the validation item, as every model's prompt does. A row that is
there already, made with the same settings of the same data, is not made again.

examples:
  recllm baselines toys --rows popularity,item_to_item,ease,markov --out runs/toys
  recllm baselines movielens_100k --rows house --out runs/movielens --json
  recllm baselines toys --rows sasrec_ce,bpr_mf --minutes 20 --out runs/toys
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="a prepared dataset, such as toys")
    parser.add_argument("--rows", required=True, metavar="ROW,…", help="see below")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the rows' folders")
    parser.add_argument("--split", default="test", help="test (default) or validation")
    parser.add_argument("--json", action="store_true", help="results as JSON, by row")
    training = parser.add_argument_group("training of RecBole's models")
    defaults = Budget()
    training.add_argument(
        "--epochs", type=int, default=defaults.epochs, help=f"at most ({defaults.epochs})"
    )
    training.add_argument(
        "--minutes",
        type=float,
        default=defaults.minutes,
        help=f"a row, after which no epoch begins ({defaults.minutes:g})",
    )
    training.add_argument(
        "--patience",
        type=int,
        default=defaults.patience,
        help=f"epochs in a row without a better validation ({defaults.patience})",
    )
    training.add_argument("--seed", type=int, default=defaults.seed, help="of training (0)")
    training.add_argument("--threads", type=int, help="of PyTorch; the number of cores by default")
    training.add_argument(
        "--recbole_python",
        metavar="FILE",
        help="Python of RecBole's environment; that of .venv-baselines by default",
    )
