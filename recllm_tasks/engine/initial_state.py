"""The state that training starts from: random parameters, or those of a checkpoint."""

import filecmp
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import seqio
from flax import traverse_util

from recllm_tasks import progress
from recllm_tasks.engine import devices, saved_run
from recllm_tasks.engine.train_step import State
from recllm_tasks.errors import UserError
from recllm_tasks.models.formats import conversion
from recllm_tasks.models.formats.checkpoint import Source
from recllm_tasks.models.formats.parameters import check_shapes, shapes_of
from recllm_tasks.models.network import Transformer
from recllm_tasks.prompts.vocabulary import sentencepiece_file


def random_state(
    network: Transformer,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    seed: int,
    step: int = 0,
) -> State:
    """Random parameters, spread over the mesh, and a fresh optimizer."""
    token = jnp.ones((1, 1), jnp.int32)

    def draw(key):
        return network.init(key, token, token, token, enable_dropout=False)

    key = jax.random.key(seed)
    shardings = devices.parameter_shardings(mesh, jax.eval_shape(draw, key))
    params = jax.jit(lambda key: draw(key)["params"], out_shardings=shardings)(key)
    return _fresh(params, optimizer, mesh, step)


def _fresh(params: Any, optimizer, mesh: jax.sharding.Mesh, step: int) -> State:
    """A state with a new optimizer state, at the start of warm-up."""
    replicated = devices.replicated(mesh)

    def spread(x):
        return x if len(x.sharding.device_set) == mesh.size else jax.device_put(x, replicated)

    opt_state = jax.tree.map(spread, jax.jit(optimizer.init)(params))
    return State(jax.device_put(jnp.int32(step), replicated), params, opt_state)


def open_checkpoint(
    path: str, network: Transformer, vocabulary: seqio.SentencePieceVocabulary
) -> Source:
    """The checkpoint in a folder: Hugging Face's, T5X's, a run of ours, or a converted one.

    Raises:
      UserError: it is not on this machine, is damaged, does not fit the network, or has another
        vocabulary.
    """
    if "://" in path:
        raise UserError(
            f"INITIAL_CHECKPOINT: got '{path}', expected a folder on this machine; download the "
            "checkpoint (`gcloud storage cp -r`, or the same model of Hugging Face) and give "
            "--gin.INITIAL_CHECKPOINT=FOLDER, or give --gin.INITIAL_CHECKPOINT=None to train from "
            "scratch"
        )
    source = conversion.open_any(path)
    check_shapes(source.where, shapes_of(source.config), shapes_of(network.config))
    used = vocabulary.sentencepiece_model_file
    if source.vocabulary is None and sentencepiece_file() is None:
        raise UserError(
            f"Vocabulary of INITIAL_CHECKPOINT '{path}': got none beside it, expected the file "
            "that it was trained with; bind vocabulary.sentencepiece_file.path to that file"
        )
    if source.vocabulary and not filecmp.cmp(source.vocabulary, used, shallow=False):
        raise UserError(
            f"vocabulary.sentencepiece_file.path: got '{used}', expected that of "
            f"INITIAL_CHECKPOINT, '{source.vocabulary}', or a copy of it; bind it to that file"
        )
    return source


def state_of(
    source: Source,
    network: Transformer,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    step: int,
) -> State:
    """The checkpoint's parameters in float32, read one by one and spread over the mesh."""
    like = traverse_util.flatten_dict(saved_run.abstract_params(network, mesh), sep="/")
    params = {}
    total = sum(leaf.size for leaf in like.values())
    with progress.work(f"read {source.where}", total) as work:
        for path, leaf in like.items():
            array = source.read(path).astype(np.float32, copy=False)
            params[path] = jax.device_put(array, leaf.sharding)
            work.advance(leaf.size)
    return _fresh(traverse_util.unflatten_dict(params, sep="/"), optimizer, mesh, step)
