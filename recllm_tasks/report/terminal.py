"""Tables on the terminal: results and recommendations."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recllm_tasks.baselines.rows import PRIOR, WITH_PRIOR
from recllm_tasks.runs.decoding import Decoding
from recllm_tasks.runs.results import Results, kind_of, rule_of, seen_text

# What tells the methods of a table apart, the first of these that they have.
_AHEAD_BY = {"retrieval": "hr@10", "ranking": "hr@1", "rating": "auc"}


def print_results(results: Results, console: Console, alone: Results | None = None) -> None:
    """Prints what was measured, then a table for each task with the baselines below the model.

    The last line says which method is ahead in each.

    Args:
      results: of a model.
      console: receives the output.
      alone: the same model's without a prior, for a row of its own.
    """
    decoding = results.decoding or Decoding()
    beams = "items only" if decoding.constrained else "any text"
    console.print(
        f"{results.model} trained on {results.mixture}, step {results.step:,}, "
        f"seed {results.seed}; beams: {beams}; {seen_text(results.seen)}"
    )
    model = results.model
    if decoding.prior_weight:
        model += WITH_PRIOR
        console.print(f"ranked by log p(model) + {decoding.prior_weight:g} log p({PRIOR})")
    ahead = []
    for task, measured in results.metrics.items():
        console.print(f"\n[bold]{_title(results, task)}[/bold]")
        kind = kind_of(task)
        # The prior ranks items; a rating is that of the model.
        rows = {results.model if kind == "rating" else model: measured}
        if kind != "rating" and alone and task in alone.metrics:
            rows[results.model] = alone.metrics[task]
        rows |= {name: of[task] for name, of in results.baselines.items() if task in of}
        console.print(_table(rows, first_style="bold"))
        metric = _AHEAD_BY.get(kind, "")
        values = {name: own[metric] for name, own in rows.items() if metric in own}
        if len(values) > 1:
            best = max(values, key=values.__getitem__)
            ahead.append(f"{best} in {kind} ({metric} {values[best]:.4f})")
    if ahead:
        console.print(f"\nahead: {', '.join(ahead)}")


def print_rows(rows: Sequence[Results], console: Console) -> None:
    """Prints several baselines on one dataset, a table for each task."""
    for task in dict.fromkeys(task for row in rows for task in row.metrics):
        of_task = [row for row in rows if task in row.metrics]
        console.print(f"\n[bold]{_title(of_task[0], task)}[/bold]")
        console.print(_table({row.model: row.metrics[task] for row in of_task}))


def print_recommendations(
    history: Sequence[Mapping[str, str]],
    ranked: Sequence[Mapping[str, Any]],
    console: Console,
    user: str | None = None,
) -> None:
    """Prints the history as it was matched with the catalog, then the items best first.

    Args:
      history: items with `short_id`, `item` and `title`.
      ranked: the same, with `probability`, None for what is popular.
      console: receives the output.
      user: whose history it is, if that is known.
    """
    understood = ", ".join(f"{item['short_id']} {_name(item)}" for item in history)
    after = f"after {understood}" if history else "no item in the history: the most popular items"
    console.print(Text(after if user is None else f"{user}, {after}"))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("item", no_wrap=True)
    table.add_column("title")
    table.add_column("probability", justify="right", no_wrap=True)
    for place, item in enumerate(ranked, 1):
        known = item["probability"] is not None
        probability = f"{item['probability']:.3g}" if known else "popular"
        table.add_row(str(place), item["short_id"], Text(_name(item)), probability)
    console.print(table)


def _name(item: Mapping[str, str]) -> str:
    return item["title"] or item["item"]


def _title(results: Results, task: str) -> str:
    num_examples = results.num_examples.get(task)
    users = f", {num_examples:,} users" if num_examples else ""
    rule = seen_text(rule_of(kind_of(task), results.seen))
    return f"{task}, {results.split}{users}, {rule}"


def _table(metrics: Mapping[str, Mapping[str, float]], first_style: str | None = None) -> Table:
    """Metrics of one task by method, with the first method's columns; fits 80 columns."""
    columns = list(next(iter(metrics.values())))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("method", no_wrap=True)
    for key in columns:
        table.add_column(key, justify="right", no_wrap=True)
    for place, (method, values) in enumerate(metrics.items()):
        cells = [f"{values[key]:.4f}" if key in values else "–" for key in columns]
        table.add_row(method, *cells, style=first_style if place == 0 else None)
    return table
