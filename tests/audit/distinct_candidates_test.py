"""The audit of a dataset that was prepared with distinct candidates."""

import itertools
import json
import shutil

import numpy as np
import pytest
import seqio

from recllm_tasks import checksums
from recllm_tasks.audit.drawn_negatives import rates_of_distinct
from recllm_tasks.audit.ragged import Ragged
from recllm_tasks.data.dataset_info import FILE_NAME, dataset_dir
from recllm_tasks.data.prepare import prepare

NAME = "gift_cards"


@pytest.fixture
def only_ranking(only_tasks):
    import recllm_tasks.mixtures  # noqa: F401

    only_tasks(*(seqio.TaskRegistry.get(f"{NAME}_{kind}") for kind in ("ranking", "bpr")))


def prepared(small_data_dir, folder, **options):
    prepare(NAME, folder, small_data_dir.parent / "raw", candidates=9, **options)
    vocabulary = "vocabulary.model"
    shutil.copy(dataset_dir(small_data_dir, NAME) / vocabulary, dataset_dir(folder, NAME))
    return folder


def test_distinct_candidates_pass(small_data_dir, only_ranking, run_audit, tmp_path):
    data_dir = prepared(small_data_dir, tmp_path, candidate_sampling="distinct")
    code, checks = run_audit(data_dir)
    assert code == 0
    figures = checks["held_out_negatives"]["figures"]
    found, expected = (figures[f"{NAME}_ranking{end}"] for end in ("", " by chance"))
    assert found > 50
    assert abs(found - expected) < 4 * expected**0.5


def test_repeats_are_found_where_candidates_should_be_distinct(
    small_data_dir, only_ranking, run_audit, tmp_path
):
    """Drawn with replacement, though the dataset says that they are not."""
    data_dir = prepared(small_data_dir, tmp_path)
    path = dataset_dir(data_dir, NAME) / FILE_NAME
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "candidate_sampling": "distinct"}))
    (path.parent / checksums.FILE_NAME).unlink()
    code, checks = run_audit(data_dir)
    assert code == 1
    offender = checks["stored_negatives"]["offender"]
    assert "a negative twice in a dataset of distinct candidates" in offender["problem"]
    offender = checks["drawn_negatives"]["offender"]
    assert f"an item offered twice by {NAME}_ranking" in offender["problem"]


def test_chances_of_distinct_draws():
    rng = np.random.default_rng(0)
    counts = np.append(np.maximum(1, 200 / np.arange(1, 101) ** 0.7).astype(np.int64), 0)
    own = [[], [0, 3, 60], [1]]
    without = Ragged(counts[np.int64([*itertools.chain(*own)])], np.cumsum([0, *map(len, own)]))
    rates = rates_of_distinct(counts, without, 30)
    for rows, rate in zip(own, rates, strict=True):
        left = np.where(np.isin(np.arange(101), rows), 0, counts)
        keys = rng.exponential(size=(20_000, 101)) / np.maximum(left, 1e-9)
        drawn = np.argpartition(keys, 29, axis=1)[:, :30]
        frequency = np.bincount(drawn.ravel(), minlength=101) / len(keys)
        # Within four standard deviations and the approximation's 1 %.
        np.testing.assert_allclose(-np.expm1(-left * rate), frequency, atol=0.015)
