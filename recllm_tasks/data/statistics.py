"""Statistics of a dataset, as in the paper's Table 7."""

import dataclasses
from typing import Any

import numpy as np

from recllm_tasks.data.options import Options


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Counts of a prepared dataset.

    `sparsity` is in percent; `mean_length` and `std_length` (of the population, not of a sample)
    are interactions per user; for `train_windows` see `count_train_windows`.
    """

    users: int
    items: int
    interactions: int
    sparsity: float
    mean_length: float
    std_length: float
    train_windows: int

    @classmethod
    def from_lengths(
        cls,
        lengths: np.ndarray,
        items: int,
        window: int = Options.window,
        train_lengths: np.ndarray | None = None,
    ) -> "Statistics":
        """Counts from the lengths of sequences.

        Args:
          lengths: int [users], of each user's longest record.
          items: of the catalog.
          window: of an example.
          train_lengths: int [users], of the train records, 0 for none; by default two less than
            `lengths`, as leave-one-out has it.
        """
        train_lengths = lengths - 2 if train_lengths is None else train_lengths
        users, interactions = len(lengths), int(lengths.sum())
        return cls(
            users=users,
            items=items,
            interactions=interactions,
            sparsity=100 * (1 - interactions / (users * items)),
            mean_length=float(lengths.mean()),
            std_length=float(lengths.std()),
            train_windows=count_train_windows(train_lengths, window),
        )

    def to_json(self) -> dict[str, Any]:
        """A dict of numbers that `json` can write and `Statistics(**d)` can read."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class SplitCounts:
    """What a split holds and what it leaves out.

    Attributes:
      users: records by split.
      new_users: users of a split by time without an earlier interaction, who have no example
        there; none in leave-one-out.
      new_items: items of the catalog without an interaction in train.
      new_targets: validation and test examples whose target is such an item.
      unused: interactions that no record holds: later than a user's targets, or of users without a
        record.
      withheld: items of the catalog that were kept out of training on request.
    """

    users: dict[str, int]
    new_users: dict[str, int]
    new_items: int
    new_targets: dict[str, int]
    unused: int = 0
    withheld: int = 0


def count_train_windows(train_lengths: np.ndarray, window: int = Options.window) -> int:
    """Windows of `window` history items and a target, stride 1, in the train split.

    Every user with a train record has at least one window. Our choice: Σ max(1, n - 20) for train
    records of n items, because it gives the paper's counts for Toys and Beauty (30,761 and 36,582).
    """
    return int(np.maximum(1, train_lengths - window)[train_lengths > 0].sum())
