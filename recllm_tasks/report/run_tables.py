"""Tables about the runs themselves: cost, fingerprints, both orders of ties, learning curves."""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence

from recllm_tasks.report import methods
from recllm_tasks.report.conditions import ties_of
from recllm_tasks.report.curves import Curves
from recllm_tasks.report.estimates import Measured
from recllm_tasks.report.result_tables import column_title, shown
from recllm_tasks.report.runs import Run
from recllm_tasks.report.table import Cell, Row, Table, count, significant

# Beside results.json, what the settings of a run are.
_SETTINGS_FILES = ("config.gin", "run.json")


def cost_table(kind: str, measured: Sequence[Measured]) -> Table | None:
    """Seconds, examples a second, memory and parameters of every run that tells one of them."""
    rows = []
    for of in measured:
        for place, run in enumerate(of.runs):
            task = run.task_of(kind)
            seconds = run.decode_seconds.get(task, run.decode_seconds.get(""))
            rate = run.examples_per_second.get(task, run.examples_per_second.get(""))
            if rate is None and seconds and run.num_examples.get(task):
                rate = run.num_examples[task] / seconds
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
                row_cells = [Cell(of.condition.title), *map(Cell, cells)]
                rows.append(Row(of.labels[place], row_cells, methods.part(run, kind)))
    columns = ["dataset", "seconds, all tasks", "of them fitting", "decoding", "examples/s"]
    columns += ["peak memory (GiB)", "parameters"]
    return Table(f"{kind.capitalize()}: cost of measuring", columns, rows) if rows else None


def ties_tables(kind: str, measured: Sequence[Measured]) -> list[Table]:
    """The same methods under both orders of equal times, where runs of both are given."""
    found = []
    by_order = {
        order: [of for of in measured if of.condition.ties == order]
        for order in ("published", "shuffled")
    }
    for published in by_order["published"]:
        for shuffled in by_order["shuffled"]:
            one, other = published.condition, shuffled.condition
            if (one.dataset, one.split) != (other.dataset, other.split):
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
        f"{kind.capitalize()}: both orders of equal times, {published.condition.title}",
        ["published", "shuffled"] * len(keys),
        rows,
        [(column_title(key), 2) for key in keys],
        [published.condition.text, shuffled.condition.text],
    )


def fingerprint_table(runs: Sequence[Run], prepared: Mapping) -> Table:
    """Of each run: data, code and settings, as SHA-256 where they are files."""
    rows = []
    for run in runs:
        if run.inside:
            continue
        told = [f"{key}={text}" for key, text in run.settings.items() if key != "curve"]
        cells = [
            run.dataset,
            run.split,
            ties_of(run, prepared),
            run.ids,
            run.fingerprint[:16],
            run.split_fingerprint[:16],
            run.version,
            _digest([run.folder / name for name in _SETTINGS_FILES]),
            _digest([run.path]),
            "; ".join(told)[:400],
        ]
        rows.append(Row(run.name, [Cell(text) for text in cells]))
    columns = ["dataset", "split", "ties", "ids", "data", "data without ids", "code"]
    columns += ["settings files", "results.json", "settings told"]
    return Table("Fingerprints", columns, rows)


def _digest(paths: Sequence[pathlib.Path]) -> str:
    contents = [path.read_bytes() for path in paths if path.is_file()]
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:16] if contents else ""


def curve_table(curves: Mapping[str, Curves], unit: str) -> Table | None:
    """Of each run that left a log: the last loss, and the best validation; by `step` or `epoch`."""
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
    """(task and metric, points) of what chooses the best checkpoint, by the tag of training.py."""
    tags = [tag for tag in curves if tag.startswith("validation/")]
    for metric in ("ndcg@10", "auc", ""):
        for tag in tags:
            if tag.endswith(metric):
                return tag.removeprefix("validation/"), curves[tag]
    return None
