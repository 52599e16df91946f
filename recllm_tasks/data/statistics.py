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
        cls, lengths: np.ndarray, items: int, window: int = Options.window
    ) -> "Statistics":
        """Counts from the lengths of whole sequences (int [users]), the items and the window."""
        users, interactions = len(lengths), int(lengths.sum())
        return cls(
            users=users,
            items=items,
            interactions=interactions,
            sparsity=100 * (1 - interactions / (users * items)),
            mean_length=float(lengths.mean()),
            std_length=float(lengths.std()),
            train_windows=count_train_windows(lengths, window),
        )

    def to_json(self) -> dict[str, Any]:
        """A dict of numbers that `json` can write and `Statistics(**d)` can read."""
        return dataclasses.asdict(self)


def count_train_windows(lengths: np.ndarray, window: int = Options.window) -> int:
    """Windows of `window` history items and a target, stride 1, in the train split.

    A sequence of n items has n - 2 in the train split; every user has at least one window. Our
    choice: Σ max(1, (n - 2) - 20), because it gives the paper's counts for Toys and Beauty (30,761
    and 36,582).
    """
    return int(np.maximum(1, lengths - 2 - window).sum())
