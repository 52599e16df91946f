import dataclasses
import math
from pathlib import Path

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.t5 import modeling_t5

from recllm_tasks.engine import train_step
from recllm_tasks.errors import UserError
from recllm_tasks.models import layers, network
from recllm_tasks.models.hugging_face import from_hugging_face

GIN = Path(__file__).parents[2] / "gin" / "models"


def _apply(model, params, *args, method="__call__", **settings):
    """model.apply without dropout, compiled."""
    if method in ("__call__", "encode"):
        settings["enable_dropout"] = False
    return jax.jit(lambda p, *x: model.apply({"params": p}, *x, method=method, **settings))(
        params, *args
    )


def _init(model):
    tokens = jnp.ones((1, 4), int)
    variables = jax.jit(lambda *x: model.init(jax.random.key(0), *x, enable_dropout=False))(
        *[tokens] * 3
    )
    return variables["params"]


def _batch(rng, batch, length, targets, vocab, padded=True):
    inputs = rng.integers(2, vocab, (batch, length))
    outputs = rng.integers(2, vocab, (batch, targets))
    if padded:
        for row in range(1, batch):
            inputs[row, -row * length // (batch + 1) :] = 0
            outputs[row, targets - row % targets :] = 0
    return inputs, np.pad(outputs, ((0, 0), (1, 0)))[:, :-1], outputs


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"num_heads": 3, "head_dim": 16, "num_encoder_layers": 1, "num_decoder_layers": 3},
        {"emb_dim": 24, "num_heads": 5, "head_dim": 4, "length": 300, "targets": 150},
    ],
    ids=["even", "heads_wider_than_embed", "far_distances"],
)
def test_logits_equal_hugging_face(make_pair, sizes, loop):
    length, targets = (dict(sizes).get(k, d) for k, d in (("length", 17), ("targets", 6)))
    sizes = {k: v for k, v in sizes.items() if k not in ("length", "targets")}
    hf, model, params = make_pair(seed=1, loop_attention=loop, **sizes)
    inputs, shifted, outputs = _batch(np.random.default_rng(0), 3, length, targets, 60)
    with torch.no_grad():
        theirs = hf(
            input_ids=torch.tensor(inputs),
            attention_mask=torch.tensor(inputs > 0),
            decoder_input_ids=torch.tensor(shifted),
        )
    encoded = _apply(model, params, inputs, method="encode")
    logits = _apply(model, params, inputs, shifted, outputs)
    real = inputs > 0
    expected = theirs.encoder_last_hidden_state.numpy()
    np.testing.assert_allclose(encoded[real], expected[real], atol=1e-4)
    np.testing.assert_allclose(logits[outputs > 0], theirs.logits.numpy()[outputs > 0], atol=1e-4)


def test_loss_and_gradients_equal_hugging_face(make_pair, monkeypatch):
    hf, model, params = make_pair(seed=2)
    inputs, shifted, outputs = _batch(np.random.default_rng(1), 3, 17, 6, 60)
    theirs = hf(
        input_ids=torch.tensor(inputs),
        attention_mask=torch.tensor(inputs > 0),
        decoder_input_ids=torch.tensor(shifted),
        labels=torch.tensor(np.where(outputs > 0, outputs, -100)),
    ).loss
    theirs.backward()
    batch = {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": shifted,
        "decoder_target_tokens": outputs,
    }

    monkeypatch.setattr(train_step, "Z_LOSS", 0.0)

    @jax.value_and_grad
    def loss(params, batch):
        return train_step.measure(model, params, batch, None).total_loss

    value, gradient = jax.jit(loss)(params, batch)
    assert float(value) == pytest.approx(theirs.item(), abs=1e-5)
    gradients = {name: weight.grad.numpy() for name, weight in hf.named_parameters()}
    expected = from_hugging_face(model.config, gradients.__getitem__)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), gradient, expected)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient)) > 0.01


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_equal_hugging_face(bidirectional):
    distances = np.arange(-2000, 2001)
    theirs = modeling_t5.T5Attention._relative_position_bucket(
        torch.tensor(distances), bidirectional=bidirectional
    )
    ours = layers.relative_buckets(distances, bidirectional=bidirectional)
    np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("length", [1, 2, 7, 200])
def test_bias_of_a_pair_is_that_of_its_distance(bidirectional, length):
    module = layers.RelativePositionBias(num_heads=3, bidirectional=bidirectional)
    table = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
    variables = {"params": {"rel_embedding": table}}
    distances = np.arange(length)[None, :] - np.arange(length)[:, None]
    expected = table[:, layers.relative_buckets(distances, bidirectional=bidirectional)]
    np.testing.assert_array_equal(module.apply(variables, length)[0], expected)
    if not bidirectional:
        last = module.apply(variables, length - 1, length, method=module.of_step)
        np.testing.assert_array_equal(last, expected[:, -1])


@pytest.mark.parametrize("loop", [False, True])
def test_packed_examples_do_not_see_each_other(make_pair, loop):
    _, model, params = make_pair(loop_attention=loop)
    rng = np.random.default_rng(3)
    lengths, widths = ((9, 5), (6, 8)), ((3, 4), (4, 2))
    packed = {k: np.zeros((2, n), int) for k, n in (("i", 16), ("is", 16), ("d", 8), ("t", 8))}
    packed["ds"] = np.zeros((2, 8), int)
    alone = []
    for row in range(2):
        i = t = 0
        for segment, (n, m) in enumerate(zip(lengths[row], widths[row]), 1):
            inputs, shifted, outputs = _batch(rng, 1, n, m, 60, padded=False)
            where = (slice(row, row + 1), slice(t, t + m))
            packed["i"][row, i : i + n], packed["is"][row, i : i + n] = inputs[0], segment
            packed["d"][where], packed["t"][where] = shifted, outputs
            packed["ds"][where] = segment
            logits = _apply(model, params, inputs, shifted, outputs)
            alone.append((where, logits))
            i, t = i + n, t + m
    logits = _apply(model, params, *(packed[k] for k in ("i", "d", "t", "is", "ds")))
    for where, expected in alone:
        np.testing.assert_allclose(logits[where], expected, atol=1e-5)


def test_beam_steps_equal_teacher_forcing(make_pair):
    """Beams are shuffled and doubled at every step; only the ancestors follow."""
    _, model, params = make_pair()
    batch, beams, steps = 2, 3, 5
    rng = np.random.default_rng(0)
    inputs, _, _ = _batch(rng, batch, 11, 4, 60)
    encoded = _apply(model, params, inputs, method="encode")
    cross = _apply(model, params, encoded, method="precompute_cross")
    decode_step = jax.jit(lambda p, *x: model.apply({"params": p}, *x, method="decode_step"))
    forced = jax.jit(lambda p, *x: model.apply({"params": p}, *x, enable_dropout=False))
    long_inputs = np.repeat(inputs, beams, axis=0)
    caches = model.init_caches(batch, steps, beams)
    ancestors = np.full((batch, beams, steps), -1)
    history = np.zeros((batch, beams, 0), int)
    tokens = np.zeros((batch, beams), int)
    for step in range(steps):
        history = np.concatenate([history, tokens[..., None]], axis=2)
        ancestors[:, :, step] = np.arange(beams)
        logits, caches = decode_step(params, tokens, step, caches, cross, ancestors, inputs)
        flat = np.zeros((batch * beams, steps), int)  # causal: what follows does not matter
        flat[:, : step + 1] = history.reshape(batch * beams, -1)
        expected = forced(params, long_inputs, flat, np.ones_like(flat))[:, step]
        np.testing.assert_allclose(logits.reshape(batch * beams, -1), expected, atol=1e-5)
        parents = rng.integers(0, beams, (batch, beams))
        ancestors = np.take_along_axis(ancestors, parents[..., None], axis=1)
        history = np.take_along_axis(history, parents[..., None], axis=1)
        tokens = rng.integers(2, 60, (batch, beams))


def test_loop_and_remat_keep_values_and_gradients(make_pair):
    _, model, params = make_pair(num_encoder_layers=1, num_decoder_layers=1)
    inputs, shifted, outputs = _batch(np.random.default_rng(0), 3, 12, 5, 60)
    ids = (np.ones_like(inputs), np.ones_like(outputs))

    def loss(params, **changes):
        variant = network.Transformer(dataclasses.replace(model.config, **changes))
        logits = variant.apply(
            {"params": params},
            inputs,
            shifted,
            outputs,
            *ids,
            enable_dropout=True,
            rngs={"dropout": jax.random.key(0)},
        )
        return jnp.mean(jnp.square(logits))

    expected = jax.jit(jax.value_and_grad(lambda p: loss(p, dropout_rate=0.3)))(params)
    for change in ({"loop_attention": True}, {"remat": True}):
        value = jax.jit(jax.value_and_grad(lambda p, c=change: loss(p, dropout_rate=0.3, **c)))(
            params
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), value, expected
        )
    assert abs(expected[0] - jax.jit(lambda p: loss(p, dropout_rate=0.0))(params)) > 1e-3


def _configured(name):
    gin.clear_config()
    gin.parse_config_file(str(GIN / f"{name}.gin"))
    gin.parse_config("DROPOUT_RATE = 0.1")  # as a run file does, after the model file
    return gin.get_configurable(network.Transformer)()


@pytest.fixture
def _restore_gin():
    yield
    gin.clear_config()


# Parameter counts of the published FLAN-T5 checkpoints.
@pytest.mark.parametrize(
    ("name", "arrays", "parameters"),
    [
        ("flan_t5_small", 190, 76_961_152),
        ("flan_t5_base", 282, 247_577_856),
        ("flan_t5_large", 558, 783_150_080),
        ("flan_t5_xl", 558, 2_849_757_184),
    ],
)
@pytest.mark.usefixtures("_restore_gin")
def test_gin_sizes_are_the_published_ones(name, arrays, parameters):
    model = _configured(name)
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    variables = jax.eval_shape(
        lambda *x: model.init(jax.random.key(0), *x, enable_dropout=False), *[tokens] * 3
    )
    leaves = jax.tree.leaves(variables["params"])
    assert len(leaves) == arrays
    assert sum(math.prod(leaf.shape) for leaf in leaves) == parameters
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    if name == "flan_t5_xl":
        _check_xl_tree(variables)


def _check_xl_tree(variables):
    def named(tree):
        flat = jax.tree_util.tree_flatten_with_path(
            tree, is_leaf=lambda x: isinstance(x, jax.ShapeDtypeStruct) or hasattr(x, "names")
        )[0]
        return {"/".join(str(key.key) for key in path): leaf for path, leaf in flat}

    shapes = {name: leaf.shape for name, leaf in named(variables["params"]).items()}
    axes = {name: tuple(leaf.names) for name, leaf in named(variables["params_axes"]).items()}
    square, attention = (2048, 2048), ("query", "key", "value", "out")
    norms = {
        "encoder": ("pre_attention", "pre_mlp"),
        "decoder": ("pre_self_attention", "pre_cross_attention", "pre_mlp"),
    }
    blocks = {"encoder": ["attention"], "decoder": ["self_attention", "encoder_decoder_attention"]}
    expected = {
        "token_embedder/embedding": (32128, 2048),
        "decoder/logits_dense/kernel": (2048, 32128),
    }
    for stack in ("encoder", "decoder"):
        expected[f"{stack}/relpos_bias/rel_embedding"] = (32, 32)
        expected[f"{stack}/{stack}_norm/scale"] = (2048,)
        for i in range(24):
            layer = f"{stack}/layers_{i}"
            expected |= {f"{layer}/{norm}_layer_norm/scale": (2048,) for norm in norms[stack]}
            expected |= {
                f"{layer}/{block}/{name}/kernel": square
                for block in blocks[stack]
                for name in attention
            }
            expected |= {f"{layer}/mlp/{name}/kernel": (2048, 5120) for name in ("wi_0", "wi_1")}
            expected[f"{layer}/mlp/wo/kernel"] = (5120, 2048)
    assert shapes == expected
    assert {f"{name}_axes" for name in shapes} == set(axes)
    assert axes["token_embedder/embedding_axes"] == ("vocab", "embed")
    assert axes["decoder/logits_dense/kernel_axes"] == ("embed", "vocab")
    assert axes["decoder/relpos_bias/rel_embedding_axes"] == ("heads", "relpos_buckets")
    assert axes["encoder/layers_0/attention/query/kernel_axes"] == ("embed", "joined_kv")
    assert axes["encoder/layers_0/attention/out/kernel_axes"] == ("joined_kv", "embed")
    assert axes["encoder/layers_0/mlp/wi_0/kernel_axes"] == ("embed", "mlp")
    assert axes["encoder/layers_0/mlp/wo/kernel_axes"] == ("mlp", "embed")
    assert axes["encoder/encoder_norm/scale_axes"] == ("embed",)


@pytest.mark.usefixtures("_restore_gin")
def test_tiny_gin_trains_in_either_dtype():
    model = _configured("tiny")
    assert model.config.vocab_size == 4096
    assert model.config.dtype == "float32"
    half = network.Transformer(dataclasses.replace(model.config, dtype="bfloat16"))
    tokens = np.random.default_rng(0).integers(2, 4096, (2, 6))
    params = _init(half)
    low, full = (_apply(m, params, tokens, tokens, tokens) for m in (half, model))
    assert low.dtype == full.dtype == jnp.float32
    np.testing.assert_allclose(low, full, atol=0.3)


def test_initial_queries_carry_the_scale():
    config = network.T5Config(vocab_size=8, emb_dim=256, num_heads=4, head_dim=64)
    config = dataclasses.replace(config, num_encoder_layers=1, num_decoder_layers=1)
    model = network.Transformer(config)
    kernels = _init(model)["encoder"]["layers_0"]["attention"]
    np.testing.assert_allclose(jnp.std(kernels["query"]["kernel"]), (256 * 64) ** -0.5, rtol=0.05)
    np.testing.assert_allclose(jnp.std(kernels["key"]["kernel"]), 256**-0.5, rtol=0.05)


@pytest.mark.parametrize("broadcast", [True, False])
def test_one_draw_of_dropout_is_for_all_positions_or_for_each(broadcast):
    config = network.T5Config(vocab_size=8, dropout_rate=0.5, dropout_broadcast=broadcast)
    x = jnp.ones((4, 7, 64))
    dropped = config.dropout().apply(
        {}, x, deterministic=False, rngs={"dropout": jax.random.key(0)}
    )
    same = (dropped == dropped[:, :1]).all()
    assert same == broadcast
    assert float((dropped == 0).mean()) == pytest.approx(0.5, abs=0.1)
    assert not (dropped[0] == dropped[1]).all()


def test_logits_via_embedding_read_the_table():
    config = network.T5Config(vocab_size=9, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=8)
    config = dataclasses.replace(config, num_encoder_layers=1, num_decoder_layers=1)
    config = dataclasses.replace(config, logits_via_embedding=True)
    model = network.Transformer(config)
    params = _init(model)
    assert "logits_dense" not in params["decoder"]
    tokens = jnp.array([[1, 2, 3]])
    logits = _apply(model, params, tokens, tokens, tokens)
    # The logits of two tokens differ by what their rows of the table differ.
    table = params["token_embedder"]["embedding"]
    twin = {**params, "token_embedder": {"embedding": table.at[7].set(2 * table[6])}}
    twin_logits = _apply(model, twin, tokens, tokens, tokens)
    np.testing.assert_allclose(twin_logits[..., 7], 2 * logits[..., 6], rtol=1e-5)


def test_an_unknown_activation_is_a_user_error():
    with pytest.raises(UserError, match="'gellu'"):
        network.T5Config(vocab_size=8, mlp_activations=("gellu", "linear"))
