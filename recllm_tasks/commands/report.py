"""`recllm report`: run folders as a page of tables and plots, and as Markdown and CSV."""

import argparse
import json
import pathlib
import sys

from recllm_tasks.commands import session
from recllm_tasks.errors import UserError
from recllm_tasks.files import atomic_write
from recllm_tasks.progress import console

SUMMARY = "write runs and baselines as one page, beside the paper's results"
EPILOG = """\
RUN is a run's folder (MODEL_DIR, T5X's EVAL_OUTPUT_DIR, or a row of `recllm baselines`), a folder
of such folders, or a results file. Each evaluation of a run is a row. The page loads nothing from
elsewhere and has:

  the paper's Tables 1-6 with our rows and the paper's numbers beside them; the difference from the
  best baseline and whether it is significant; both orders of ties, if there are runs of both; what
  is recommended and how popular it is; results by length of history, by popularity of the target
  and by whether target and history occur together in train; training curves; cost; fingerprints.

Intervals, differences and breakdowns need the per-user results beside results.json
(per_user/<evaluation>/<task>.parquet); popularity needs the prepared dataset (--data_dir). Without
them, these parts are left out. Give --data_dir once for each folder that holds datasets of the
runs. If a dataset was prepared under several id schemes, any one of them will do: only the ids
differ, and their rows share a table. Baselines in the results.json of `recllm eval` are used if no
run of that row is given. Rows of other data, splits, numbers of users or rules for seen items (left
out or kept) get tables of their own.

FILE.md and FILE.csv beside the page hold the same numbers.

exit code: 0 done, 2 a file is not valid; the message names it and the key.

examples:
  recllm report runs/toys_reat baselines/toys --data_dir ~/recllm_data --out report.html
  recllm report all_runs --data_dir ~/recllm_data --data_dir ~/shuffled_data --out report.html
  recllm report all_runs from_the_tpu/results.json --out report.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders, or results.json files")
    parser.add_argument("--out", required=True, metavar="FILE", help="page to write, .html")
    parser.add_argument("--json", action="store_true", help="list of written files as JSON")
    session.add_data_arguments(parser, several_dirs=True)


def run(args) -> int:
    from recllm_tasks.report import conditions, markdown, page, report, runs, spreadsheet

    page_file = pathlib.Path(args.out).expanduser()
    if page_file.suffix.lower() not in (".html", ".htm"):
        raise UserError(
            f"--out '{args.out}': got a name that ends in '{page_file.suffix}', expected .html; "
            "Markdown and CSV are written beside it"
        )
    if not page_file.parent.is_dir():
        raise UserError(
            f"--out '{args.out}': got no folder '{page_file.parent}', expected an existing folder; "
            "create it"
        )
    found = runs.load(args.runs)
    prepared = conditions.prepared_datasets(args.data_dir, found)
    made = report.build(found, prepared)
    written = {}
    for form, suffix, render in (
        ("html", page_file.suffix, page.render),
        ("markdown", ".md", markdown.render),
        ("csv", ".csv", spreadsheet.render),
    ):
        path = page_file.with_suffix(suffix)
        text = render(made)
        with atomic_write(path) as f:
            f.write(text)
        written[form] = str(path)
    if args.json:
        facts = {"rows": len(found), "tables": len(made.tables), "files": written}
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    else:
        console.print(
            f"{len(found)} rows, {len(made.tables)} tables: {', '.join(written.values())}"
        )
    return 0
