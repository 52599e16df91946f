"""The report as CSV: one line per cell, with the page's digits."""

import csv
import io

from recllm_tasks.report.report import Report

COLUMNS = ("table", "condition", "part", "row", "group", "column")
VALUES = ("value", "low", "high", "paper", "mark", "p_holm")


def render(report: Report) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *VALUES])
    for table in report.tables:
        condition = " ".join(table.notes)
        for row in table.rows:
            for column, cell in enumerate(row.cells):
                if not (cell.text or cell.paper):
                    continue
                place = (table.title, condition, row.part, row.name)
                place += (table.group_of(column), table.columns[column])
                low, high = cell.interval or ("", "")
                values = (cell.text, low, high, cell.paper, cell.mark, cell.p)
                writer.writerow([*map(harmless, place), *map(harmless, values)])
    return text.getvalue()


def harmless(text: str) -> str:
    """Escapes text that a spreadsheet would read as a formula; keeps numbers."""
    if text[:1] in ("=", "+", "-", "@", "\t", "\r") and not _is_number(text):
        return f"'{text}"
    return text


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True
