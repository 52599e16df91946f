"""Options: what a prepared dataset is made with, beside its files. The defaults are the paper's."""

import dataclasses

from recllm_tasks.data.id_schemes import RANDOM, SCHEMES
from recllm_tasks.errors import UserError

# Leave-one-out needs one interaction each for train, validation and test.
MIN_INTERACTIONS = 3
# Salts made of the seed are int32.
MAX_SEED = 2**30 - 1
PUBLISHED, SHUFFLED = TIES = ("published", "shuffled")


@dataclasses.dataclass(frozen=True)
class Options:
    """Each dataset's own, written into its `recllm.json`, where the tasks look them up.

    Attributes:
      k_core: least number of interactions of every user and item; 0 is none.
      like_threshold: a rating above it is a like (Paper §4.1).
      window: items of history that an example shows at most (Paper §4.1).
      candidates: items to rank, the true one among them (Paper §4.1).
      seed: fixes the short ids, the negatives and shuffled ties.
      ties: order of a user's interactions of the same time; `published` keeps that of the files,
        as the published splits do, `shuffled` draws one. The published files have ties in the
        order of their item ids, which gives a part of the answer away.
      ids: how short ids are written; `random` is the paper's, see id_schemes.py.
    """

    k_core: int = 5
    like_threshold: float = 3.0
    window: int = 20
    candidates: int = 100
    seed: int = 0
    ties: str = PUBLISHED
    ids: str = RANDOM

    def check(self, name: str) -> None:
        """Raises `UserError` for a value that dataset `name` cannot be made with."""
        for option, least, most in (
            ("window", 1, 1000),
            ("candidates", 2, 10_000),
            ("seed", 0, MAX_SEED),
        ):
            value = getattr(self, option)
            if type(value) is not int or not least <= value <= most:
                raise UserError(
                    f"{option} for '{name}': got {value!r}, expected a whole number from {least} "
                    f"to {most}; give another one"
                )
        if type(self.k_core) is not int or not (
            self.k_core == 0 or self.k_core >= MIN_INTERACTIONS
        ):
            raise UserError(
                f"k_core for '{name}': got {self.k_core!r}, expected 0 for none, or a whole number "
                f"of at least {MIN_INTERACTIONS}, because train, validation and test each need an "
                "interaction of every user; give another one"
            )
        threshold = self.like_threshold
        if type(threshold) not in (int, float) or not abs(threshold) < 1e9:
            raise UserError(
                f"like_threshold for '{name}': got {threshold!r}, expected a number of stars; give "
                "another one"
            )
        for option, choices in (("ties", TIES), ("ids", SCHEMES)):
            if getattr(self, option) not in choices:
                raise UserError(
                    f"{option} for '{name}': got '{getattr(self, option)}', expected one of "
                    f"{', '.join(choices)}; give one of them"
                )
