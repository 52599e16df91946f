"""How RecBole's process is asked and answered; a small program stands in for it."""

import json
import sys

import numpy as np
import pytest

from recllm_tasks import metrics
from recllm_tasks.baselines.interactions import Splits
from recllm_tasks.baselines.recbole import training
from recllm_tasks.baselines.recbole.budget import Budget
from recllm_tasks.baselines.recbole.models import MODELS
from recllm_tasks.errors import UserError

pytestmark = pytest.mark.usefixtures("small_data")

# Scores an item by its row, as a model that resumes and trains an epoch whenever it is called.
STAND_IN = """
import json, pathlib, sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
folder = pathlib.Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
state = folder / "state-1.pt"
epochs = 1 + (int(state.read_text()) if state.exists() else 0)
state.write_text(str(epochs))
print("INFO a line of RecBole's own")
print(json.dumps({"stage": 1, "epochs": job["epochs"], "epoch": epochs, "loss": 1.0,
                  "validation": 0.1, "seconds": 2.0}))
users = pq.read_table(folder / "users.parquet")
target = users["target"].to_numpy()
if job["kinds"] == ["rating"]:
    columns = {"score": target.astype(float)}
else:
    best = np.arange(job["num_items"])[::-1][:20].tolist()
    candidates = users["candidates"].to_pylist()
    columns = {"rank": (job["num_items"] - target).astype(float), "items": [best] * len(target),
               "candidate_scores": [[float(row) for row in own] for own in candidates]}
pq.write_table(pa.table(columns), folder / "predictions.parquet")
curve = [{"epoch": e + 1, "validation": 0.1 * e} for e in range(epochs)]
(folder / "report.json").write_text(json.dumps({
    "versions": {"recbole": "1.2.1"}, "parameters": 7, "curve": curve, "pretraining": [],
    "fit_seconds": 2.0, "seconds": dict.fromkeys(job["kinds"], 1.0), "peak_memory_bytes": 5}))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    def put(code=STAND_IN):
        (tmp_path / "process").mkdir(exist_ok=True)
        (tmp_path / "process" / "__main__.py").write_text(code)
        monkeypatch.setattr(training, "PROGRAM", tmp_path / "process")

    put()
    return put


@pytest.fixture(scope="module")
def splits():
    return Splits("gift_cards", "test")


def measure(name, splits, folder, seen="leave_out", **budget):
    told, budget = [], Budget(**budget)
    measured = training.measure(name, splits, folder, sys.executable, budget, seen, told.append)
    return measured, told


def test_metrics_are_ours(stand_in, splits, tmp_path):
    measured, told = measure("sasrec_ce", splits, tmp_path / "row")
    targets, num_items = splits.evaluated.targets, splits.evaluated.num_items
    assert measured.kinds == ["retrieval", "ranking"]
    np.testing.assert_array_equal(measured.ranked["retrieval"].ranks, num_items - targets)
    negatives = splits.evaluated.negatives
    # A negative that was drawn twice counts once.
    ranks = [1 + len({n for n in own if n > t}) for own, t in zip(negatives, targets)]
    assert metrics.rank_metrics(measured.ranked["ranking"].ranks) == metrics.rank_metrics(ranks)
    own = sorted({*negatives[0], targets[0]}, reverse=True)[:20]
    assert measured.ranked["ranking"].lists[0].tolist() == own
    assert measured.parameters == 7
    assert told == ["epoch 1 of at most 100: loss 1.0000, validation 0.1000, 2 s"]


def test_rating_has_scores(stand_in, splits, tmp_path):
    measured, _ = measure("wide_deep", splits, tmp_path / "row")
    assert measured.kinds == ["rating"]
    np.testing.assert_array_equal(measured.scores["rating"], splits.of("rating").targets)


def test_the_state_stays_for_a_larger_budget_and_goes_with_other_settings(
    stand_in, splits, tmp_path
):
    row = tmp_path / "row"
    assert len(measure("hgn", splits, row, epochs=1)[0].settings["curve"]) == 1
    measured, _ = measure("hgn", splits, row, epochs=2, minutes=1)
    assert len(measured.settings["curve"]) == 2
    assert measured.settings["epoch"] == 2
    assert len(measure("hgn", splits, row, seed=1)[0].settings["curve"]) == 1
    assert len(measure("gru4rec", splits, row, seed=1)[0].settings["curve"]) == 1


def test_every_model_follows_the_rule_and_is_trained_again_under_another(
    stand_in, splits, tmp_path
):
    for name in ("sasrec_ce", "bpr_mf"):
        row = tmp_path / name
        for seen, epochs in (("leave_out", 1), ("leave_out", 2), ("keep", 1)):
            measured, _ = measure(name, splits, row, seen)
            assert len(measured.settings["curve"]) == epochs
            job = json.loads((row / "recbole" / "job.json").read_text())
            assert job["exclude_seen"] == (seen == "leave_out")
    # A rating has no list.
    for epochs, seen in enumerate(("leave_out", "keep"), 1):
        measured, _ = measure("dmf", splits, tmp_path / "dmf", seen)
        assert len(measured.settings["curve"]) == epochs


def test_a_failure_is_reported_with_its_last_words(stand_in, splits, tmp_path):
    stand_in("import sys; sys.exit('no module named recbole')")
    with pytest.raises(UserError, match=r"no module named recbole.*errors\.log"):
        measure("sasrec_ce", splits, tmp_path / "row")


def test_a_process_that_is_killed_shows_its_exit_code(stand_in, splits, tmp_path):
    stand_in("import os, sys; os.write(2, b'a warning'); os.kill(os.getpid(), 9)")
    with pytest.raises(UserError, match=r"got exit code -9 and 'a warning'"):
        measure("sasrec_ce", splits, tmp_path / "row")


@pytest.mark.parametrize("damage", ["torn", "short"])
def test_bad_predictions_are_reported(stand_in, splits, tmp_path, damage):
    cut = "pq.write_table(pa.table(columns).slice(1), folder / 'predictions.parquet')"
    torn = "(folder / 'predictions.parquet').write_bytes(b'PAR1')"
    stand_in(STAND_IN + {"torn": torn, "short": cut}[damage])
    with pytest.raises(UserError, match=r"predictions\.parquet.*run the row"):
        measure("sasrec_ce", splits, tmp_path / "row")


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"minutes": -1}, {"minutes": float("nan")}, {"threads": 0}, {"seed": 2**31}],
)
def test_a_wrong_budget_is_reported(wrong):
    with pytest.raises(UserError, match=f"--{next(iter(wrong))}"):
        Budget(**wrong)


def test_no_python_with_recbole_is_reported(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"launch/install_baselines\.sh"):
        training.find_python(str(tmp_path))
    assert training.find_python(sys.executable) == sys.executable


def test_all_settings_are_json():
    for name in MODELS:
        settings = training.settings_of(name, Budget())
        assert json.loads(json.dumps(settings)) == settings
