"""Names and shapes of a T5's parameters, and checks of a checkpoint against them."""

import functools
import re
import types
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import traverse_util

from recllm_tasks.errors import UserError
from recllm_tasks.models.config import T5Config
from recllm_tasks.models.network import Transformer

Shapes = Mapping[str, tuple[int, ...]]

# Names that a message lists before it counts the rest.
_LISTED = 8


# Its scale can do what `T5Config.scaled_logits` does.
OUTPUT_NORM = "decoder/decoder_norm/scale"


def output_scale(config: T5Config) -> float:
    """What `OUTPUT_NORM` is multiplied by for the same logits with `scaled_logits`."""
    is_plain = config.logits_via_embedding and not config.scaled_logits
    return config.emb_dim**0.5 if is_plain else 1.0


@functools.cache
def shapes_of(config: T5Config) -> Shapes:
    """The shape of every parameter by path, without allocating any."""
    token = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    network = Transformer(config)
    tree = jax.eval_shape(
        lambda *tokens: network.init(jax.random.key(0), *tokens, enable_dropout=False),
        *[token] * 3,
    )["params"]
    leaves = traverse_util.flatten_dict(tree, sep="/")
    return types.MappingProxyType({path: leaf.shape for path, leaf in leaves.items()})


def sizes_of(where: str, shapes: Shapes) -> T5Config:
    """The sizes of a T5, inferred from its parameters' shapes.

    Activations have no shape. Our choice: a gated MLP is T5 1.1's (gelu), any other T5's (relu).

    Raises:
      UserError: a parameter that this needs is missing.
    """
    layer = "encoder/layers_0"
    try:
        vocab_size, emb_dim = shapes["token_embedder/embedding"]
        num_heads, num_buckets = shapes["encoder/relpos_bias/rel_embedding"]
        _, joined = shapes[f"{layer}/attention/query/kernel"]
        mlp_dim, _ = shapes[f"{layer}/mlp/wo/kernel"]
    except (KeyError, ValueError) as error:
        raise UserError(
            f"No T5 in '{where}': got {error} and {len(shapes)} arrays such as "
            f"{next(iter(sorted(shapes)), 'none')}, expected the parameters of T5X's T5 1.1 "
            "(without scanned layers); give the folder of one checkpoint"
        ) from error
    return T5Config(
        vocab_size=vocab_size,
        emb_dim=emb_dim,
        num_heads=num_heads,
        num_encoder_layers=_count_layers("encoder", shapes),
        num_decoder_layers=_count_layers("decoder", shapes),
        head_dim=max(1, joined // num_heads),
        mlp_dim=mlp_dim,
        mlp_activations=("relu",) if f"{layer}/mlp/wi/kernel" in shapes else ("gelu", "linear"),
        logits_via_embedding="decoder/logits_dense/kernel" not in shapes,
        num_relative_buckets=num_buckets,
    )


def _count_layers(stack: str, shapes: Shapes) -> int:
    found = (re.match(rf"{stack}/layers_(\d+)/", path) for path in shapes)
    return max((1 + int(match[1]) for match in found if match), default=1)


def check_shapes(where: str, found: Shapes, expected: Shapes) -> None:
    """Raises UserError that lists missing and unexpected names, and names with other shapes."""
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": [
            f"{name} {list(found[name])} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in found and tuple(found[name]) != tuple(shape)
        ],
    }
    found_problems = [f"{what}: {_listed(names)}" for what, names in problems.items() if names]
    if found_problems:
        raise UserError(
            f"Parameters in '{where}' do not fit: got {'; '.join(found_problems)}; expected the "
            f"{len(expected)} parameters of its model; give a complete T5 checkpoint"
        )


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
