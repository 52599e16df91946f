"""Whether two rows differ on the same users: sign flips, DeLong's test, Holm's correction.

Letters: F flips, U users, C comparisons.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recllm_tasks.report.bootstrap import Statistic, random_bits

FLIPS = 10_000
LEVEL = 0.05
_CHUNK = 1000
# Sums of float32: two flips that are equal on paper may differ by so much of their size.
_ROUNDING = 1e-5


def sign_flips(differences_UxC: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    """[C] two-sided p-values of paired differences by random flips of their signs (Fisher 1935).

    Where two rows do equally well, a user's difference is as likely with either sign.
    p = (1 + flips whose sum is at least as far from 0) / (1 + F), so it is never 0.
    """
    differences = np.asarray(differences_UxC, np.float32)
    # A user without a difference has no part in any sum.
    differences = differences[(differences != 0).any(axis=1)]
    if not len(differences):
        return np.ones(differences.shape[1])
    num_users = len(differences)
    observed_C = np.abs(differences.sum(axis=0, dtype=np.float64))
    least_C = observed_C * (1 - _ROUNDING)
    extreme_C = np.zeros(differences.shape[1], np.int64)
    words = -(-num_users // 64)
    for start in range(0, FLIPS, _CHUNK):
        bits = random_bits(seed + 1, start * words, _CHUNK * words)
        signs = np.unpackbits(bits.view(np.uint8)).reshape(_CHUNK, words * 64)[:, :num_users]
        sums_FxC = (2 * signs.astype(np.float32) - 1) @ differences
        extreme_C += (np.abs(sums_FxC) >= least_C).sum(axis=0)
    return (1 + extreme_C) / (1 + FLIPS)


def delong(first: Statistic, second: Statistic) -> float:
    """Two-sided p-value of two AUCs on the same users (DeLong et al. 1988).

    Args:
      first: of `bootstrap.auc_of`.
      second: the same users, in the same order.
    """
    difference, variance = first.value() - second.value(), 0.0
    for one, other in zip(first.terms, second.terms):
        gap = (one.values - other.values)[one.chosen]
        if len(gap) < 2:
            return math.nan
        variance += gap.var(ddof=1) / len(gap)
    if variance == 0:
        return 1.0 if difference == 0 else 0.0
    return math.erfc(abs(difference) / math.sqrt(2 * variance))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979); NaN stays NaN and is not counted."""
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = [math.nan] * len(p_values), 0.0
    for done, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - done) * p))
        corrected[place] = largest
    return corrected
