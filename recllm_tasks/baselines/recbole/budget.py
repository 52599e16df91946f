"""Limits and resources of training a RecBole row."""

import dataclasses
import os

from recllm_tasks.errors import check_number, check_whole


@dataclasses.dataclass(frozen=True)
class Budget:
    """Training ends at the first of the limits.

    Attributes:
      epochs: maximum.
      minutes: no epoch starts after them.
      patience: consecutive epochs without a better validation.
      seed: of parameters, order and negatives.
      threads: of PyTorch; None is the number of cores.
    """

    epochs: int = 100
    minutes: float = 20.0
    patience: int = 10
    seed: int = 0
    threads: int | None = None

    def __post_init__(self):
        """Raises UserError for invalid values."""
        check_whole("--epochs", self.epochs, 1)
        check_number("--minutes", self.minutes, 0)
        check_whole("--patience", self.patience, 1)
        check_whole("--seed", self.seed, 0, 2**31 - 1)
        if self.threads is not None:
            check_whole("--threads", self.threads, 1)

    @property
    def limits(self) -> dict[str, float]:
        """The limits of training."""
        return {"epochs": self.epochs, "minutes": self.minutes, "patience": self.patience}

    @property
    def num_threads(self) -> int:
        return self.threads or os.cpu_count() or 1
