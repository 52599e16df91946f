"""The report as one self-contained HTML page without scripts; light, dark, narrow and print."""

import html
from collections.abc import Sequence

from recllm_tasks.report.report import Report, Section
from recllm_tasks.report.table import Cell, Table

# Colours of Okabe and Ito (2008), distinguishable with any colour vision; lighter in the dark
# scheme where contrast requires it.
_STYLE = (
    """
:root { color-scheme: light dark; --text: #1a1a1a; --quiet: #5f6368; --ground: #fff;
  --line: #d0d4d9; --shade: #f3f5f7; --c0: #0072b2; --c1: #d55e00; --c2: #00805c; --c3: #b3568d;
  --c4: #b37400; --c5: #2b8cc4; --c6: #1a1a1a; }
@media (prefers-color-scheme: dark) { :root { --text: #e8eaed; --quiet: #a3a9b0; --ground: #17191c;
  --line: #3c4147; --shade: #212428; --c0: #56b4e9; --c1: #ff8c42; --c2: #2fc79a; --c3: #e29ac4;
  --c4: #e6b800; --c5: #9cc9f5; --c6: #e8eaed; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 84rem; padding: 1rem; background: var(--ground);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { margin-top: 2.5rem; font-size: 1.25rem;
  border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
nav { margin-top: 1.2rem; } nav h2 { margin: 0; font-size: 1rem; border: 0; }
nav ul { columns: 15rem; column-gap: 2.5rem; padding-left: 1.2rem; margin: .3rem 0; }
a { color: var(--c0); }
.items { display: flex; flex-wrap: wrap; align-items: flex-start; column-gap: 3.5rem; }
.items > * { max-width: 100%; } .items > figure { flex: 1 1 27rem; min-width: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .9rem 0 .3rem; font-size: 1rem;
  position: sticky; left: 0; max-width: calc(100vw - 2rem); }
th, td { padding: .2rem .5rem; text-align: right; vertical-align: top; white-space: nowrap; }
thead th { border-bottom: 1px solid var(--line); font-weight: 600; vertical-align: bottom; }
thead th.group { text-align: center; border-left: 1px solid var(--line); }
tbody th { text-align: left; font-weight: 400; position: sticky; left: 0; min-width: 15rem;
  max-width: 20rem; white-space: normal; overflow-wrap: break-word; z-index: 1;
  background: var(--ground); }
td.first, thead th.first { border-left: 1px solid var(--line); }
tr.part > * { border-top: 1px solid var(--line); }
tbody tr:hover > * { background: var(--shade); }
td.text { text-align: left; } td.long { white-space: normal; overflow-wrap: anywhere;
  min-width: 12rem; }
td small { display: block; color: var(--quiet); font-size: .72rem; }
td small.paper { font-style: italic; }
td strong { font-weight: 700; }
p.lead { margin: .3rem 0; max-width: 60rem; }
.notes, p.quiet { color: var(--quiet); font-size: .85rem; margin: .3rem 0; max-width: 60rem; }
.items .notes { width: 0; min-width: min(100%, 60rem); }
figure { margin: 1.2rem 0; } figcaption { font-weight: 600; margin-bottom: .4rem; }
.plot { font-size: 12px; } .plot > svg, .rows > svg { display: block; overflow: visible; }
.plot p.axis { margin: 0; text-align: center; color: var(--quiet); }
.rows { display: grid; grid-template-columns: fit-content(38%) 1fr; column-gap: .8rem; }
.rows > span { text-align: right; padding: 1px 0; overflow-wrap: anywhere; }
ul.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; font-size: 12px;
  margin: .4rem 0; padding: 0; } ul.legend li { display: flex; gap: .4rem;
  overflow-wrap: anywhere; }
ul.legend svg { flex: none; }
svg text { fill: var(--text); } svg .axis { fill: var(--quiet); }
svg .grid { stroke: var(--line); fill: none; } svg .line { fill: none; stroke-width: 1.8; }
svg .whisker { fill: none; stroke-width: 1.4; opacity: .75; } svg .mark { stroke-width: 1.5; }
svg .paper { fill: none; stroke: var(--quiet); stroke-width: 1.5; }
"""
    + "".join(
        f"svg .c{n} {{ stroke: var(--c{n}); }} svg .mark.c{n} {{ fill: var(--c{n}); }}\n"
        for n in range(7)
    )
    + """
@media (max-width: 40rem) { body { padding: .6rem; font-size: 14px; }
  tbody th { min-width: 6.5rem; max-width: 9.5rem; } th, td { padding: .2rem .35rem; }
  .rows { grid-template-columns: 1fr; } .rows > span { text-align: left; padding-top: 4px; }
  .rows > .corner { display: none; } }
@media print { :root { color-scheme: light; --text: #000; --quiet: #555; --ground: #fff;
  --line: #bbb; --shade: #fff; --c0: #0072b2; --c1: #d55e00; --c2: #00805c; --c3: #b3568d;
  --c4: #b37400; --c5: #2b8cc4; --c6: #000; }
  @page { size: A4 landscape; margin: 12mm; } body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; } .items { display: block; } .wide { overflow: visible; }
  tbody th { position: static; }
  caption { position: static; max-width: none; }
  table { font-size: 7pt; } td small { font-size: 6pt; } th, td { padding: .1rem .25rem; }
  figure, tr { break-inside: avoid; } thead { display: table-header-group; }
  h2, caption { break-after: avoid; } .plot, ul.legend { max-width: 20cm; font-size: 8pt; } }
"""
)


def render(report: Report) -> str:
    """The whole page."""
    title = html.escape(report.title)
    contents = "".join(
        f'<li><a href="#s{number}">{html.escape(section.title)}</a></li>'
        for number, section in enumerate(report.sections)
    )
    body = "".join(_section(number, section) for number, section in enumerate(report.sections))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n"
        f'{_paragraphs(report.lead, "lead")}<nav aria-label="Contents"><h2>Contents</h2>'
        f"<ul>{contents}</ul></nav>\n{body}</body></html>\n"
    )


def _section(number: int, section: Section) -> str:
    parts = [f'<section id="s{number}"><h2>{html.escape(section.title)}</h2>\n']
    parts.append(f'{_paragraphs(section.text)}<div class="items">')
    for item in section.items:
        parts.append(_table(item) if isinstance(item, Table) else item.svg)
    return "".join([*parts, "</div></section>\n"])


def _paragraphs(texts: Sequence[str], kind: str = "quiet") -> str:
    return "".join(f'<p class="{kind}">{html.escape(text)}</p>\n' for text in texts)


def _table(table: Table) -> str:
    first = _first_columns(table)
    head = ""
    if table.groups:
        groups = "".join(
            f'<th class="group" scope="colgroup" colspan="{width}">{html.escape(title)}</th>'
            for title, width in table.groups
        )
        head = f"<tr><td></td>{groups}</tr>"
    columns = "".join(
        f'<th scope="col"{_class("first" if n in first else "")}>{html.escape(name)}</th>'
        for n, name in enumerate(table.columns)
    )
    rows, part = [], None
    for row in table.rows:
        cells = "".join(_cell(cell, n in first) for n, cell in enumerate(row.cells))
        kind = _class("part" if part is not None and row.part != part else "")
        rows.append(f'<tr{kind}><th scope="row">{html.escape(row.name)}</th>{cells}</tr>')
        part = row.part
    notes = "".join(f'<p class="notes">{html.escape(note)}</p>' for note in table.notes)
    return (
        f'<div><div class="wide"><table><caption>{html.escape(table.title)}</caption>'
        f"<thead>{head}<tr><td></td>{columns}</tr></thead>\n<tbody>{chr(10).join(rows)}</tbody>"
        f"</table></div>{notes}</div>\n"
    )


def _first_columns(table: Table) -> set[int]:
    """The first column of each group, which has a line to its left."""
    found, start = set(), 0
    for _, width in table.groups:
        found.add(start)
        start += width
    return found


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _cell(cell: Cell, first: bool) -> str:
    number = not cell.text or cell.text[0] in "+-<0123456789"
    kinds = (("first", first), ("text", not number), ("long", len(cell.text) > 40))
    kind = " ".join(name for name, holds in kinds if holds)
    text = html.escape(cell.text)
    text = f"<strong>{text}</strong>" if cell.strong else text
    text += f" {html.escape(cell.mark)}" if cell.mark else ""
    if cell.interval:
        text += f"<small>[{html.escape(', '.join(cell.interval))}]</small>"
    if cell.paper:
        text += f'<small class="paper">paper {html.escape(cell.paper)}</small>'
    return f"<td{_class(kind)}>{text}</td>"
