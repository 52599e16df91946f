"""A prior in beam search and in the scores of candidates, beside sums over all items."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recllm_tasks.models.beam_search import beam_search
from recllm_tasks.models.candidate_scores import score_candidates
from recllm_tasks.models.prior import SMOOTHING, Prior
from recllm_tasks.models.trie import Trie

EOS = 1
ITEMS = 40


@pytest.fixture(scope="module")
def pair(make_pair):
    return make_pair(seed=4)[1:]


def _catalog(seed, items=ITEMS):
    """Ids of two to four tokens, some of them the beginning of others."""
    every = [(10, *t) for n in (1, 2, 3) for t in itertools.product(range(20, 26), repeat=n)]
    return [every[i] for i in np.random.default_rng(seed).permutation(len(every))[:items]]


def _scores(rng, batch, items, scored=7):
    """Scores [B, N] of few items each, of very different sizes, and the same as lists."""
    dense = np.zeros((batch, items))
    for own in dense[:-1]:  # the last example has no score at all
        own[rng.permutation(items)[:scored]] = 10.0 ** rng.uniform(-9, 3, scored)
    rows = [np.flatnonzero(own) for own in dense]
    return dense, rows, [own[of] for own, of in zip(dense, rows)]


def _probabilities(dense, excluded=None):
    """p of the module's docstring, by hand."""
    expected = []
    for b, scores in enumerate(dense):
        allowed = np.ones(len(scores), bool)
        if excluded is not None:
            allowed[[row for row in excluded[b] if 0 <= row < len(scores)]] = False
        own = np.where(allowed, scores, 0)
        if own.sum():
            own = (own / own.sum() + SMOOTHING) / (1 + SMOOTHING * allowed.sum())
        else:
            own = np.full(len(scores), 1 / allowed.sum())
        expected.append(np.where(allowed, own, 0))
    return np.array(expected)


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(0).integers(2, 60, (3, 9))


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


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), excludes=st.booleans(), offers=st.booleans())
def test_the_mass_of_a_prefix_is_the_sum_over_its_items(seed, excludes, offers):
    rng = np.random.default_rng(seed)
    items = int(rng.integers(8, 200))
    trie = Trie.build(_catalog(seed, items))
    dense, rows, scores = _scores(rng, 3, items)
    excluded = rng.integers(-1, items, (3, 6)) if excludes else None
    candidates = rng.integers(-1, items, (3, 30)) if offers else None
    prior = Prior.of(trie, rows, scores, candidates, excluded, width=int(rng.integers(1, 30)))
    mass = _probabilities(dense, excluded)
    np.testing.assert_allclose(mass.sum(axis=1), 1)
    if candidates is not None:
        mass = np.where([np.isin(np.arange(items), own) for own in candidates], mass, 0)
    mass = mass[:, trie.item_rows]
    count = np.pad(np.cumsum(mass > 0, axis=1), ((0, 0), (1, 0)))
    lo, hi = (np.tile(x, (3, 1)) for x in (trie.node_lo, trie.node_hi))
    count = np.take_along_axis(count, hi, 1) - np.take_along_axis(count, lo, 1)
    expected = [[mass[b, a:z].sum() for a, z in zip(lo[b], hi[b])] for b in range(3)]
    found = np.exp(np.asarray(prior.log_mass(lo, hi, count), np.float64))
    np.testing.assert_allclose(found[count > 0], np.array(expected)[count > 0], rtol=2e-6)


@pytest.mark.parametrize("weight", [0.5, 2.0])
@pytest.mark.parametrize("excludes", [False, True])
def test_with_room_for_all_items_beams_are_in_the_order_of_the_sums(
    pair, inputs, forced, weight, excludes
):
    catalog = _catalog(1)
    trie = Trie.build(catalog)
    rng = np.random.default_rng(2)
    dense, rows, scores = _scores(rng, 3, ITEMS)
    excluded = rng.integers(-1, ITEMS, (3, 9)).astype(np.int32) if excludes else None
    with np.errstate(divide="ignore"):
        bonus = weight * np.log(_probabilities(dense, excluded))
    expected = forced(catalog) + bonus
    prior = Prior.of(trie, rows, scores, excluded_BxM=excluded)
    beams = beam_search(
        *pair, inputs, trie, None, excluded, num_beams=ITEMS, prior=prior, prior_weight=weight
    )
    for b in range(3):
        order = [row for row in np.argsort(-expected[b]) if expected[b, row] > -np.inf]
        assert beams.rows_BxK[b].tolist() == order + [-1] * (ITEMS - len(order))
        model = np.asarray(beams.log_probs_BxK[b, : len(order)])
        np.testing.assert_allclose(model, forced(catalog)[b, order], atol=1e-4)


def test_a_narrow_search_follows_the_prior_into_unlikely_prefixes(pair, inputs, forced):
    """An item whose first token the model would drop is found, as its prefix has its mass."""
    catalog = [(token, 30 + place) for token in range(10, 20) for place in range(20)]
    trie, log_probs = Trie.build(catalog), forced(catalog)
    worst = log_probs.argmin(axis=1)
    rows, scores = [np.array([row]) for row in worst], [np.ones(1)] * 3
    alone = beam_search(*pair, inputs, trie, num_beams=2)
    assert not (np.asarray(alone.rows_BxK) == worst[:, None]).any()
    prior = Prior.of(trie, rows, scores)
    beams = beam_search(*pair, inputs, trie, num_beams=2, prior=prior, prior_weight=5.0)
    assert beams.rows_BxK[:, 0].tolist() == worst.tolist()


def test_candidates_are_ranked_by_the_sums_in_both_methods(pair, inputs, forced):
    catalog = _catalog(3)
    trie, rng = Trie.build(catalog), np.random.default_rng(3)
    dense, rows, scores = _scores(rng, 3, ITEMS, scored=20)
    excluded = rng.integers(-1, ITEMS, (3, 9)).astype(np.int32)
    candidates = rng.integers(-1, ITEMS, (3, 30)).astype(np.int32)
    prior = Prior.of(trie, rows, scores, candidates, excluded)
    with np.errstate(divide="ignore"):
        expected = forced(catalog) + 1.5 * np.log(_probabilities(dense, excluded))
    given = {"prior": prior, "prior_weight": 1.5}
    searched = beam_search(*pair, inputs, trie, candidates, excluded, num_beams=ITEMS, **given)
    scored = score_candidates(*pair, inputs, trie, candidates, excluded, **given)
    for b in range(3):
        left = sorted({*candidates[b].tolist()} - {*excluded[b].tolist(), -1})
        order = sorted(left, key=lambda row: -expected[b, row])
        for beams in (searched, scored):
            found = np.asarray(beams.rows_BxK[b])
            assert found[found >= 0].tolist() == order
            np.testing.assert_allclose(
                beams.log_probs_BxK[b, : len(order)], forced(catalog)[b, order], atol=1e-4
            )


def test_a_weight_of_nought_changes_no_bit(pair, inputs):
    trie = Trie.build(_catalog(4))
    _, rows, scores = _scores(np.random.default_rng(4), 3, ITEMS)
    prior = Prior.of(trie, rows, scores)
    plain = beam_search(*pair, inputs, trie, num_beams=9)
    beams = beam_search(*pair, inputs, trie, num_beams=9, prior=prior, prior_weight=0.0)
    candidates = np.tile(np.arange(20, dtype=np.int32), (3, 1))
    plain_scored = score_candidates(*pair, inputs, trie, candidates)
    scored = score_candidates(*pair, inputs, trie, candidates, prior=prior, prior_weight=0.0)
    for mine, other in ((beams, plain), (scored, plain_scored)):
        for found, expected in zip(mine, other):
            np.testing.assert_array_equal(found, expected)
