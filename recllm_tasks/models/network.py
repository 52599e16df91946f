"""T5 1.1 in Flax Linen, with the parameter names and the module contract of T5X.

T5X can run `Transformer`, and FLAN-T5's published checkpoints fit it. Unlike T5X's own network, it
embeds by gather and has a decode path for beams (`precompute_cross`, `decode_step`) that projects
cross-attention keys and values once per example and never reorders its cache.

Shapes: B batch, L input length, Q target length, T decode steps, K beams, S = T * K cache slots,
U prefixes, V vocabulary, H heads, D head dim, E embed, M mlp, P tokens that a target begins with.
"""

import jax.numpy as jnp
from flax import linen as nn

from recllm_tasks.models import layers
from recllm_tasks.models.config import T5Config
from recllm_tasks.models.cross_entropy import OutputTable
from recllm_tasks.models.stacks import Decoder, Encoder, mask_bias

__all__ = ["T5Config", "Transformer"]


class Transformer(nn.Module):
    """An encoder-decoder with T5X's contract: `__call__`, `encode`, `decode`.

    Token 0 is padding: nothing attends to encoder inputs or decoder targets that are 0.
    """

    config: T5Config

    def setup(self):
        cfg = self.config
        self.token_embedder = layers.Embed(cfg.vocab_size, cfg.emb_dim, cfg.dtype)
        self.encoder = Encoder(cfg)
        self.decoder = Decoder(cfg)

    def encode(self, encoder_input_tokens, encoder_segment_ids=None, enable_dropout=True):
        """Encoded inputs [B, L, E] of int tokens [B, L]; attention stays within a segment."""
        visible = (encoder_input_tokens > 0)[:, None, :]
        if encoder_segment_ids is not None:
            same = encoder_segment_ids[:, :, None] == encoder_segment_ids[:, None, :]
            visible = visible & same
        x = self.token_embedder(encoder_input_tokens)
        return self.encoder(x, mask_bias(visible), not enable_dropout)

    def decode(
        self,
        encoded,
        encoder_input_tokens,
        decoder_input_tokens,
        decoder_target_tokens,
        encoder_segment_ids=None,
        decoder_segment_ids=None,
        decoder_positions=None,
        enable_dropout=True,
        decode=False,
        max_decode_length=None,
    ):
        """Float32 logits [B, Q, V] under teacher forcing.

        T5X passes `decoder_positions`; it is ignored, because positions are relative.
        """
        if decode:
            raise NotImplementedError("T5X's cached decoding; use recllm_tasks.models.beam_search")
        x = self._decoded(
            encoded,
            encoder_input_tokens,
            decoder_input_tokens,
            decoder_target_tokens,
            encoder_segment_ids,
            decoder_segment_ids,
            enable_dropout,
        )
        return self.logits(x)

    def _decoded(
        self,
        encoded,
        encoder_input_tokens,
        decoder_input_tokens,
        decoder_target_tokens,
        encoder_segment_ids,
        decoder_segment_ids,
        enable_dropout,
    ):
        """The decoder's output [B, Q, E] under teacher forcing."""
        length = decoder_input_tokens.shape[1]
        causal = jnp.tril(jnp.ones((length, length), bool))
        visible = causal[None] & (decoder_target_tokens > 0)[:, None, :]
        cross_visible = (encoder_input_tokens > 0)[:, None, :]
        if decoder_segment_ids is not None:
            same = decoder_segment_ids[:, :, None] == decoder_segment_ids[:, None, :]
            visible = visible & same
        if decoder_segment_ids is not None and encoder_segment_ids is not None:
            same = decoder_segment_ids[:, :, None] == encoder_segment_ids[:, None, :]
            cross_visible = cross_visible & same
        x = self.token_embedder(decoder_input_tokens)
        return self.decoder(
            x, encoded, mask_bias(visible), mask_bias(cross_visible), not enable_dropout
        )

    def hidden(
        self,
        encoder_input_tokens,
        decoder_input_tokens,
        decoder_target_tokens,
        encoder_segment_ids=None,
        decoder_segment_ids=None,
        *,
        enable_dropout=True,
    ):
        """Float32 [B, Q, E], whose product with `output_table` is the logits of `__call__`."""
        encoded = self.encode(encoder_input_tokens, encoder_segment_ids, enable_dropout)
        x = self._decoded(
            encoded,
            encoder_input_tokens,
            decoder_input_tokens,
            decoder_target_tokens,
            encoder_segment_ids,
            decoder_segment_ids,
            enable_dropout,
        )
        x = jnp.asarray(x, jnp.float32)
        scaled = self.config.logits_via_embedding and self.config.scaled_logits
        return x / jnp.sqrt(self.config.emb_dim) if scaled else x

    def output_table(self, params) -> OutputTable:
        """The parameters that `logits` multiplies by."""
        if self.config.logits_via_embedding:
            return OutputTable(params["token_embedder"]["embedding"], 0)
        return OutputTable(params["decoder"]["logits_dense"]["kernel"], 1)

    def logits(self, x):
        """Float32 logits [..., V] of the decoder's output [..., E]."""
        if self.config.logits_via_embedding:
            logits = self.token_embedder.attend(x)
            return logits / jnp.sqrt(self.config.emb_dim) if self.config.scaled_logits else logits
        return self.decoder.logits_dense(x)

    def __call__(
        self,
        encoder_input_tokens,
        decoder_input_tokens,
        decoder_target_tokens,
        encoder_segment_ids=None,
        decoder_segment_ids=None,
        encoder_positions=None,
        decoder_positions=None,
        *,
        enable_dropout=True,
        decode=False,
    ):
        """Float32 logits [B, Q, V]. T5X passes positions; they are ignored."""
        encoded = self.encode(encoder_input_tokens, encoder_segment_ids, enable_dropout)
        return self.decode(
            encoded,
            encoder_input_tokens,
            decoder_input_tokens,
            decoder_target_tokens,
            encoder_segment_ids=encoder_segment_ids,
            decoder_segment_ids=decoder_segment_ids,
            enable_dropout=enable_dropout,
            decode=decode,
        )

    def precompute_cross(self, encoded_BxLxE):
        """Cross-attention (keys, values) for each decoder layer, each [B, H, L, D]."""
        return self.decoder.cross_keys_values(encoded_BxLxE)

    def init_caches(self, batch, num_steps, num_beams):
        """Empty self-attention (keys, values) for each decoder layer, each [B, H, T * K, D]."""
        cfg = self.config
        shape = (batch, cfg.num_heads, num_steps * num_beams, cfg.head_dim)
        empty = jnp.zeros(shape, cfg.dtype)
        return tuple((empty, empty) for _ in range(cfg.num_decoder_layers))

    def read_beginning(self, beginning_BxP, cross, encoder_input_tokens):
        """Self-attention (keys, values) for each decoder layer, each [B, H, P, D].

        `beginning_BxP` are the tokens that each target begins with, right-aligned, 0 before them.
        The decoder has then read all but the last one, which is the first token of `decode_step`.
        """
        tokens_BxP = jnp.pad(beginning_BxP[:, :-1], ((0, 0), (1, 0)))
        length = tokens_BxP.shape[1]
        visible = jnp.tril(jnp.ones((length, length), bool)) & (beginning_BxP > 0)[:, None, :]
        cross_bias = mask_bias((encoder_input_tokens > 0)[:, None, :])
        return self.decoder.keys_values(
            self.token_embedder(tokens_BxP), mask_bias(visible), cross, cross_bias
        )

    def decode_step(
        self,
        tokens_BxK,
        step,
        caches,
        cross,
        ancestors_BxKxT,
        encoder_input_tokens,
        beginning_BxP=None,
        read=None,
    ):
        """Float32 logits [B, K, V] of one step for all beams, and the new caches.

        `tokens_BxK` are the tokens at position `step` (0 at the first). Their keys and values go to
        slots (step, 0..K-1), which never move afterwards: `ancestors_BxKxT[b, k, t]` is the slot of
        position t that beam k descends from (its own at `step`), -1 from `step` + 1 on. Reordering
        beams permutes only `ancestors`. There may be fewer beams than slots. `read` is what
        `read_beginning` made of `beginning_BxP`; all beams share it.
        """
        x_BxKxE = self.token_embedder(tokens_BxK)
        cross_bias = mask_bias((encoder_input_tokens > 0)[:, None, :])
        before = None if beginning_BxP is None else (read, beginning_BxP > 0)
        x_BxKxE, caches = self.decoder.step(
            x_BxKxE, step, caches, cross, ancestors_BxKxT, cross_bias, before
        )
        return self.logits(x_BxKxE), caches

    def decode_prefixes(self, tokens_BxU, depths_BxU, visible_BxUxU, cross, encoder_input_tokens):
        """The decoder's output [B, U, E] for the prefixes of many targets, each read once.

        `tokens_BxU` is the last token of each prefix (0 for the empty one), `depths_BxU` its
        length, and `visible_BxUxU[b, u, v]` whether v is a prefix of u (or u itself).
        """
        x_BxUxE = self.token_embedder(tokens_BxU)
        cross_bias = mask_bias((encoder_input_tokens > 0)[:, None, :])
        return self.decoder.prefixes(
            x_BxUxE, depths_BxU, mask_bias(visible_BxUxU), cross, cross_bias
        )
