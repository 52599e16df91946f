"""The training split in memory, from which any window is cut by its number.

Letters: U users, T interactions of the training split, W windows, B examples of a batch.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from recllm_tasks.prompts.batch_steps import Batch
from recllm_tasks.prompts.ragged import Ragged, starts_of

# Records that TensorFlow reads and parses in one call.
_RECORDS = 4096

# As `data.popularity.user_seed` has it.
_HASHES = 2**31 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingWindows:
    """Users in the order of the records; eight bytes an interaction.

    Attributes:
      user_hash: int32 [U], the hash of the raw id that stateless seeds are made of.
      items: catalog rows, oldest first, U rows of int32.
      ratings: float32 [T], NaN where unknown.
    """

    user_hash: np.ndarray
    items: Ragged
    ratings: np.ndarray

    @classmethod
    def read(cls, directory: str) -> "TrainingWindows":
        """Reads a prepared dataset's folder, file by file, several at once."""
        features = {
            "user": tf.io.FixedLenFeature([], tf.string),
            "items": tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
            "ratings": tf.io.RaggedFeature(tf.float32, row_splits_dtype=tf.int64),
        }

        def parse(records):
            found = tf.io.parse_example(records, features)
            user_hash = tf.strings.to_hash_bucket_fast(found["user"], _HASHES)
            items = found["items"]
            return (
                tf.cast(user_hash, tf.int32),
                tf.cast(items.values, tf.int32),
                items.row_lengths(),
                found["ratings"].values,
            )

        records = stored_records(directory, "train")
        dataset = records.map(parse, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)
        parts = list(zip(*dataset.as_numpy_iterator()))
        user_hash, items, lengths, ratings = (np.concatenate(part) for part in parts)
        return cls(user_hash, Ragged.of_lengths(items, lengths), ratings)

    @functools.lru_cache(maxsize=2)  # noqa: B019 (a folder's windows are kept as long)
    def _first_windows(self, window: int) -> np.ndarray:
        """The number of each user's first window, int64 [U + 1]."""
        return starts_of(np.maximum(1, self.items.lengths - window))

    def count(self, window: int) -> int:
        """W, windows of all users; see `windows.count_windows`."""
        return int(self._first_windows(window)[-1])

    def users_of(self, numbers: np.ndarray, window: int) -> np.ndarray:
        """The record that each window is cut from, int64 [B], in the order of `read_users`."""
        return np.searchsorted(self._first_windows(window), numbers, side="right") - 1

    def cut(self, numbers: np.ndarray, window: int, with_negatives: bool) -> Batch:
        """Windows by number, in that order: see `windows.cut_windows`.

        Args:
          numbers: int64 [B], below W.
          window: w, items of a history at most.
          with_negatives: `exclude` is there too.
        """
        first = self._first_windows(window)
        user = self.users_of(numbers, window)
        start = numbers - first[user]
        begin = self.items.splits[user] + start
        length = np.minimum(window, self.items.lengths[user] - 1)
        history = Ragged.of_slices(self.items.values, begin, length)
        batch = {
            "user_hash": self.user_hash[user],
            "user_row": user.astype(np.int32),
            "window": start,
            "history": history,
            "history_ratings": Ragged.of_slices(self.ratings, begin, length),
            "target": self.items.values[begin + length],
            "target_rating": self.ratings[begin + length],
        }
        if with_negatives:
            batch["exclude"] = self.items.take(user)
        return batch


def read_users(directory: str) -> np.ndarray:
    """The raw id of each training record, objects [U] of bytes, in the order of `read`."""
    features = {"user": tf.io.FixedLenFeature([], tf.string)}
    records = stored_records(directory, "train")
    users = records.map(lambda batch: tf.io.parse_example(batch, features)["user"])
    return np.concatenate(list(users.as_numpy_iterator()))


def stored_records(directory: str, split: str) -> tf.data.Dataset:
    """The records of a split as they lie in the files, unparsed, many at a time.

    Reading them raises tf.errors.OpError where a file is damaged or a record is missing.
    """
    split_info = tfds.builder_from_directory(directory).info.splits[split]
    records = tf.data.TFRecordDataset([str(file) for file in split_info.filepaths])
    whole = tf.data.experimental.assert_cardinality(split_info.num_examples)
    return records.apply(whole).batch(_RECORDS)
