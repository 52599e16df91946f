"""Candidates: what is drawn for one window has nothing to do with what is drawn for another."""

import numpy as np
import pytest
import tensorflow as tf

from recllm_tasks.prompts import candidates
from recllm_tasks.prompts.source import SequenceSource


@pytest.mark.usefixtures("small_data")
def test_a_users_target_stands_elsewhere_in_every_split():
    source = SequenceSource("gift_cards", with_negatives=True)
    places = {}
    for split in ("train", "validation", "test"):
        listed = candidates.list_candidates(source)(source.get_dataset(split, shuffle=False))
        places[split] = {
            example["user"]: int(np.argmax(example["candidates"] == example["target"]))
            for example in listed.as_numpy_iterator()
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
    folded = {
        tuple(candidates.fold_in(seed, salt).numpy())
        for seed in seeds
        for salt in (candidates._POSITION, candidates._NEGATIVES)
    }
    assert len(folded) == 2 * len(seeds)


@pytest.mark.usefixtures("small_data")
def test_the_candidates_of_a_window_stay():
    """Pinned: another draw would change every ranking example of every run."""
    source = SequenceSource("gift_cards", with_negatives=True)
    listed = candidates.list_candidates(source)(source.get_dataset("train", shuffle=False))
    first = {e["user"]: e["candidates"] for e in listed.as_numpy_iterator() if e["window"] == 0}
    assert first[b"U000"][:6].tolist() == [31, 25, 17, 20, 18, 16]
