"""Confidence intervals of a mean over users, and of AUC, by resampling the users.

The bootstrap is paired: all methods of a table are resampled with the same draws of users, so that
a replicate compares two methods on the same users.

Letters: U users, V values a user (methods by metrics), B replicates, C replicates of a chunk.
"""

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

REPLICATES = 2_000
LEVEL = 0.95

# A chunk of counts is float32 [C, U] of some 16 MB.
_CHUNK_BYTES = 16 << 20


class Resampling:
    """Draws of U users out of U with replacement, the same on every use."""

    def __init__(self, num_users: int, replicates: int = REPLICATES, seed: int = 0):
        self.num_users, self.replicates, self._seed = num_users, replicates, seed

    def means(self, values_UxV: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Means over each replicate's users, [B, V], without NaN values."""
        values_UxV = np.asarray(values_UxV, np.float64)
        known_UxV = ~np.isnan(values_UxV)
        all_known = known_UxV.all()
        filled_UxV = np.where(known_UxV, values_UxV, 0).astype(np.float32)
        means = []
        for counts_CxU in self._chunks():
            sums = (counts_CxU @ filled_UxV).astype(np.float64)
            of = self.num_users if all_known else counts_CxU @ known_UxV.astype(np.float32)
            with np.errstate(invalid="ignore", divide="ignore"):
                means.append(sums / of)
        return np.concatenate(means)

    def aucs(
        self, liked_U: npt.NDArray[np.bool_], scores_U: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """AUC over each replicate's users, [B]; NaN where all are of one class.

        By the users' placements (DeLong et al. 1988): a like's is the share of dislikes that it
        outscores, a dislike's the share of likes that outscore it, ties half; AUC is the mean of
        either. To the order of 1/U, a replicate's AUC is the mean of its likes' placements plus
        that of its dislikes', less the AUC of all.
        """
        placements_U = _placements(liked_U, scores_U)
        of_class_Ux2 = np.where(np.stack([liked_U, ~liked_U], 1), placements_U[:, None], np.nan)
        if np.isnan(placements_U).any():
            return np.full(self.replicates, np.nan)
        return self.means(of_class_Ux2).sum(axis=1) - placements_U[liked_U].mean()

    def _chunks(self) -> Iterator[npt.NDArray[np.float32]]:
        """How often each user is drawn: [C, U], in chunks of replicates."""
        size = max(1, _CHUNK_BYTES // (4 * self.num_users))
        for start in range(0, self.replicates, size):
            yield self._counts_BxU[start : start + size].astype(np.float32)

    @functools.cached_property
    def _counts_BxU(self) -> npt.NDArray[np.uint8]:
        """Fits uint8: the chance that a user is drawn more than 255 times is below 1e-300."""
        num = self.num_users
        counts_BxU = np.empty((self.replicates, num), np.uint8)
        generator = np.random.Generator(np.random.Philox(self._seed))
        for row in range(self.replicates):
            counts_BxU[row] = np.bincount(generator.integers(num, size=num), minlength=num)
        return counts_BxU


def _placements(
    liked_U: npt.NDArray[np.bool_], scores_U: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Placement of each user, see `aucs`; NaN without users of the other class."""
    _, score_U = np.unique(scores_U, return_inverse=True)
    sizes = {
        kind: np.bincount(score_U[liked_U == kind], minlength=score_U.max() + 1)
        for kind in (False, True)
    }
    below = {kind: np.cumsum(num) - num / 2 for kind, num in sizes.items()}
    with np.errstate(invalid="ignore", divide="ignore"):
        of_likes = below[False] / sizes[False].sum()
        of_dislikes = 1 - below[True] / sizes[True].sum()
    return np.where(liked_U, of_likes[score_U], of_dislikes[score_U])


def interval(replicates_B: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The percentile interval of `LEVEL`; NaN if at least a tenth of the replicates is NaN."""
    known = replicates_B[~np.isnan(replicates_B)]
    if len(known) < 0.9 * len(replicates_B) or not len(known):
        return float("nan"), float("nan")
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)
