"""The item-to-item prior of a task: its scores, its answers, and beams that are ranked with it."""

import jax
import numpy as np
import pytest

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import tasks
from recllm_tasks.baselines import item_to_item
from recllm_tasks.baselines.interactions import Splits
from recllm_tasks.engine import decoding, devices
from recllm_tasks.engine.answer_tries import Answers, answers_of
from recllm_tasks.engine.item_prior import ItemPrior, similarities_of
from recllm_tasks.errors import UserError
from recllm_tasks.models.prior import SMOOTHING
from recllm_tasks.models.trie import Trie
from recllm_tasks.runs.decoding import Decoding

LENGTHS = {"inputs": 512, "targets": 64}
pytestmark = pytest.mark.usefixtures("small_data", "clean_gin")


@pytest.fixture(scope="module")
def params(network):
    token = np.ones((1, 1), np.int32)
    return network.init(jax.random.key(3), token, token, token, enable_dropout=False)["params"]


@pytest.fixture
def row_scores(monkeypatch):
    """The scores [U, N] of the row `item_to_item_texts` for the test users, without popularity."""
    monkeypatch.setattr(item_to_item, "POPULARITY_WEIGHT", 0.0)
    splits = Splits("gift_cards", "test")
    interactions = splits.of("retrieval")
    users = slice(0, len(interactions.targets))
    similarities = similarities_of(splits.source)
    return interactions, item_to_item.joint_score_block(interactions, similarities)(users)


def _probabilities(scores, excluded=()):
    """p of each item by hand."""
    allowed = ~np.isin(np.arange(len(scores)), excluded)
    own = np.where(allowed, scores, 0)
    own = own / own.sum() + SMOOTHING if own.sum() else 1 / allowed.sum()
    return np.where(allowed, own / np.sum(own * allowed), 0)


def _leaves(prior, trie):
    """p of each catalog row, [B, N]."""
    place = np.tile(np.asarray(trie.item_positions), (len(prior.rest_B), 1))
    return np.exp(np.asarray(prior.log_mass(place, place + 1, np.ones_like(place))))


def test_the_prior_is_the_rows_normalised_score(row_scores):
    interactions, scores = row_scores
    answers = answers_of(tasks.get("gift_cards_retrieval"))
    prior = ItemPrior(tasks.source_of(tasks.get("gift_cards_retrieval")), answers)
    found = _leaves(prior.of(interactions.history_items, None, None), answers.trie)
    expected = [_probabilities(own) for own in scores]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    nobody = _leaves(prior.of([np.zeros(0, np.int32)], None, None), answers.trie)
    np.testing.assert_allclose(nobody, 1 / scores.shape[1], rtol=1e-6)


def test_an_answer_of_several_items_has_the_scores_of_all(row_scores):
    interactions, scores = row_scores
    source = tasks.source_of(tasks.get("gift_cards_retrieval"))
    num_items = scores.shape[1]
    text_of_item = np.arange(num_items, dtype=np.int32) // 2
    text_of_item[-1] = -1  # an item without a text
    texts = [f"text {n}" for n in range(num_items // 2)]
    answers = Answers(texts, text_of_item, Trie.build([(5 + n, 9) for n in range(len(texts))]))
    prior = ItemPrior(source, answers).of(interactions.history_items, None, None)
    scores[:, -1] = 0
    of_texts = scores.reshape(len(scores), -1, 2).sum(axis=2)
    expected = [_probabilities(own) for own in of_texts]
    np.testing.assert_allclose(_leaves(prior, answers.trie), expected, rtol=1e-5)


@pytest.mark.parametrize("excludes", [False, True])
@pytest.mark.parametrize(("kind", "method"), [("retrieval", "beam"), ("ranking", "score")])
def test_beams_are_in_the_order_of_both_logs(network, params, row_scores, kind, method, excludes):
    task = tasks.get(f"gift_cards_{kind}")
    examples = list(task.get_dataset(LENGTHS, split="test", shuffle=False).as_numpy_iterator())
    settings = {"num_beams": 40, "batch_size": 7, "method": method}
    settings["seen"] = "leave_out" if excludes else "keep"
    alone, both = (
        decoding.TaskDecoder(
            task, network, devices.make_mesh(), Decoding(**settings, prior_weight=weight), 8
        ).decode(params, examples[:20])
        for weight in (0.0, 2.0)
    )
    interactions, scores = row_scores
    moved = 0
    for b, example in enumerate(examples[:20]):
        assert interactions.users[b] == example["user"].decode()
        # Candidates are ranked whatever the rule.
        seen = example["exclude"][:-1] if excludes and kind == "retrieval" else []
        bonus = 2 * np.log(np.maximum(_probabilities(scores[b], seen), 1e-30))
        model = dict(zip(alone.rows_BxK[b].tolist(), alone.log_probs_BxK[b].tolist()))
        model.pop(-1, None)
        expected = sorted(model, key=lambda row: -(model[row] + bonus[row]))
        found = both.rows_BxK[b]
        assert found[found >= 0].tolist() == expected
        moved += expected != list(model)
        for row, value in zip(expected, both.log_probs_BxK[b]):
            assert value == pytest.approx(model[row], abs=1e-4), "the model's own"
    assert moved > 10


def test_a_rating_has_no_prior(network, params):
    task = tasks.get("gift_cards_rating")
    examples = list(task.get_dataset(LENGTHS, split="test", shuffle=False).as_numpy_iterator())
    alone, both = (
        decoding.TaskDecoder(
            task, network, devices.make_mesh(), Decoding(batch_size=8, prior_weight=weight), 8
        ).decode(params, examples[:8])
        for weight in (0.0, 2.0)
    )
    np.testing.assert_array_equal(alone.log_probs_BxK, both.log_probs_BxK)


def test_a_weight_that_is_not_chosen_yet_is_refused(network):
    task = tasks.get("gift_cards_retrieval")
    with pytest.raises(UserError, match="PRIOR_WEIGHT: got 'validation', expected a number here"):
        decoding.TaskDecoder(
            task, network, devices.make_mesh(), Decoding(prior_weight="validation"), 8
        )
