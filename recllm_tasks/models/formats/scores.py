"""Log-probabilities from a checkpoint on disk, read one layer at a time.

Shapes: B batch, L input length, Q target length, V vocabulary, E embed.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from recllm_tasks.models import layers
from recllm_tasks.models.config import T5Config
from recllm_tasks.models.formats.checkpoint import Source
from recllm_tasks.models.formats.parameters import shapes_of
from recllm_tasks.models.stacks import DecoderLayer, EncoderLayer, mask_bias


def token_scores(
    source: Source, inputs_BxL: np.ndarray, targets_BxQ: np.ndarray, dtype: np.dtype
) -> np.ndarray:
    """Log-probability of each target token, float32 [B, Q], 0 at padding.

    Computes in float32, with memory for two layers and the token table.

    Args:
      source: the checkpoint.
      inputs_BxL, targets_BxQ: tokens, 0 is padding.
      dtype: the parameters are rounded to it first, for comparison with a checkpoint in that dtype.
    """
    model = _Streamed(source, dtype)
    encoded_BxLxE = model.encode(inputs_BxL)
    logits_BxQxV = model.decode(encoded_BxLxE, inputs_BxL, targets_BxQ)
    scores_BxQxV = jax.nn.log_softmax(logits_BxQxV, axis=-1)
    scores_BxQ = jnp.take_along_axis(scores_BxQxV, targets_BxQ[..., None], axis=-1)[..., 0]
    return np.asarray(jnp.where(targets_BxQ > 0, scores_BxQ, 0.0))


class _Streamed:
    """The network's forward pass, layer by layer."""

    def __init__(self, source: Source, dtype: np.dtype):
        self._source, self._dtype = source, dtype
        self._config = dataclasses.replace(source.config, dtype=jnp.float32)

    def _read(self, prefix: str) -> dict[str, Any]:
        """The parameters of one part, in float32."""
        flat = {
            path.removeprefix(prefix): self._source.read(path)
            .astype(self._dtype)
            .astype(np.float32)
            for path in shapes_of(self._config)
            if path.startswith(prefix)
        }
        return {"params": traverse_util.unflatten_dict(flat, sep="/")}

    def _embed(self, tokens):
        table = self._read("token_embedder/")["params"]["embedding"]
        return jnp.asarray(table[tokens])

    def _bias(self, stack: str, length: int):
        module = self._config.relpos_bias(bidirectional=stack == "encoder")
        return module.apply(self._read(f"{stack}/relpos_bias/"), length)

    def _norm(self, stack: str, x):
        return self._config.norm().apply(self._read(f"{stack}/{stack}_norm/"), x)

    def encode(self, inputs_BxL):
        mask = mask_bias((inputs_BxL > 0)[:, None, :])
        biases = (self._bias("encoder", inputs_BxL.shape[1]), mask)
        x_BxLxE = self._embed(inputs_BxL)
        for number in range(self._config.num_encoder_layers):
            variables = self._read(f"encoder/layers_{number}/")
            x_BxLxE = _encoder_layer(self._config, variables, x_BxLxE, biases)
        return self._norm("encoder", x_BxLxE)

    def decode(self, encoded_BxLxE, inputs_BxL, targets_BxQ):
        length = targets_BxQ.shape[1]
        visible = np.tril(np.ones((length, length), bool))[None] & (targets_BxQ > 0)[:, None, :]
        biases = (self._bias("decoder", length), mask_bias(visible))
        cross = (mask_bias((inputs_BxL > 0)[:, None, :]),)
        x_BxQxE = self._embed(np.pad(targets_BxQ, ((0, 0), (1, 0)))[:, :-1])
        for number in range(self._config.num_decoder_layers):
            variables = self._read(f"decoder/layers_{number}/")
            x_BxQxE = _decoder_layer(self._config, variables, x_BxQxE, encoded_BxLxE, biases, cross)
        return self._logits(self._norm("decoder", x_BxQxE))

    def _logits(self, x_BxQxE):
        if not self._config.logits_via_embedding:
            kernel = self._read("decoder/logits_dense/")["params"]["kernel"]
            return jnp.dot(x_BxQxE, kernel)
        table = layers.Embed(self._config.vocab_size, self._config.emb_dim)
        logits = table.apply(self._read("token_embedder/"), x_BxQxE, method="attend")
        return logits / np.sqrt(self._config.emb_dim)


@functools.partial(jax.jit, static_argnums=0)
def _encoder_layer(config: T5Config, variables, x, biases):
    return EncoderLayer(config).apply(variables, x, biases, True)


@functools.partial(jax.jit, static_argnums=0)
def _decoder_layer(config: T5Config, variables, x, encoded, biases, cross):
    return DecoderLayer(config).apply(variables, x, encoded, biases, cross, True)
