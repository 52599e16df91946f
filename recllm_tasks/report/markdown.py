"""The report as Markdown: the page's tables, without its plots."""

import re

from recllm_tasks.report.report import Report
from recllm_tasks.report.table import Cell, Table

# Characters with a meaning in Markdown or in HTML within it.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!&])")


def render(report: Report) -> str:
    parts = [f"# {escaped(report.title)}", *map(escaped, report.lead)]
    for section in report.sections:
        parts += [f"## {escaped(section.title)}", *map(escaped, section.text)]
        parts += [_table(item) for item in section.items if isinstance(item, Table)]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def cell_text(cell: Cell) -> str:
    """A cell's content in one line."""
    text = f"**{escaped(cell.text)}**" if cell.strong else escaped(cell.text)
    text += f" {cell.mark}" if cell.mark else ""
    text += f" \\[{', '.join(cell.interval)}\\]" if cell.interval else ""
    return text + (f" *paper {escaped(cell.paper)}*" if cell.paper else "")


def _table(table: Table) -> str:
    heads = []
    for column, name in enumerate(table.columns):
        # With several datasets, every column names its own.
        group = table.group_of(column) if len(table.groups) > 1 else ""
        heads.append(escaped(f"{group} {name}".strip()))
    corner = escaped(table.groups[0][0]) if len(table.groups) == 1 else ""
    lines = [f"**{escaped(table.title)}**", "", f"| {' | '.join([corner, *heads])} |"]
    lines.append("|---|" + "---:|" * len(heads))
    for row in table.rows:
        lines.append(f"| {' | '.join([escaped(row.name), *map(cell_text, row.cells)])} |")
    if table.notes:
        lines += ["", " ".join(map(escaped, table.notes))]
    return "\n".join(lines)
