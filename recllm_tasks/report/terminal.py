"""Tables on the terminal: results, the model's row above the baselines', and recommendations."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_results(results: Mapping[str, Any], console: Console) -> None:
    """Prints a results.json: what was measured, then a table for each task."""
    beams = "items only" if results.get("constrained", True) else "any text"
    console.print(
        f"{results['model']} trained on {results['mixture']}, step {results['step']:,}, "
        f"seed {results['seed']}; beams: {beams}"
    )
    for task in results["metrics"]:
        console.print(f"\n[bold]{_title(results, task)}[/bold]")
        console.print(_table(results, task))


def print_rows(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Prints the results of several baselines on one dataset, a table for each task."""
    for task in dict.fromkeys(task for row in rows for task in row["metrics"]):
        measured = [row for row in rows if task in row["metrics"]]
        first, *others = measured
        below = {row["model"]: row["metrics"] for row in others}
        console.print(f"\n[bold]{_title(first, task)}[/bold]")
        console.print(_table({**first, "baselines": below}, task, first_style=None))


def print_recommendations(
    history: Sequence[Mapping[str, str]], ranked: Sequence[Mapping[str, Any]], console: Console
) -> None:
    """Prints the history as it was understood, then the items best first.

    Args:
      history: items with `short_id`, `item` and `title`.
      ranked: the same, with `probability`.
      console: where to.
    """
    understood = ", ".join(f"{item['short_id']} {_name(item)}" for item in history)
    console.print(Text(f"after {understood}"))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column, justify in (
        ("", "right"),
        ("item", "left"),
        ("title", "left"),
        ("probability", "right"),
    ):
        table.add_column(column, justify=justify, no_wrap=column != "title")
    for place, item in enumerate(ranked, 1):
        probability = f"{item['probability']:.3g}"
        table.add_row(str(place), item["short_id"], Text(_name(item)), probability)
    console.print(table)


def _name(item: Mapping[str, str]) -> str:
    return item["title"] or item["item"]


def _title(results: Mapping[str, Any], task: str) -> str:
    num_examples = results.get("num_examples", {}).get(task)
    users = f", {num_examples:,} users" if num_examples else ""
    return f"{task}, {results['split']}{users}"


def _table(results: Mapping[str, Any], task: str, first_style: str | None = "bold") -> Table:
    """One task; within 80 columns."""
    measured = results["metrics"][task]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("method", no_wrap=True)
    for key in measured:
        table.add_column(key, justify="right", no_wrap=True)
    for method, row, style in _rows(results, task, first_style):
        cells = [f"{row[key]:.4f}" if key in row else "–" for key in measured]
        table.add_row(method, *cells, style=style)
    return table


def _rows(
    results: Mapping[str, Any], task: str, first_style: str | None
) -> Iterator[tuple[str, Mapping, str | None]]:
    yield results["model"], results["metrics"][task], first_style
    for method, by_task in results.get("baselines", {}).items():
        if task in by_task:
            yield method, by_task[task], None
