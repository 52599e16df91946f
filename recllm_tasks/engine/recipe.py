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
_LEAST_STEPS, _MOST_STEPS = 400, 60_000
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


class Facts(NamedTuple):
    """What settings depend on.

    Attributes:
      users: of the dataset.
      items: of its catalog.
      interactions: in the train split.
      has_ratings: whether ratings can be learned.
      has_texts: whether any item has a title, brand, category or description.
      ids: the scheme of the ids.
      pieces: tokens of the longest id in the dataset's own vocabulary.
      window: most items of a history.
      devices: of this machine.
    """

    users: int
    items: int
    interactions: int
    has_ratings: bool
    has_texts: bool
    ids: str
    pieces: int
    window: int
    devices: int = 1

    def __str__(self) -> str:
        return (
            f"{self.users:,} users, {self.items:,} items, {self.interactions:,} interactions to "
            f"learn from, {'' if self.has_ratings else 'no '}ratings, "
            f"{'' if self.has_texts else 'no '}texts, {self.ids} ids of {self.pieces} "
            f"token{'s' * (self.pieces > 1)}"
        )


class Recipe(NamedTuple):
    """Settings: gin that includes files, then what differs from them; and what may be better."""

    text: str
    notes: Sequence[str] = ()


class _Measured(NamedTuple):
    """A recipe as it was measured: its files, and what they say.

    Where an id is one token, an item takes `tokens` in an epoch, and `1 + answers` in a sequence.
    """

    files: tuple[str, ...]
    epochs: int
    batch_size: int
    targets: int
    tokens: int
    answers: int


_SEQUENCE = _Measured(("runs/ids_sequence.gin",), 20, 16, 64, 1, 0)
_WITH_RATINGS = _Measured((*_SEQUENCE.files, "runs/quickstart.gin"), 15, 8, 128, 3, 1)


class _Change(NamedTuple):
    """A setting that differs from the files."""

    name: str
    value: Any
    why: str


def facts_of(dataset: str) -> Facts:
    """The facts of a prepared dataset and of this machine.

    Raises:
      UserError: the dataset is not prepared, or has nothing to train on.
    """
    source = CatalogSource(dataset)
    info, catalog = source.info(), source.catalog()
    interactions = int(catalog.train_count.sum())
    if not interactions:
        raise UserError(
            f"Nothing to train on in '{dataset}': got no interaction in train, expected at least "
            "one; prepare it from more interactions, with a smaller --k_core, or with later cuts"
        )
    vocabulary = DatasetVocabulary(source.vocabulary_file)
    texts = (catalog.title, catalog.brand, catalog.categories, catalog.description)
    return Facts(
        users=info.statistics.users,
        items=len(catalog),
        interactions=interactions,
        has_ratings=info.has_ratings,
        has_texts=any(map(any, texts)),
        ids=info.ids,
        pieces=max(map(len, vocabulary.tokenizer.EncodeAsIds(list(catalog.short_id)))),
        window=info.window,
        devices=len(jax.local_devices()),
    )


def choose(facts: Facts, model: str | None = None) -> Recipe:
    """The settings for a dataset. DATASET and MODEL_DIR are left to be given.

    Args:
      facts: of the dataset.
      model: a model file in place of `MODEL`. One that is not made for ids, as that one is, gets
        the paper's prompts and schedule.
    """
    if model is not None and not _is_made_for_ids(model):
        return Recipe(_of_the_paper(model, facts.has_ratings))
    is_small = facts.items <= _SMALL_CATALOG and facts.pieces == 1
    measured = _WITH_RATINGS if facts.has_ratings and is_small else _SEQUENCE
    files = (model or MODEL, "runs/finetune.gin", *measured.files)
    notes = list(_notes(facts, measured))
    return Recipe(_text(files, list(_changes(measured, facts))), notes)


def _changes(measured: _Measured, facts: Facts) -> Iterator[_Change]:
    """What does not fit the dataset."""
    tokens = facts.pieces + measured.answers
    needed = facts.window * tokens + 3
    length = max(measured.targets, -(-needed // _LENGTH_STEP) * _LENGTH_STEP)
    if length != measured.targets:
        why = f"{facts.window} items of {tokens} token{'s' * (tokens > 1)}"
        yield _Change("TASK_FEATURE_LENGTHS", {"inputs": _INPUTS, "targets": length}, why)
    batch_size = -(-measured.batch_size // facts.devices) * facts.devices
    if batch_size != measured.batch_size:
        yield _Change("BATCH_SIZE", batch_size, f"a multiple of {facts.devices} devices")
    of_epoch = facts.interactions * (measured.tokens if facts.pieces == 1 else facts.pieces)
    of_epoch += facts.users * (1 + measured.answers)  # the ends of sequences
    yield from _schedule(of_epoch / (batch_size * length), measured.epochs)
    if facts.pieces > 1 or not facts.has_texts:
        why = f"ids are {facts.pieces} tokens" if facts.pieces > 1 else "the items have no texts"
        yield _Change("initial_state.item_embeddings.source", None, why)


def _schedule(steps: float, epochs: int) -> Iterator[_Change]:
    """What to change in a schedule of `epochs` epochs of about `steps` steps.

    Measured were 20 epochs of 135 steps (Toys) and 15 of 285 (MovieLens). On Gift Cards, with 8
    steps, validation NDCG@10 of one seed was .161 after 200 steps, .231 after 400, .229 after 700
    and .204 after at most 1,390. Our choice: a smaller dataset gets as many epochs as make
    `_LEAST_STEPS`; a larger one as few as make `_MOST_STEPS`, which are hours of two cores, but not
    fewer than `_LEAST_EPOCHS`; neither was measured above 200,000 interactions. Every validation
    saves a state to resume from, so they are not far apart; and validating takes longer than a few
    steps.
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
    patience = math.ceil(2 * steps / period)
    if patience > _PATIENCE:
        yield _Change("PATIENCE", patience, "validations; two epochs")


def _notes(facts: Facts, measured: _Measured) -> Iterator[str]:
    if facts.pieces > 1:
        yield (
            f"{facts.ids} ids of {facts.pieces} tokens: `recllm prepare --ids {ATOMIC}` measured "
            "far better (on Toys NDCG@10 .049 against .0003 after the same minutes of training)"
        )
        return
    if not facts.has_texts:
        yield (
            "embeddings begin at random, as the items have no texts; titles (`recllm prepare "
            "--items`) measured better (on Toys NDCG@10 .077 against .050 in validation)"
        )
    if facts.has_ratings and measured is _SEQUENCE:
        yield "ratings are not learned; --gin_file=runs/quickstart.gin learns them too"


def _is_made_for_ids(model: str) -> bool:
    size = gin_files.values_in(model).get("network.T5Config.vocab_size")
    return size == "@tasks.vocabulary_size"


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
