import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recllm_tasks import metrics
from recllm_tasks.errors import UserError
from recllm_tasks.runs import per_user

RANKS = [1.0, 3.0, math.inf, 11.0]
ITEMS = [[4, 5], [-1, 4, 4], [], list(range(30))]


def ranked(ranks=RANKS, items=ITEMS) -> pa.RecordBatch:
    places = range(len(ranks))
    return per_user.ranked([f"u{p}" for p in places], places, [p + 2 for p in places], ranks, items)


def test_rows_come_back(tmp_path):
    path = per_user.path_of(tmp_path, "test-beam20", "toys_retrieval")
    assert path == tmp_path / "per_user" / "test-beam20" / "toys_retrieval.parquet"
    per_user.write(path, [ranked()], {"model": "x", "step": 3})
    (batch,) = per_user.read(path)
    assert batch.schema.remove_metadata() == per_user.RANKED
    assert batch.to_pydict() == {
        "user": ["u0", "u1", "u2", "u3"],
        "target": [0, 1, 2, 3],
        "history": [2, 3, 4, 5],
        "rank": RANKS,
        "items": [*ITEMS[:3], list(range(20))],
        "group": [""] * 4,
    }
    assert per_user.facts(path) == {"model": "x", "step": 3}
    assert list(tmp_path.rglob("*.tmp")) == []


def test_metrics_are_those_of_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(per_user, "_GROUP", 3)
    rng = np.random.default_rng(0)
    path = tmp_path / "rows.parquet"
    ranks = rng.choice([1, 2, 7, 15, np.inf], 40).astype(float)
    batches = [ranked(part, [[1, -1, 2, 1]] * 10) for part in np.split(ranks, 4)]
    per_user.write(path, iter(batches), {})
    assert len(list(per_user.read(path))) > 4
    assert per_user.metrics(path) == {**metrics.rank_metrics(ranks), "invalid": 0.25}

    scores, liked = rng.random(40).round(1), rng.random(40) < 0.5
    parts = zip(np.split(scores, 4), np.split(liked, 4))
    names = [str(place) for place in range(10)]
    rows = [per_user.rated(names, range(10), range(10), yes, score) for score, yes in parts]
    per_user.write(path, rows, {})
    assert per_user.metrics(path) == {"auc": metrics.auc(liked, scores)}


def test_metrics_by_group(tmp_path):
    path = tmp_path / "rows.parquet"
    groups = ["new", "co_occurs", "co_occurs", "new"]
    named = [f"u{place}" for place in range(4)]
    rows = per_user.ranked(named, range(4), range(4), RANKS, [[1], [2], [3], [-1]], groups)
    per_user.write(path, [rows], {})
    first, second = (
        {"users": 2, **metrics.rank_metrics(ranks), "invalid": invalid}
        for ranks, invalid in (([3.0, math.inf], 0.0), ([1.0, 11.0], 0.5))
    )
    expected = {"co_occurs": first, "no_co_occurrence": {"users": 0}, "new": second}
    assert per_user.metrics_by_group(path) == expected
    liked = per_user.rated(named, range(4), range(4), [True, False, True, True], RANKS, groups)
    per_user.write(path, [liked], {})
    # All of the new ones are liked: no AUC.
    expected = {"co_occurs": {"users": 2, "auc": 1.0}, "no_co_occurrence": {"users": 0}}
    assert per_user.metrics_by_group(path) == {**expected, "new": {"users": 2}}


def test_files_of_older_versions_have_no_groups(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_batches([ranked()]).drop_columns("group"), path)
    (batch,) = per_user.read(path)
    assert batch.schema == per_user.RANKED
    assert batch.column("group").to_pylist() == [""] * 4
    assert per_user.metrics_by_group(path) == {}
    assert per_user.metrics(path)["hr@1"] == 0.25


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "rows.parquet"
    per_user.write(path, [ranked()], {"old": 1})

    def failing():
        yield ranked()
        raise InterruptedError("stopped")

    with pytest.raises(UserError, match="stopped"):
        per_user.write(path, failing(), {})
    assert per_user.facts(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["rows.parquet"]


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    with pytest.raises(UserError, match=r"Per-user results for .*rows\.parquet"):
        list(per_user.read(path))
    path.write_bytes(b"no Parquet")
    with pytest.raises(UserError, match="measure the run again"):
        per_user.metrics(path)
    pq.write_table(pa.table({"user": ["a"]}), path)
    with pytest.raises(UserError, match="got no column target, history, rank, items, expected"):
        per_user.metrics(path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="on writing"):
        per_user.write(tmp_path / "file" / "rows.parquet", [ranked()], {})
