"""Options of a prepared dataset. The defaults are the paper's."""

import dataclasses
import datetime

from recllm_tasks.errors import UserError

# Leave-one-out needs one interaction each for train, validation and test.
MIN_INTERACTIONS = 3
# Salts derived from the seed are int32.
MAX_SEED = 2**30 - 1
# Beyond, too little is left to learn from.
MAX_WITHHELD = 0.5
PUBLISHED, SHUFFLED = TIES = ("published", "shuffled")
# Of the negatives of ranking.
WITH_REPLACEMENT, DISTINCT = CANDIDATE_SAMPLINGS = ("with_replacement", "distinct")
LEAVE_ONE_OUT, TIME = PROTOCOLS = ("leave_one_out", "time")
FIRST, KEEP = REPEATS = ("first", "keep")
BOUGHT, ALL = CATALOGS = ("bought", "all")
# See id_schemes.py.
RANDOM, SEMANTIC, ATOMIC = ID_SCHEMES = ("random", "semantic", "atomic")


_DATES = ("validation_from", "test_from")
_SHARES = ("validation_share", "test_share")


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
      candidate_sampling: how the negatives of ranking are drawn by popularity: `with_replacement`,
        as in Table 11, whose candidates hold two pairs; or `distinct`, no item twice.
      repeats: what becomes of an item that a user has several times; `first` keeps the first
        interaction, as the published splits do, `keep` keeps all.
      split: how held-out interactions are chosen; `leave_one_out` takes each user's last two, as
        the paper does, `time` those from a date on, see time_split.py.
      validation_from, test_from: for a split by time, the first moments of validation and of test:
        seconds since 1970, or an ISO date in UTC, which becomes such a number.
      validation_share, test_share: instead of dates, the latest shares of the interactions.
      withhold_items: the share of the items that are kept out of training, drawn by the seed; they
        stay in histories and as targets of validation and test.
      catalog: which items there are: `bought`, those of the interactions, or `all`, those of the
        files of items too. Our choice: the paper's has the bought ones.
    """

    k_core: int = 5
    like_threshold: float = 3.0
    window: int = 20
    candidates: int = 100
    seed: int = 0
    ties: str = PUBLISHED
    ids: str = RANDOM
    candidate_sampling: str = WITH_REPLACEMENT
    repeats: str = FIRST
    split: str = LEAVE_ONE_OUT
    validation_from: float | str | None = None
    test_from: float | str | None = None
    validation_share: float = 0.0
    test_share: float = 0.0
    withhold_items: float = 0.0
    catalog: str = BOUGHT

    def __post_init__(self):
        for option in _DATES:
            value = getattr(self, option)
            if value is not None:
                object.__setattr__(self, option, _seconds(option, value))

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
        for option, choices in (
            ("ties", TIES),
            ("ids", ID_SCHEMES),
            ("candidate_sampling", CANDIDATE_SAMPLINGS),
            ("repeats", REPEATS),
            ("split", PROTOCOLS),
            ("catalog", CATALOGS),
        ):
            if getattr(self, option) not in choices:
                raise UserError(
                    f"{option} for '{name}': got '{getattr(self, option)}', expected one of "
                    f"{', '.join(choices)}; give one of them"
                )
        share = self.withhold_items
        if type(share) not in (int, float) or not 0 <= share <= MAX_WITHHELD:
            raise UserError(
                f"withhold_items for '{name}': got {share!r}, expected a share from 0 to "
                f"{MAX_WITHHELD}, such as .05; correct it"
            )
        self._check_split(name)

    def _check_split(self, name: str) -> None:
        dates = [option for option in _DATES if getattr(self, option) is not None]
        shares = [option for option in _SHARES if getattr(self, option)]
        if self.split != TIME:
            for option in (*dates, *shares):
                raise UserError(
                    f"{option} for '{name}': got {getattr(self, option)!r} with split "
                    f"{self.split}, expected it only with a split by time; give --split time too, "
                    f"or leave --{option} out"
                )
            return
        if (len(dates), len(shares)) not in ((2, 0), (0, 2)):
            given = ", ".join(f"--{option}" for option in (*dates, *shares)) or "none"
            raise UserError(
                f"split for '{name}': got time with {given}, expected --validation_from and "
                "--test_from, or --validation_share and --test_share; give two of them"
            )
        validation_from, test_from = (getattr(self, option) for option in _DATES)
        if dates and not validation_from < test_from:
            raise UserError(
                f"test_from for '{name}': got {written(test_from)}, expected a date after "
                f"validation_from, {written(validation_from)}; correct --test_from or "
                "--validation_from"
            )
        if shares and not (
            all(type(getattr(self, s)) in (int, float) and getattr(self, s) > 0 for s in shares)
            and self.validation_share + self.test_share < 1
        ):
            raise UserError(
                f"validation_share and test_share for '{name}': got {self.validation_share!r} and "
                f"{self.test_share!r}, expected two shares above 0 that leave some for train, such "
                "as .1 and .1; correct them"
            )


def _seconds(option: str, value: float | str) -> float:
    """A date as seconds since 1970."""
    try:
        return float(value)
    except ValueError:
        pass
    try:
        moment = datetime.datetime.fromisoformat(str(value).strip())
    except ValueError as error:
        raise UserError(
            f"{option}: got '{value}', expected a date such as 2014-01-31 (UTC), or seconds since "
            f"1970; correct --{option}"
        ) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def written(seconds: float) -> str:
    """A time as people read it, in UTC."""
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
    return moment.isoformat(sep=" ") if seconds % 86_400 else moment.date().isoformat()
