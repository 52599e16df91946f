"""One step of training: the loss, its gradient, the update.

Letters: B batch, T target length, E embed, N = B * T positions.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from recllm_tasks.models.cross_entropy import cross_entropy
from recllm_tasks.models.network import Transformer

# T5X's coefficient of the loss term that keeps the softmax normaliser near 1.
Z_LOSS = 1e-4

Batch = Mapping[str, jax.Array]


class State(NamedTuple):
    """Everything that a training step changes."""

    step: jax.Array
    params: Any
    opt_state: Any

    def stored(self) -> dict[str, Any]:
        """The state under the names that checkpoints have."""
        return {"step": self.step, "params": self.params, "optimizer": self.opt_state}


class Measures(NamedTuple):
    """Of one batch: mean cross-entropy per target token, the same with z-loss, accuracy."""

    loss: jax.Array
    total_loss: jax.Array
    accuracy: jax.Array


def measure(
    network: Transformer,
    params: Any,
    batch: Batch,
    dropout_key: jax.Array | None,
    *,
    parts: int = 1,
    chunk: int | None = None,
) -> Measures:
    """The loss of a batch; without dropout if `dropout_key` is None.

    All target tokens except padding have the same weight, as in T5X. `parts` and `chunk` are those
    of `cross_entropy`.
    """
    hidden_BxTxE = network.apply(
        {"params": params},
        batch["encoder_input_tokens"],
        batch["decoder_input_tokens"],
        batch["decoder_target_tokens"],
        encoder_segment_ids=batch.get("encoder_segment_ids"),
        decoder_segment_ids=batch.get("decoder_segment_ids"),
        enable_dropout=dropout_key is not None,
        rngs=None if dropout_key is None else {"dropout": dropout_key},
        method=network.hidden,
    )
    targets_N = jnp.reshape(batch["decoder_target_tokens"], -1)
    counts_N = targets_N > 0
    objective, sums = cross_entropy(
        hidden_BxTxE.reshape(-1, hidden_BxTxE.shape[-1]),
        network.output_table(params),
        targets_N,
        counts_N,
        z_loss=Z_LOSS,
        parts=parts,
        chunk=chunk,
    )
    total = jnp.maximum(counts_N.sum(), 1)
    return Measures(sums.loss / total, objective / total, sums.best / total)


@jax.jit
def _all_finite(arrays: Any) -> jax.Array:
    floats = [x for x in jax.tree.leaves(arrays) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.isfinite(x).all() for x in floats]))


def all_finite(arrays: Any) -> bool:
    """Whether no number in a tree of arrays is NaN or infinite."""
    return bool(_all_finite(arrays))


@functools.partial(
    jax.jit, static_argnums=(0, 1), static_argnames=("parts", "chunk"), donate_argnums=2
)
def train_step(
    network: Transformer,
    optimizer: optax.GradientTransformation,
    state: State,
    batch: Batch,
    key: jax.Array,
    *,
    parts: int = 1,
    chunk: int | None = None,
) -> tuple[State, Measures]:
    """The state after one more batch; the old one's memory is reused.

    Args:
      network: the model.
      optimizer: see optimizer.py.
      state: before the batch.
      batch: of packed or padded rows.
      key: the run's; each step folds in its number.
      parts: into how many parts the devices split the batch: the mesh's `data` axis.
      chunk: see `cross_entropy`.
    """
    dropout_key = jax.random.fold_in(key, state.step)
    if network.config.dropout_rate == 0:
        dropout_key = None

    def objective(params):
        measures = measure(network, params, batch, dropout_key, parts=parts, chunk=chunk)
        return measures.total_loss, measures

    gradient, measures = jax.grad(objective, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return State(state.step + 1, params, opt_state), measures
