"""Whether short ids leak anything: their order must be random (paper §A.1).

P5 numbered items in the order in which it first saw them. The rule "previous id + 1" then finds
some test items without any learning. Semantic ids reveal what an item is, and so which items are
similar; they must not reveal which came first. Ids are ordered by their numbers. Where events were
appended to a dataset, later ids belong to later items, as they must; within each part, the order is
random. Letters: N items.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from recllm_tasks.audit.check import Check, Offender
from recllm_tasks.audit.records import Records
from recllm_tasks.data.id_schemes import read_numbers

# Our choice: five standard deviations of the null distribution, and the same tail probability for
# binomial tests. A correct dataset fails once in about two million; leaks are far beyond the bound.
DEVIATIONS = 5.0
TAIL = stats.norm.sf(DEVIATIONS)

NEXT_IDS = 10


def check_order(records: Records) -> Check:
    """Spearman's rank correlation of short ids with raw-id order and first-seen order.

    For two independent orders of N items it has mean 0 and standard deviation `null_deviation`.
    First-seen order goes through users by raw id, and through each sequence from the oldest item.
    Of the parts of a catalog, that with the largest correlation for its size is shown.
    """
    numbers = read_numbers(records.catalog.short_id)
    place_of = ranks_of(numbers)
    by_user = np.argsort(natural_ranks([user.decode() for user in records.users]))
    seen = records.whole.take(by_user)
    rows, first_place = np.unique(seen.values, return_index=True)
    orders = {
        "raw-id order": (np.arange(len(records.catalog)), natural_ranks(records.catalog.item)),
        "first-seen order": (rows, first_place),
    }
    worst: tuple[float, dict[str, float], float, int] | None = None
    part_of = _parts(records, numbers)
    for part in range(part_of.max() + 1):
        within = {
            name: (found[part_of[found] == part], order[part_of[found] == part])
            for name, (found, order) in orders.items()
        }
        correlations = {
            name: rank_correlation(place_of[found], order)
            for name, (found, order) in within.items()
        }
        limit = DEVIATIONS * max(
            null_deviation(numbers[found, 0], order) for found, order in within.values()
        )
        ratio = max(abs(correlation) for correlation in correlations.values()) / limit
        if worst is None or ratio > worst[0]:
            worst = ratio, correlations, limit, part
    assert worst is not None
    _, correlations, limit, part = worst
    offender = None
    for name, correlation in correlations.items():
        if offender is None and abs(correlation) > limit:
            found, order = orders[name]
            of_part = np.flatnonzero(part_of[found] == part)
            row = found[of_part[np.argmin(order[of_part])]]
            offender = Offender(
                f"rank correlation {correlation:+.3f} of short ids with {name}, expected at most "
                f"{limit:.3f} in absolute value; the first item in that order is '"
                f"{records.catalog.item[row]}'",
                value=records.catalog.short_id[row],
                position=int(row),
            )
    figures = {name: round(float(rho), 4) for name, rho in correlations.items()}
    return Check(
        "short_id_order",
        "short ids in random order",
        {**figures, "at most": round(float(limit), 4)},
        offender,
    )


def _parts(records: Records, numbers: np.ndarray) -> np.ndarray:
    """Which part of the catalog each item belongs to, int64 [N]: see `DatasetInfo.appended`."""
    size = len(records.catalog)
    if numbers.shape[1] > 1:  # semantic ids are placed by what an item is like
        return np.zeros(size, np.int64)
    return np.searchsorted(records.info.appended, np.arange(size), side="right")


def ranks_of(numbers: np.ndarray) -> np.ndarray:
    """Each id's rank when ids are sorted by their numbers [N, C], int64 [N]."""
    ranks = np.empty(len(numbers), np.int64)
    ranks[np.lexsort(numbers.T[::-1])] = np.arange(len(numbers))
    return ranks


def null_deviation(groups: np.ndarray, order: np.ndarray) -> float:
    """The rank correlation's standard deviation if groups and their members are ordered randomly.

    A group consists of the items whose ids start with the same number. Similar items may be close
    together in the other order; then the groups are independent, but the items are not. If a share
    s of the order's variance lies between G groups (G is the inverse of the sum of their squared
    shares of items), the variance is s / (G - 1) + (1 - s) / (N - 1). If every group is a single
    item, as with ids of one number, that is 1 / (N - 1).

    Args:
      groups: int [n], the first number of each id.
      order: [n], the rank of each item in the other order.
    """
    size = len(order)
    if size < 2:
        return 1.0
    group = np.unique(groups, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(group)
    centred = order - order.mean()
    between = (np.bincount(group, centred) ** 2 / sizes).sum() / (centred**2).sum()
    num_groups = size**2 / (sizes**2).sum()
    if num_groups < 2:
        return 1.0
    return float(np.sqrt(between / (num_groups - 1) + (1 - between) / (size - 1)))


def natural_ranks(ids: Sequence[str]) -> np.ndarray:
    """Each id's rank, int64 [n]; ids are compared as numbers if all of them are numbers."""
    as_numbers = all(text.isascii() and text.isdigit() for text in ids)
    order = sorted(range(len(ids)), key=lambda n: int(ids[n]) if as_numbers else ids[n])
    ranks = np.empty(len(ids), np.int64)
    ranks[order] = np.arange(len(ids))
    return ranks


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rank correlation; 0 for fewer than two values."""
    if len(first) < 2:
        return 0.0
    result: Any = stats.spearmanr(first, second)
    return float(result.statistic)


def check_next_id(records: Records) -> Check:
    """The rule "previous id + 1": HR@10 of the ten ids that follow the user's last one.

    In a random mapping, a pair of different items is a hit with probability p, slightly less than
    10 / N. The bound is binomial over the distinct pairs of last item and test item, because users
    with the same pair are hit together. Where a catalog has parts, only pairs of items of the first
    one count, which is the largest as a rule.

    Semantic ids place similar items next to each other, so both the next and the previous ids are
    hits more often than by chance. Of the pairs that either rule hits, this rule hits each with
    probability 1 / 2.
    """
    numbers = read_numbers(records.catalog.short_id)
    is_semantic = numbers.shape[1] > 1
    last_two = records.splits["test"].items.last_columns(2)
    place = ranks_of(numbers)[last_two]
    part_of = _parts(records, numbers)
    has_two = (last_two[:, 0] >= 0) & (part_of[last_two] == 0).all(axis=1)
    step = np.where(has_two, place[:, 1] - place[:, 0], 0)
    pairs = np.unique(place[has_two], axis=0)
    steps = pairs[:, 1] - pairs[:, 0]
    hits, before = (int(((s >= 1) & (s <= NEXT_IDS)).sum()) for s in (steps, -steps))
    size = int((part_of == 0).sum())
    distances = np.arange(1, min(NEXT_IDS, size - 1) + 1)
    chance = float((size - distances).sum() / max(1, size * (size - 1)))
    if is_semantic:
        most = int(stats.binom.isf(TAIL, hits + before, 0.5)) if hits + before else 0
    else:
        most = int(stats.binom.isf(TAIL, len(pairs), chance))
    hit = (step >= 1) & (step <= NEXT_IDS)
    offender = None
    if hits > most:
        number = int(np.flatnonzero(hit)[0])
        offender = Offender(
            f"{step[number]} after the last id, {records.catalog.short_id[last_two[number, 0]]}; "
            f"the rule finds {hits:,} of {len(pairs):,} pairs, expected at most {most:,}",
            value=records.catalog.short_id[last_two[number, 1]],
            user=records.user(number),
            split="test",
            position=int(records.splits["test"].items.lengths[number] - 1),
        )
    figures = {
        "HR@10": round(float(hit[has_two].mean()), 5) if has_two.any() else 0.0,
        "chance": round(chance, 5),
        "pairs found": hits,
        **({"by previous id - 1": before} if is_semantic else {}),
        "at most": most,
    }
    claim = 'the rule "previous id + 1" ' + ('as good as "- 1"' if is_semantic else "at chance")
    return Check("next_id", claim, figures, offender)
