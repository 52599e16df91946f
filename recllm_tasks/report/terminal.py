"""Results as tables on the terminal: the model's row above the baselines'."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table


def metrics_tables(results: Mapping[str, Any]) -> Iterator[Table]:
    """A table for each task in a results.json."""
    for task, measured in results["metrics"].items():
        table = Table(title=_title(results, task), title_justify="left", title_style="bold")
        table.add_column("method", no_wrap=True)
        for key in measured:
            table.add_column(key, justify="right", no_wrap=True)
        for method, row, style in _rows(results, task):
            cells = [f"{row[key]:.4f}" if key in row else "" for key in measured]
            table.add_row(method, *cells, style=style)
        yield table


def heading(results: Mapping[str, Any]) -> str:
    """What was measured, in a line."""
    beams = "items only" if results.get("constrained", True) else "any text"
    return (
        f"{results['model']} trained on {results['mixture']}, step {results['step']:,}, "
        f"seed {results['seed']}; beams: {beams}"
    )


def _title(results: Mapping[str, Any], task: str) -> str:
    num_examples = results.get("num_examples", {}).get(task)
    users = f", {num_examples:,} users" if num_examples else ""
    return f"{task}, {results['split']}{users}"


def _rows(results: Mapping[str, Any], task: str) -> Iterator[tuple[str, Mapping, str | None]]:
    yield results["model"], results["metrics"][task], "bold"
    for method, by_task in results.get("baselines", {}).items():
        if task in by_task:
            yield method, by_task[task], None
