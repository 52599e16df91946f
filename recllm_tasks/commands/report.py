"""`recllm report`: run folders as one page of tables and plots, the same as Markdown and CSV."""

import json
import pathlib
import sys

from recllm_tasks.errors import UserError
from recllm_tasks.files import atomic_write
from recllm_tasks.progress import console


def run(args) -> int:
    from recllm_tasks.report import conditions, markdown, page, report, runs, spreadsheet

    page_file = pathlib.Path(args.out).expanduser()
    if page_file.suffix.lower() not in (".html", ".htm"):
        raise UserError(
            f"--out '{args.out}': got a name that ends with '{page_file.suffix}', expected .html; "
            "Markdown and CSV are written beside it"
        )
    if not page_file.parent.is_dir():
        raise UserError(
            f"--out '{args.out}': got no folder '{page_file.parent}', expected one that is there; "
            "make it"
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
