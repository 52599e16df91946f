"""Percentile bootstrap over users (Efron 1979): resamples as counts, every statistic at once.

A resample is how often each user was drawn, so that R resamples of many means are one product of
matrices. AUC is no mean of users; its resamples are those of its first-order (Hoeffding)
projection,

    AUC*  =  mean*_liked V10  +  mean*_disliked V01  -  AUC,

with V10 a liked user's share of disliked ones below it, and V01 the other way round (DeLong et al.
1988). What that leaves out vanishes like 1 / U; a test compares it with resampling AUC itself.

Letters: R resamples, U users, S statistics, T terms.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
LEVEL = 0.95
# So many resamples are in work at once: 200 x 35,598 users x 8 bytes are 57 MB.
_CHUNK = 200


class Term(NamedTuple):
    """A mean over some users: `values` [U] are 0 where `chosen` [U] is False; None is all."""

    values: npt.NDArray[np.float64]
    chosen: npt.NDArray[np.bool_] | None = None

    def mean(self) -> float:
        number = len(self.values) if self.chosen is None else self.chosen.sum()
        return float(self.values.sum() / number) if number else float("nan")


@dataclasses.dataclass(frozen=True, eq=False)
class Statistic:
    """A sum of means over users, plus `offset`."""

    terms: tuple[Term, ...]
    offset: float = 0.0

    def value(self) -> float:
        return sum(term.mean() for term in self.terms) + self.offset


def mean_of(
    values: npt.NDArray[np.float64], chosen: npt.NDArray[np.bool_] | None = None
) -> Statistic:
    """The mean of `values` [U] over the chosen users."""
    values = np.asarray(values, np.float64)
    return Statistic((Term(values if chosen is None else np.where(chosen, values, 0.0), chosen),))


def auc_of(
    liked: npt.NDArray[np.bool_],
    score: npt.NDArray[np.float64],
    chosen: npt.NDArray[np.bool_] | None = None,
) -> Statistic:
    """AUC of `score` [U] over the chosen users; NaN where they all give one answer."""
    everybody = np.ones(len(liked), bool) if chosen is None else chosen
    positive, negative = liked & everybody, ~liked & everybody
    above, below = np.zeros(len(liked)), np.zeros(len(liked))
    above[positive] = _share_below(score[positive], score[negative])
    below[negative] = 1 - _share_below(score[negative], score[positive])
    terms = (Term(above, positive), Term(below, negative))
    return Statistic(terms, -terms[0].mean())


def _share_below(score: npt.NDArray, others: npt.NDArray) -> npt.NDArray[np.float64]:
    """The share of `others` that each score is above, equal ones half."""
    if not len(others):
        return np.full(len(score), np.nan)
    others = np.sort(others)
    below = np.searchsorted(others, score, "left") + np.searchsorted(others, score, "right")
    return below / (2 * len(others))


def replicates(statistics: Sequence[Statistic], seed: int) -> npt.NDArray[np.float64]:
    """[R, S] each statistic in each resample; NaN where none of its users was drawn.

    All statistics are over the same users in the same order, and see the same resamples, so that a
    difference of two columns is the paired bootstrap of their difference.
    """
    terms = [term for statistic in statistics for term in statistic.terms]
    if not terms:
        return np.zeros((RESAMPLES, 0))
    masks = {id(term.chosen): term.chosen for term in terms if term.chosen is not None}
    place = {key: column for column, key in enumerate(masks)}
    columns = [term.values for term in terms] + list(masks.values())
    columns_UxT = np.stack(columns, axis=1).astype(np.float32)
    num_users = len(columns_UxT)
    counts_RxU = resample_counts(num_users, seed)
    sums_RxT = np.concatenate(
        [
            counts_RxU[start : start + _CHUNK].astype(np.float32) @ columns_UxT
            for start in range(0, RESAMPLES, _CHUNK)
        ]
    ).astype(np.float64)
    drawn_RxM = sums_RxT[:, len(terms) :]
    found, column = np.empty((RESAMPLES, len(statistics))), 0
    for number, statistic in enumerate(statistics):
        found[:, number] = statistic.offset
        for term in statistic.terms:
            weight = num_users if term.chosen is None else drawn_RxM[:, place[id(term.chosen)]]
            with np.errstate(divide="ignore", invalid="ignore"):
                found[:, number] += sums_RxT[:, column] / weight
            column += 1
    return found


def interval(replicates_R: npt.NDArray[np.float64]) -> tuple[float, float] | None:
    """The percentile interval of one statistic's replicates; None where there are none."""
    finite = replicates_R[np.isfinite(replicates_R)]
    if not len(finite):
        return None
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@functools.lru_cache(maxsize=2)
def resample_counts(num_users: int, seed: int) -> npt.NDArray[np.uint8]:
    """[R, U] how often each user is drawn in each resample; a row sums to U."""
    counts = np.empty((RESAMPLES, num_users), np.uint8)
    for start in range(0, RESAMPLES, _CHUNK):
        rows = min(_CHUNK, RESAMPLES - start)
        bits = random_bits(seed, start * num_users, rows * num_users) >> np.uint64(32)
        user = (bits * np.uint64(num_users)) >> np.uint64(32)
        user += np.repeat(np.arange(rows, dtype=np.uint64) * np.uint64(num_users), num_users)
        drawn = np.bincount(user.astype(np.int64), minlength=rows * num_users)
        counts[start : start + rows] = drawn.reshape(rows, num_users)
    return counts


def random_bits(seed: int, start: int, num: int) -> npt.NDArray[np.uint64]:
    """Words `start` to `start + num` of a stream of 64 random bits each: SplitMix64.

    Our choice: the same numbers on every machine and with every release of NumPy, and no state
    (Steele, Lea, Flood 2014). Another seed jumps to another place of the same long cycle.
    """
    place = np.arange(start, start + num, dtype=np.uint64)
    place += np.uint64((seed * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) % 2**64)
    word = (place + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
