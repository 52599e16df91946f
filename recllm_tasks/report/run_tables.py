"""Tables about the runs: cost, fingerprints, both orders of ties, learning curves."""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from recllm_tasks.report import methods
from recllm_tasks.report.conditions import Prepared, ties_of
from recllm_tasks.report.curves import Curves
from recllm_tasks.report.estimates import Measured
from recllm_tasks.report.result_tables import column_title, shown
from recllm_tasks.report.runs import Run
from recllm_tasks.report.table import Cell, Row, Table, count, significant
from recllm_tasks.runs import run_folder
from recllm_tasks.runs.fields import clean
from recllm_tasks.runs.results import seen_text

_SETTINGS_FILES = (run_folder.SETTINGS, run_folder.FILE_NAME)


def cost_table(kind: str, measured: Sequence[Measured]) -> Table | None:
    """Seconds, examples per second, memory and parameters of runs, where recorded."""
    rows = []
    for of in measured:
        for place, run in enumerate(of.runs):
            task = run.tasks[kind]
            seconds, rate = run.decode_seconds.get(task), run.examples_per_second.get(task)
            memory = run.peak_memory_bytes
            cells = [
                significant(run.seconds),
                significant(run.fit_seconds),
                significant(seconds),
                significant(rate),
                "" if memory is None else f"{memory / 2**30:.2f}",
                count(run.parameters),
            ]
            if any(cells):
                row_cells = [Cell(of.condition.title), Cell(of.condition.rule), *map(Cell, cells)]
                rows.append(Row(of.labels[place], row_cells, methods.part(run, kind)))
    columns = [
        "dataset",
        "lists",
        "seconds, all tasks",
        "of them fitting",
        "decoding",
        "examples/s",
    ]
    columns += ["peak memory (GiB)", "parameters"]
    return Table(f"{kind.capitalize()}: cost of measuring", columns, rows) if rows else None


def ties_tables(kind: str, measured: Sequence[Measured]) -> list[Table]:
    """Methods that were measured under both orders of equal times."""
    found = []
    by_order = {
        order: [of for of in measured if of.condition.ties == order]
        for order in ("published", "shuffled")
    }
    for published in by_order["published"]:
        for shuffled in by_order["shuffled"]:
            one, other = published.condition, shuffled.condition
            if any(
                getattr(one, name) != getattr(other, name)
                for name in ("dataset", "protocol", "split", "seen")
            ):
                continue
            table = _ties_table(kind, published, shuffled)
            if table.rows:
                found.append(table)
    return found


def _ties_table(kind: str, published: Measured, shuffled: Measured) -> Table:
    keys = [key for key in ("hr@10", "ndcg@10", "auc") if published.metric(0, key) is not None]
    rows = []
    for place, label in enumerate(published.labels):
        if label not in shuffled.labels:
            continue
        other, cells = shuffled.labels.index(label), []
        for key in keys:
            for of, at in ((published, place), (shuffled, other)):
                show, estimate = shown(key), of.estimates[at].get(key)
                text = show(of.metric(at, key))
                bounds = (show(estimate.low), show(estimate.high)) if estimate else ("", "")
                cells.append(Cell(text, bounds if all(bounds) else None))
        rows.append(Row(label, cells, methods.part(published.runs[place], kind)))
    return Table(
        f"{kind.capitalize()}: both orders of equal times, {published.condition.title}, "
        f"{published.condition.rule}",
        ["published", "shuffled"] * len(keys),
        rows,
        [(column_title(key), 2) for key in keys],
        [published.condition.text, shuffled.condition.text],
    )


def fingerprint_table(runs: Sequence[Run], prepared: Mapping[str, Prepared]) -> Table:
    """Data, code and settings of each run, files as SHA-256."""
    rows = []
    for run in runs:
        if run.inside:
            continue
        settings = [f"{key}={text}" for key, text in _texts(run.settings) if key != "curve"]
        cells = [
            run.dataset,
            run.split,
            seen_text(run.seen),
            ties_of(run, prepared),
            run.ids,
            run.fingerprint[:16],
            run.split_fingerprint[:16],
            run.version,
            _digest([run.folder / name for name in _SETTINGS_FILES]),
            _digest([run.path]),
            "; ".join(settings)[:400],
        ]
        rows.append(Row(run.name, [Cell(text) for text in cells]))
    columns = ["dataset", "split", "lists", "ties", "ids", "data", "data without ids", "code"]
    columns += ["settings files", "results file", "settings"]
    return Table("Fingerprints", columns, rows)


def _texts(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, value) as text, sorted; nested values are JSON."""
    return [
        (clean(key), clean(value if isinstance(value, str) else json.dumps(value)))
        for key, value in sorted(settings.items())
    ]


def _digest(paths: Sequence[pathlib.Path]) -> str:
    contents = [path.read_bytes() for path in paths if path.is_file()]
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:16] if contents else ""


def curve_table(curves: Mapping[str, Curves], unit: str) -> Table | None:
    """The last loss and the best validation of each run, by `step` or `epoch`."""
    rows = []
    for name, of in curves.items():
        loss = of.get("loss", [])
        cells = [Cell(count(loss[-1][0])), Cell(f"{loss[-1][1]:.3f}")] if loss else [Cell(), Cell()]
        validation = main_validation(of)
        if validation:
            key, points = validation
            step, value = max(points, key=lambda point: point[1])
            cells += [Cell(key), Cell(f"{value:.4f}"), Cell(count(step))]
        else:
            cells += [Cell()] * 3
        rows.append(Row(name, cells))
    columns = [f"{unit}s", "last loss", "validation of", "best", f"at {unit}"]
    return Table(f"Training, by {unit}", columns, rows) if rows else None


def main_validation(curves: Curves) -> tuple[str, list[tuple[int, float]]] | None:
    """(task and metric, points) of the metric that chooses the best checkpoint."""
    tags = [tag for tag in curves if tag.startswith("validation/")]
    for metric in ("ndcg@10", "auc", ""):
        for tag in tags:
            if tag.endswith(metric):
                return tag.removeprefix("validation/"), curves[tag]
    return None
