"""Random 64-bit words without a state: word n of a seed is a function of both.

SplitMix64 (Steele, Lea and Flood 2014), whose n-th output can be computed at once.
"""

import numpy as np
import numpy.typing as npt

_GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def words(seed: int, start: int, num: int) -> npt.NDArray[np.uint64]:
    """Words `start` … `start + num - 1` of a seed, uint64 [num]."""
    first = (seed * 0xD1342543DE82EF95 + (start + 1) * _GAMMA) & _MASK
    with np.errstate(over="ignore"):
        z = np.arange(num, dtype=np.uint64)
        z *= np.uint64(_GAMMA)
        z += np.uint64(first)
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return z


def below(seed: int, start: int, num: int, bound: int) -> npt.NDArray[np.int64]:
    """Whole numbers from 0 to `bound` - 1, `bound` at most 2^31; int64 [num].

    The high half of a word times the bound: the bias is below bound / 2^32.
    """
    high = words(seed, start, num) >> np.uint64(32)
    return ((high * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)
