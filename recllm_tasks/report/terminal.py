"""Results as tables on the terminal: the model's row above the baselines'."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table


def metrics_tables(results: Mapping[str, Any]) -> Iterator[Table]:
    """A table for each kind of metrics in a results.json: ranked items together, AUC apart."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for task, measured in results["metrics"].items():
        groups.setdefault(tuple(measured), []).append(task)
    for keys, task_names in groups.items():
        table = Table(title=_title(results), title_justify="left")
        table.add_column("task")
        table.add_column("method")
        for key in keys:
            table.add_column(key, justify="right")
        for task in task_names:
            table.add_section()
            for method, measured, style in _rows(results, task):
                cells = [f"{measured[key]:.4f}" if key in measured else "" for key in keys]
                table.add_row(task, method, *cells, style=style)
        yield table


def _title(results: Mapping[str, Any]) -> str:
    beams = "beams are items" if results.get("constrained", True) else "beams are any text"
    return (
        f"{results['dataset']}, {results['split']}: {results['model']} trained on "
        f"{results['mixture']}, step {results['step']:,}, seed {results['seed']}; {beams}"
    )


def _rows(results: Mapping[str, Any], task: str) -> Iterator[tuple[str, Mapping, str | None]]:
    yield results["model"], results["metrics"][task], "bold"
    for method, by_task in results.get("baselines", {}).items():
        if task in by_task:
            yield method, by_task[task], None
