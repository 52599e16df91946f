"""Candidates: what is drawn for one window has nothing to do with what is drawn for another."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from recllm_tasks.data.negatives import fold_in
from recllm_tasks.prompts import candidates
from recllm_tasks.prompts.batches import unbatch
from recllm_tasks.prompts.source import SequenceSource


def _listed(source, split):
    """Examples of a split, with their candidates."""
    dataset = candidates.list_candidates(source)(source.get_dataset(split, shuffle=False))
    return list(unbatch(dataset).as_numpy_iterator())


@pytest.mark.usefixtures("small_data")
def test_a_users_target_stands_elsewhere_in_every_split():
    source = SequenceSource("gift_cards", with_negatives=True)
    places = {}
    for split in ("train", "validation", "test"):
        places[split] = {
            example["user"]: int(np.argmax(example["candidates"] == example["target"]))
            for example in _listed(source, split)
            if len(example["history"]) < 18
        }
    assert len(places["test"]) > 20
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        both = places[one].keys() & places[other].keys()
        same = sum(places[one][user] == places[other][user] for user in both)
        assert same <= 0.2 * len(both), f"{one} and {other}: {same} of {len(both)}"


def test_two_purposes_never_share_a_seed():
    """Salts are folded in: added ones would meet where two users' hashes are neighbours."""
    seeds = [tf.constant([user, place]) for user in range(4) for place in range(4)]
    salts = (candidates._POSITION, candidates._NEGATIVES)
    folded = {tuple(word.numpy()) for seed in seeds for word in fold_in(seed, salts)}
    assert len(folded) == 2 * len(seeds)


@pytest.mark.usefixtures("small_data")
def test_the_candidates_of_a_window_stay():
    """Pinned: another draw would change every ranking example of every run."""
    source = SequenceSource("gift_cards", with_negatives=True)
    first = {e["user"]: e["candidates"] for e in _listed(source, "train") if e["window"] == 0}
    assert first[b"U000"][:6].tolist() == [31, 25, 17, 20, 18, 16]


@pytest.mark.usefixtures("small_data")
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_window_alone_has_the_candidates_that_it_has_among_others(split):
    source = SequenceSource("gift_cards", with_negatives=True)
    dataset = source.get_dataset(split, shuffle=False)
    alone = candidates.list_candidates(source)(
        unbatch(dataset).ragged_batch(1, row_splits_dtype=tf.int64)
    )
    among = [example["candidates"].tolist() for example in _listed(source, split)]
    assert [batch["candidates"][0].numpy().tolist() for batch in alone] == among


@pytest.mark.usefixtures("small_data")
def test_pairs_are_target_and_another_item_in_random_order():
    source = SequenceSource("gift_cards", with_negatives=True)
    with seqio.utils.map_seed_manager(0):
        paired = candidates.pair_with_negative(source)(source.get_dataset("train", shuffle=False))
    first = []
    for example in unbatch(paired).as_numpy_iterator():
        pair, target = example["pair"].tolist(), example["target"]
        assert pair.count(target) == 1
        assert not (set(pair) - {target}) & set(example["exclude"].tolist())
        first.append(pair[0] == target)
    # Five standard deviations of a fair coin.
    assert abs(np.mean(first) - 0.5) < 2.5 / np.sqrt(len(first))
