"""SeqIO data sources over a prepared dataset: batches of users' windows, or of catalog items."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import gin
import numpy as np
import seqio
import tensorflow as tf

from recllm_tasks.data.added_items import AddedItems
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.co_occurrence import CoOccurrence
from recllm_tasks.data.dataset_info import DatasetInfo, dataset_dir
from recllm_tasks.data.options import TIME
from recllm_tasks.errors import UserError
from recllm_tasks.prompts.batches import SIZE, Batch, keep, plain
from recllm_tasks.prompts.vocabulary import FILE_NAME, forget_vocabularies
from recllm_tasks.prompts.windows import (
    LAST,
    TARGETS,
    Sequences,
    TrainingWindows,
    last_windows,
    latest_windows,
    stored_records,
    training_sequences,
)

Result = TypeVar("Result")

SPLITS = ("train", "validation", "test")

# Every user as of the last event: the whole sequence is the history, and there is no target, so
# nothing can be learned or measured on it. Tasks that rank the whole catalog have it.
LATEST = "latest"

# Paper §4.1: validation looks at 3,000 users. Records are stored shuffled, so the first ones do.
VALIDATION_USERS = 3000

# What becomes of training windows without a history.
KEPT, DROP = EMPTY_HISTORIES = ("keep", "drop")

# Rounds of the cipher that shuffles an epoch, which spread every bit of the seed.
_ROUNDS = 8


@gin.configurable(module="windows")
def empty_histories(use: str = KEPT) -> str:
    """Whether users with a single item to train on make an example, with an empty history.

    Our choice: they do, so that the number of examples is the paper's, whose users have more.

    Args:
      use: `keep` or `drop`.

    Raises:
      UserError: another value.
    """
    if use not in EMPTY_HISTORIES:
        raise UserError(
            f"windows.empty_histories.use: got {use!r}, expected 'keep' or 'drop'; correct it"
        )
    return use


@dataclasses.dataclass(frozen=True)
class Shard:
    """Every `num`-th batch, from number `index` on: what one of `num` hosts sees.

    Each batch has the draws that it would have if one host saw all.
    """

    index: int = 0
    num: int = 1


ALL = Shard()


def data_dir() -> str:
    """TFDS's data folder: T5X's and SeqIO's override, $TFDS_DATA_DIR, or TFDS's default."""
    override = seqio.LazyTfdsLoader("rec_sequences:1.0.0").data_dir
    return os.path.expanduser(
        override or os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    )


class CatalogSource:
    """What every source of one dataset has: its folder, its facts, its catalog.

    Attributes:
      added: items that the catalog has too, after its own; None for none. See
        `tasks.with_added_items`.
    """

    added: AddedItems | None = None

    def __init__(self, dataset_name: str, *, data_dir: str | None = None):
        """Args:
        dataset_name: a prepared dataset.
        data_dir: the folder of prepared datasets; None is `data_dir()`, looked up at each use.
        """
        self.dataset_name = dataset_name
        self._data_dir = data_dir

    def dataset_dir(self) -> str:
        return str(dataset_dir(self._data_dir or data_dir(), self.dataset_name))

    def info(self) -> DatasetInfo:
        return _info(Path(self.dataset_dir()))

    def catalog(self) -> Catalog:
        self.info()
        if self.added is not None:
            return _extended(self.dataset_dir(), self.added)
        return _catalog(self.dataset_dir())

    def num_users(self) -> int:
        """U, of all splits together."""
        return self.info().statistics.users

    def vocabulary_file(self) -> str:
        self.info()
        return os.path.join(self.dataset_dir(), FILE_NAME)


_opened: list[Path] = []
_caches: list[Callable[[], None]] = []


def kept(maxsize: int | None) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """`functools.lru_cache` of what a function reads from datasets, until `forget_datasets`."""

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        cached = functools.lru_cache(maxsize)(function)
        _caches.append(cached.cache_clear)
        return cached

    return decorate


def forget_datasets() -> None:
    """Drops what this process has read from datasets, because one was replaced."""
    for clear in (*_caches, forget_vocabularies, seqio.LazyTfdsLoader._MEMOIZED_BUILDERS.clear):
        clear()


@kept(None)
def _info(folder: Path) -> DatasetInfo:
    info = DatasetInfo.load(folder)
    _opened.append(folder)
    return info


def opened_folders() -> Sequence[Path]:
    """Folders of the prepared datasets that this process has opened."""
    return tuple(_opened)


@kept(16)
def _catalog(directory: str) -> Catalog:
    return Catalog.load(directory)


@kept(4)
def _extended(directory: str, added: AddedItems) -> Catalog:
    return _catalog(directory).joined(added.catalog)


class BatchSource(CatalogSource, seqio.DataSource):
    """A source that yields batches of examples, see batches.py."""

    # SeqIO asks for these two.
    performs_internal_shuffling = True
    supports_arbitrary_sharding = True

    def get_dataset(self, split="train", shuffle=True, seed=None, shard_info=None):
        """Batches of one epoch of a split."""
        shard = Shard(shard_info.index, shard_info.num_shards) if shard_info else ALL
        if split != "train":
            return self.evaluation_batches(split, shard)
        return self.training_batches(shuffle=shuffle, seed=seed, shard=shard)

    def evaluation_batches(self, split: str, shard: Shard = ALL) -> tf.data.Dataset:
        """Batches of a split in the order of its records; batches of other hosts are empty."""
        raise NotImplementedError

    def num_examples(self) -> int:
        """Training examples of an epoch."""
        raise NotImplementedError

    def cut(self, numbers: tf.Tensor) -> Batch:
        """The training examples of these numbers, int64 [B], below `num_examples`."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises UserError if the dataset is not prepared, or lacks what its examples need."""
        self.info()

    def training_batches(
        self,
        size: float = SIZE,
        *,
        shuffle: bool = True,
        seed: int | None = None,
        endless: bool = False,
        shard: Shard = ALL,
    ) -> tf.data.Dataset:
        """Batches of training examples.

        Our choice: a shuffled epoch is one permutation of all its examples, which a keyed cipher
        computes at any place. So no buffer has to be filled, and the order is independent of
        how the stream is divided into batches.

        Args:
          size: examples of a batch. Where it is no whole number, sizes differ by one.
          shuffle: a random order, another one each epoch; else that of the records.
          seed: of the order.
          endless: epoch after epoch, across which batches go on; else one epoch, and another order
            each time that the dataset is repeated.
          shard: of a host; batches of other hosts are empty.
        """
        self.check()
        count = self.num_examples()
        total = None if endless else math.ceil(count / size)

        def numbers(batch: tf.Tensor, salt: tf.Tensor) -> tf.Tensor:
            start, stop = (
                tf.cast(size * tf.cast(n, tf.float64), tf.int64) for n in (batch, batch + 1)
            )
            stop = stop if endless else tf.minimum(stop, count)
            stop = tf.where(batch % shard.num == shard.index, stop, start)
            places = tf.range(start, stop)
            epoch, place = places // count, places % count
            if not shuffle:
                return place
            key = tf.stack([tf.fill(tf.shape(epoch), salt), epoch, tf.zeros_like(epoch)], axis=1)
            last = tf.fill(tf.shape(epoch), tf.constant(count - 1, tf.int64))
            return tf.raw_ops.RandomIndexShuffle(
                index=place, seed=key, max_index=last, rounds=_ROUNDS
            )

        def epoch(salt: tf.Tensor) -> tf.data.Dataset:
            batches = (
                tf.data.Dataset.range(total) if total is not None else tf.data.Dataset.counter()
            )
            return batches.map(plain(lambda batch: numbers(batch, salt)))

        # Another number each time that the dataset is repeated.
        salts = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).take(1)
        return salts.flat_map(plain(epoch)).map(
            plain(self.cut), num_parallel_calls=tf.data.AUTOTUNE
        )


class SequenceSource(BatchSource, seqio.TfdsDataSource):
    """Windows of users' sequences, in batches of what `windows.cut_windows` makes.

    Training yields every window of every user, shuffled on request; validation (3,000 users) and
    test (all users) yield one a user, as does `latest`, without a target.
    """

    def __init__(
        self,
        dataset_name: str,
        splits: Sequence[str] = SPLITS,
        *,
        needs_ratings: bool = False,
        needs_history: bool = False,
        with_negatives: bool = False,
        targets: str | Callable[[], str] = LAST,
        data_dir: str | None = None,
    ):
        """Args:
        dataset_name: a prepared dataset.
        splits: the splits that are offered.
        needs_ratings: leave out windows whose target has no rating; refuse a dataset without
          ratings, naming the reason.
        needs_history: leave out training windows of one item.
        with_negatives: training windows hold `exclude`, to draw negatives with.
        targets: which items of the train split are targets, one of TARGETS; or a function that
          says so whenever examples are made. With `random` the step `targets.end_at_random` of
          this source has to follow.
        data_dir: see CatalogSource.

        Raises:
          UserError: unknown `targets`.
        """
        CatalogSource.__init__(self, dataset_name, data_dir=data_dir)
        self._targets = targets
        if isinstance(targets, str):
            check_targets("SequenceSource.targets", targets)
        self.needs_ratings = needs_ratings
        self.needs_history = needs_history
        self.with_negatives = with_negatives
        seqio.TfdsDataSource.__init__(
            self,
            tfds_name=f"rec_sequences/{dataset_name}:1.0.0",
            tfds_data_dir=data_dir,
            splits={split: split for split in splits},
            read_only=True,
        )

    def check(self) -> None:
        """Raises UserError if the dataset is not prepared, or has no ratings and needs them."""
        info = self.info()
        if self.needs_ratings and not info.has_ratings:
            raise UserError(
                f"Rating is not offered for dataset '{self.dataset_name}': got interactions "
                "without ratings, expected a rating on them; prepare it from files with ratings, "
                f"or choose a task or mixture without rating, such as {self.dataset_name}_reat"
            )

    def records(self, split: str) -> tf.data.Dataset:
        """A split as it is stored, one record a user (data/builder.py)."""
        self.check()
        dataset = seqio.TfdsDataSource.get_dataset(self, split, shuffle=False)
        return dataset.take(VALIDATION_USERS) if split == "validation" else dataset

    def evaluation_batches(self, split: str, shard: Shard = ALL) -> tf.data.Dataset:
        self.check()
        window = self.info().window
        if split == LATEST:
            return self._latest_batches(window, shard)
        most = VALIDATION_USERS if split == "validation" else None

        def cut(number: tf.Tensor, records: tf.Tensor) -> Batch:
            is_own = number % shard.num == shard.index
            batch = last_windows(Sequences.parse(records[: tf.where(is_own, SIZE, 0)]), window)
            if self.needs_ratings:
                batch = keep(batch, ~tf.math.is_nan(batch["target_rating"]))
            return batch

        records = stored_records(self.dataset_dir(), split, most).enumerate()
        return records.map(plain(cut), num_parallel_calls=tf.data.AUTOTUNE)

    def _latest_batches(self, window: int, shard: Shard) -> tf.data.Dataset:
        """The longest record of every user: all of test, then who is in earlier splits alone.

        Leave-one-out has a test record of every user. In a split by time a record ends at the
        user's first interaction of its period: what is later is in no record.
        """
        folder, batches, before = self.dataset_dir(), None, 0
        splits = ("test", "validation", "train") if self.info().split == TIME else ("test",)
        for number, split in enumerate(splits):
            known = _user_hashes(folder, splits[:number])

            def cut(place: tf.Tensor, records: tf.Tensor, known: tf.Tensor = known) -> Batch:
                is_own = place % shard.num == shard.index
                sequences = Sequences.parse(records[: tf.where(is_own, SIZE, 0)])
                batch = latest_windows(sequences, window)
                if not known.shape[0]:
                    return batch
                return keep(batch, ~_is_in(known, _hashes(sequences.users)))

            part = stored_records(folder, split)
            own = part.enumerate(before).map(plain(cut), num_parallel_calls=tf.data.AUTOTUNE)
            batches = own if batches is None else batches.concatenate(own)
            before += int(part.cardinality())
        assert batches is not None
        return batches

    def num_examples(self) -> int:
        numbers = self._numbers()
        return len(self._windows()) if numbers is None else len(numbers)

    def cut(self, numbers: tf.Tensor) -> Batch:
        kept = self._numbers()
        if kept is not None:
            numbers = tf.gather(kept, numbers)
        return self._windows().cut(numbers, self.with_negatives)

    @property
    def targets(self) -> str:
        """One of TARGETS."""
        return self._targets if isinstance(self._targets, str) else self._targets()

    def _windows(self) -> TrainingWindows:
        return _training_windows(*self._layout())

    def _numbers(self) -> tf.Tensor | None:
        needs_history = self.needs_history or empty_histories() == DROP
        return _window_numbers(*self._layout(), self.needs_ratings, needs_history)

    def _layout(self) -> tuple[str, int, str]:
        return self.dataset_dir(), self.info().window, self.targets

    def rows_of_users(self) -> tf.lookup.StaticHashTable:
        """From a user's raw id to its place among the training records, int32; -1 for no place.

        Records lie in the order of hashes of the raw ids, so that a user's place says nothing.
        """
        self.info()
        return _rows_of_users(self.dataset_dir())

    def co_occurrence(self) -> CoOccurrence:
        """Which items had a user in common in train."""
        self.info()
        return _co_occurrence(self.dataset_dir())

    def num_input_examples(self, split: str) -> int | None:
        """Examples of a split; None for training.

        SeqIO caches a source that it knows to be small after the shuffle, which would freeze the
        order of all epochs.
        """
        if split == "train":
            return None
        if split == LATEST:
            return self.num_users()
        users = super().num_input_examples(split)
        return min(VALIDATION_USERS, users) if split == "validation" else users

    def list_shards(self, split: str) -> Sequence[str]:
        return super().list_shards("test" if split == LATEST else split)


def check_targets(what: str, targets: str, allowed: Sequence[str] = TARGETS) -> None:
    """Raises UserError unless `targets` is one of those allowed; the message starts with `what`."""
    if targets not in allowed:
        known = f"{', '.join(map(repr, allowed[:-1]))} or {allowed[-1]!r}"
        raise UserError(f"{what}: got {targets!r}, expected {known}; correct it")


@kept(4)
def _training_sequences(directory: str) -> Sequences:
    return training_sequences(directory)


@kept(8)
def _training_windows(directory: str, window: int, targets: str) -> TrainingWindows:
    return TrainingWindows(_training_sequences(directory), window, targets=targets)


@kept(16)
def _window_numbers(
    directory: str, window: int, targets: str, rated: bool, with_history: bool
) -> tf.Tensor | None:
    windows = _training_windows(directory, window, targets)
    numbers = windows.numbers(rated=rated, with_history=with_history)
    if numbers is None:
        return None
    with tf.init_scope():
        return tf.constant(numbers)


@kept(2)
def _co_occurrence(directory: str) -> CoOccurrence:
    items = _training_sequences(directory).items
    return CoOccurrence(items.values.numpy(), items.row_splits.numpy(), len(_catalog(directory)))


@kept(2)
def _rows_of_users(directory: str) -> tf.lookup.StaticHashTable:
    # Made outside of any graph, so that it outlives the first that looks up in it.
    with tf.init_scope():
        users = _training_sequences(directory).users
        rows = tf.range(tf.size(users))
        return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(users, rows), -1)


def _hashes(users: tf.Tensor) -> tf.Tensor:
    """A hash of each raw id, int64 [U]. Odds that two of 100 million users share one: 1:3,700."""
    bytes_of_each = tf.raw_ops.Fingerprint(data=users[:, tf.newaxis], method="farmhash64")
    return tf.bitcast(bytes_of_each, tf.int64)


def _is_in(known: tf.Tensor, hashes: tf.Tensor) -> tf.Tensor:
    """Whether each hash is among the sorted ones, bool [U]."""
    places = tf.searchsorted(known, hashes, out_type=tf.int64)
    last = tf.size(known, tf.int64) - 1
    return tf.gather(known, tf.minimum(places, last)) == hashes


@kept(4)
def _user_hashes(directory: str, splits: Sequence[str]) -> tf.Tensor:
    """The sorted hashes of the users of some splits: eight bytes a user."""
    found = [np.zeros(0, np.int64)]
    for split in splits:
        hashes = stored_records(directory, split).map(
            plain(lambda records: _hashes(Sequences.parse(records).users)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        found += hashes.as_numpy_iterator()
    # Outside of any graph, which could not hold more than 2 GB.
    with tf.init_scope():
        return tf.constant(np.unique(np.concatenate(found)))


class ItemSource(BatchSource):
    """Every known attribute of every item: `item` (int32 row), `attribute` (int32 index).

    Where the protocol keeps items out of training, those without an interaction in train have none.
    """

    def __init__(
        self, dataset_name: str, attributes: Sequence[str], *, data_dir: str | None = None
    ):
        """Args:
        dataset_name: a prepared dataset.
        attributes: columns of the catalog; an item without text there makes no example.
        data_dir: see CatalogSource.
        """
        CatalogSource.__init__(self, dataset_name, data_dir=data_dir)
        seqio.DataSource.__init__(self, splits=("train",))
        self.attributes = tuple(attributes)

    def check(self) -> None:
        """Raises UserError if the dataset is not prepared, or its items have no such text."""
        self.info()
        if not self.num_examples():
            raise UserError(
                f"Item embedding is not offered for dataset '{self.dataset_name}': got no item "
                f"with a {' or '.join(self.attributes)}, expected some; prepare it with the file "
                "of its items (--items), or choose a task or mixture without it, such as "
                f"{self.dataset_name}_ids_retrieval"
            )

    def list_shards(self, split: str) -> Sequence[str]:
        return [split]

    def num_examples(self) -> int:
        return len(self._pairs()[0])

    def cut(self, numbers: tf.Tensor) -> Batch:
        item, attribute = self._pairs()
        return {"item": tf.gather(item, numbers), "attribute": tf.gather(attribute, numbers)}

    def _pairs(self) -> tuple[tf.Tensor, tf.Tensor]:
        return _attribute_pairs(self.catalog(), self.attributes, self.info().hides_items)


@functools.lru_cache(maxsize=4)
def _attribute_pairs(
    catalog: Catalog, attributes: tuple[str, ...], only_trained: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """Item and attribute of every text that is known, int32 both."""
    known = np.array([[text != "" for text in getattr(catalog, a)] for a in attributes])
    if only_trained:
        known &= catalog.train_count > 0
    attribute, item = np.nonzero(known)
    with tf.init_scope():
        return tf.constant(item, tf.int32), tf.constant(attribute, tf.int32)
