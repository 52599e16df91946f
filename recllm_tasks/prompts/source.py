"""SeqIO data sources over a prepared dataset: a user's windows, or the catalog's items."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import seqio
import tensorflow as tf

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.dataset_info import DatasetInfo, dataset_dir
from recllm_tasks.errors import UserError
from recllm_tasks.prompts import windows
from recllm_tasks.prompts.batch_steps import Batch
from recllm_tasks.prompts.training_windows import TrainingWindows, read_users
from recllm_tasks.prompts.vocabulary import FILE_NAME

# SeqIO caches a source with fewer examples than this in memory, after it was shuffled.
_SEQIO_CACHES_BELOW = 10_000

# Windows are small (some 200 bytes), so that many are shuffled before they become prompts: windows
# of one user lie side by side in the records.
SHUFFLE_WINDOWS = 200_000

SPLITS = ("train", "validation", "test")

# Paper §4.1: validation looks at 3,000 users. Records are stored shuffled, so the first ones do.
VALIDATION_USERS = 3000


def data_dir() -> str:
    """TFDS's data folder: T5X's and SeqIO's override, $TFDS_DATA_DIR, or TFDS's default."""
    override = seqio.LazyTfdsLoader("rec_sequences:1.0.0").data_dir
    return os.path.expanduser(
        override or os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    )


class CatalogSource:
    """What every source of one dataset has: its folder, its facts, its catalog."""

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
        return _info(dataset_dir(self._data_dir or data_dir(), self.dataset_name))

    def catalog(self) -> Catalog:
        self.info()
        return _catalog(self.dataset_dir())

    def num_users(self) -> int:
        """U, of any split: leave-one-out keeps an interaction of every user for training."""
        return self.info().statistics.users

    def vocabulary_file(self) -> str:
        self.info()
        return os.path.join(self.dataset_dir(), FILE_NAME)


_opened: list[Path] = []


@functools.cache
def _info(folder: Path) -> DatasetInfo:
    info = DatasetInfo.load(folder)
    _opened.append(folder)
    return info


def opened_folders() -> Sequence[Path]:
    """Folders of the prepared datasets that this process has opened."""
    return tuple(_opened)


@functools.lru_cache(maxsize=16)
def _catalog(directory: str) -> Catalog:
    return Catalog.load(directory)


class SequenceSource(CatalogSource, seqio.TfdsDataSource):
    """Windows of users' sequences, as `windows.cut_windows` makes them.

    Training yields every window of every user, shuffled on request; validation (3,000 users) and
    test (all users) yield one a user.
    """

    def __init__(
        self,
        dataset_name: str,
        splits: Sequence[str] = SPLITS,
        *,
        needs_ratings: bool = False,
        with_negatives: bool = False,
        data_dir: str | None = None,
    ):
        """Args:
        dataset_name: a prepared dataset.
        splits: the splits that are offered.
        needs_ratings: refuse a dataset without ratings, naming the reason.
        with_negatives: training windows hold `negatives` and `exclude`, to draw negatives with.
        data_dir: see CatalogSource.
        """
        CatalogSource.__init__(self, dataset_name, data_dir=data_dir)
        self.needs_ratings = needs_ratings
        self.with_negatives = with_negatives
        seqio.TfdsDataSource.__init__(
            self,
            tfds_name=f"rec_sequences/{dataset_name}:1.0.0",
            splits={split: split for split in splits},
            read_only=True,
        )

    @property
    def performs_internal_shuffling(self) -> bool:
        return True

    def check(self) -> None:
        """Raises UserError if the dataset is not prepared, or has no ratings and needs them."""
        info = self.info()
        if self.needs_ratings and not info.has_ratings:
            raise UserError(
                f"Rating is not offered for dataset '{self.dataset_name}': got interactions "
                "without ratings, expected a rating on them; prepare it from files with ratings, "
                f"or choose a task or mixture without rating, such as {self.dataset_name}_reat"
            )

    def records(self, split, shuffle=False, seed=None, shard_info=None) -> tf.data.Dataset:
        """A split as it is stored, one record a user (data/builder.py)."""
        self.check()
        if split != "validation":
            return seqio.TfdsDataSource.get_dataset(
                self, split, shuffle=shuffle, seed=seed, shard_info=shard_info
            )
        # Cut by TFDS before anything is shuffled, interleaved or shared among hosts.
        first = f"validation[:{self.num_input_examples(split)}]"
        records = self.tfds_dataset.builder.as_dataset(split=first)
        return records.shard(shard_info.num_shards, shard_info.index) if shard_info else records

    def get_dataset(self, split="train", shuffle=True, seed=None, shard_info=None, **kwargs):
        records = self.records(split, shuffle, seed, shard_info)
        if split != "train":
            return windows.last_window(records, self.info().window)
        dataset = windows.training_windows(records, self.with_negatives, self.info().window)
        return dataset.shuffle(SHUFFLE_WINDOWS, seed=seed) if shuffle else dataset

    def training_table(self) -> "WindowTable":
        """All training examples, for batches of them (batch_steps.py)."""
        self.check()
        return WindowTable(_training_windows(self.dataset_dir()), self)

    def rows_of_users(self) -> tf.lookup.StaticHashTable:
        """From a user's raw id to its place among the training records, int32.

        Records lie in the order of hashes of the raw ids, so that a user's place says nothing.
        """
        return _rows_of_users(self.dataset_dir())

    def num_input_examples(self, split: str) -> int | None:
        """Examples of a split; None for a small training split.

        SeqIO caches a source that it knows to be small after the shuffle, which would freeze the
        order of all epochs.
        """
        if split == "validation":
            return min(VALIDATION_USERS, super().num_input_examples(split))
        if split != "train":
            return super().num_input_examples(split)
        num_windows = self.info().statistics.train_windows
        return num_windows if num_windows >= _SEQIO_CACHES_BELOW else None


class WindowTable:
    """The training examples of a `SequenceSource`, by number."""

    def __init__(self, stored: TrainingWindows, source: SequenceSource):
        self._stored, self._source = stored, source
        self._directory = source.dataset_dir()
        self._window = source.info().window
        self.shuffle_buffer = SHUFFLE_WINDOWS

    def __len__(self) -> int:
        return self._stored.count(self._window)

    def batch(self, numbers: np.ndarray) -> Batch:
        """The features of `windows.cut_windows`, but for `user` its `user_hash` and `user_row`.

        Both are int32; the latter is the user's place among the training records.
        """
        return self._stored.cut(numbers, self._window, self._source.with_negatives)

    def users(self, numbers: np.ndarray) -> np.ndarray:
        """The raw ids of the users of those examples, objects [B] of bytes."""
        users = _training_users(self._directory)
        return users[self._stored.users_of(numbers, self._window)]


@functools.lru_cache(maxsize=4)
def _training_windows(directory: str) -> TrainingWindows:
    return TrainingWindows.read(directory)


@functools.lru_cache(maxsize=2)
def _rows_of_users(directory: str) -> tf.lookup.StaticHashTable:
    # Made outside of any graph, so that it outlives the first that looks up in it.
    with tf.init_scope():
        users = tf.constant(_training_users(directory))
        rows = tf.range(tf.size(users))
        return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(users, rows), -1)


@functools.lru_cache(maxsize=2)
def _training_users(directory: str) -> np.ndarray:
    return read_users(directory)


class ItemTable:
    """The training examples of an `ItemSource`, by number."""

    def __init__(self, pairs: Batch):
        self._pairs = pairs
        self.shuffle_buffer = len(pairs["item"])

    def __len__(self) -> int:
        return len(self._pairs["item"])

    def batch(self, numbers: np.ndarray) -> Batch:
        return {name: values[numbers] for name, values in self._pairs.items()}


class ItemSource(CatalogSource, seqio.FunctionDataSource):
    """Every known attribute of every item: `item` (int32 row), `attribute` (int32 index)."""

    def __init__(
        self, dataset_name: str, attributes: Sequence[str], *, data_dir: str | None = None
    ):
        """Args:
        dataset_name: a prepared dataset.
        attributes: columns of the catalog; an item without text there makes no example.
        data_dir: see CatalogSource.
        """
        CatalogSource.__init__(self, dataset_name, data_dir=data_dir)
        self.attributes = tuple(attributes)
        seqio.FunctionDataSource.__init__(self, dataset_fn=self._pairs, splits=("train",))

    def _pairs(self, split, shuffle_files, seed=None):
        del split
        table = self.training_table()
        dataset = tf.data.Dataset.from_tensor_slices(table.batch(slice(None)))
        return dataset.shuffle(len(table), seed=seed) if shuffle_files else dataset

    def training_table(self) -> ItemTable:
        """All training examples, for batches of them (batch_steps.py)."""
        known = np.array([[t != "" for t in getattr(self.catalog(), a)] for a in self.attributes])
        attribute, item = np.nonzero(known)
        return ItemTable({"item": item.astype(np.int32), "attribute": attribute.astype(np.int32)})

    @property
    def performs_internal_shuffling(self) -> bool:
        return True
