"""Our decoder in T5X's terms gives the engine's beams; none of it needs T5X."""

import jax
import numpy as np
import pytest
import seqio

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import tasks
from recllm_tasks.engine import devices
from recllm_tasks.engine.decoding import TaskDecoder
from recllm_tasks.errors import UserError
from recllm_tasks.runs.decoding import Decoding
from recllm_tasks.t5x_bridge import decoding

LENGTHS = {"inputs": 256, "targets": 16}
pytestmark = pytest.mark.usefixtures("small_data", "clean_gin")


@pytest.fixture(scope="module")
def params(network):
    token = np.ones((1, 1), np.int32)
    return network.init(jax.random.key(3), token, token, token, enable_dropout=False)["params"]


def _batch(kind, converter, size=4, split="test"):
    """Examples of a task, and the batch that T5X would decode."""
    task = tasks.get(f"gift_cards_{kind}")
    dataset = task.get_dataset(LENGTHS, split=split, shuffle=False).take(size)
    (batch,) = converter(dataset, LENGTHS).batch(size).as_numpy_iterator()
    return task, list(dataset.as_numpy_iterator()), batch


@pytest.fixture(scope="module")
def converter():
    return decoding.AnswerFeatureConverter(pack=False)


@pytest.mark.parametrize(
    "kind", ["ranking", "rating", "retrieval", "ids_sequence", "ids_sequence_ranking"]
)
def test_beams_are_the_engines_worst_first(kind, network, params, converter):
    task, examples, batch = _batch(kind, converter)
    tokens, scores = decoding.catalog_beam_search(
        inputs=np.zeros_like(batch["decoder_input_tokens"]),
        cache=None,
        tokens_to_logits=None,
        eos_id=1,
        num_decodes=5,
        params=params,
        batch=batch,
        network=network,
        mixture="gift_cards_ids_sequence_rank" if "sequence" in kind else "gift_cards_ut",
    )
    settings = Decoding(num_beams=5, batch_size=4, seen="keep")
    engine = TaskDecoder(task, network, devices.make_mesh(), settings, max_steps=16)
    beams = engine.decode(params, examples)
    np.testing.assert_array_equal(tokens, beams.tokens_BxKxT[:, ::-1])
    np.testing.assert_allclose(scores, beams.log_probs_BxK[:, ::-1], atol=1e-4)


@pytest.mark.parametrize(("seen", "left_out"), [(None, True), ("leave_out", True), ("keep", False)])
def test_seen_items_are_left_out_as_in_the_engine(network, params, seen, left_out):
    chosen = {"mixture": "gift_cards_ut", "decoding": Decoding(seen=seen)}
    converter = decoding.AnswerFeatureConverter(pack=False, **chosen)
    task, examples, batch = _batch("retrieval", converter, 60)
    assert (decoding.SEEN_ITEMS in batch) == left_out
    if left_out:
        histories = [example["exclude"][:-1] + 1 for example in examples]
        assert [row[row > 0].tolist() for row in batch[decoding.SEEN_ITEMS]] == [
            history.tolist() for history in histories
        ]
        assert batch[decoding.SEEN_ITEMS].shape[1] == 1 + max(map(len, histories))
    tokens, scores = decoding.catalog_beam_search(
        inputs=np.zeros_like(batch["decoder_input_tokens"]),
        cache=None,
        tokens_to_logits=None,
        eos_id=1,
        num_decodes=36,
        params=params,
        batch=batch,
        network=network,
        **chosen,
    )
    settings = Decoding(num_beams=36, batch_size=60, seen="leave_out" if left_out else "keep")
    engine = TaskDecoder(task, network, devices.make_mesh(), settings, max_steps=16)
    beams = engine.decode(params, examples)
    np.testing.assert_array_equal(tokens, beams.tokens_BxKxT[:, ::-1])
    np.testing.assert_allclose(scores, beams.log_probs_BxK[:, ::-1], atol=1e-4)
    for kind, added in (("ranking", {"candidates"}), ("rating", {"choice"})):
        _, _, batch = _batch(kind, converter)
        assert set(batch) == set(seqio.EncDecFeatureConverter.MODEL_FEATURES) | added


@pytest.mark.parametrize("kind", ["retrieval", "ids_sequence"])
def test_examples_without_a_target_are_decoded_as_in_the_engine(kind, network, params):
    """All items of the record are left out, as none of them is the target."""
    chosen = {"mixture": f"gift_cards_{kind}", "decoding": Decoding()}
    converter = decoding.AnswerFeatureConverter(pack=False, **chosen)
    task, examples, batch = _batch(kind, converter, 20, "latest")
    seen = [row[row > 0].tolist() for row in batch[decoding.SEEN_ITEMS]]
    assert seen == [(example["exclude"] + 1).tolist() for example in examples]
    assert not batch["decoder_target_tokens"].any()
    tokens, scores = decoding.catalog_beam_search(
        inputs=np.zeros_like(batch["decoder_input_tokens"]),
        cache=None,
        tokens_to_logits=None,
        eos_id=1,
        num_decodes=8,
        params=params,
        batch=batch,
        network=network,
        **chosen,
    )
    settings = Decoding(num_beams=8, batch_size=20, seen="leave_out")
    engine = TaskDecoder(task, network, devices.make_mesh(), settings, max_steps=16)
    beams = engine.decode(params, examples)
    np.testing.assert_array_equal(tokens, beams.tokens_BxKxT[:, ::-1])
    np.testing.assert_allclose(scores, beams.log_probs_BxK[:, ::-1], atol=1e-4)


def test_unconstrained_beams_are_as_long_as_the_targets(network, params, converter):
    _, _, batch = _batch("retrieval", converter)
    tokens, scores = decoding.catalog_beam_search(
        inputs=np.zeros([4, 3], np.int32),
        cache=None,
        tokens_to_logits=None,
        eos_id=1,
        num_decodes=2,
        params=params,
        batch=batch,
        network=network,
        mixture="gift_cards_retrieval",
        decoding=Decoding(constrained=False),
    )
    assert tokens.shape == (4, 2, 3)
    assert (np.diff(scores) >= 0).all()


def test_the_converter_tells_tasks_apart_and_nothing_of_the_answer(converter):
    plain = set(seqio.EncDecFeatureConverter.MODEL_FEATURES)
    for kind, added in (("ranking", {"candidates"}), ("rating", {"choice"}), ("retrieval", set())):
        task, examples, batch = _batch(kind, converter)
        assert set(batch) == plain | added
        assert decoding.marks_of(task) == added
        if kind == "ranking":
            listed = np.stack([example["candidates"] for example in examples])
            np.testing.assert_array_equal(batch["candidates"], listed)
        if kind == "rating":
            assert not batch["choice"].any()


def test_packed_examples_are_seqios_own():
    dataset = tasks.get("gift_cards_ranking").get_dataset(LENGTHS, split="train", shuffle=False)
    ours, theirs = (
        next(converter(pack=True)(dataset, LENGTHS).as_numpy_iterator())
        for converter in (decoding.AnswerFeatureConverter, seqio.EncDecFeatureConverter)
    )
    assert set(ours) == set(theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_tasks_that_cannot_be_distinguished_are_named(converter):
    _, _, batch = _batch("retrieval", converter)
    for name, found in (("gift_cards_ranking", "none"), ("gift_cards_rating", "none")):
        with pytest.raises(UserError, match=f"in '{name}': got {found} .* name one of its tasks"):
            decoding.task_of(name, batch)


@pytest.mark.parametrize("settings", [{"method": "score"}, {"prior_weight": 1.0}])
def test_settings_that_t5x_lacks_are_refused(network, params, converter, settings):
    _, _, batch = _batch("retrieval", converter)
    with pytest.raises(UserError, match="Decoding under T5X"):
        decoding.catalog_beam_search(
            inputs=np.zeros([4, 3], np.int32),
            cache=None,
            tokens_to_logits=None,
            eos_id=1,
            params=params,
            batch=batch,
            network=network,
            mixture="gift_cards_retrieval",
            decoding=Decoding(**settings),
        )
