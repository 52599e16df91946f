"""Rows of different lengths as two NumPy arrays, thousands of them in one operation.

Letters: R rows.
"""

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
        return cls(values, starts_of(lengths))

    @classmethod
    def of_array(cls, array: np.ndarray) -> "Ragged":
        """Rows of one length, [R, L]."""
        return cls(array.reshape(-1), np.arange(len(array) + 1, dtype=np.int64) * array.shape[1])

    @classmethod
    def concatenate(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """The rows of all parts, one part's after the other's."""
        lengths = [part.lengths for part in parts] or [np.zeros(0, np.int64)]
        values = [part.values for part in parts] or [np.zeros(0, np.int32)]
        return cls.of_lengths(np.concatenate(values), np.concatenate(lengths))

    @classmethod
    def of_slices(cls, values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> "Ragged":
        """Row r is `values[starts[r]:starts[r] + lengths[r]]`; the slices are copied."""
        splits = starts_of(lengths)
        return cls(values.take(_slices(starts, lengths, splits)), splits)

    @property
    def lengths(self) -> np.ndarray:
        """Entries of each row, int64 [R]."""
        return np.diff(self.splits)

    @property
    def rows(self) -> np.ndarray:
        """The row of each value, int64 [len(values)]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def places(self) -> np.ndarray:
        """The place of each value in its row, from 0, int64 [splits[-1]]."""
        return np.arange(self.splits[-1]) - np.repeat(self.splits[:-1], self.lengths)

    def with_values(self, values: np.ndarray) -> "Ragged":
        return Ragged(values, self.splits)

    def sums(self) -> np.ndarray:
        """The sum of each row, int64 [R]."""
        total = starts_of(self.values)
        return total[self.splits[1:]] - total[self.splits[:-1]]

    def running_sums(self) -> np.ndarray:
        """At each value the sum of its row up to and with it, int64 [len(values)]."""
        total = starts_of(self.values)
        return total[1:] - np.repeat(total[self.splits[:-1]], self.lengths)

    def where(self, kept: np.ndarray) -> "Ragged":
        """The values that are kept, bool [len(values)], in the same rows."""
        return Ragged(self.values[kept], starts_of(kept)[self.splits])

    def last(self, lengths: np.ndarray) -> "Ragged":
        """The last `lengths[r]` values of each row."""
        return Ragged.of_slices(self.values, self.splits[1:] - lengths, lengths)

    def first(self, length: int) -> "Ragged":
        """The first `length` values of each row at most."""
        lengths = self.lengths
        if not len(lengths) or lengths.max() <= length:
            return self
        return Ragged.of_slices(self.values, self.splits[:-1], np.minimum(lengths, length))

    def without_last(self, num: int) -> "Ragged":
        """Each row but its last `num` values; a shorter row becomes empty."""
        return Ragged.of_slices(self.values, self.splits[:-1], np.maximum(0, self.lengths - num))

    def last_columns(self, num: int) -> np.ndarray:
        """The last `num` values of each row, [R, num]; -1 where a row is shorter."""
        places = self.splits[1:, np.newaxis] + np.arange(-num, 0)
        there = places >= self.splits[:-1, np.newaxis]
        return np.where(there, self.values[np.where(there, places, 0)], -1)

    def take(self, rows: np.ndarray) -> "Ragged":
        """Some rows, in that order."""
        return Ragged.of_slices(self.values, self.splits[rows], self.lengths[rows])

    def padded(self, length: int) -> np.ndarray:
        """[R, length], filled up with 0; a longer row is cut."""
        kept = self.first(length)
        out = np.zeros((len(self), length), np.int32)
        out.reshape(-1)[kept.padded_places(length)] = kept.values
        return out

    def padded_places(self, length: int) -> np.ndarray:
        """Where each value stands in a flat array of R rows of `length`, int64 [len(values)]."""
        return _slices(np.arange(len(self)) * length, self.lengths, self.splits)


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """Where rows of these lengths start when they lie one after the other, int64 [R + 1]."""
    splits = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=splits[1:])
    return splits


def _slices(starts: np.ndarray, lengths: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """Indices of slices, one after the other, int64 [splits[-1]]."""
    indices = np.repeat(starts - splits[:-1], lengths)
    indices += np.arange(splits[-1])
    return indices


def join(
    parts: Sequence[Ragged | np.ndarray], num_rows: int, dtype: np.dtype | type = np.int32
) -> Ragged:
    """Row r is row r of every part, one after the other.

    Args:
      parts: ragged, or an array [n] that is the same in every row.
      num_rows: R, which parts alone may not tell.
      dtype: of the result.
    """
    lengths = [
        part.lengths if isinstance(part, Ragged) else np.full(num_rows, len(part), np.int64)
        for part in parts
    ]
    splits = starts_of(sum(lengths, np.zeros(num_rows, np.int64)))
    out = np.empty(splits[-1], dtype)
    starts = splits[:-1].copy()
    for part, length in zip(parts, lengths):
        if isinstance(part, Ragged):
            out[_slices(starts, length, part.splits)] = part.values
        else:
            out[starts[:, np.newaxis] + np.arange(len(part))] = part
        starts += length
    return Ragged(out, splits)
