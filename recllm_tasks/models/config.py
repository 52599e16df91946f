"""The sizes of a network, and the layers of those sizes."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from recllm_tasks.errors import UserError, check_number, check_switch, check_whole
from recllm_tasks.models import layers


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes of a T5 1.1. Computation is in `dtype`; parameters are always float32."""

    vocab_size: int
    dtype: Any = jnp.float32
    emb_dim: int = 512
    num_heads: int = 6
    num_encoder_layers: int = 8
    num_decoder_layers: int = 8
    head_dim: int = 64
    mlp_dim: int = 1024
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    dropout_rate: float = 0.1
    logits_via_embedding: bool = False
    scaled_logits: bool = True  # divide logits via embedding by the root of emb_dim, as T5 does
    num_relative_buckets: int = 32
    max_relative_distance: int = 128
    remat: bool = False  # recompute each layer in the backward pass: less memory, more time
    loop_attention: bool | None = None  # one example at a time; None: on a single CPU device
    dropout_broadcast: bool = True  # one draw of whole channels for all positions, as in T5

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if field.type is int:
                check_whole(f"T5Config.{field.name}", getattr(self, field.name), 1)
        check_number("T5Config.dropout_rate", self.dropout_rate, 0, 1)
        check_switch("T5Config.dropout_broadcast", self.dropout_broadcast)
        check_switch("T5Config.scaled_logits", self.scaled_logits)
        self._check_dtype()
        if isinstance(self.mlp_activations, int | str):
            raise UserError(
                f"T5Config.mlp_activations: got {self.mlp_activations!r}, expected a tuple such as "
                "('gelu', 'linear'); correct the gin binding"
            )
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        for name in self.mlp_activations:
            if name != "linear" and not hasattr(nn, name):
                raise UserError(
                    f"Activation for 'T5Config.mlp_activations': got {name!r}, expected 'linear' "
                    "or a function of flax.linen; correct the gin binding"
                )

    def _check_dtype(self):
        try:
            known = jnp.issubdtype(jnp.dtype(self.dtype), jnp.floating)
        except TypeError:
            known = False
        if not known:
            raise UserError(
                f"T5Config.dtype: got {self.dtype!r}, expected 'float32' or 'bfloat16'; correct "
                "the gin binding"
            )

    def attention(self):
        return layers.Attention(
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            emb_dim=self.emb_dim,
            dtype=self.dtype,
            dropout_rate=self.dropout_rate,
            loop=self.loop_attention,
        )

    def mlp(self):
        return layers.Mlp(
            mlp_dim=self.mlp_dim,
            emb_dim=self.emb_dim,
            activations=self.mlp_activations,
            dtype=self.dtype,
            dropout_rate=self.dropout_rate,
        )

    def norm(self):
        return layers.LayerNorm(dtype=self.dtype)

    def dropout(self):
        """Dropout of what goes on from layer to layer; see `dropout_broadcast`.

        One draw for all positions is cheap, but in a packed row many examples share it.
        """
        return nn.Dropout(self.dropout_rate, broadcast_dims=(-2,) if self.dropout_broadcast else ())

    def relpos_bias(self, *, bidirectional):
        return layers.RelativePositionBias(
            num_heads=self.num_heads,
            bidirectional=bidirectional,
            num_buckets=self.num_relative_buckets,
            max_distance=self.max_relative_distance,
        )
