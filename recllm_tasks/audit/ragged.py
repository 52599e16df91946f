"""Rows of different lengths as two NumPy arrays. Letters: R rows."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Ragged:
    """Row r is `values[splits[r]:splits[r + 1]]`; `splits` is int64 [R + 1]."""

    values: np.ndarray
    splits: np.ndarray

    def __len__(self) -> int:
        return len(self.splits) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.splits[row] : self.splits[row + 1]]

    @classmethod
    def of_lengths(cls, values: np.ndarray, lengths: np.ndarray) -> "Ragged":
        return cls(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    @classmethod
    def of_array(cls, array: np.ndarray) -> "Ragged":
        """Rows of one length, [R, L]."""
        return cls(array.reshape(-1), np.arange(len(array) + 1, dtype=np.int64) * array.shape[1])

    @classmethod
    def concatenate(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """The rows of all parts, in order."""
        lengths = [part.lengths for part in parts] or [np.zeros(0, np.int64)]
        values = [part.values for part in parts] or [np.zeros(0, np.int64)]
        return cls.of_lengths(np.concatenate(values), np.concatenate(lengths))

    @property
    def lengths(self) -> np.ndarray:
        """The number of values in each row, int64 [R]."""
        return np.diff(self.splits)

    @property
    def rows(self) -> np.ndarray:
        """The row of each value, int64 [len(values)]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def positions(self) -> np.ndarray:
        """The position of each value in its row, int64 [len(values)]."""
        return np.arange(len(self.values)) - np.repeat(self.splits[:-1], self.lengths)

    def take(self, rows: np.ndarray) -> "Ragged":
        """The given rows, in that order."""
        lengths = self.lengths[rows]
        splits = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        shift = np.repeat(self.splits[rows] - splits[:-1], lengths)
        return Ragged(self.values[shift + np.arange(splits[-1])], splits)

    def without_last(self, num: int | np.ndarray) -> "Ragged":
        """Each row without its last `num` values (of all rows, or [R]); a shorter one is empty."""
        kept = self.positions < np.repeat(self.lengths - num, self.lengths)
        return Ragged.of_lengths(self.values[kept], np.maximum(0, self.lengths - num))

    def last_columns(self, num: int) -> np.ndarray:
        """The last `num` values of each row, [R, num]; -1 where a row is shorter."""
        places = self.splits[1:, np.newaxis] + np.arange(-num, 0)
        exists = places >= self.splits[:-1, np.newaxis]
        return np.where(exists, self.values[np.where(exists, places, 0)], -1)
