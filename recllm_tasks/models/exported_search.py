"""A beam search as a program that JAX alone runs: StableHLO, and its arrays beside it.

The program is search(arrays, inputs) or search(arrays, inputs, beginning), then the lists' bits and
before (see ItemMask), and gives (tokens, log_probs, rows) of `Beams`. `arrays` has the parameters
and the trie by name, so that a newer checkpoint of the same network needs no new program.

Shapes: B batch, L input length, P tokens that a target begins with, W words of a mask.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from recllm_tasks.models.beam_search import beam_search
from recllm_tasks.models.item_mask import ItemMask
from recllm_tasks.models.network import Transformer
from recllm_tasks.models.trie import Trie

PLATFORMS = ("cpu", "cuda", "tpu")

_TRIE = (
    "child_start",
    "child_token",
    "node_lo",
    "node_hi",
    "end_row",
    "item_rows",
    "item_positions",
)


def arrays_of(params: Any, trie: Trie) -> dict[str, np.ndarray]:
    """The parameters and the trie by name, such as params/encoder/… and trie/node_lo."""
    leaves = jax.tree_util.tree_leaves_with_path({"params": params})
    found = {"/".join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}
    return found | {f"trie/{name}": np.asarray(getattr(trie, name)) for name in _TRIE}


def export(
    model: Transformer,
    arrays: Mapping[str, np.ndarray],
    trie: Trie,
    batch: int,
    length: int,
    *,
    length_of_beginning: int | None,
    num_beams: int,
    scores_eos: bool,
) -> bytes:
    """The program of the module's docstring, for one shape, for any of PLATFORMS.

    Args:
      model: the network.
      arrays: from `arrays_of`.
      trie: of the same arrays.
      batch: B.
      length: L.
      length_of_beginning: P, or None where targets have none.
      num_beams: as in `beam_search`.
      scores_eos: the same.
    """

    def search(arrays, inputs, *more: Any):
        beginning, bits, before = more if len(more) == 3 else (None, *more)
        params: dict[str, Any] = {}
        for name, leaf in arrays.items():
            *path, last = name.split("/")
            inner = params
            for key in path:
                inner = inner.setdefault(key, {})
            inner[last] = leaf
        own = trie.replace(**params["trie"])
        mask = ItemMask(bits, before)
        return tuple(
            beam_search(
                model,
                params["params"],
                inputs,
                own,
                None,
                None,
                beginning,
                num_beams=num_beams,
                eos_id=trie.eos_id,
                scores_eos=scores_eos,
                allowed=mask,
            )
        )

    words = trie.num_items // 32 + 1
    lengths = [length, *([] if length_of_beginning is None else [length_of_beginning])]
    shapes: list[Any] = [jax.ShapeDtypeStruct((batch, size), jnp.int32) for size in lengths]
    shapes += [jax.ShapeDtypeStruct((batch, words), dtype) for dtype in (jnp.uint32, jnp.int32)]
    given = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in arrays.items()}
    exported = jax.export.export(jax.jit(search), platforms=PLATFORMS)(given, *shapes)
    return bytes(exported.serialize())
