"""Training batches: step k is the same, however the run came there, on any number of cores."""

import itertools

import numpy as np
import psutil
import pytest
import seqio

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks.engine import batches
from recllm_tasks.prompts import packing, stream

MIXTURE = "gift_cards_raat"
LENGTHS = {"inputs": 512, "targets": 64}

pytestmark = pytest.mark.usefixtures("small_data", "clean_gin")


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch):
    """Many stretches, so that batches span several."""
    monkeypatch.setattr(stream, "STRETCH", 256)


def _batches(num, seed=3, **settings):
    made = batches.training_batches(MIXTURE, LENGTHS, 4, seed, **settings)
    return list(itertools.islice(made, num))


def _equal(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


def test_a_step_does_not_depend_on_the_cores():
    for one, other in zip(_batches(60, workers=1), _batches(60, workers=5), strict=True):
        assert _equal(one, other)


@pytest.mark.parametrize("pack", [True, False])
def test_a_run_goes_on_with_the_batch_it_would_have_seen(pack):
    features = packing.PACKED if pack else packing.PADDED
    whole = _batches(130, pack=pack)
    assert all(batch.keys() == set(features) for batch in whole)
    assert all(batch["encoder_input_tokens"].shape == (4, 512) for batch in whole)
    for start in (1, 37, 128):
        later = _batches(2, pack=pack, start_step=start)
        assert all(map(_equal, later, whole[start : start + 2]))
    assert not _equal(whole[0], whole[1])


def test_another_seed_is_another_run():
    assert not _equal(_batches(1, seed=1)[0], _batches(1, seed=2)[0])


def test_rows_hold_several_examples_and_little_padding(monkeypatch):
    monkeypatch.setattr(stream, "STRETCH", 4096)
    # Room enough for targets, of which the small dataset's are long beside its inputs.
    lengths = {"inputs": 512, "targets": 256}
    made = list(itertools.islice(batches.training_batches(MIXTURE, lengths, 4, 3), 400))
    assert made[0]["encoder_segment_ids"].max() > 1
    assert batches.num_examples(made[0]) > 4
    padding = 1 - np.mean([batch["encoder_input_tokens"] > 0 for batch in made])
    assert padding < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("mixture", ["gift_cards_raat", "gift_cards_ut_at"])
def test_200_steps_with_three_kills(mixture):
    whole = list(itertools.islice(batches.training_batches(mixture, LENGTHS, 16, 0), 200))
    done = 0
    for killed_at in (17, 90, 161, 200):
        part = batches.training_batches(mixture, LENGTHS, 16, 0, start_step=done)
        for step, batch in zip(range(done, killed_at), part):
            assert _equal(batch, whole[step]), step
        done = killed_at


@pytest.mark.slow
def test_memory_stays_flat_over_ten_epochs(monkeypatch):
    monkeypatch.setattr(stream, "STRETCH", 4096)
    task = seqio.TaskRegistry.get("gift_cards_retrieval")
    epoch, seen, used = 4 * len(task.source.training_table()), 0, []
    # The small dataset's epoch is short: these are epochs of 100 of it.
    for batch in batches.training_batches(MIXTURE, LENGTHS, 64, 0):
        seen += batches.num_examples(batch)
        if seen > 100 * epoch * (len(used) + 1):
            used.append(psutil.Process().memory_info().rss)
            if len(used) == 10:
                break
    assert max(used[2:]) < 1.05 * used[1], [size >> 20 for size in used]
