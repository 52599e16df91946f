"""Tests of whether two methods differ by more than chance over the same users.

Letters: U users, G groups of users whose difference has the same size, P permutations.
"""

import numpy as np
import numpy.typing as npt

PERMUTATIONS = 10_000
ALPHA = 0.05

# A chunk of random words is some 16 MB.
_CHUNK_WORDS = 2 << 20


def sign_flip(
    differences_U: npt.NDArray[np.float64], permutations: int = PERMUTATIONS, seed: int = 0
) -> float:
    """Two-sided p of a zero mean difference, by flipping the signs of the users' differences.

    If k of n differences of the same size v are flipped, they sum to v (n - 2 k), and k is the
    number of set bits among n random bits. A permutation thus costs a few words for any U.
    Differences are rounded to 1e-9.
    """
    sizes_U = np.round(np.abs(differences_U), 9)
    sizes_G, num_G = np.unique(sizes_U[sizes_U > 0], return_counts=True)
    if not len(sizes_G):
        return 1.0
    observed = abs(np.sum(np.sign(differences_U) * sizes_U))
    words_G = -(-num_G // 64)
    starts_G = np.cumsum(words_G) - words_G
    # The last word of a group has one bit for each of the remaining users.
    mask = np.full(words_G.sum(), ~np.uint64(0))
    left_G = (num_G - 1) % 64 + 1
    mask[starts_G + words_G - 1] >>= (64 - left_G).astype(np.uint64)
    chunk = max(1, _CHUNK_WORDS // len(mask))
    generator, as_extreme = np.random.Generator(np.random.Philox(seed)), 0
    for start in range(0, permutations, chunk):
        num = min(chunk, permutations - start)
        bits = generator.integers(1 << 64, size=(num, len(mask)), dtype=np.uint64) & mask
        flipped_PxG = np.add.reduceat(np.bitwise_count(bits).astype(np.int64), starts_G, axis=1)
        sums_P = (num_G - 2 * flipped_PxG) @ sizes_G
        as_extreme += np.count_nonzero(np.abs(sums_P) >= observed - 1e-9)
    return (1 + as_extreme) / (1 + permutations)


def bootstrap_p(differences_B: npt.NDArray[np.float64]) -> float:
    """Two-sided p of paired bootstrap differences [B]: twice the share on the far side of 0."""
    known = differences_B[~np.isnan(differences_B)]
    if not len(known):
        return float("nan")
    far = min(np.count_nonzero(known <= 0), np.count_nonzero(known >= 0))
    return min(1.0, 2 * (1 + far) / (1 + len(known)))


def holm(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """p values adjusted for their number (Holm 1979), in the same order; ignores NaN."""
    p_values = np.asarray(p_values, np.float64)
    adjusted = np.full(len(p_values), np.nan)
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p_values[order] * factors))
    return adjusted
