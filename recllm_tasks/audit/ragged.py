"""Rows of different lengths as two NumPy arrays."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Ragged:
    """Row r is `values[splits[r]:splits[r + 1]]`; `splits` is int64 [rows + 1]."""

    values: np.ndarray
    splits: np.ndarray

    def __len__(self) -> int:
        return len(self.splits) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.splits[row] : self.splits[row + 1]]

    @classmethod
    def of_rows(cls, rows: "np.ndarray | Ragged") -> "Ragged":
        """From a batch of rows, ragged or [B, L]."""
        if isinstance(rows, Ragged):
            return rows
        splits = np.arange(len(rows) + 1, dtype=np.int64) * rows.shape[1]
        return cls(rows.reshape(-1), splits)

    @classmethod
    def of_lengths(cls, values: np.ndarray, lengths: np.ndarray) -> "Ragged":
        return cls(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    @classmethod
    def concatenate(cls, parts: Sequence["Ragged"]) -> "Ragged":
        lengths = [part.lengths for part in parts] or [np.zeros(0, np.int64)]
        values = [part.values for part in parts] or [np.zeros(0, np.int32)]
        return cls.of_lengths(np.concatenate(values), np.concatenate(lengths))

    @property
    def lengths(self) -> np.ndarray:
        """Entries of each row, int64 [rows]."""
        return np.diff(self.splits)

    @property
    def rows(self) -> np.ndarray:
        """The row of each value, int64 [len(values)]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def places(self) -> np.ndarray:
        """The place of each value in its row, from 0, int64 [len(values)]."""
        return np.arange(len(self.values)) - np.repeat(self.splits[:-1], self.lengths)

    def take(self, order: np.ndarray) -> "Ragged":
        """The rows in another order."""
        lengths = self.lengths[order]
        taken = Ragged.of_lengths(self.values[:0], lengths)
        starts = np.repeat(self.splits[order] - taken.splits[:-1], lengths)
        return Ragged(self.values[starts + np.arange(len(starts))], taken.splits)

    def without_last(self, num: int) -> "Ragged":
        """Each row but its last `num` entries; a shorter row becomes empty."""
        kept = self.places() < np.repeat(self.lengths - num, self.lengths)
        return Ragged.of_lengths(self.values[kept], np.maximum(0, self.lengths - num))

    def last(self, num: int) -> np.ndarray:
        """The last `num` entries of each row, [rows, num]; -1 where a row is shorter."""
        columns = np.arange(-num, 0)
        places = self.splits[1:, np.newaxis] + columns
        there = places >= self.splits[:-1, np.newaxis]
        return np.where(there, self.values[np.where(there, places, 0)], -1)
