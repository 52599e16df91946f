"""Arguments of `recllm report`, and what its help says."""

import argparse

HELP = """\
RUN is a run's folder (MODEL_DIR, T5X's EVAL_OUTPUT_DIR, or a row of `recllm baselines`), a folder
of runs, or a results file from anywhere. Each evaluation of a run is a row. The page loads nothing
from elsewhere. It holds

  the paper's Tables 1-6 with our rows, the paper's numbers beside ours; the difference from the
  best baseline and whether it is more than chance; both orders of ties, where runs of both are
  given; what is recommended, and how popular it is; results by length of history and by popularity
  of the target; training curves; cost; fingerprints.

Intervals, differences and breakdowns need the users' results that lie beside results.json
(per_user/<evaluation>/<task>.parquet); popularity needs the prepared dataset (--data_dir). What is
missing is absent. Give --data_dir once for each folder that holds datasets of the runs; of one that
was prepared under several id schemes any one will do, since they differ in nothing but the ids, and
their rows stand in one table. Baselines that `recllm eval` put into results.json fill in where no
run of their row is given. Rows of other data, splits or numbers of users stand in tables of their
own.

FILE.md and FILE.csv beside the page hold the same numbers.

exit code: 0 done, 2 a file is not what it should be; the message names it and the key.

examples:
  recllm report runs/toys_reat baselines/toys --data_dir ~/recllm_data --out report.html
  recllm report all_runs --data_dir ~/recllm_data --data_dir ~/shuffled_data --out report.html
  recllm report all_runs from_the_tpu/results.json --out report.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders, or results.json files")
    parser.add_argument("--out", required=True, metavar="FILE", help="page to write, .html")
    parser.add_argument("--json", action="store_true", help="what was written as JSON")
