"""Our engine and T5X compute the same: losses, optimizer steps, beams; with T5X in this process."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import tasks
from recllm_tasks.engine import optimizer, train_step
from recllm_tasks.errors import UserError
from recllm_tasks.models.network import T5Config, Transformer
from recllm_tasks.pipeline import training as pipeline
from recllm_tasks.runs.decoding import Decoding
from recllm_tasks.t5x_bridge import decoding

LENGTHS = {"inputs": 256, "targets": 16}
SIZES = {
    "emb_dim": 128,
    "mlp_dim": 128,
    "num_heads": 2,
    "head_dim": 64,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "dropout_rate": 0.0,
}

pytestmark = [pytest.mark.t5x, pytest.mark.usefixtures("t5x", "small_data", "clean_gin")]


@pytest.fixture(scope="module")
def network():
    return Transformer(T5Config(vocab_size=4096, **SIZES))


def _model(module, decode_fn=decoding.catalog_beam_search, **settings):
    from t5x import adafactor

    from recllm_tasks.t5x_bridge import model

    vocabulary = tasks.get("gift_cards_ut").output_features["targets"].vocabulary
    return model.RecommenderModel(
        module=module,
        input_vocabulary=vocabulary,
        output_vocabulary=vocabulary,
        optimizer_def=adafactor.Adafactor(
            decay_rate=0.8, logical_factor_rules=adafactor.standard_logical_factor_rules()
        ),
        decode_fn=decode_fn,
        z_loss=train_step.Z_LOSS,
        loss_normalizing_factor="NUM_REAL_TARGET_TOKENS",
        **settings,
    )


def _stock(network):
    from recllm_tasks.t5x_bridge import model

    return model.stock_network(network.config)


@pytest.fixture(scope="module")
def batch_list(small_data_dir):
    import seqio

    seqio.set_tfds_data_dir_override(str(small_data_dir))
    stream = pipeline.training_batches("gift_cards_ut_at", LENGTHS, 8, seed=0)
    return [next(stream) for _ in range(20)]


def _shapes(batch):
    return {name: array.shape for name, array in batch.items()}


def test_the_loss_of_a_batch_is_the_same(network, batch_list):
    variables = _model(network).get_initial_variables(jax.random.key(0), _shapes(batch_list[0]))
    params = variables["params"]
    expected = train_step.measure(network, params, batch_list[0], None).total_loss
    for module in (network, _stock(network)):
        loss, _ = _model(module).loss_fn(params, batch_list[0], None)
        assert float(loss) == pytest.approx(float(expected), abs=1e-5)


def test_twenty_steps_of_adafactor_end_together(network, batch_list):
    from t5x import train_state

    model = _model(_stock(network))
    variables = model.get_initial_variables(jax.random.key(0), _shapes(batch_list[0]))
    schedule = optimizer.constant_with_warmup(0.01, 10)
    theirs = train_state.FlaxOptimTrainState.create(model.optimizer_def, variables)

    @jax.jit
    def step(state, batch):
        (loss, _), gradient = jax.value_and_grad(model.loss_fn, has_aux=True)(
            state.params, batch, None
        )
        return state.apply_gradient(gradient, learning_rate=schedule(state.step)), loss

    rule = optimizer.adafactor(schedule)
    start = jax.tree.map(jnp.array, dict(variables["params"]))
    ours = train_step.State(jnp.int32(0), start, rule.init(start))
    losses = []
    for batch in batch_list:
        theirs, their_loss = step(theirs, batch)
        ours, measures = train_step.train_step(network, rule, ours, batch, jax.random.key(0))
        losses.append((float(measures.total_loss), float(their_loss)))
    assert losses[-1][0] < losses[0][0] - 1, "it learns"
    np.testing.assert_allclose(*zip(*losses), atol=1e-3)


def _markov(params):
    """Makes a language in which a token mostly decides what follows: half of them end a text."""
    rng = np.random.default_rng(0)
    logits_VxV = 2 * rng.normal(size=(32, 32))
    logits_VxV[16:, 1], logits_VxV[:16, 1], logits_VxV[:, 0] = 9, -20, -20
    embedding = np.eye(32, SIZES["emb_dim"])

    def scaled(path, array):
        return 0.1 * array if {"out", "wo"} & {key.key for key in path} else array

    params = jax.tree_util.tree_map_with_path(scaled, params)
    params["token_embedder"]["embedding"] = jnp.asarray(embedding)
    # RMS norm makes a one-hot embedding sqrt(embed) long.
    kernel = embedding.T @ logits_VxV / np.sqrt(SIZES["emb_dim"])
    params["decoder"]["logits_dense"]["kernel"] = jnp.asarray(kernel, jnp.float32)
    return params


def _random(params):
    """Sharp logits, so that many texts end early."""
    params["decoder"]["logits_dense"]["kernel"] *= 3
    return params


@pytest.fixture(scope="module")
def unconstrained():
    """(tokens, scores) of T5X's decoder and of ours, for parameters made by a function."""
    from t5x import decoding as t5x_decoding
    from t5x import models

    network = Transformer(T5Config(vocab_size=32, **SIZES))
    inputs = np.random.default_rng(1).integers(2, 32, (4, 12)).astype(np.int32)
    inputs[1, 7:] = 0
    batch = {"encoder_input_tokens": inputs, "decoder_input_tokens": np.zeros((4, 8), np.int32)}
    stock = functools.wraps(t5x_decoding.beam_search)(
        functools.partial(t5x_decoding.beam_search, alpha=0.0)
    )
    ours = functools.partial(
        decoding.catalog_beam_search,
        network=network,
        mixture="gift_cards_retrieval",
        decoding=Decoding(constrained=False),
    )
    all_beams = models.DecoderParams(return_all_decodes=True, num_decodes=6)

    def search(make):
        ones = np.ones((1, 1), np.int32)
        params = network.init(jax.random.key(2), ones, ones, ones, enable_dropout=False)["params"]
        params = make(params)
        for decode_fn in (stock, ours):
            model = _model(_stock(network), decode_fn, default_decoder_params=all_beams)
            tokens, aux = jax.jit(model.predict_batch_with_aux)(params, batch)
            yield np.asarray(tokens), np.asarray(aux["scores"])

    return search


def test_unconstrained_beams_are_t5xs_own(unconstrained):
    (tokens, scores), (our_tokens, our_scores) = unconstrained(_markov)
    assert (scores > -1e6).all(), "every beam ends"
    np.testing.assert_allclose(our_scores, scores, atol=1e-4)
    np.testing.assert_array_equal(our_tokens, tokens)


def test_where_beams_differ_t5x_missed_better_ones(unconstrained):
    """T5X forgets a text that ends beyond the best 2K continuations of a step; we do not."""
    (tokens, scores), (our_tokens, our_scores) = unconstrained(_random)
    assert (our_scores >= scores - 1e-4).all()
    for row in range(len(tokens)):
        ours = {tuple(t): s for t, s in zip(our_tokens[row].tolist(), our_scores[row])}
        for text, score in zip(tokens[row].tolist(), scores[row]):
            if score > our_scores[row, 0] + 1e-4:
                assert ours[tuple(text)] == pytest.approx(score, abs=1e-4)


def test_t5xs_decoder_over_our_network_is_refused_with_the_remedy(network):
    from t5x import decoding as t5x_decoding

    with pytest.raises(UserError, match=r"bind NETWORK to @model.stock_network\(\)"):
        _model(network, t5x_decoding.beam_search).predict_batch_with_aux({}, {})
