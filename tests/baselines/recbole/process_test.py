"""RecBole itself, on a small dataset; needs launch/install_baselines.sh."""

import fcntl
import os
import pathlib
import signal
import subprocess
import sys
import time

import ir_measures
import numpy as np
import pyarrow.parquet as pq
import pytest
from ir_measures import RR, Success, nDCG

from recllm_tasks import metrics
from recllm_tasks.baselines.interactions import Splits
from recllm_tasks.baselines.recbole import training
from recllm_tasks.baselines.recbole.budget import Budget
from recllm_tasks.baselines.recbole.models import MODELS
from recllm_tasks.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_data")]


@pytest.fixture(scope="module")
def python():
    try:
        return training.find_python(os.environ.get("RECBOLE_PYTHON"))
    except UserError as error:
        pytest.skip(f"needs RecBole: {error}")


def train(name, folder, python, **budget):
    splits, told = Splits("gift_cards", "test"), []
    budget = Budget(**{"epochs": 2, "threads": 1} | budget)
    return training.measure(name, splits, folder, python, budget, "keep", told.append), told, splits


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_and_scores(name, python, tmp_path):
    measured, told, splits = train(name, tmp_path, python)
    assert tuple(measured.kinds) == MODELS[name].kinds
    assert measured.parameters > 0
    for ranked in measured.ranked.values():
        assert len(ranked.ranks) == len(splits.evaluated.targets)
    for scores in measured.scores.values():
        assert np.isfinite(scores).all()
    assert [found["epoch"] for found in measured.settings["curve"]] == [1, 2]
    assert any("epoch 2 of at most 2" in line for line in told)


def test_a_model_learns_what_comes_next(python, tmp_path):
    # The next item of gift_cards is mostly the one after the last, in 36 items.
    measured, _, _ = train("sasrec_ce", tmp_path, python, epochs=60, patience=60)
    assert metrics.hit_ratio(measured.ranked["retrieval"].ranks, 10) > 0.6


def test_lists_and_ranks_agree_and_ir_measures_finds_the_same(python, tmp_path):
    measured, _, splits = train("gru4rec", tmp_path, python, epochs=5)
    for ranked in measured.ranked.values():
        qrels, run = {}, {}
        for user, (target, rank, items) in enumerate(
            zip(splits.evaluated.targets, ranked.ranks, ranked.lists)
        ):
            assert (rank <= 20) == (target in items)
            qrels[str(user)] = {str(target): 1}
            # A negative drawn twice is one document; a place of its own is left to each.
            names = [
                f"{item}" if item not in items[:i] else f"{i}th" for i, item in enumerate(items)
            ]
            run[str(user)] = {name: -place for place, name in enumerate(names)}
        found = ir_measures.calc_aggregate([Success @ 5, nDCG @ 10, RR @ 10], qrels, run)
        ours = metrics.rank_metrics(ranked.ranks)
        assert found[Success @ 5] == pytest.approx(ours["hr@5"], abs=1e-12)
        assert found[nDCG @ 10] == pytest.approx(ours["ndcg@10"], abs=1e-12)


def test_seen_items_are_left_out_of_what_bpr_lists(python, tmp_path):
    measured, _, splits = train("bpr_mf", tmp_path, python)
    for history, items in zip(splits.evaluated.history_items, measured.ranked["retrieval"].lists):
        assert not set(history) & set(items)


_CALL = """
import pathlib, sys
import seqio
from recllm_tasks.baselines.interactions import Splits
from recllm_tasks.baselines.recbole import training
from recllm_tasks.baselines.recbole.budget import Budget
seqio.set_tfds_data_dir_override(sys.argv[1])
budget = Budget(epochs=8, patience=8, threads=1)
folder = pathlib.Path(sys.argv[2])
splits = Splits("gift_cards", "test")
training.measure("sasrec_bce", splits, folder, sys.argv[3], budget, "keep", print)
"""


def test_a_killed_training_resumes(python, tmp_path, small_data):
    whole, _, _ = train("sasrec_bce", tmp_path / "whole", python, epochs=8, patience=8)
    killed = tmp_path / "killed"
    killed.mkdir()
    command = [sys.executable, "-c", _CALL, str(small_data), str(killed), python]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = killed / training.FOLDER / "state-1.pt"
    while not state.exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait_for_the_lock(killed / training.FOLDER / "lock")
    resumed, told, _ = train("sasrec_bce", killed, python, epochs=8, patience=8)
    assert any("resumes after epoch" in line for line in told)
    table, again = (
        pq.read_table(pathlib.Path(folder) / training.FOLDER / "predictions.parquet")
        for folder in (tmp_path / "whole", killed)
    )
    assert table.equals(again)
    losses = [[found["loss"] for found in m.settings["curve"]] for m in (whole, resumed)]
    assert losses[0] == losses[1]


def _wait_for_the_lock(path):
    """RecBole's process sees that nobody waits for it any longer, and ends."""
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
