"""Run folders of a few users, as `recllm eval` and `recllm baselines` write them."""

import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recllm_tasks import metrics
from recllm_tasks.runs import per_user
from recllm_tasks.runs.decoding import Decoding
from recllm_tasks.runs.results import name_of

FINGERPRINT = "ab" * 32


@pytest.fixture
def make_run(tmp_path):
    """`write_run` into the test's own folder."""

    def make(name: str, **kwargs) -> pathlib.Path:
        return write_run(tmp_path / "runs" / name, **kwargs)

    return make


def write_run(
    folder: pathlib.Path,
    ranks=None,
    liked=None,
    scores=None,
    items=None,
    task=None,
    groups=None,
    **told,
) -> pathlib.Path:
    """A run on `toys`: of retrieval if `ranks` are given, of rating if `scores` are."""
    folder.mkdir(parents=True)
    task = task or ("toys_rating" if ranks is None else "toys_retrieval")
    num = len(scores if ranks is None else ranks)
    # Written in another order than sorted, as evaluation has it.
    order = np.arange(num)[::-1]
    columns = {
        "user": pa.array([f"U{n:05d}" for n in order]),
        "target": pa.array(order % 30, pa.int32()),
        "history": pa.array(4 + order % 9, pa.int32()),
    }
    if groups is not None:
        columns["group"] = pa.array([groups[n] for n in order])
    if ranks is None:
        columns["liked"] = pa.array(np.asarray(liked)[order], pa.bool_())
        columns["score"] = pa.array(np.asarray(scores)[order], pa.float64())
        measured = {"auc": metrics.auc(liked, scores)}
    else:
        items = [[n % 30, (n + 1) % 30] for n in range(num)] if items is None else items
        columns["rank"] = pa.array(np.asarray(ranks)[order], pa.float64())
        columns["items"] = pa.array([items[n] for n in order], pa.list_(pa.int32()))
        measured = metrics.rank_metrics(ranks)
    told = {"seen": "leave_out", **told}
    if "decoding" in told:
        told["decoding"] = {**told["decoding"], "seen": told["seen"]}
    decoding = told.get("decoding") and Decoding(**told["decoding"])
    rows = per_user.path_of(folder, name_of(told.get("split", "test"), decoding), task)
    rows.parent.mkdir(parents=True)
    pq.write_table(pa.table(columns), rows)
    results = {
        "dataset": "toys",
        "fingerprint": FINGERPRINT,
        "model": folder.name,
        "split": "test",
        "ties": "published",
        "metrics": {task: measured},
        "num_examples": {task: num},
        "per_user": {task: str(rows.relative_to(folder))},
        **told,
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def change():
    """Writes keys into a run's results.json."""

    def write(folder: pathlib.Path, **keys) -> pathlib.Path:
        path = folder / "results.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))
        return folder

    return write


def some_ranks(num: int, hits: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(num) < hits, rng.integers(1, 11, num), np.inf)


@pytest.fixture
def draw_ranks():
    """`some_ranks`: ranks from 1 to 10 of a share of users, misses else."""
    return some_ranks
