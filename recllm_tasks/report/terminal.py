"""Results as tables on the terminal: the model's row above the baselines'."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


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


def _title(results: Mapping[str, Any], task: str) -> str:
    num_examples = results.get("num_examples", {}).get(task)
    users = f", {num_examples:,} users" if num_examples else ""
    return f"{task}, {results['split']}{users}"


def _table(results: Mapping[str, Any], task: str) -> Table:
    """One task; within 80 columns."""
    measured = results["metrics"][task]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("method", no_wrap=True)
    for key in measured:
        table.add_column(key, justify="right", no_wrap=True)
    for method, row, style in _rows(results, task):
        cells = [f"{row[key]:.4f}" if key in row else "–" for key in measured]
        table.add_row(method, *cells, style=style)
    return table


def _rows(results: Mapping[str, Any], task: str) -> Iterator[tuple[str, Mapping, str | None]]:
    yield results["model"], results["metrics"][task], "bold"
    for method, by_task in results.get("baselines", {}).items():
        if task in by_task:
            yield method, by_task[task], None
