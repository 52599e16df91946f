"""One step of training: the loss, its gradient, the update.

Letters: B batch, L input length, T target length, V vocabulary.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

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


class TokenLosses(NamedTuple):
    """Of each token [B, T]: cross-entropy, log softmax normaliser, whether none is likelier."""

    loss: jax.Array
    log_z: jax.Array
    is_best: jax.Array


@jax.custom_vjp
def cross_entropy(logits_BxTxV: jax.Array, targets_BxT: jax.Array) -> TokenLosses:
    """The losses of float32 logits.

    Our choice: the gradient is written by hand, in one pass over the logits. The automatic one
    scatters the targets into an array of that size, which on a CPU takes 1.6x the time of both the
    loss and its matrix products.
    """
    return _cross_entropy_forward(logits_BxTxV, targets_BxT)[0]


def _cross_entropy_forward(logits_BxTxV, targets_BxT):
    top_BxT = jnp.max(logits_BxTxV, axis=-1)
    total_BxT = jnp.sum(jnp.exp(logits_BxTxV - top_BxT[..., None]), axis=-1)
    log_z_BxT = top_BxT + jnp.log(total_BxT)
    chosen_BxT = jnp.take_along_axis(logits_BxTxV, targets_BxT[..., None], axis=-1)[..., 0]
    losses = TokenLosses(log_z_BxT - chosen_BxT, log_z_BxT, chosen_BxT >= top_BxT)
    return losses, (logits_BxTxV, targets_BxT, log_z_BxT)


def _cross_entropy_backward(saved, gradients):
    logits_BxTxV, targets_BxT, log_z_BxT = saved
    of_loss_BxTx1, of_log_z_BxTx1 = (g[..., None] for g in gradients[:2])
    is_target_BxTxV = jnp.arange(logits_BxTxV.shape[-1]) == targets_BxT[..., None]
    softmax_BxTxV = jnp.exp(logits_BxTxV - log_z_BxT[..., None])
    at_target_BxTxV = jnp.where(is_target_BxTxV, of_loss_BxTx1, 0.0)
    return softmax_BxTxV * (of_loss_BxTx1 + of_log_z_BxTx1) - at_target_BxTxV, None


cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def measure(
    network: Transformer, params: Any, batch: Batch, dropout_key: jax.Array | None
) -> Measures:
    """The loss of a batch; without dropout if `dropout_key` is None.

    All target tokens except padding have the same weight, as in T5X.
    """
    logits_BxTxV = network.apply(
        {"params": params},
        batch["encoder_input_tokens"],
        batch["decoder_input_tokens"],
        batch["decoder_target_tokens"],
        encoder_segment_ids=batch.get("encoder_segment_ids"),
        decoder_segment_ids=batch.get("decoder_segment_ids"),
        enable_dropout=dropout_key is not None,
        rngs=None if dropout_key is None else {"dropout": dropout_key},
    )
    targets_BxT = batch["decoder_target_tokens"]
    weights_BxT = targets_BxT > 0
    total = jnp.maximum(weights_BxT.sum(), 1)
    losses = cross_entropy(logits_BxTxV.astype(jnp.float32), targets_BxT)

    def mean(x_BxT):
        return jnp.sum(jnp.where(weights_BxT, x_BxT, 0.0)) / total

    loss = mean(losses.loss)
    total_loss = loss + Z_LOSS * mean(jnp.square(losses.log_z))
    return Measures(loss, total_loss, mean(losses.is_best))


@jax.jit
def _all_finite(arrays: Any) -> jax.Array:
    floats = [x for x in jax.tree.leaves(arrays) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.isfinite(x).all() for x in floats]))


def all_finite(arrays: Any) -> bool:
    """Whether no number in a tree of arrays is NaN or infinite."""
    return bool(_all_finite(arrays))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def train_step(
    network: Transformer,
    optimizer: optax.GradientTransformation,
    state: State,
    batch: Batch,
    key: jax.Array,
) -> tuple[State, Measures]:
    """The state after one more batch. `key` is the run's; each step folds in its number."""
    dropout_key = jax.random.fold_in(key, state.step)
    if network.config.dropout_rate == 0:
        dropout_key = None

    def objective(params):
        measures = measure(network, params, batch, dropout_key)
        return measures.total_loss, measures

    gradient, measures = jax.grad(objective, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return State(state.step + 1, params, opt_state), measures
