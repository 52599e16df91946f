"""Semantic ids: items with similar content have ids with a common prefix.

As in TIGER (Rajput et al. 2023), with residual k-means instead of its RQ-VAE: the first code is the
nearest of 256 centres, the next one the nearest of 256 centres to the residual, three times in all.
Where too many items would have the same codes, some get the next nearest ones, so that items of
different content have different codes. A last number tells items of equal content apart.
Letters: N items, M distinct embeddings, D dimensions, K codes a level.
"""

import dataclasses
import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize

from recllm_tasks.data.id_schemes import LETTERS, MAX_CODES

LEVELS = len(LETTERS)

# Our choice: at least so many items per code on average, because a code of a single item says
# nothing about others. TIGER's 256 codes are reached with 2,048 items.
_ITEMS_A_CODE = 8

# Our choice: small catalogs have more codes than that, so that there are eight times as many
# combinations of them as items.
_CODES_BY_CUBE_ROOT = 2

# Centres are fitted on the first items, which are in random order; then all are assigned.
_SAMPLE = 1 << 16
_ITERATIONS = 50

# A residual of less than this share of the longest embedding is a rounding error.
_ROUNDING = 1e-6


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


class Codebooks(NamedTuple):
    """What items that come later get their codes by.

    Attributes:
      centres: of each level, float32 [K, D].
      shortest: a shorter residual of the first level is a rounding error.
    """

    centres: tuple[np.ndarray, ...]
    shortest: float


def assign_codes(embeddings_NxD: np.ndarray, seed: int) -> np.ndarray:
    """The codes of `fit_codes`."""
    return fit_codes(embeddings_NxD, seed)[0]


def fit_codes(embeddings_NxD: np.ndarray, seed: int) -> tuple[np.ndarray, Codebooks]:
    """Codes of all items and their numbers among items with equal codes, int64 [N, LEVELS + 1].

    All rows are distinct. Equal embeddings have equal codes; different ones have different codes,
    unless there are more than 256^3. Equal inputs and seeds give equal codes on any number of
    cores: a single thread computes them, so sums have a fixed order.

    Our choice: residuals are scaled to length 1 before the next level, because most are short, and
    k-means would give half of a large group the code next to zero.

    Args:
      embeddings_NxD: float32, in an order that is independent of time and raw ids, because the last
        number follows it.
      seed: for the first centres.
    """
    import threadpoolctl

    number_N, first_M = _distinct(embeddings_NxD)
    points_MxD = np.asarray(embeddings_NxD[first_M], np.float32)
    size = len(points_MxD)
    num_codes = min(
        MAX_CODES, max(_CODES_BY_CUBE_ROOT * math.ceil(size ** (1 / 3)), size // _ITEMS_A_CODE)
    )
    codes_MxL, centres = np.zeros([size, LEVELS], np.int64), []
    with threadpoolctl.threadpool_limits(1):
        first_shortest = _ROUNDING * np.linalg.norm(points_MxD, axis=1).max(initial=0)
        shortest = first_shortest
        for level in range(LEVELS):
            codes_M, centres_KxD = _nearest_centres(points_MxD, num_codes, seed + level)
            centres.append(centres_KxD)
            # Each further level can tell K items apart.
            room = num_codes ** (LEVELS - 1 - level)
            for rows in _groups(codes_MxL[:, :level]):
                _spread(points_MxD, rows, codes_M, centres_KxD, room)
            codes_MxL[:, level] = codes_M
            _subtract(points_MxD, codes_M, centres_KxD, shortest)
            shortest = _ROUNDING
    codes_NxL = codes_MxL[number_N]
    codes_NxC = np.concatenate([codes_NxL, _number_within_groups(codes_NxL)[:, np.newaxis]], axis=1)
    return codes_NxC, Codebooks(tuple(centres), float(first_shortest))


def assign_later_codes(
    embeddings_AxD: np.ndarray,
    codebooks: Codebooks,
    embeddings_NxD: np.ndarray,
    codes_NxC: np.ndarray,
    trained_N: np.ndarray,
) -> np.ndarray | None:
    """Codes of items that come after N others, whose codes stay: int64 [A, LEVELS + 1].

    Our choice: only numbers that some trained item has at the same place, because the model has
    learned no others. An item gets the nearest combination of codes that is free; with the content
    of another item, it gets that one's codes and the next number, if there is one.

    Args:
      embeddings_AxD: of the items that come later.
      codebooks: from `fit_codes`.
      embeddings_NxD: of the items before them.
      codes_NxC: of those.
      trained_N: whether each of those is in the train split.

    Returns:
      The codes, or None if no combination is left for one of the items.
    """
    known = [np.unique(column) for column in codes_NxC[trained_N].T]
    content = {_content(values): row for row, values in enumerate(embeddings_NxD)}
    codes_of = {key: tuple(codes_NxC[row, :LEVELS].tolist()) for key, row in content.items()}
    taken = {tuple(codes) for codes in codes_NxC.tolist()}
    used = {codes[:LEVELS] for codes in taken}
    found = []
    for values in np.asarray(embeddings_AxD, np.float32):
        key = _content(values)
        free = (
            (*codes_of[key], number)
            for number in known[LEVELS].tolist()
            if key in codes_of and (*codes_of[key], number) not in taken
        )
        chosen = next(free, None)
        if chosen is None:
            nearest = _by_nearness(values, codebooks, known)
            codes = next((codes for codes in nearest if codes not in used), None)
            if codes is None:
                return None
            chosen = (*codes, 0)
        taken.add(chosen)
        used.add(chosen[:LEVELS])
        codes_of.setdefault(key, chosen[:LEVELS])
        found.append(chosen)
    return np.array(found, np.int64).reshape(len(found), LEVELS + 1)


def _by_nearness(
    point_D: np.ndarray, codebooks: Codebooks, known: Sequence[np.ndarray], level: int = 0
) -> Iterator[tuple[int, ...]]:
    """Combinations of known codes from this level on, the nearest of each level first."""
    if level == LEVELS:
        yield ()
        return
    centres_KxD = codebooks.centres[level][known[level]]
    order = np.argsort(_squared_distances(point_D[np.newaxis], centres_KxD)[0], kind="stable")
    for place in order.tolist():
        residual = point_D - centres_KxD[place]
        length = np.linalg.norm(residual)
        is_clear = length > (codebooks.shortest if level == 0 else _ROUNDING)
        residual = residual / length if is_clear else np.zeros_like(residual)
        for rest in _by_nearness(residual, codebooks, known, level + 1):
            yield (int(known[level][place]), *rest)


def _distinct(rows_NxD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of each row among distinct rows [N], and the first row of each number [M]."""
    numbers: dict[bytes, int] = {}
    number_N = np.empty(len(rows_NxD), np.int64)
    for row, values in enumerate(rows_NxD):
        number_N[row] = numbers.setdefault(_content(values), len(numbers))
    return number_N, np.unique(number_N, return_index=True)[1]


def _content(values_D: np.ndarray) -> bytes:
    """A key that equal embeddings have in common."""
    # 0.0 and -0.0 are equal, but not their bytes.
    return hashlib.blake2b((values_D + np.float32(0)).tobytes(), digest_size=16).digest()


def _nearest_centres(
    points_MxD: np.ndarray, num_codes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The code of each point and the centre of each code, by k-means."""
    from sklearn import cluster, exceptions

    num_codes = min(num_codes, len(points_MxD))
    fit = cluster.KMeans(num_codes, n_init=1, max_iter=_ITERATIONS, random_state=seed)
    with warnings.catch_warnings():
        # With fewer distinct points than codes, some codes have no items.
        warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
        fit.fit(points_MxD[:_SAMPLE])
    return fit.predict(points_MxD).astype(np.int64), fit.cluster_centers_


def _groups(codes_MxL: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of each combination of codes, in increasing order; all rows if L is 0."""
    keys = np.zeros(len(codes_MxL), np.int64)
    for column in codes_MxL.T:
        keys = keys * MAX_CODES + column
    order = np.argsort(keys, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(keys[order])) + 1)


def _spread(
    points_MxD: np.ndarray,
    rows: np.ndarray,
    codes_M: np.ndarray,
    centres_KxD: np.ndarray,
    room: int,
) -> None:
    """Changes the codes of `rows` where more than `room` of them have the same one.

    Our choice: with room for one item, the codes of the group have the least sum of squared
    distances. Otherwise each full code keeps the nearest items, and the others go to the nearest
    code that is not full, which takes less memory.

    Args:
      rows: of one group, increasing.
      codes_M: of the nearest centre; changed in place.
      room: more items than K times this are spread evenly.
    """
    num_codes = len(centres_KxD)
    room = max(room, math.ceil(len(rows) / num_codes))
    counts = np.bincount(codes_M[rows], minlength=num_codes)
    if counts.max() <= room:
        return
    if room == 1:
        codes_M[rows] = optimize.linear_sum_assignment(
            _squared_distances(points_MxD[rows], centres_KxD)
        )[1]
        return
    is_full = np.zeros(num_codes, bool)
    while (counts > room).any():
        leaving = []
        for code in np.flatnonzero(counts > room):
            here = rows[codes_M[rows] == code]
            away = np.square(points_MxD[here] - centres_KxD[code]).sum(axis=1)
            leaving.append(here[np.argsort(away, kind="stable")[room:]])
        is_full |= counts >= room
        for chunk in _chunks(np.concatenate(leaving)):
            distances = _squared_distances(points_MxD[chunk], centres_KxD)
            codes_M[chunk] = np.where(is_full, np.inf, distances).argmin(axis=1)
        counts = np.bincount(codes_M[rows], minlength=num_codes)


def _subtract(
    points_MxD: np.ndarray, codes_M: np.ndarray, centres_KxD: np.ndarray, shortest: float
) -> None:
    """Turns points into residuals of length 1, or 0 below `shortest`, in place."""
    for rows in _chunks(np.arange(len(points_MxD))):
        residuals = points_MxD[rows] - centres_KxD[codes_M[rows]]
        lengths = np.linalg.norm(residuals, axis=1, keepdims=True)
        points_MxD[rows] = np.where(lengths > shortest, residuals / np.maximum(lengths, 1e-30), 0)


def _squared_distances(points_BxD: np.ndarray, centres_KxD: np.ndarray) -> np.ndarray:
    """[B, K], less the squared length of the point, which all its distances have in common."""
    return np.square(centres_KxD).sum(axis=1) - 2 * points_BxD @ centres_KxD.T


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), _SAMPLE):
        yield rows[start : start + _SAMPLE]


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
