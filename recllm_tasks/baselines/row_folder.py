"""A row's run folder, `OUT/<row>`: results.json and per_user, as an evaluated model has them."""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from recllm_tasks import __version__
from recllm_tasks.baselines.measured import Measured, user_rows
from recllm_tasks.baselines.rows import Row
from recllm_tasks.data.dataset_info import DatasetInfo
from recllm_tasks.engine import memory, per_user, run_folder

RESULTS = "results.json"


def fingerprint(row: Row, info: DatasetInfo, split: str, settings: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of what fixes a row's results: a finished row of the same is not run again."""
    facts = [__version__, row.name, row.kinds, info.fingerprint, split, settings]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def finished(folder: pathlib.Path, row_fingerprint: str) -> dict[str, Any] | None:
    """The results of a row that is there whole and is the same, or None."""
    results = run_folder.read_json(folder / RESULTS)
    if not isinstance(results, dict) or results.get("row_fingerprint") != row_fingerprint:
        return None
    tasks, split = results.get("metrics", {}), results.get("split")
    there = all(per_user.path_of(folder, task, split).is_file() for task in tasks)
    return results if there else None


def save(
    folder: pathlib.Path,
    row: Row,
    row_fingerprint: str,
    info: DatasetInfo,
    splits,
    measured: Measured,
    seed: int = 0,
) -> dict[str, Any]:
    """Writes the rows of every user, then results.json from them; returns what it holds."""
    facts = {"dataset": info.dataset, "fingerprint": info.fingerprint, "split": splits.split}
    facts |= {"split_fingerprint": info.split_fingerprint, "ids": info.ids}
    facts |= {"model": row.name, "row_fingerprint": row_fingerprint}
    names = {kind: f"{info.dataset}_{kind}" for kind in measured.kinds}
    metrics, files = {}, {}
    for kind, task in names.items():
        path = per_user.path_of(folder, task, splits.split)
        rows = user_rows(measured, kind, splits.of(kind))
        per_user.write(path, rows, {**facts, "task": task})
        metrics[task], files[task] = per_user.metrics(path), str(path.relative_to(folder))
    num_users = {task: len(splits.of(kind).targets) for kind, task in names.items()}
    seconds = {task: measured.seconds[kind] for kind, task in names.items()}
    results = {
        **facts,
        "title": row.title,
        "version": __version__,
        "step": 0,
        "seed": seed,
        "ties": info.ties,
        "exclude_history": bool(measured.settings.get("exclude_seen")),
        "settings": dict(measured.settings),
        "parameters": int(measured.parameters),
        "num_examples": num_users,
        "metrics": metrics,
        "baselines": {},
        "per_user": files,
        "fit_seconds": measured.fit_seconds,
        "decode_seconds": seconds,
        "examples_per_second": {
            task: num_users[task] / max(seconds[task], 1e-9) for task in seconds
        },
        "peak_memory_bytes": measured.peak_memory_bytes or memory.peak_bytes(),
        "seconds": measured.fit_seconds + sum(seconds.values()),
    }
    run_folder.write_json(folder / RESULTS, results)
    return results
