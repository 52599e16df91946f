"""How long a row of RecBole is trained, and with what."""

import dataclasses
import os

from recllm_tasks.errors import check_number, check_whole


@dataclasses.dataclass(frozen=True)
class Budget:
    """The first of its limits ends the training.

    Attributes:
      epochs: at most.
      minutes: after which no epoch begins.
      patience: epochs in a row without a better validation.
      seed: of parameters, order and negatives.
      threads: of PyTorch; None is the number of cores.
    """

    epochs: int = 100
    minutes: float = 20.0
    patience: int = 10
    seed: int = 0
    threads: int | None = None

    def __post_init__(self):
        """Raises UserError for what is no budget."""
        check_whole("--epochs", self.epochs, 1)
        check_number("--minutes", self.minutes, 0)
        check_whole("--patience", self.patience, 1)
        check_whole("--seed", self.seed, 0, 2**31 - 1)
        if self.threads is not None:
            check_whole("--threads", self.threads, 1)

    @property
    def limits(self) -> dict[str, float]:
        """What ends the training."""
        return {"epochs": self.epochs, "minutes": self.minutes, "patience": self.patience}

    @property
    def num_threads(self) -> int:
        return self.threads or os.cpu_count() or 1
