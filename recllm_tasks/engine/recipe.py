"""Settings for a dataset that nobody chose settings for: `recllm train DATASET --out RUN`.

They are those that measured best on a dataset of that kind: `runs/ids_sequence.gin` on Toys and
Beauty, `runs/quickstart.gin` on MovieLens 100k. A dataset like these gets them unchanged; for
others, only what does not fit is changed, and each change says why.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from recllm_tasks import gin_files
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.dataset_info import DatasetInfo
from recllm_tasks.data.options import ATOMIC
from recllm_tasks.errors import UserError
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.vocabulary import DatasetVocabulary
from recllm_tasks.prompts.vocabulary_training import MAX_SHARE_OF_IDS, NUM_PIECES

MODEL = "models/ids.gin"

# Our choice: a catalog is small as long as its ids are pieces of any vocabulary. MovieLens 100k has
# 1,349 items; the next larger dataset that was measured, Toys, has 11,924.
_SMALL_CATALOG = int(MAX_SHARE_OF_IDS * NUM_PIECES)

# The inputs of sequences are empty. Lengths of targets are multiples of the latter.
_INPUTS, _LENGTH_STEP = 16, 64

# Our choices; see `_schedule`.
_LEAST_STEPS, _MOST_STEPS = 1000, 60_000
_LEAST_EPOCHS = 3
_VALIDATIONS, _MOST_STEPS_BETWEEN = 20, 2000

# Of runs/ids_sequence.gin.
_WARMUP_STEPS, _PATIENCE = 100, 4

# What to append for a model whose file has the size of a vocabulary that the dataset's may exceed.
_OWN_VOCABULARY = """
from __gin__ import dynamic_registration

from recllm_tasks import tasks
from recllm_tasks.models import network

tasks.vocabulary_size.name = %MIXTURE_OR_TASK_NAME
network.T5Config.vocab_size = @tasks.vocabulary_size()
"""


class Recipe(NamedTuple):
    """Settings and the reasons for them.

    Attributes:
      text: gin; includes, then what differs from the included files.
      facts: what the choice depends on, in one line.
      notes: a line for each thing that may be better otherwise.
    """

    text: str
    facts: str
    notes: Sequence[str] = ()


class _Measured(NamedTuple):
    """A recipe as it was measured: its files, and what they say.

    `tokens_of_item` are those of an item in an example, and in all examples of it together, if an
    id is one token; `answers` those that are no id.
    """

    files: tuple[str, ...]
    epochs: int
    batch_size: int
    targets: int
    ids_of_item: int
    answers: int


_SEQUENCE = _Measured(("runs/ids_sequence.gin",), 20, 16, 64, 1, 0)
_WITH_RATINGS = _Measured((*_SEQUENCE.files, "runs/quickstart.gin"), 15, 8, 128, 2, 1)


class _Change(NamedTuple):
    """A setting that differs from the files."""

    name: str
    value: Any
    why: str


def choose(dataset: str, model: str | None = None) -> Recipe:
    """The settings for a prepared dataset.

    Args:
      dataset: its name.
      model: a model file in place of `MODEL`. One that is not made for ids, as that one is, gets
        the paper's prompts and schedule.

    Raises:
      UserError: the dataset is not prepared, or has nothing to train on.
    """
    source = CatalogSource(dataset)
    info, catalog = source.info(), source.catalog()
    if not info.users_of("train") or not catalog.train_count.sum():
        raise UserError(
            f"Nothing to train on in '{dataset}': got no interaction in train, expected at least "
            "one; prepare it from more interactions, with a smaller --k_core, or with later cuts"
        )
    vocabulary = DatasetVocabulary(source.vocabulary_file)
    pieces = max(map(len, vocabulary.tokenizer.EncodeAsIds(list(catalog.short_id))))
    texts = (catalog.title, catalog.brand, catalog.categories, catalog.description)
    has_texts = any(map(any, texts))
    facts = _facts(info, pieces, has_texts)
    if model is not None and not _is_made_for_ids(model):
        return Recipe(_of_the_paper(model, info.has_ratings), facts)
    is_small = len(catalog) <= _SMALL_CATALOG and pieces == 1
    measured = _WITH_RATINGS if info.has_ratings and is_small else _SEQUENCE
    changes = list(_changes(measured, info, catalog, pieces, has_texts, len(jax.local_devices())))
    files = (model or MODEL, "runs/finetune.gin", *measured.files)
    notes = _notes(info, pieces, has_texts, measured)
    return Recipe(_text(files, changes), facts, list(notes))


def _facts(info: DatasetInfo, pieces: int, has_texts: bool) -> str:
    counts = info.statistics
    return (
        f"{counts.users:,} users, {counts.items:,} items, {counts.interactions:,} interactions, "
        f"{'' if info.has_ratings else 'no '}ratings, {'' if has_texts else 'no '}texts, "
        f"{info.ids} ids of {pieces} token{'s' * (pieces > 1)}"
    )


def _changes(
    measured: _Measured,
    info: DatasetInfo,
    catalog: Catalog,
    pieces: int,
    has_texts: bool,
    devices: int,
) -> Iterator[_Change]:
    """What does not fit a dataset with ids of `pieces` tokens."""
    needed = info.window * (pieces + measured.answers) + 3
    length = max(measured.targets, -(-needed // _LENGTH_STEP) * _LENGTH_STEP)
    if length != measured.targets:
        why = f"{info.window} items of {pieces + measured.answers} tokens"
        yield _Change("TASK_FEATURE_LENGTHS", {"inputs": _INPUTS, "targets": length}, why)
    batch_size = -(-measured.batch_size // devices) * devices
    if batch_size != measured.batch_size:
        yield _Change("BATCH_SIZE", batch_size, f"a multiple of {devices} devices")
    tokens = int(catalog.train_count.sum()) * (pieces * measured.ids_of_item + measured.answers)
    yield from _schedule(tokens / (batch_size * length), measured.epochs)
    if pieces > 1:
        yield _Change("initial_state.item_embeddings.source", None, f"ids are {pieces} tokens")
    elif not has_texts:
        yield _Change("initial_state.item_embeddings.source", None, "the items have no texts")


def _schedule(steps: float, epochs: int) -> Iterator[_Change]:
    """What to change in a schedule of `epochs` epochs of about `steps` steps.

    Measured were 20 epochs of 135 steps (Toys) and 15 of 285 (MovieLens). Our choice: a smaller
    dataset gets as many epochs as make `_LEAST_STEPS`; a larger one as few as make `_MOST_STEPS`,
    which are hours of two cores, but not fewer than `_LEAST_EPOCHS`. Every validation saves a state
    to resume from, so they are not far apart; and validating takes longer than a few steps.
    """
    chosen = epochs
    if steps * epochs < _LEAST_STEPS:
        chosen = math.ceil(_LEAST_STEPS / steps)
    elif steps * epochs > _MOST_STEPS:
        chosen = min(epochs, max(_LEAST_EPOCHS, round(_MOST_STEPS / steps)))
    if chosen != epochs:
        yield _Change("EPOCHS", chosen, f"of about {steps:,.2g} steps")
    total = round(steps * chosen)
    if total < 5 * _WARMUP_STEPS:
        yield _Change("WARMUP_STEPS", total // 5, "a fifth of the steps")
    period = min(max(round(steps), total // _VALIDATIONS), _MOST_STEPS_BETWEEN)
    if period != round(steps):
        yield _Change("EVAL_PERIOD", period, "steps")
    if period < steps:
        patience = max(_PATIENCE, math.ceil(2 * steps / period))
        yield _Change("PATIENCE", patience, "validations; two epochs")


def _notes(info: DatasetInfo, pieces: int, has_texts: bool, measured: _Measured) -> Iterator[str]:
    if pieces > 1:
        yield (
            f"{info.ids} ids of {pieces} tokens: `recllm prepare --ids {ATOMIC}` measured far "
            "better (on Toys NDCG@10 .049 against .0003 after the same minutes of training)"
        )
        return
    if not has_texts:
        yield (
            "embeddings begin at random, as the items have no texts; titles (`recllm prepare "
            "--items`) measured better (on Toys NDCG@10 .077 against .050 in validation)"
        )
    if info.has_ratings and measured is _SEQUENCE:
        yield "ratings are not learned; --gin_file=runs/quickstart.gin learns them too"


def _is_made_for_ids(model: str) -> bool:
    size = gin_files.values_in(model).get("network.T5Config.vocab_size")
    return size == "@tasks.vocabulary_size()"


def _of_the_paper(model: str, has_ratings: bool) -> str:
    """The paper's prompts and schedule."""
    mixture = "mixtures/ut_at.gin" if has_ratings else "mixtures/reat.gin"
    text = _text((model, "runs/finetune.gin", mixture))
    published = gin_files.values_in(model).get("PUBLISHED_VOCABULARY")
    return text + _OWN_VOCABULARY if published in (None, "None") else text


def _text(files: Sequence[str], changes: Sequence[_Change] = ()) -> str:
    lines = [f"include {file!r}" for file in files]
    lines += [f"{change.name} = {change.value!r}  # {change.why}" for change in changes]
    return "\n".join(lines) + "\n"
