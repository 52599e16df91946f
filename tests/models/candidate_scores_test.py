import itertools

import numpy as np
import pytest

from recllm_tasks.models.beam_search import DEAD
from recllm_tasks.models.candidate_scores import score_candidates
from recllm_tasks.models.trie import Trie

EOS = 1


@pytest.fixture(scope="module")
def pair(make_pair):
    return make_pair(seed=11)[1:]


def _catalog(items):
    """Ids of two to four tokens, some of them the beginning of others."""
    every = [(10, *t) for n in (1, 2, 3) for t in itertools.product(range(20, 26), repeat=n)]
    order = np.random.default_rng(11).permutation(len(every))
    return [every[i] for i in order[:items]]


def _teacher_forced(forced_scores, pair, inputs, targets_BxMxT):
    batch, count, width = targets_BxMxT.shape
    flat = forced_scores(*pair, np.repeat(inputs, count, axis=0), targets_BxMxT.reshape(-1, width))
    return np.asarray(flat).reshape(batch, count)


def test_candidates_score_as_teacher_forcing_scores_them(pair, forced_scores):
    catalog = _catalog(200)
    rng = np.random.default_rng(0)
    inputs = rng.integers(2, 60, (3, 9))
    inputs[1:, -3:] = 0
    rows = np.stack([rng.permutation(200)[:100] for _ in inputs]).astype(np.int32)
    beams = score_candidates(*pair, inputs, Trie.build(catalog), rows)

    ended = [[(*catalog[row], EOS) for row in own] for own in beams.rows_BxK]
    width = beams.tokens_BxKxT.shape[2]
    targets = np.array([[(*t, *[0] * (width - len(t))) for t in own] for own in ended])
    np.testing.assert_array_equal(beams.tokens_BxKxT, targets)
    np.testing.assert_allclose(
        beams.log_probs_BxK, _teacher_forced(forced_scores, pair, inputs, targets), atol=1e-4
    )
    assert (np.diff(beams.log_probs_BxK, axis=1) <= 0).all()
    np.testing.assert_array_equal(np.sort(beams.rows_BxK), np.sort(rows))


def test_repeats_padding_and_unknown_rows(pair):
    trie = Trie.build(_catalog(30))
    inputs = np.random.default_rng(1).integers(2, 60, (2, 9))
    listed = np.array([[7, 3, 7, -1, 30], [-1, -1, -1, -1, -1]], np.int32)
    beams = score_candidates(*pair, inputs, trie, listed)
    alone = score_candidates(*pair, inputs[:1], trie, np.array([[3, 7]], np.int32))
    assert beams.rows_BxK.tolist() == [[*alone.rows_BxK[0], -1, -1, -1], [-1] * 5]
    np.testing.assert_allclose(beams.log_probs_BxK[0, :2], alone.log_probs_BxK[0], atol=1e-5)
    assert (beams.log_probs_BxK[0, 2:] == DEAD).all()
    assert (beams.log_probs_BxK[1] == DEAD).all()
    assert (beams.tokens_BxKxT[1] == 0).all()
