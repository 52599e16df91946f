"""Cross-entropy of a softmax over a large output table, without an array of all logits.

Logits are made for some positions at a time, and only for positions that count. The forward pass
computes the gradients too, so that each logit is made and exponentiated once.

Shapes: N positions, C positions of a chunk, V vocabulary, E embed, S parts of the batch.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Bytes of a chunk's logits. On a CPU they stay in its cache; elsewhere few chunks are best.
_CPU_BYTES, ACCELERATOR_BYTES = 16 << 20, 512 << 20


class OutputTable(NamedTuple):
    """What hidden states are multiplied by: float32 [V, E] or, with `vocab_axis` 1, [E, V]."""

    array: jax.Array
    vocab_axis: int

    @property
    def size(self) -> int:
        """V."""
        return self.array.shape[self.vocab_axis]


class Sums(NamedTuple):
    """Over the positions that count; all scalars.

    Attributes:
      loss: of the cross-entropy.
      square_log_z: of the squared log of the softmax's normaliser.
      best: number of positions whose target is as likely as any token.
    """

    loss: jax.Array
    square_log_z: jax.Array
    best: jax.Array


def cross_entropy(
    hidden_NxE: jax.Array,
    table: OutputTable,
    targets_N: jax.Array,
    counts_N: jax.Array,
    *,
    z_loss: float = 0.0,
    parts: int = 1,
    chunk: int | None = None,
) -> tuple[jax.Array, Sums]:
    """(sum of cross-entropy + z_loss * log_z^2, sums); the first alone has a gradient.

    Our choice: gradients are written by hand, and computed with the loss. Automatic ones would make
    every logit twice, or keep all of them.

    Args:
      hidden_NxE: float32 hidden states.
      table: their product with it is the logits.
      targets_N: int32 tokens.
      counts_N: bool, which positions count. The others cost next to nothing.
      z_loss: weight of the squared normaliser.
      parts: S, a divisor of N: into how many parts devices split the positions. Each part is
        processed on its own device, and the gradients of all are added once.
      chunk: C; None is what suits the device.
    """
    hidden, targets, counts = (
        x.reshape(parts, -1, *x.shape[1:]) for x in (hidden_NxE, targets_N, counts_N)
    )
    chunk = min(chunk or chunk_of(hidden.shape[1], table.size), hidden.shape[1])
    return _cross_entropy(hidden, table.array, targets, counts, table.vocab_axis, z_loss, chunk)


def chunk_of(num_positions: int, vocab_size: int, limit: int | None = None) -> int:
    """C for `limit` bytes, by default those of this machine's devices.

    Chunks have one size, and the last is as full as the others.
    """
    if limit is None:
        limit = _CPU_BYTES if jax.default_backend() == "cpu" else ACCELERATOR_BYTES
    chunks = -(-num_positions * vocab_size * 4 // limit)
    return -(-num_positions // (8 * chunks)) * 8


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _cross_entropy(hidden_SxNxE, table, targets_SxN, counts_SxN, vocab_axis, z_loss, chunk):
    arguments = (hidden_SxNxE, table, targets_SxN, counts_SxN, vocab_axis, z_loss, chunk)
    return _summed(*arguments, with_gradients=False)[0]


def _forward(*arguments):
    return _summed(*arguments, with_gradients=True)


def _backward(vocab_axis, z_loss, chunk, gradients, cotangents):
    of_hidden_SxNxE, of_table = gradients
    return of_hidden_SxNxE * cotangents[0], of_table * cotangents[0], None, None


_cross_entropy.defvjp(_forward, _backward)


def _summed(
    hidden_SxNxE, table, targets_SxN, counts_SxN, vocab_axis, z_loss, chunk, *, with_gradients
):
    # The same number of steps for all parts, so that they stay in step.
    most = jnp.max(jnp.sum(counts_SxN, axis=1, dtype=jnp.int32))
    num_chunks = (most + chunk - 1) // chunk

    def of_part(hidden_NxE, targets_N, counts_N):
        return _of_part(
            hidden_NxE,
            table,
            targets_N,
            counts_N,
            num_chunks,
            vocab_axis,
            z_loss,
            chunk,
            with_gradients,
        )

    arrays = hidden_SxNxE, targets_SxN, counts_SxN
    if len(hidden_SxNxE) == 1:
        sums, gradients = jax.tree.map(lambda x: x[None], of_part(*(x[0] for x in arrays)))
    else:
        sums, gradients = jax.vmap(of_part)(*arrays)
    sums = Sums(*(jnp.sum(x) for x in sums))
    objective = sums.loss + z_loss * sums.square_log_z
    if gradients is None:
        return (objective, sums), None
    of_hidden_SxNxE, of_table_SxT = gradients
    return (objective, sums), (of_hidden_SxNxE, jnp.sum(of_table_SxT, axis=0))


def _of_part(
    hidden_NxE, table, targets_N, counts_N, num_chunks, vocab_axis, z_loss, chunk, with_gradients
):
    """Sums, and the gradients of hidden states and of the table."""
    num, total = len(hidden_NxE), jnp.sum(counts_N)
    size = -(-num // chunk) * chunk
    (order_M,) = jnp.nonzero(counts_N, size=size, fill_value=0)
    hidden_MxE, targets_M = hidden_NxE[order_M], targets_N[order_M]
    embed_axis = 1 - vocab_axis

    def step(number, state):
        sums, of_hidden_MxE, of_table = state
        start = number * chunk
        hidden_CxE = jax.lax.dynamic_slice_in_dim(hidden_MxE, start, chunk)
        targets_Cx1 = jax.lax.dynamic_slice_in_dim(targets_M, start, chunk)[:, None]
        counts_Cx1 = (start + jnp.arange(chunk) < total)[:, None]
        logits_CxV = _product(hidden_CxE, table, 1, embed_axis)
        top_Cx1 = jnp.max(logits_CxV, axis=1, keepdims=True)
        shares_CxV = jnp.exp(logits_CxV - top_Cx1)
        shares_sum_Cx1 = jnp.sum(shares_CxV, axis=1, keepdims=True)
        log_z_Cx1 = top_Cx1 + jnp.log(shares_sum_Cx1)
        chosen_Cx1 = jnp.take_along_axis(logits_CxV, targets_Cx1, axis=1)
        added = log_z_Cx1 - chosen_Cx1, jnp.square(log_z_Cx1), chosen_Cx1 >= top_Cx1
        sums = Sums(*(x + jnp.sum(jnp.where(counts_Cx1, y, 0)) for x, y in zip(sums, added)))
        if not with_gradients:
            return sums, of_hidden_MxE, of_table
        # The shares are not normalised: that is cheaper on what they are multiplied with.
        scale_Cx1 = jnp.where(counts_Cx1, (1 + 2 * z_loss * log_z_Cx1) / shares_sum_Cx1, 0.0)
        of_hidden_CxE = _product(shares_CxV, table, 1, vocab_axis) * scale_Cx1
        scaled_CxE = hidden_CxE * scale_Cx1
        pair = (shares_CxV, scaled_CxE) if vocab_axis == 0 else (scaled_CxE, shares_CxV)
        return (
            sums,
            jax.lax.dynamic_update_slice_in_dim(of_hidden_MxE, of_hidden_CxE, start, 0),
            of_table + _product(*pair, 0, 0),
        )

    zero = jnp.float32(0)
    of_hidden = jnp.zeros_like(hidden_MxE) if with_gradients else zero
    of_table = jnp.zeros_like(table) if with_gradients else zero
    sums, of_hidden_MxE, of_table = jax.lax.fori_loop(
        0, num_chunks, step, (Sums(zero, zero, zero), of_hidden, of_table)
    )
    if not with_gradients:
        return sums, None
    # What the targets' own logits add: -1 where the softmax is differentiated.
    place_N = jnp.maximum(jnp.cumsum(counts_N) - 1, 0)
    own_NxE = jnp.take(table, targets_N, axis=vocab_axis, mode="clip")
    own_NxE = own_NxE if vocab_axis == 0 else own_NxE.T
    of_hidden_NxE = jnp.where(counts_N[:, None], of_hidden_MxE[place_N] - own_NxE, 0.0)
    counted_NxE = jnp.where(counts_N[:, None], hidden_NxE, 0.0)
    if vocab_axis == 0:
        of_table = of_table.at[targets_N].add(-counted_NxE, mode="drop")
    else:
        of_table = of_table.at[:, targets_N].add(-counted_NxE.T, mode="drop")
    return sums, (of_hidden_NxE, of_table)


def _product(a, b, axis_of_a: int, axis_of_b: int):
    """The matrix product of two float32 matrices over an axis of each."""
    return jax.lax.dot_general(a, b, (((axis_of_a,), (axis_of_b,)), ((), ())))
