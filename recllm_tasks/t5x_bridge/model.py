"""T5X's encoder-decoder model over our network and our decoder, and T5X's own network."""

import inspect
from collections.abc import Mapping, MutableMapping
from typing import Any

import jax
import jax.numpy as jnp
from t5x import models
from t5x.examples.t5 import network as t5x_network

from recllm_tasks import tasks
from recllm_tasks.errors import UserError
from recllm_tasks.models.network import T5Config, Transformer


class RecommenderModel(models.EncoderDecoderModel):
    """T5X's model, which also passes the parameters and the whole batch to its `decode_fn`.

    Gin alone cannot do that: T5X passes a function from a token to logits, in which the encoder's
    output is copied for every beam. A `decode_fn` without the arguments `params` and `batch`, such
    as T5X's own, is called as T5X calls it.
    """

    def predict_batch_with_aux(
        self,
        params: Any,
        batch: Mapping[str, jax.Array],
        rng: jax.Array | None = None,
        decoder_params: MutableMapping[str, Any] | None = None,
        **settings,
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        """As in T5X; with all beams, tokens [B, K, T] and scores [B, K], the best beam last."""
        if self._sees_batch():
            decoder_params = {**(decoder_params or {}), "params": params, "batch": batch}
        elif isinstance(self.module, Transformer):
            raise UserError(
                f"Decoder for T5X: got {self.decode_fn.__name__}, which requires T5X's network, "
                "expected decoding.catalog_beam_search; bind NETWORK to @model.stock_network() "
                "too, as runs/t5x_stock.gin does"
            )
        return super().predict_batch_with_aux(
            params, batch, rng=rng, decoder_params=decoder_params, **settings
        )

    def get_initial_variables(self, rng, input_shapes, input_types=None):
        """As in T5X, which defaults `input_types` to float; ours are int32."""
        return super().get_initial_variables(
            rng, input_shapes, dict.fromkeys(input_shapes, jnp.int32)
        )

    def _sees_batch(self) -> bool:
        return {"params", "batch"} <= set(inspect.signature(self.decode_fn).parameters)

    def _compute_kv_cache(self, *args, **kwargs):
        """An empty cache if the decoder has its own; XLA drops computation that nobody reads."""
        if self._sees_batch():
            return {}, None
        return super()._compute_kv_cache(*args, **kwargs)


def stock_network(config: T5Config) -> t5x_network.Transformer:
    """T5X's own network with the sizes of ours; UserError if it has no such network."""
    if config.logits_via_embedding and not config.scaled_logits:
        raise UserError(
            "T5Config.scaled_logits: got False, expected True, because T5X's own network scales "
            "logits via embedding; use ours, runs/t5x_finetune.gin without runs/t5x_stock.gin"
        )
    return t5x_network.Transformer(
        config=t5x_network.T5Config(
            vocab_size=config.vocab_size,
            dtype=config.dtype,
            emb_dim=config.emb_dim,
            num_heads=config.num_heads,
            num_encoder_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            head_dim=config.head_dim,
            mlp_dim=config.mlp_dim,
            mlp_activations=config.mlp_activations,
            dropout_rate=config.dropout_rate,
            logits_via_embedding=config.logits_via_embedding,
        )
    )


def vocabulary(mixture: str):
    """The vocabulary of a task or mixture, the same for inputs and targets."""
    return tasks.get(mixture).output_features["targets"].vocabulary
