"""Encoder and decoder of T5 1.1: stacks of pre-norm residual layers.

Shapes: B batch, L input length, Q target length, T decode steps, K beams, S = T * K cache slots,
U prefixes, H heads, D head dim, E embed, P tokens that a target begins with.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from recllm_tasks.models import layers
from recllm_tasks.models.config import T5Config


def mask_bias(visible):
    """The float32 bias [B, 1, Q, L] of a boolean mask [B, Q, L]."""
    return jnp.where(visible, 0.0, layers.MASKED).astype(jnp.float32)[:, None]


class EncoderLayer(nn.Module):
    config: T5Config

    def setup(self):
        cfg = self.config
        self.pre_attention_layer_norm = cfg.norm()
        self.attention = cfg.attention()
        self.pre_mlp_layer_norm = cfg.norm()
        self.mlp = cfg.mlp()
        self.dropout = cfg.dropout()

    def __call__(self, x_BxLxE, biases, deterministic):
        h = self.pre_attention_layer_norm(x_BxLxE)
        h = self.attention(h, self.attention.keys_values(h), biases, deterministic)
        x_BxLxE = x_BxLxE + self.dropout(h, deterministic=deterministic)
        h = self.mlp(self.pre_mlp_layer_norm(x_BxLxE), deterministic)
        return x_BxLxE + self.dropout(h, deterministic=deterministic)


class DecoderLayer(nn.Module):
    config: T5Config

    def setup(self):
        cfg = self.config
        self.pre_self_attention_layer_norm = cfg.norm()
        self.self_attention = cfg.attention()
        self.pre_cross_attention_layer_norm = cfg.norm()
        self.encoder_decoder_attention = cfg.attention()
        self.pre_mlp_layer_norm = cfg.norm()
        self.mlp = cfg.mlp()
        self.dropout = cfg.dropout()

    def _cross_and_mlp(self, x, keys_values, biases, deterministic):
        h = self.pre_cross_attention_layer_norm(x)
        h = self.encoder_decoder_attention(h, keys_values, biases, deterministic)
        x = x + self.dropout(h, deterministic=deterministic)
        h = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        return x + self.dropout(h, deterministic=deterministic)

    def __call__(self, x_BxQxE, encoded_BxLxE, biases, cross_biases, deterministic):
        keys_values = self.cross_keys_values(encoded_BxLxE)
        return self.attend(x_BxQxE, keys_values, biases, cross_biases, deterministic)

    def attend(self, x_BxQxE, cross, biases, cross_biases, deterministic):
        """The layer with given keys and values of the cross-attention."""
        h = self.pre_self_attention_layer_norm(x_BxQxE)
        h = self.self_attention(h, self.self_attention.keys_values(h), biases, deterministic)
        x_BxQxE = x_BxQxE + self.dropout(h, deterministic=deterministic)
        return self._cross_and_mlp(x_BxQxE, cross, cross_biases, deterministic)

    def cross_keys_values(self, encoded_BxLxE):
        return self.encoder_decoder_attention.keys_values(encoded_BxLxE)

    def self_keys_values(self, x_BxQxE):
        return self.self_attention.keys_values(self.pre_self_attention_layer_norm(x_BxQxE))

    def step(self, x_BxKxE, slot, cache, cross, biases, cross_biases, read=None):
        """One position of K beams: writes slots [slot, slot + K), returns x and the new cache.

        `read` are keys and values [B, H, P, D] that stand before the cache's.
        """
        h = self.pre_self_attention_layer_norm(x_BxKxE)
        queries = self.self_attention.queries(h)
        cache = tuple(
            jax.lax.dynamic_update_slice(old_BxHxSxD, new_BxHxKxD, (0, 0, slot, 0))
            for old_BxHxSxD, new_BxHxKxD in zip(cache, self.self_attention.keys_values(h))
        )
        every = cache
        if read is not None:
            every = tuple(jnp.concatenate(pair, axis=2) for pair in zip(read, cache))
        x_BxKxE = x_BxKxE + self.self_attention.attend(queries, every, biases)
        return self._cross_and_mlp(x_BxKxE, cross, cross_biases, True), cache


class Encoder(nn.Module):
    config: T5Config

    def setup(self):
        cfg = self.config
        self.relpos_bias = cfg.relpos_bias(bidirectional=True)
        layer = nn.remat(EncoderLayer, static_argnums=(3,)) if cfg.remat else EncoderLayer
        self.layers = [layer(cfg) for _ in range(cfg.num_encoder_layers)]
        self.encoder_norm = cfg.norm()
        self.dropout = cfg.dropout()

    def __call__(self, x_BxLxE, bias, deterministic):
        biases = (self.relpos_bias(x_BxLxE.shape[1]), bias)
        x_BxLxE = self.dropout(x_BxLxE, deterministic=deterministic)
        for layer in self.layers:
            x_BxLxE = layer(x_BxLxE, biases, deterministic)
        return self.dropout(self.encoder_norm(x_BxLxE), deterministic=deterministic)


class Decoder(nn.Module):
    config: T5Config

    def setup(self):
        cfg = self.config
        self.relpos_bias = cfg.relpos_bias(bidirectional=False)
        layer = nn.remat(DecoderLayer, static_argnums=(5,)) if cfg.remat else DecoderLayer
        self.layers = [layer(cfg) for _ in range(cfg.num_decoder_layers)]
        self.decoder_norm = cfg.norm()
        self.dropout = cfg.dropout()
        if not cfg.logits_via_embedding:  # float32 for a stable softmax
            self.logits_dense = layers.Dense(cfg.vocab_size, axes=("embed", "vocab"))

    def __call__(self, x_BxQxE, encoded_BxLxE, bias, cross_bias, deterministic):
        biases = (self.relpos_bias(x_BxQxE.shape[1]), bias)
        x_BxQxE = self.dropout(x_BxQxE, deterministic=deterministic)
        for layer in self.layers:
            x_BxQxE = layer(x_BxQxE, encoded_BxLxE, biases, (cross_bias,), deterministic)
        return self.dropout(self.decoder_norm(x_BxQxE), deterministic=deterministic)

    def cross_keys_values(self, encoded_BxLxE):
        return tuple(layer.cross_keys_values(encoded_BxLxE) for layer in self.layers)

    def keys_values(self, x_BxPxE, bias, crosses, cross_bias):
        """Keys and values of each layer's self-attention, [B, H, P, D], for P tokens in order."""
        biases, made = (self.relpos_bias(x_BxPxE.shape[1]), bias), []
        for layer, cross in zip(self.layers, crosses):
            made.append(layer.self_keys_values(x_BxPxE))
            x_BxPxE = layer.attend(x_BxPxE, cross, biases, (cross_bias,), True)
        return tuple(made)

    def step(self, x_BxKxE, step, caches, crosses, ancestors_BxKxT, cross_bias, before=None):
        """`before` is what `keys_values` made of P tokens, and which of them count, bool [B, P]."""
        batch, beams, num_steps = ancestors_BxKxT.shape
        width = caches[0][0].shape[2] // num_steps  # slots of one step
        visible = (ancestors_BxKxT[..., None] == jnp.arange(width)).reshape(batch, beams, -1)
        reads, length = (None,) * len(self.layers), 0
        if before is not None:
            reads, shown_BxP = before
            length = shown_BxP.shape[1]
            shown = jnp.broadcast_to(shown_BxP[:, None], (batch, beams, length))
            visible = jnp.concatenate([shown, visible], axis=2)
        bias_HxPT = self.relpos_bias.of_step(length + step, length + num_steps)
        of_steps = jnp.repeat(bias_HxPT[:, length:], width, axis=1)
        position_bias = jnp.concatenate([bias_HxPT[:, :length], of_steps], axis=1)
        biases = (position_bias[None, :, None], mask_bias(visible))
        new_caches = []
        for layer, cache, cross, read in zip(self.layers, caches, crosses, reads):
            x_BxKxE, cache = layer.step(
                x_BxKxE, step * width, cache, cross, biases, (cross_bias,), read
            )
            new_caches.append(cache)
        return self.decoder_norm(x_BxKxE), tuple(new_caches)

    def prefixes(self, x_BxUxE, depths_BxU, bias, crosses, cross_bias):
        """All prefixes at once; distances are differences of `depths_BxU`."""
        biases = (self.relpos_bias.of_depths(depths_BxU), bias)
        for layer, cross in zip(self.layers, crosses):
            x_BxUxE = layer.attend(x_BxUxE, cross, biases, (cross_bias,), True)
        return self.decoder_norm(x_BxUxE)
