"""The state that training starts from: random parameters, or those of a checkpoint."""

import dataclasses
import filecmp
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import seqio
from flax import traverse_util

from recllm_tasks import progress, tasks
from recllm_tasks.data.id_schemes import MAX_CODES, read_numbers
from recllm_tasks.data.item_embeddings import check_embeddings, network_vectors
from recllm_tasks.engine import devices, saved_run
from recllm_tasks.engine.train_step import State
from recllm_tasks.errors import UserError, check_number
from recllm_tasks.models import hub
from recllm_tasks.models.formats import conversion
from recllm_tasks.models.formats.checkpoint import Source
from recllm_tasks.models.formats.parameters import (
    OUTPUT_NORM,
    check_shapes,
    output_scale,
    shapes_of,
)
from recllm_tasks.models.network import Transformer
from recllm_tasks.prompts.vocabulary import sentencepiece_file
from recllm_tasks.prompts.vocabulary_training import grown_rows

# The value of `item_embeddings.source` for TF-IDF of the texts.
TEXTS = "texts"

_SETTING = "initial_state.item_embeddings.source"

# Shorter vectors, of rows whose mean square is 1, are rounding errors.
_ROUNDING = 1e-5


@gin.configurable(module="initial_state")
def item_embeddings(
    source: str | None = None, stddev: float | None = None
) -> tuple[str | None, float | None]:
    """What the embeddings of atomic ids, and of the codes of semantic ids, start from.

    Args:
      source: "texts" (TF-IDF of titles, brands, categories and descriptions), or what `recllm
        prepare --embeddings` accepts: the folder of a text model, or a file. None: random.
      stddev: root of the mean square of all rows; None is that of the random embeddings.
    """
    if stddev is not None:
        check_number("initial_state.item_embeddings.stddev", stddev, 0)
    return source, stddev


@gin.configurable(module="initial_state")
def normal(stddev: float | None = None) -> float | None:
    """How small random parameters begin.

    Args:
      stddev: of the token table and of all kernels, as in BERT (Devlin et al. 2019). None: as T5
        begins.

    Our choice where a small model is trained from scratch with AdamW: T5's embeddings begin with a
    standard deviation of 1, which such steps hardly move, and its layers add as much to the item
    that was read as the item itself. With small embeddings, logits that are tied to them should not
    be scaled down (`T5Config.scaled_logits`).
    """
    if stddev is not None:
        check_number("initial_state.normal.stddev", stddev, 0)
    return stddev


class ItemRows(NamedTuple):
    """Rows of the token embedding: `tokens` int32 [n], `vectors` float32 [n, E], mean square 1."""

    tokens: np.ndarray
    vectors: np.ndarray
    stddev: float | None


def item_rows(
    found: seqio.Task | seqio.Mixture,
    network: Transformer,
    seed: int,
    initial_checkpoint: str | None,
    is_resumed: bool,
) -> ItemRows | None:
    """The rows that `item_embeddings` asks for; None if it asks for none or the run is resumed.

    Raises:
      UserError: an id is not one piece of the vocabulary, a checkpoint is given too, no item has a
        text, or the embeddings cannot be read.
    """
    wanted, stddev = item_embeddings()
    if wanted is None:
        return None
    if initial_checkpoint is not None:
        raise UserError(
            f"{_SETTING}: got '{wanted}' and INITIAL_CHECKPOINT '{initial_checkpoint}', expected "
            f"one of them; give --gin.{_SETTING}=None, or --gin.INITIAL_CHECKPOINT=None"
        )
    if is_resumed:
        return None
    of_task = tasks.source_of(found)
    catalog, vocabulary = of_task.catalog(), found.output_features["inputs"].vocabulary
    pieces = vocabulary.tokenizer.EncodeAsIds(list(catalog.short_id))
    numbers_NxC = read_numbers(catalog.short_id)
    for short_id, its, numbers in zip(catalog.short_id, pieces, numbers_NxC):
        # The last number of a semantic id is several pieces if many items share the codes.
        if len(its) != len(numbers) and (len(numbers) == 1 or numbers[-1] < MAX_CODES):
            raise UserError(
                f"{_SETTING} for '{of_task.dataset_name}': got {len(its)} pieces of the vocabulary "
                f"for the id {short_id}, expected {len(numbers)}; prepare the dataset with --ids "
                f"atomic or semantic and use its own vocabulary, or give --gin.{_SETTING}=None"
            )
    source = None if wanted == TEXTS else check_embeddings(wanted)
    with progress.work("embed items", len(catalog)) as work:
        try:
            vectors = network_vectors(
                catalog, source, of_task.dataset_name, seed, network.config.emb_dim, work.advance
            )
        except UserError as error:
            raise UserError(f"{error}; or give --gin.{_SETTING}=None") from error
    known = vectors.any(axis=1)
    levels = max(1, numbers_NxC.shape[1] - 1)
    tokens_NxC = np.array([its[:levels] for its in pieces], np.int32)[known]
    if levels == 1:
        return ItemRows(tokens_NxC[:, 0], vectors[known], stddev)
    return ItemRows(*_rows_of_codes(tokens_NxC, vectors[known]), stddev)


def _rows_of_codes(
    tokens_NxC: np.ndarray, vectors_NxE: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and vectors of the codes of semantic ids, from the vectors of the items.

    Our choice: as the codes themselves were found (data/semantic_ids.py). A code is the mean of its
    items, in what the levels before leave of them, scaled to equal lengths. The mean square of each
    level's rows is 1. The last number says nothing about an item, and begins at random.
    """
    rest_NxE, tokens, vectors = vectors_NxE, [], [vectors_NxE[:0]]
    for token_N in tokens_NxC.T:
        token_K, code_N, size_K = np.unique(token_N, return_inverse=True, return_counts=True)
        mean_KxE = np.zeros((len(token_K), vectors_NxE.shape[1]), np.float64)
        np.add.at(mean_KxE, code_N, rest_NxE)
        mean_KxE /= size_K[:, np.newaxis]
        # Where nothing is left, a code says nothing either.
        has_own_K = np.linalg.norm(mean_KxE, axis=1) > _ROUNDING
        tokens.append(token_K[has_own_K])
        if has_own_K.any():
            mean_square = np.square(mean_KxE[has_own_K]).mean()
            vectors.append(mean_KxE[has_own_K] / np.sqrt(mean_square))
        rest_NxE = rest_NxE - mean_KxE[code_N]
        length_N = np.linalg.norm(rest_NxE, axis=1, keepdims=True)
        rest_NxE = np.divide(
            rest_NxE, length_N, out=np.zeros_like(rest_NxE), where=length_N > _ROUNDING
        )
    return np.concatenate(tokens), np.concatenate(vectors).astype(np.float32)


def random_state(
    network: Transformer,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    seed: int,
    step: int = 0,
    items: ItemRows | None = None,
    stddev: float | None = None,
) -> State:
    """Random parameters, but for `items`, spread over the mesh, and a fresh optimizer.

    `stddev` is what `normal` says.
    """
    token = jnp.ones((1, 1), jnp.int32)

    def draw(key):
        return network.init(key, token, token, token, enable_dropout=False)

    def draw_params(key):
        params = draw(key)["params"]
        if stddev is None:
            return params
        return _normal(params, key, stddev)

    key = jax.random.key(seed)
    shardings = devices.parameter_shardings(mesh, jax.eval_shape(draw, key))
    params = jax.jit(draw_params, out_shardings=shardings)(key)
    if items is not None:
        table = params["token_embedder"]["embedding"]
        filled = jax.jit(_fill, out_shardings=table.sharding)(table, items)
        params = {**params, "token_embedder": {"embedding": filled}}
    return _fresh(params, optimizer, mesh, step)


def _normal(params: Any, key: jax.Array, stddev: float) -> Any:
    """The parameters with the table and all kernels drawn anew; see `normal`."""
    flat = traverse_util.flatten_dict(params, sep="/")
    for number, (path, array) in enumerate(sorted(flat.items())):
        if path.endswith(("/embedding", "/kernel")):
            own = jax.random.fold_in(key, number)
            flat[path] = stddev * jax.random.normal(own, array.shape, array.dtype)
    return traverse_util.unflatten_dict(flat, sep="/")


def _fill(table_VxE: jax.Array, items: ItemRows) -> jax.Array:
    stddev = jnp.std(table_VxE) if items.stddev is None else items.stddev
    return table_VxE.at[items.tokens].set(items.vectors * stddev)


def _fresh(params: Any, optimizer, mesh: jax.sharding.Mesh, step: int) -> State:
    """A state with a new optimizer state, at the start of warm-up."""
    shardings = devices.moment_shardings(optimizer, params, mesh)
    opt_state = jax.jit(optimizer.init, out_shardings=shardings)(params)
    return State(jax.device_put(jnp.int32(step), devices.replicated(mesh)), params, opt_state)


def open_checkpoint(
    path: str, network: Transformer, vocabulary: seqio.SentencePieceVocabulary
) -> Source:
    """The checkpoint in a folder: Hugging Face's, T5X's, a run of ours, or a converted one; or one
    that `recllm train --from` has fetched, by its address.

    Raises:
      UserError: it is not on this machine, is damaged, does not fit the network, or has another
        vocabulary.
    """
    if path.startswith(hub.SCHEME):
        path = str(hub.cached(path))
    elif "://" in path:
        raise UserError(
            f"INITIAL_CHECKPOINT: got '{path}', expected a folder on this machine; download the "
            "checkpoint (`gcloud storage cp -r`) and give --gin.INITIAL_CHECKPOINT=FOLDER; or give "
            "--from google/flan-t5-base in place of a model file, or give "
            "--gin.INITIAL_CHECKPOINT=None to train from scratch"
        )
    source = conversion.open_any(path)
    used = vocabulary.sentencepiece_model_file
    if source.vocabulary is None and sentencepiece_file() is None:
        raise UserError(
            f"Vocabulary of INITIAL_CHECKPOINT '{path}': got none beside it, expected the file "
            "that it was trained with; bind vocabulary.sentencepiece_file.path to that file"
        )
    if source.vocabulary and not filecmp.cmp(source.vocabulary, used, shallow=False):
        rows = grown_rows(str(source.vocabulary), used)
        # Of a checkpoint, the file may be another model's.
        if rows is None or rows.max() >= source.config.vocab_size:
            raise UserError(
                f"vocabulary.sentencepiece_file.path: got '{used}', expected that of "
                f"INITIAL_CHECKPOINT, '{source.vocabulary}', or a copy of it; bind it to that file"
            )
        source = with_more_ids(source, rows, network.config.vocab_size)
    check_shapes(source.where, shapes_of(source.config), shapes_of(network.config))
    return source


def with_more_ids(source: Source, rows: np.ndarray, vocab_size: int) -> Source:
    """A checkpoint of a dataset that was appended to, with embeddings for the new ids.

    Our choice: they start from the mean of all pieces' embeddings, so that an item that nobody has
    bought is neither likely nor unlikely; text embeddings would lie in a space that training has
    left.

    Args:
      source: the checkpoint.
      rows: from `grown_rows`.
      vocab_size: of the new network, at least the number of rows.
    """
    known = rows[rows >= 0]
    axes = {"token_embedder/embedding": 0, "decoder/logits_dense/kernel": 1}

    def read(path: str) -> np.ndarray:
        array = source.read(path)
        if path not in axes:
            return array
        table = np.moveaxis(array, axes[path], 0)
        mean = table[known].mean(axis=0, dtype=np.float64).astype(table.dtype)
        grown = np.tile(mean, (vocab_size, 1))
        grown[np.flatnonzero(rows >= 0)] = table[known]
        return np.moveaxis(grown, 0, axes[path])

    config = dataclasses.replace(source.config, vocab_size=vocab_size)
    return dataclasses.replace(source, config=config, read=read)


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
            if path == OUTPUT_NORM:
                array = array / output_scale(network.config)
            params[path] = jax.device_put(array, leaf.sharding)
            work.advance(leaf.size)
    return _fresh(traverse_util.unflatten_dict(params, sep="/"), optimizer, mesh, step)
