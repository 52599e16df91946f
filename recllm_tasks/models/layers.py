"""The layers of T5 1.1: projection, norm, embedding, relative positions, attention, MLP.

Shapes: B batch, Q query length, L key length, T decode steps, K beams, S = T * K cache slots,
V vocabulary, H heads, D head dim, E embed, M mlp.
Parameters are float32 and carry T5X's names, shapes and logical axes; computation is in `dtype`,
except norms, attention logits and softmax, which are float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning

MASKED = -1e10  # added to a masked attention logit


class Dense(nn.Module):
    """A linear map of the last axis, without bias. `axes` are the kernel's logical axes."""

    features: int
    axes: tuple[str, str]
    dtype: Any = jnp.float32
    kernel_init: Any = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")

    @nn.compact
    def __call__(self, x):
        kernel = partitioning.param_with_axes(
            "kernel",
            self.kernel_init,
            (x.shape[-1], self.features),
            jnp.float32,
            axes=self.axes,
        )
        return _project(jnp.asarray(x, self.dtype), jnp.asarray(kernel, self.dtype))


@jax.custom_vjp
def _project(x, kernel):
    """x @ kernel with all leading axes flattened, and gradients written as matmuls of rows.

    With the automatic gradient, XLA's CPU compiler transposes the kernel's gradient and computes
    its inputs twice: an MLP's backward pass takes 1.4x the time.
    """
    return jnp.dot(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], -1)


def _project_forward(x, kernel):
    return _project(x, kernel), (x, kernel)


def _project_backward(saved, gradient):
    x, kernel = saved
    rows = gradient.reshape(-1, gradient.shape[-1])
    of_x = jnp.dot(rows, kernel.T).reshape(x.shape)
    return of_x, jnp.dot(x.reshape(-1, x.shape[-1]).T, rows)


_project.defvjp(_project_forward, _project_backward)


class LayerNorm(nn.Module):
    """T5's RMS norm: no mean subtraction, no bias, epsilon 1e-6."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        scale = partitioning.param_with_axes(
            "scale", nn.initializers.ones, (x.shape[-1],), jnp.float32, axes=("embed",)
        )
        x = jnp.asarray(x, jnp.float32)
        inverse_rms = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        return jnp.asarray(x * inverse_rms, self.dtype) * jnp.asarray(scale, self.dtype)


class Embed(nn.Module):
    """The token table [V, E], read by gather (a one-hot matmul costs as much as the encoder)."""

    vocab_size: int
    emb_dim: int
    dtype: Any = jnp.float32

    def setup(self):
        self.embedding = partitioning.param_with_axes(
            "embedding",
            nn.initializers.normal(stddev=1.0),
            (self.vocab_size, self.emb_dim),
            jnp.float32,
            axes=("vocab", "embed"),
        )

    def __call__(self, tokens_BxL):
        x_BxLxE = jnp.take(self.embedding, tokens_BxL, axis=0, mode="clip")
        x_BxLxE = jnp.asarray(x_BxLxE, self.dtype)
        return partitioning.with_sharding_constraint(x_BxLxE, ("batch", "length", "embed"))

    def attend(self, x):
        """Float32 logits [..., V] of hidden states [..., E]."""
        return _project(jnp.asarray(x, jnp.float32), self.embedding.T)


def relative_buckets(distances, *, bidirectional, num_buckets=32, max_distance=128):
    """T5's bucket of each distance = key position - query position (numpy int arrays).

    Half of the buckets are exact; the others grow logarithmically up to `max_distance`. In the
    encoder each direction has half of the buckets. Source: T5 (Raffel et al. 2020) §2.1.
    """
    past = -np.asarray(distances)
    offset = 0
    if bidirectional:
        num_buckets //= 2
        offset = np.where(past < 0, num_buckets, 0)
        past = np.abs(past)
    past = np.maximum(past, 0)
    exact = num_buckets // 2
    growth = np.log(np.maximum(past, 1).astype(np.float32) / exact) / np.log(max_distance / exact)
    far = exact + (growth * (num_buckets - exact)).astype(np.int32)
    far = np.minimum(far, num_buckets - 1)
    return (offset + np.where(past < exact, past, far)).astype(np.int32)


class RelativePositionBias(nn.Module):
    """One learned bias for each head and bucket of distance, shared by all layers of a stack."""

    num_heads: int
    bidirectional: bool
    num_buckets: int = 32
    max_distance: int = 128

    def setup(self):
        self.rel_embedding = partitioning.param_with_axes(
            "rel_embedding",
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
            (self.num_heads, self.num_buckets),
            jnp.float32,
            axes=("heads", "relpos_buckets"),
        )

    def _buckets(self, distances):
        return relative_buckets(
            distances,
            bidirectional=self.bidirectional,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
        )

    def __call__(self, length):
        """Float32 bias [1, H, L, L] of a square attention.

        Entry (i, j) depends only on j - i, so 2L - 1 values are gathered and laid out by a shifted
        reshape. The gradient is then a plain sum instead of a scatter over L * L.
        """
        # values_HxP[:, p] is the bias at distance p - (length - 1).
        distances = np.arange(2 * length - 1) - (length - 1)
        values_HxP = self.rel_embedding[:, self._buckets(distances)]
        heads, width = values_HxP.shape
        # Rows of width P, read from repeats of width P + 1, each shift one place to the left.
        padded = jnp.pad(values_HxP, ((0, 0), (0, 1)))
        repeated = jnp.broadcast_to(padded[:, None], (heads, length, width + 1))
        shifted = repeated.reshape(heads, -1)[:, : length * width].reshape(heads, length, width)
        return shifted[:, :, length - 1 :][None]

    def of_step(self, step, num_steps):
        """Float32 bias [H, T] of the query at position `step` (may be traced) to positions < T."""
        table = self._buckets(np.arange(num_steps) - (num_steps - 1))  # distance -(T-1) .. 0
        index_T = jnp.clip(jnp.arange(num_steps) - step + num_steps - 1, 0, num_steps - 1)
        return self.rel_embedding[:, jnp.asarray(table)[index_T]]

    def of_depths(self, depths_BxU):
        """Float32 bias [B, H, U, U] between positions at these depths.

        For a key deeper than its query the value is arbitrary; a mask must hide it.
        """
        far = self.max_distance
        table = jnp.asarray(self._buckets(np.arange(far + 1) - far))  # distance -far .. 0
        distance_BxUxU = depths_BxU[:, None, :] - depths_BxU[:, :, None]
        buckets_BxUxU = table[jnp.clip(distance_BxUxU, -far, 0) + far]
        return jnp.moveaxis(self.rel_embedding[:, buckets_BxUxU], 0, 1)


def _mix(queries_BxHxQxD, keys_BxHxLxD, values_BxHxLxD, biases):
    """Attention's weighted values, float32 [B, H, Q, D].

    Weights are normalised after the matmul, exp(x) @ v / sum(exp(x)), to save passes over them.
    """
    logits_BxHxQxL = jnp.einsum(
        "bhqd,bhld->bhql", queries_BxHxQxD, keys_BxHxLxD, preferred_element_type=jnp.float32
    )
    for bias in biases:
        logits_BxHxQxL = logits_BxHxQxL + bias
    top = jax.lax.stop_gradient(jnp.max(logits_BxHxQxL, axis=-1, keepdims=True))
    weights_BxHxQxL = jnp.exp(logits_BxHxQxL - top)
    mixed_BxHxQxD = jnp.einsum(
        "bhql,bhld->bhqd",
        weights_BxHxQxL.astype(values_BxHxLxD.dtype),
        values_BxHxLxD,
        preferred_element_type=jnp.float32,
    )
    return mixed_BxHxQxD / jnp.sum(weights_BxHxQxL, axis=-1, keepdims=True)


def _mix_by_example(queries_BxHxQxD, keys_BxHxLxD, values_BxHxLxD, biases):
    """`_mix` for one example at a time, recomputed in the backward pass."""
    batch = queries_BxHxQxD.shape[0]
    shared = [bias for bias in biases if bias.shape[0] == 1]
    own = [bias for bias in biases if bias.shape[0] == batch > 1]

    @jax.checkpoint
    def one(example):
        queries, keys, values, biases = jax.tree.map(lambda x: x[None], example)
        return _mix(queries, keys, values, (*shared, *biases))[0]

    return jax.lax.map(one, (queries_BxHxQxD, keys_BxHxLxD, values_BxHxLxD, own))


class Attention(nn.Module):
    """Multi-head attention. The query's initialiser is divided by sqrt(D) instead of the logits.

    Keys and values have the layout [B, H, L, D], so that no matmul transposes them.
    """

    num_heads: int
    head_dim: int
    emb_dim: int
    dtype: Any = jnp.float32
    dropout_rate: float = 0.0
    loop: bool | None = None  # see `_loops`

    def setup(self):
        kernel_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")

        def query_init(*args):
            return kernel_init(*args) / np.sqrt(self.head_dim).astype(np.float32)

        joined = self.num_heads * self.head_dim
        into = {"axes": ("embed", "joined_kv"), "dtype": self.dtype}
        self.query = Dense(joined, kernel_init=query_init, **into)
        self.key = Dense(joined, kernel_init=kernel_init, **into)
        self.value = Dense(joined, kernel_init=kernel_init, **into)
        self.out = Dense(
            self.emb_dim, axes=("joined_kv", "embed"), dtype=self.dtype, kernel_init=kernel_init
        )
        self.dropout = nn.Dropout(self.dropout_rate, broadcast_dims=(-1,))

    def _split(self, x):
        batch, length, _ = x.shape
        x = x.reshape(batch, length, self.num_heads, self.head_dim).transpose(0, 2, 1, 3)
        return partitioning.with_sharding_constraint(x, ("batch", "heads", "length", "kv"))

    def queries(self, x_BxQxE):
        return self._split(self.query(x_BxQxE))

    def keys_values(self, x_BxLxE):
        """Keys and values, each [B, H, L, D]."""
        return self._split(self.key(x_BxLxE)), self._split(self.value(x_BxLxE))

    def attend(self, queries_BxHxQxD, keys_values, biases, deterministic=True):
        """Output [B, Q, E]. Each of `biases` is float32, [B or 1, H or 1, Q or 1, L].

        T5 drops attention weights for all queries at once, which equals dropping rows of values.
        """
        keys_BxHxLxD, values_BxHxLxD = keys_values
        values_BxHxLxD = self.dropout(values_BxHxLxD, deterministic=deterministic)
        qkv = (queries_BxHxQxD, keys_BxHxLxD, values_BxHxLxD)
        if self._loops(queries_BxHxQxD.shape[2] * keys_BxHxLxD.shape[2]):
            mixed_BxHxQxD = _mix_by_example(*qkv, biases)
        else:
            mixed_BxHxQxD = _mix(*qkv, biases)
        mixed = mixed_BxHxQxD.astype(self.dtype).transpose(0, 2, 1, 3)
        return self.out(mixed.reshape(*mixed.shape[:2], -1))

    def _loops(self, size):
        """Our choice: on a single CPU device, long attention processes examples one by one.

        One example's weights stay in cache and are recomputed in the backward pass: a training step
        on 8 x 512 tokens takes less than half the time. Up to 256 x 256, one head's weights fit
        anyway, and all examples at once take two thirds of the time. Accelerators and sharded
        batches need all examples at once.
        """
        if self.loop is None:
            single_cpu = jax.default_backend() == "cpu" and jax.device_count() == 1
            return single_cpu and size > 256 * 256
        return self.loop

    def __call__(self, x_BxQxE, keys_values, biases, deterministic=True):
        return self.attend(self.queries(x_BxQxE), keys_values, biases, deterministic)


class Mlp(nn.Module):
    """The gated MLP: the product of act(x @ wi_i) over the activations, then wo."""

    mlp_dim: int
    emb_dim: int
    activations: tuple[str, ...]
    dtype: Any = jnp.float32
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, x_BxLxE, deterministic=True):
        hidden_BxLxM = 1
        for i, activation in enumerate(self.activations):
            name = "wi" if len(self.activations) == 1 else f"wi_{i}"
            part = Dense(self.mlp_dim, axes=("embed", "mlp"), dtype=self.dtype, name=name)(x_BxLxE)
            if activation != "linear":  # flax's gelu is the tanh form, as in T5 1.1
                part = getattr(nn, activation)(part)
            hidden_BxLxM = hidden_BxLxM * part
        dropout = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))
        hidden_BxLxM = dropout(hidden_BxLxM, deterministic=deterministic)
        hidden_BxLxM = partitioning.with_sharding_constraint(
            hidden_BxLxM, ("batch", "length", "mlp")
        )
        return Dense(self.emb_dim, axes=("mlp", "embed"), dtype=self.dtype, name="wo")(hidden_BxLxM)
