"""Lists of allowed items: counts, and beams beside scores of every item."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recllm_tasks.models import beam_search as beam_search_lib
from recllm_tasks.models.beam_search import DEAD, beam_search
from recllm_tasks.models.item_mask import ItemMask
from recllm_tasks.models.prior import SMOOTHING, Prior
from recllm_tasks.models.trie import Trie

EOS = 1
ITEMS = 70


@pytest.fixture(scope="module")
def pair(make_pair):
    return make_pair(seed=5)[1:]


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(1).integers(2, 60, (3, 9))


def _catalog(seed, items=ITEMS):
    """Ids of two to four tokens, some of them the beginning of others."""
    every = [(10, *t) for n in (1, 2, 3) for t in itertools.product(range(20, 26), repeat=n)]
    return [every[i] for i in np.random.default_rng(seed).permutation(len(every))[:items]]


@pytest.fixture(scope="module")
def forced(pair, inputs, forced_scores):
    def of_catalog(catalog):
        """Log-probabilities [B, N] of all items by teacher forcing."""
        width = max(map(len, catalog)) + 1
        targets = np.array([(*item, EOS, *[0] * (width - 1 - len(item))) for item in catalog])
        every = np.tile(targets, (len(inputs), 1))
        flat = forced_scores(*pair, np.repeat(inputs, len(catalog), axis=0), every)
        return np.asarray(flat).reshape(len(inputs), len(catalog))

    return of_catalog


def _lists(rng, items, batch=3):
    """bool [B, N]: long and short lists, in turn."""
    return rng.random((batch, items)) < np.array([0.7, 0.1, 0.4])[:, None]


def _masks(trie, allowed_BxN):
    return ItemMask.stack([ItemMask.of(trie, own) for own in allowed_BxN])


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), items=st.sampled_from([1, 31, 32, 33, 64, 100, 200]))
def test_counts_are_sums_over_the_list(seed, items):
    rng = np.random.default_rng(seed)
    trie, allowed = Trie.build(_catalog(seed, items)), _lists(rng, items)
    masks = _masks(trie, allowed)
    excluded = rng.integers(-1, items + 1, (3, 5)).astype(np.int32)
    lo, hi = (np.tile(x, (3, 1)) for x in (trie.node_lo, trie.node_hi))
    left = allowed.copy()
    for b, rows in enumerate(excluded):
        left[b, [row for row in rows if 0 <= row < items]] = False
    for own, found in ((left, masks.without(trie, excluded)), (allowed, masks)):
        by_position = own[:, trie.item_rows]
        expected = [
            [own[a:z].sum() for a, z in zip(trie.node_lo, trie.node_hi)] for own in by_position
        ]
        np.testing.assert_array_equal(found.count(lo, hi), expected)
        np.testing.assert_array_equal(found.num_allowed, own.sum(axis=1))
        one = ItemMask(found.bits[1], found.before[1])
        np.testing.assert_array_equal(one.holds(np.arange(items)), by_position[1])


@pytest.mark.parametrize("weight", [None, 1.5])
def test_with_room_for_all_the_beams_are_the_best_of_the_list(pair, inputs, forced, weight):
    """Beside the scores of every item, with items excluded and with a prior."""
    catalog, rng = _catalog(2), np.random.default_rng(7)
    trie, expected, given = Trie.build(catalog), forced(catalog).copy(), {}
    allowed = _lists(rng, ITEMS)
    excluded = rng.integers(-1, ITEMS, (3, 12)).astype(np.int32)
    masks = _masks(trie, allowed).without(trie, excluded)
    if weight:
        rows = [rng.permutation(ITEMS)[:25] for _ in range(3)]
        scores = [10.0 ** rng.uniform(-3, 3, 25) for _ in range(3)]
        prior = Prior.of(trie, rows, scores, excluded_BxM=excluded, mask=masks)
        given = {"prior": prior, "prior_weight": weight}
    for b in range(3):
        is_left = np.ones(ITEMS, bool)
        is_left[excluded[b][excluded[b] >= 0]] = False
        if weight:
            # p of the prior: what is not on the list counts in its sums all the same.
            own = np.zeros(ITEMS)
            own[rows[b]] = scores[b]
            own = np.where(is_left, own, 0)
            p = (own / own.sum() + SMOOTHING) / (1 + SMOOTHING * is_left.sum())
            expected[b] += weight * np.log(p)
        allowed[b] &= is_left
    beams = beam_search(*pair, inputs, trie, num_beams=ITEMS, allowed=masks, **given)
    for b in range(3):
        order = [row for row in np.argsort(-expected[b]) if allowed[b, row]]
        assert beams.rows_BxK[b].tolist() == order + [-1] * (ITEMS - len(order))
        model = np.asarray(beams.log_probs_BxK[b, : len(order)])
        np.testing.assert_allclose(model, forced(catalog)[b, order], atol=1e-4)


@pytest.mark.parametrize("seed", [0, 2])
def test_narrow_beams_are_those_of_a_trie_of_the_list_alone(pair, inputs, seed):
    """What is not on the list takes the place of nothing that is."""
    catalog, rng = _catalog(2), np.random.default_rng(seed)
    trie, own = Trie.build(catalog), _lists(rng, ITEMS)[seed]
    masks = _masks(trie, [own] * 3)
    beams = beam_search(*pair, inputs, trie, num_beams=5, allowed=masks)
    listed = np.flatnonzero(own)
    of_list = Trie.build([catalog[row] for row in listed])
    alone = beam_search(*pair, inputs, of_list, num_beams=5)
    rows = np.where(np.asarray(alone.rows_BxK) >= 0, listed[alone.rows_BxK], -1)
    np.testing.assert_array_equal(beams.rows_BxK, rows)
    np.testing.assert_allclose(beams.log_probs_BxK, alone.log_probs_BxK, atol=1e-4)


def test_a_list_of_everything_changes_no_bit_and_an_empty_one_leaves_nothing(pair, inputs):
    trie = Trie.build(_catalog(2))
    plain = beam_search(*pair, inputs, trie, num_beams=5)
    masks = _masks(trie, [np.ones(ITEMS, bool)] * 2 + [np.zeros(ITEMS, bool)])
    beams = beam_search(*pair, inputs, trie, num_beams=5, allowed=masks)
    for found, expected in zip(beams, plain):
        np.testing.assert_array_equal(found[:2], expected[:2])
    assert (beams.rows_BxK[2] == -1).all()
    assert (beams.log_probs_BxK[2] == DEAD).all()


def test_candidates_that_are_not_on_the_list_are_left_out(pair, inputs, forced):
    catalog, rng = _catalog(2), np.random.default_rng(4)
    trie, allowed = Trie.build(catalog), _lists(rng, ITEMS)
    candidates = rng.integers(-1, ITEMS, (3, 30)).astype(np.int32)
    masks = _masks(trie, allowed)
    beams = beam_search(*pair, inputs, trie, candidates, num_beams=ITEMS, allowed=masks)
    for b, scores in enumerate(forced(catalog)):
        left = [row for row in np.argsort(-scores) if allowed[b, row] and row in candidates[b]]
        assert beams.rows_BxK[b].tolist() == left + [-1] * (ITEMS - len(left))


def test_another_list_compiles_nothing(pair, inputs):
    trie = Trie.build(_catalog(2))
    sizes = []
    for items in (ITEMS, 1, 40):
        masks = _masks(trie, [np.arange(ITEMS) < items] * 3)
        beam_search(*pair, inputs, trie, num_beams=5, allowed=masks)
        sizes.append(beam_search_lib._search._cache_size())
    assert len(set(sizes)) == 1


def test_rows_to_exclude_are_taken_out_of_the_mask(pair, inputs):
    trie = Trie.build(_catalog(2))
    masks = _masks(trie, [np.ones(ITEMS, bool)] * 3)
    excluded = np.zeros((3, 1), np.int32)
    with pytest.raises(ValueError, match=r"ItemMask\.without"):
        beam_search(*pair, inputs, trie, excluded_BxM=excluded, num_beams=5, allowed=masks)
