"""The chunked loss beside optax's over all logits, and what the compiled program keeps of them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recllm_tasks.models.cross_entropy import OutputTable, chunk_of, cross_entropy

N, E, V, Z = 24, 8, 40, 1e-3


def _example(share: float = 0.6, sharpness: float = 2.0):
    rng = np.random.default_rng(0)
    hidden, table = (
        jnp.asarray(rng.normal(size=shape) * sharpness, jnp.float32) for shape in ((N, E), (V, E))
    )
    return hidden, table, jnp.asarray(rng.integers(0, V, N)), jnp.asarray(rng.random(N) < share)


def _expected(hidden, table, targets, counts):
    logits = jnp.dot(hidden, table.T, precision="highest")
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    best = jnp.argmax(logits, axis=-1) == targets
    sums = [jnp.sum(jnp.where(counts, x, 0)) for x in (loss, jnp.square(log_z), best)]
    return sums[0] + Z * sums[1], sums


@pytest.mark.parametrize(
    ("share", "vocab_axis", "parts", "chunk"),
    [(0.6, 0, 1, 7), (0.6, 1, 1, 7), (0.6, 0, 4, 4), (0.6, 1, 4, 4), (1, 0, 1, None), (0, 0, 4, 4)],
)
def test_loss_and_gradients_equal_those_of_optax(share, vocab_axis, parts, chunk):
    hidden, table, targets, counts = _example(share)

    def ours(hidden, table):
        oriented = OutputTable(table if vocab_axis == 0 else table.T, vocab_axis)
        return cross_entropy(hidden, oriented, targets, counts, z_loss=Z, parts=parts, chunk=chunk)

    def theirs(hidden, table):
        return _expected(hidden, table, targets, counts)

    found, wanted = (
        jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True))(hidden, table) for f in (ours, theirs)
    )
    for mine, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)
    # Without gradients: the same sums.
    for mine, other in zip(jax.tree.leaves(ours(hidden, table)), jax.tree.leaves(found[0])):
        np.testing.assert_allclose(mine, other, rtol=1e-6)


def test_logits_beyond_exp_are_finite():
    hidden, table = jnp.asarray([[1e4]]), jnp.asarray([[1.0], [-1.0], [0.0]])

    def loss(hidden):
        return cross_entropy(hidden, OutputTable(table, 0), jnp.array([1]), jnp.array([True]))[0]

    value, gradient = jax.value_and_grad(loss)(hidden)
    assert (value, gradient) == (2e4, 2)


def _program(parts, chunk):
    def loss(hidden, table, targets, counts):
        return cross_entropy(
            hidden, OutputTable(table, 0), targets, counts, parts=parts, chunk=chunk
        )[0]

    shapes = jax.eval_shape(_example)
    return jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*shapes).compile()


def test_no_array_of_all_logits_is_in_the_program():
    def logits(program):
        """Positions in the largest array of logits."""
        found = re.findall(rf"f32\[(?:1,)?(\d+),{V}\]", program.as_text())
        return max(map(int, found))

    assert logits(_program(1, 8)) == 8
    assert logits(_program(1, None)) == N


def test_positions_that_do_not_count_cost_no_chunk(monkeypatch):
    """The loop's length is that of the positions that count, in the part that has most."""
    seen = []
    loop = jax.lax.fori_loop
    monkeypatch.setattr(
        jax.lax,
        "fori_loop",
        lambda lower, upper, *rest: seen.append(upper) or loop(lower, upper, *rest),
    )
    hidden, table, targets, _ = _example()
    for number, expected in ((0, 0), (1, 1), (8, 1), (9, 2), (N, 3)):
        counts = jnp.arange(N) % 2 * 100 + jnp.arange(N) < 0
        counts = counts.at[jnp.arange(N)[::-1][:number]].set(True)
        cross_entropy(hidden, OutputTable(table, 0), targets, counts, chunk=8)
        assert int(seen.pop()) == expected
        assert not seen


def test_a_chunk_is_as_large_as_the_device_likes(monkeypatch):
    # Chunks of at most 16 MiB, the last as full as the others.
    assert chunk_of(1024, 16_128) == 256
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chunk_of(1024, 16_128) == 1024
    assert chunk_of(16_384, 32_128) == 4096
