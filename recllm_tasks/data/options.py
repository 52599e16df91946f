"""Options of a prepared dataset. The defaults are the paper's."""

import dataclasses

from recllm_tasks.errors import UserError

# Leave-one-out needs one interaction each for train, validation and test.
MIN_INTERACTIONS = 3
# Salts derived from the seed are int32.
MAX_SEED = 2**30 - 1
PUBLISHED, SHUFFLED = TIES = ("published", "shuffled")
FIRST, KEEP = REPEATS = ("first", "keep")
# See id_schemes.py.
RANDOM, SEMANTIC, ATOMIC = ID_SCHEMES = ("random", "semantic", "atomic")


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of one dataset, stored in its `recllm.json`, where tasks look them up.

    Attributes:
      k_core: minimum number of interactions of every user and item; 0 keeps all.
      like_threshold: ratings above it are likes (Paper §4.1).
      window: maximum number of history items in an example (Paper §4.1).
      candidates: number of items to rank, the true one included (Paper §4.1).
      seed: fixes the short ids, the negatives and shuffled ties.
      ties: order of a user's interactions at the same time; `published` keeps that of the files,
        as the published splits do, `shuffled` draws one. The published files sort ties by item
        id, which gives away part of the answer.
      ids: how short ids are written, see id_schemes.py; `random` is the paper's.
      repeats: what becomes of an item that a user has several times; `first` keeps the first
        interaction, as the published splits do, `keep` keeps all.
    """

    k_core: int = 5
    like_threshold: float = 3.0
    window: int = 20
    candidates: int = 100
    seed: int = 0
    ties: str = PUBLISHED
    ids: str = RANDOM
    repeats: str = FIRST

    def check(self, name: str) -> None:
        """Raises `UserError` for an option out of range; `name` is the dataset's, for errors."""
        for option, least, most in (
            ("window", 1, 1000),
            ("candidates", 2, 10_000),
            ("seed", 0, MAX_SEED),
        ):
            value = getattr(self, option)
            if type(value) is not int or not least <= value <= most:
                raise UserError(
                    f"{option} for '{name}': got {value!r}, expected a whole number from {least} "
                    f"to {most}; correct it"
                )
        if type(self.k_core) is not int or not (
            self.k_core == 0 or self.k_core >= MIN_INTERACTIONS
        ):
            raise UserError(
                f"k_core for '{name}': got {self.k_core!r}, expected 0 for none, or a whole number "
                f"of at least {MIN_INTERACTIONS}, because train, validation and test each need an "
                "interaction of every user; correct it"
            )
        threshold = self.like_threshold
        if type(threshold) not in (int, float) or not abs(threshold) < 1e9:
            raise UserError(
                f"like_threshold for '{name}': got {threshold!r}, expected a number of stars; "
                "correct it"
            )
        for option, choices in (("ties", TIES), ("ids", ID_SCHEMES), ("repeats", REPEATS)):
            if getattr(self, option) not in choices:
                raise UserError(
                    f"{option} for '{name}': got '{getattr(self, option)}', expected one of "
                    f"{', '.join(choices)}; give one of them"
                )
