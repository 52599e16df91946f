"""Settings for a dataset that nobody chose settings for: `recllm train DATASET --out RUN`.

They are those that measured best on a dataset of that kind: `runs/ids_sequence.gin` on Toys and
Beauty, with `runs/ids_semantic.gin` for semantic ids, and `runs/quickstart.gin` on MovieLens 100k.
A dataset like these gets them unchanged; for others, only what does not fit is changed, and each
change says why.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from recllm_tasks import gin_files
from recllm_tasks.data.options import ATOMIC, RANDOM, SEMANTIC
from recllm_tasks.engine import capacity
from recllm_tasks.errors import UserError
from recllm_tasks.files import is_intact
from recllm_tasks.models import hub
from recllm_tasks.models.config import T5Config
from recllm_tasks.models.formats import hugging_face_folder
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.prompts.vocabulary import DatasetVocabulary
from recllm_tasks.prompts.vocabulary_training import MAX_SHARE_OF_IDS, NUM_PIECES
from recllm_tasks.runs.run_folder import SETTINGS, VOCABULARY, Run

MODEL = "models/ids.gin"

# Our choice: a catalog is small as long as its ids are pieces of any vocabulary. MovieLens 100k has
# 1,349 items; the next larger dataset that was measured, Toys, has 11,924.
_SMALL_CATALOG = int(MAX_SHARE_OF_IDS * NUM_PIECES)

# What Toys says for atomic ids against others of several tokens.
_ATOMIC_AGAINST = {
    SEMANTIC: "NDCG@10 .077 against .035 in validation",
    RANDOM: "NDCG@10 .049 against .0003 after the same minutes of training",
}

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


# Of mixtures/ut_at.gin and mixtures/reat.gin.
_PAPER_LENGTHS = {"inputs": 1024, "targets": 256}

# Steps and batch of the paper for Base and XL (§4.1). Our choice: a model of more than
# `_LARGE` parameters is trained as XL is, as gin/models/flan_t5_large.gin is.
_STEPS_AND_BATCH = {False: (10_000, 64), True: (70_000, 16)}
_LARGE = 500e6
# Parameters that a processor trains in days; FLAN-T5-small has 77 million.
_SLOW = 20e6


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
_SEMANTIC = _Measured((*_SEQUENCE.files, "runs/ids_semantic.gin"), 20, 16, 128, 1, 0)
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
    if facts.ids == SEMANTIC:
        measured = _SEMANTIC
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
    says_nothing = facts.pieces > 1 and facts.ids != SEMANTIC
    if says_nothing or not facts.has_texts:
        why = f"ids are {facts.pieces} tokens" if says_nothing else "the items have no texts"
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
            f"better (on Toys {_ATOMIC_AGAINST[facts.ids]})"
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


class Pretrained(NamedTuple):
    """A Hugging Face checkpoint to start from.

    Attributes:
      name: for tables, such as flan-t5-base.
      checkpoint: INITIAL_CHECKPOINT: a folder, or the address of a commit of the Hub.
      vocabulary: its SentencePiece file.
      config: its sizes.
    """

    name: str
    checkpoint: str
    vocabulary: pathlib.Path
    config: T5Config


def continued(folder: pathlib.Path, dataset: str) -> Recipe:
    """The settings of a run on a dataset, with which training goes on from its parameters.

    Our choice: all settings stay, the schedule too: early stopping ends a run that has learned what
    is new. Embeddings of new ids start as `initial_state.with_more_ids` says.

    Args:
      folder: of the run.
      dataset: the one to train on.

    Raises:
      UserError: the run was trained on another dataset, or on one that this one does not continue.
    """
    folder = folder.expanduser().resolve()
    run, info = Run.load(str(folder)), CatalogSource(dataset).info()
    if run.dataset != dataset:
        raise UserError(
            f"--from '{folder}': got a run on '{run.dataset}', expected one on '{dataset}', whose "
            "ids it knows; give another run, or a checkpoint such as google/flan-t5-base"
        )
    if run.fingerprint not in info.appended_to:
        run.check_dataset(dataset, info.fingerprint, info.records_digest)
    settings = folder / SETTINGS
    if not settings.is_file() or not is_intact(settings.read_bytes()):
        got = "another checksum" if settings.exists() else "no such file"
        raise UserError(
            f"Damaged run: got {got} for '{settings}', expected what `recllm train` wrote; restore "
            "it from a copy"
        )
    values = gin_files.values_in(str(settings))
    changes = [_Change("INITIAL_CHECKPOINT", str(folder), "its parameters")]
    if values.get("INITIAL_STEP", "0") != "0":
        changes.append(_Change("INITIAL_STEP", 0, "steps of this run"))
    if values.get("initial_state.item_embeddings.source", "None") != "None":
        changes.append(_Change("initial_state.item_embeddings.source", None, "learned already"))
    for name, value in values.items():
        if name.endswith("vocabulary.sentencepiece_file.path") and value != "None":
            changes.append(_Change(name, str(folder / VOCABULARY), "the run's own copy"))
    return Recipe(_text((str(settings),), changes))


class Machine(NamedTuple):
    """Devices to train on; `memory` in bytes of each. A processor is one device."""

    devices: int
    memory: float
    is_accelerator: bool
    kind: str = ""


def pretrained(given: str, before: str | None = None) -> Pretrained:
    """A folder, or NAME[@REVISION] of the Hugging Face Hub, which is fetched.

    Args:
      given: the value of --from.
      before: INITIAL_CHECKPOINT of the run that may be resumed. Its commit is kept where `given`
        names the same model and no revision: a branch may have moved since.

    Raises:
      UserError: there is no such checkpoint, it cannot be fetched, or it cannot be trained.
    """
    folder = pathlib.Path(given).expanduser()
    asked = None if folder.is_dir() else hub.parse(given)
    if asked is None and not folder.is_dir():
        raise UserError(
            f"--from: got '{given}', which is no folder here, expected one, or a model of the "
            "Hugging Face Hub, such as google/flan-t5-base or google/flan-t5-base@REVISION; "
            "correct it"
        )
    if asked is None:
        folder = folder.resolve()
        name, checkpoint = folder.name, str(folder)
        if not hugging_face_folder.is_one(folder):
            raise UserError(
                f"--from: got '{folder}' without {hugging_face_folder.CONFIG}, expected a folder "
                "of Hugging Face; convert others first (`recllm convert … --to hf`)"
            )
    else:
        name, revision = asked
        known = hub.parse(before) if before else None
        if revision is None and known is not None and known[0] == name:
            revision = known[1]
        snapshot = hub.fetch(name, revision)
        name, folder, checkpoint = name.split("/")[-1], snapshot.folder, snapshot.address
    hugging_face_folder.check_trainable(folder)
    vocabulary = folder / hugging_face_folder.VOCABULARY
    if not vocabulary.is_file():
        raise UserError(hugging_face_folder.no_vocabulary(f"--from '{given}'"))
    source = hugging_face_folder.open_folder(folder)
    return Pretrained(name, checkpoint, vocabulary, source.config)


def this_machine() -> Machine:
    """What training may use; of a processor, half of the memory of this machine."""
    found = jax.local_devices()
    first = found[0]
    if first.platform == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2
        return Machine(len(found), memory / len(found), False, "CPU")
    stats, chip = first.memory_stats() or {}, capacity.chip_of(first.device_kind)
    memory = stats.get("bytes_limit", chip.memory * 1e9 if chip else 0)
    if not memory:
        raise UserError(
            f"Memory of '{first.device_kind}': got no size from JAX, expected one; give a model "
            "file and BATCH_SIZE in place of --from: --gin_file=models/flan_t5_base.gin"
        )
    return Machine(len(found), memory, True, first.device_kind)


def fine_tuned(start: Pretrained, has_ratings: bool, machine: Machine) -> Recipe:
    """The paper's prompts and schedule for a checkpoint, as the memory of the devices allows.

    Our choice: where the paper's batch does not fit, layers are recomputed; where that is not
    enough, a batch has fewer rows, and there are more steps, so that as many rows are seen.

    Raises:
      UserError: the model does not fit at all.
    """
    config = start.config
    steps, batch_size = _STEPS_AND_BATCH[capacity.num_parameters(config) > _LARGE]
    fit = _fit(config, machine, batch_size)
    changes, notes = [], []
    where = f"{machine.devices} x {machine.kind} of {machine.memory / 1e9:,.0f} GB, estimated"
    if fit.remat:
        changes.append(_Change("network.T5Config.remat", True, where))
    if fit.model_parallel > 1:
        changes.append(_Change("MODEL_PARALLEL", fit.model_parallel, where))
    if fit.batch_size != batch_size:
        changes.append(_Change("BATCH_SIZE", fit.batch_size, where))
        more = steps * batch_size // fit.batch_size
        changes.append(_Change("TRAIN_STEPS", more, f"{steps:,} steps of {batch_size} rows"))
    if not machine.is_accelerator and capacity.num_parameters(config) > _SLOW:
        notes.append(
            "JAX finds no GPU or TPU (see `recllm doctor`): training takes days; fewer steps: "
            "--gin.TRAIN_STEPS=N --gin.WARMUP_STEPS=N --gin.EVAL_PERIOD=N"
        )
    dtype = "bfloat16" if machine.is_accelerator else "float32"
    mixture = "mixtures/ut_at.gin" if has_ratings else "mixtures/reat.gin"
    text = _model_text(start, dtype, steps, batch_size)
    return Recipe(text + _text(("runs/finetune.gin", mixture), changes), notes)


class _Fit(NamedTuple):
    batch_size: int
    remat: bool
    model_parallel: int


def _fit(config: T5Config, machine: Machine, wanted: int) -> _Fit:
    """The batch that is nearest to `wanted` rows; fewest devices to a copy, then no remat."""
    # The estimate is of bfloat16; on a processor, activations are float32.
    memory = machine.memory if machine.is_accelerator else machine.memory / 2
    for shared in (1, 2, 4, 8):
        if machine.devices % shared:
            break
        copies = machine.devices // shared
        fits = []
        for remat in (False, True):
            rows = capacity.largest_batch(
                config, memory, **_PAPER_LENGTHS, remat=remat, model_parallel=shared
            )
            most = max(1, wanted // copies)  # of a copy
            if rows:
                fits.append(_Fit(min(rows, most) * copies, remat, shared))
        if fits:
            return max(fits, key=lambda fit: (fit.batch_size, not fit.remat))
    needed = capacity.training_bytes(config, 1, **_PAPER_LENGTHS, remat=True)
    raise UserError(
        f"Memory for --from: got {machine.devices} x {machine.kind} of {memory / 1e9:,.0f} GB, "
        f"expected about {needed / capacity.USABLE / 1e9:,.0f} GB for a row; give a smaller model, "
        "such as google/flan-t5-small, or use larger devices"
    )


def _model_text(start: Pretrained, dtype: str, steps: int, batch_size: int) -> str:
    """What a file of gin/models says, for the sizes of a checkpoint."""
    config = dataclasses.replace(start.config, dtype=jnp.dtype(dtype))
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    written = {
        name: value
        for name, value in values.items()
        if name not in ("dtype", "dropout_rate") and value != defaults[name]
    }
    lines = [
        "from __gin__ import dynamic_registration",
        "from recllm_tasks.models import network",
        "from recllm_tasks.prompts import vocabulary",
        f"MODEL_NAME = {start.name!r}",
        f"PUBLISHED_CHECKPOINT = {start.checkpoint!r}",
        f"FINETUNE_STEPS = {steps}",
        f"FINETUNE_BATCH_SIZE = {batch_size}",
        "FINETUNE_MODEL_PARALLEL = 1",
        f"vocabulary.sentencepiece_file.path = {str(start.vocabulary)!r}",
        "network.Transformer.config = @network.T5Config()",
        f"network.T5Config.dtype = {dtype!r}",
        "network.T5Config.dropout_rate = %DROPOUT_RATE",
        *(f"network.T5Config.{name} = {value!r}" for name, value in written.items()),
    ]
    return "\n".join(lines) + "\n"


def _text(files: Sequence[str], changes: Sequence[_Change] = ()) -> str:
    lines = [f"include {file!r}" for file in files]
    lines += [f"{change.name} = {change.value!r}  # {change.why}" for change in changes]
    return "\n".join(lines) + "\n"
