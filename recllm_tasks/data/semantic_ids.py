"""Semantic ids: items with similar content have ids with a common prefix.

As in TIGER (Rajput et al. 2023), with residual k-means instead of its RQ-VAE: the first code is the
nearest of 256 centres, the next one the nearest of 256 centres to the residual, three times in all.
A last number tells items with equal codes apart. Letters: N items, D dimensions of an embedding.
"""

import dataclasses
import hashlib
import warnings
from collections.abc import Sequence

import numpy as np

from recllm_tasks.data.id_schemes import LETTERS, MAX_CODES

LEVELS = len(LETTERS)

# Our choice: at least so many items per code on average, because a code of a single item says
# nothing about others. TIGER's 256 codes are reached with 2,048 items.
_ITEMS_A_CODE = 8

# Centres are fitted on the first items, which are in random order; then all are assigned.
_SAMPLE = 1 << 16
_ITERATIONS = 50


@dataclasses.dataclass(frozen=True)
class Collisions:
    """Items with equal codes, which only the last number tells apart.

    Attributes:
      items: items that share all codes with another item.
      groups: sets of such items.
      largest: size of the largest set.
    """

    items: int
    groups: int
    largest: int

    @classmethod
    def of(cls, codes_NxC: np.ndarray) -> "Collisions":
        sizes = np.unique(codes_NxC[:, :LEVELS], axis=0, return_counts=True)[1]
        shared = sizes[sizes > 1]
        return cls(int(shared.sum()), len(shared), int(sizes.max(initial=0)))


def assign_codes(embeddings_NxD: np.ndarray, seed: int) -> np.ndarray:
    """Codes of all items and their numbers among items with equal codes, int64 [N, LEVELS + 1].

    All rows are distinct. Equal embeddings and seeds give equal codes on any number of cores: a
    single thread computes them, so sums have a fixed order.

    Args:
      embeddings_NxD: float32, in an order that is independent of time and raw ids, because the last
        number follows it.
      seed: for the first centres.
    """
    import threadpoolctl

    residual_NxD = np.array(embeddings_NxD, np.float32)
    num_codes = min(MAX_CODES, max(2, len(residual_NxD) // _ITEMS_A_CODE))
    columns = []
    with threadpoolctl.threadpool_limits(1):
        for level in range(LEVELS):
            codes_N, centres = _nearest_centres(residual_NxD, num_codes, seed + level)
            columns.append(codes_N)
            residual_NxD -= centres[codes_N]
    codes_NxL = np.stack(columns, axis=1).astype(np.int64)
    return np.concatenate([codes_NxL, _number_within_groups(codes_NxL)[:, np.newaxis]], axis=1)


def _nearest_centres(
    points_NxD: np.ndarray, num_codes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The code of each point and the centre of each code, by k-means."""
    from sklearn import cluster, exceptions

    num_codes = min(num_codes, len(points_NxD))
    fit = cluster.KMeans(num_codes, n_init=1, max_iter=_ITERATIONS, random_state=seed)
    with warnings.catch_warnings():
        # With fewer distinct points than codes, some codes have no items.
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        fit.fit(points_NxD[:_SAMPLE])
    return fit.predict(points_NxD), fit.cluster_centers_


def _number_within_groups(codes_NxL: np.ndarray) -> np.ndarray:
    """0, 1, … for items with equal codes, in their order, int64 [N]."""
    group = np.unique(codes_NxL, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return numbers


def digest(short_ids: Sequence[str]) -> str:
    """SHA-256 (hex) of all ids in order."""
    return hashlib.sha256("\n".join(short_ids).encode()).hexdigest()
