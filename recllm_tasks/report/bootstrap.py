"""Intervals of a mean over users, and of AUC, by resampling the users.

Every method of a table is resampled with the same draws of users, so that the difference of two
methods in a replicate is that of one resampled population: the bootstrap is paired.

Letters: U users, V values a user (methods by metrics), B replicates, C replicates of a chunk.
"""

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from recllm_tasks.report.random_words import below

REPLICATES = 2_000
LEVEL = 0.95

# A chunk of counts is float32 [C, U] of some 16 MB.
_CHUNK_BYTES = 16 << 20


class Resampling:
    """Draws of U users out of U with replacement, the same at every use."""

    def __init__(self, num_users: int, replicates: int = REPLICATES, seed: int = 0):
        self.num_users, self.replicates, self._seed = num_users, replicates, seed

    def means(self, values_UxV: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Means over each replicate's users, [B, V]; NaN values are left out of a mean."""
        values_UxV = np.asarray(values_UxV, np.float64)
        known_UxV = ~np.isnan(values_UxV)
        whole = known_UxV.all()
        filled_UxV = np.where(known_UxV, values_UxV, 0).astype(np.float32)
        means = []
        for counts_CxU in self._chunks():
            sums = (counts_CxU @ filled_UxV).astype(np.float64)
            of = self.num_users if whole else counts_CxU @ known_UxV.astype(np.float32)
            with np.errstate(invalid="ignore", divide="ignore"):
                means.append(sums / of)
        return np.concatenate(means)

    def aucs(
        self, liked_U: npt.NDArray[np.bool_], scores_U: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """AUC over each replicate's users, [B]; NaN where all of them are of one class.

        With n users of each score counted, AUC is Σ_s pos(s) (neg(< s) + neg(s) / 2) over the
        number of pairs.
        """
        _, score_U, num = np.unique(scores_U, return_inverse=True, return_counts=True)
        order_U = np.argsort(score_U, kind="stable")
        starts = np.cumsum(num) - num
        liked_U = liked_U[order_U].astype(np.float32)
        found = []
        for counts_CxU in self._chunks(order_U):
            positive = counts_CxU * liked_U
            negative = counts_CxU - positive
            if len(num) < self.num_users:
                positive = np.add.reduceat(positive, starts, axis=1)
                negative = np.add.reduceat(negative, starts, axis=1)
            # Counts are exact in float32; the sum of their products would not be.
            before = np.cumsum(negative, axis=1)
            before -= negative / 2
            wins = np.array([np.dot(*pair) for pair in zip(positive, before.astype(np.float64))])
            with np.errstate(invalid="ignore"):
                found.append(wins / (positive.sum(axis=1) * negative.sum(axis=1)))
        return np.concatenate(found)

    def _chunks(self, order_U=slice(None)) -> Iterator[npt.NDArray[np.float32]]:
        """How often each user is drawn, in chunks of replicates: [C, U]."""
        size = max(1, _CHUNK_BYTES // (4 * self.num_users))
        for start in range(0, self.replicates, size):
            yield self._counts_BxU[start : start + size, order_U].astype(np.float32)

    @functools.cached_property
    def _counts_BxU(self) -> npt.NDArray[np.uint8]:
        """No user is drawn more than 255 times: the chance is below 1e-300."""
        num = self.num_users
        counts_BxU = np.empty((self.replicates, num), np.uint8)
        for row in range(self.replicates):
            counts_BxU[row] = np.bincount(below(self._seed, row * num, num, num), minlength=num)
        return counts_BxU


def interval(replicates_B: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The percentile interval of `LEVEL`; NaN where a tenth of the replicates or more is NaN."""
    known = replicates_B[~np.isnan(replicates_B)]
    if len(known) < 0.9 * len(replicates_B) or not len(known):
        return float("nan"), float("nan")
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)
