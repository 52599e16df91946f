"""Whether short ids give anything away: they must be in no order (paper §A.1).

P5 numbered items as it first saw them; the rule "previous id + 1" then finds a share of the test
items without any learning. Letters: N items.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from recllm_tasks.audit.records import Records
from recllm_tasks.audit.verdict import Check, Offender

# Our choice: five standard deviations of the null distribution, and the same tail of the binomial
# one, so that an honest dataset fails once in some two million; what leaks is far beyond.
DEVIATIONS = 5.0
TAIL = stats.norm.sf(DEVIATIONS)

NEXT_IDS = 10


def check_order(records: Records) -> Check:
    """Spearman's rank correlation of short ids with raw-id order and first-seen order.

    Of two independent orders of N items it has mean 0 and standard deviation 1 / sqrt(N - 1). First
    seen is counted user by user, in the order of raw ids, each sequence from its oldest item on.
    """
    size = len(records.catalog)
    limit = DEVIATIONS / np.sqrt(max(1, size - 1))
    test = records.splits["test"]
    seen = test.items.take(np.argsort(natural_ranks([user.decode() for user in test.users])))
    rows, first_place = np.unique(seen.values, return_index=True)
    orders = {
        "raw-id order": (np.arange(size), natural_ranks(records.catalog.item)),
        "first-seen order": (rows, first_place),
    }
    correlations = {name: rank_correlation(*pair) for name, pair in orders.items()}
    offender = None
    for name, correlation in correlations.items():
        if offender is None and abs(correlation) > limit:
            place = int(np.argmin(orders[name][1]))
            row = orders[name][0][place]
            offender = Offender(
                f"rank correlation {correlation:+.3f} of short ids with {name}, expected at most "
                f"{limit:.3f} either way; the first item in that order is '"
                f"{records.catalog.item[row]}'",
                value=records.catalog.short_id[row],
                position=int(row),
            )
    figures = {name: round(float(rho), 4) for name, rho in correlations.items()}
    return Check(
        "short_id_order",
        "short ids in no order",
        {**figures, "at most": round(float(limit), 4)},
        offender,
    )


def natural_ranks(ids: Sequence[str]) -> np.ndarray:
    """Each id's place in their order, int64 [n]; as numbers where all of them are."""
    as_numbers = all(text.isascii() and text.isdigit() for text in ids)
    order = sorted(range(len(ids)), key=lambda n: int(ids[n]) if as_numbers else ids[n])
    ranks = np.empty(len(ids), np.int64)
    ranks[order] = np.arange(len(ids))
    return ranks


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's; 0 where there is no order to speak of."""
    if len(first) < 2:
        return 0.0
    return float(stats.spearmanr(first, second).statistic)


def check_next_id(records: Records) -> Check:
    """The rule "previous id + 1": HR@10 of the ten ids after the user's last one.

    Of a random mapping, one pair of different items is a hit with probability p, a little less than
    10 / N. The bound is the binomial one over the distinct pairs of last item and test item, for
    users with the same pair are hit together.
    """
    size = len(records.catalog)
    last_two = records.splits["test"].items.last_columns(2)
    step = last_two[:, 1] - last_two[:, 0]
    hit = (step >= 1) & (step <= NEXT_IDS) & (last_two[:, 0] >= 0)
    distances = np.arange(1, min(NEXT_IDS, size - 1) + 1)
    chance = float((size - distances).sum() / max(1, size * (size - 1)))
    pairs = np.unique(last_two[last_two[:, 0] >= 0], axis=0)
    steps = pairs[:, 1] - pairs[:, 0]
    hits = int(((steps >= 1) & (steps <= NEXT_IDS)).sum())
    most = int(stats.binom.isf(TAIL, len(pairs), chance))
    offender = None
    if hits > most:
        number = int(np.flatnonzero(hit)[0])
        offender = Offender(
            f"{step[number]} after the last id, {records.catalog.short_id[last_two[number, 0]]}; "
            f"{hits:,} of {len(pairs):,} pairs are found so, expected at most {most:,}",
            value=records.catalog.short_id[last_two[number, 1]],
            user=records.user(number),
            split="test",
            position=int(records.splits["test"].items.lengths[number] - 1),
        )
    figures = {
        "HR@10": round(float(hit.mean()), 5),
        "chance": round(chance, 5),
        "pairs found": hits,
        "at most": most,
    }
    return Check("next_id", 'the rule "previous id + 1" at chance', figures, offender)
