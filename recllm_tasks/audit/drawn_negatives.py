"""Whether the negatives that a task draws give away nothing about held-out interactions."""

import numpy as np
from scipy import stats

from recllm_tasks.audit.check import Check, Offender
from recllm_tasks.audit.examples import Batch
from recllm_tasks.audit.ragged import Ragged
from recllm_tasks.audit.records import Records, is_in
from recllm_tasks.audit.short_ids import TAIL
from recllm_tasks.data.options import DISTINCT


class OwnNegatives:
    """Among the offered items, the user has interacted with the target only.

    In training this refers to the train split: negatives must not depend on later interactions. In
    a dataset prepared with distinct candidates, no item is offered twice.
    """

    def __init__(self, records: Records):
        self._records = records
        self._offender: Offender | None = None
        self._examples = self._offered = 0

    def add(self, batch: Batch) -> None:
        if not batch.offered.shape[1] or not (batch.user >= 0).all():
            return
        self._examples += len(batch)
        self._offered += batch.offered.size
        pairs = self._records.pair(batch.user[:, np.newaxis], batch.offered)
        own = is_in(pairs, self._records.own(batch.split))
        odd = np.flatnonzero(own.sum(axis=1) != 1)
        if self._offender is None and len(odd):
            items = [self._records.catalog.short_id[r] for r in batch.offered[odd[0]][own[odd[0]]]]
            self._offender = Offender(
                f"items of the user among those offered by {batch.task} (seed {batch.seed}), "
                "expected the target only",
                value=", ".join(items) or "none",
                user=self._records.user(int(batch.user[odd[0]])),
                split=batch.split,
                position=int(batch.window[odd[0]]),
            )

        ordered = np.sort(batch.offered, axis=1)
        is_again = ordered[:, 1:] == ordered[:, :-1]
        if (
            self._offender is None
            and self._records.info.candidate_sampling == DISTINCT
            and is_again.any()
        ):
            example, place = np.argwhere(is_again)[0]
            self._offender = Offender(
                f"an item offered twice by {batch.task} (seed {batch.seed}), expected distinct "
                "candidates",
                value=self._records.catalog.short_id[ordered[example, place]],
                user=self._records.user(int(batch.user[example])),
                split=batch.split,
                position=int(batch.window[example]),
            )

    def check(self) -> Check:
        figures = {"examples": self._examples, "offered": self._offered}
        claim = "no drawn negative that the user has interacted with in the split"
        return Check("drawn_negatives", claim, figures, self._offender)


class HeldOutNegatives:
    """In training, held-out items are drawn as negatives as often as expected by chance.

    If negatives avoided them, an item that is never drawn would be recognisable as held out.
    Negatives are drawn by popularity in the train split among the items that the user does not have
    there (Paper §4.1). So the probability that a draw is a held-out item is known, and their number
    closely follows a Poisson distribution. Of distinct candidates it varies less than that.
    """

    def __init__(self, records: Records):
        self._records, size = records, len(records.catalog)
        counts, users = records.catalog.train_count, len(records.users)
        own = np.unique(records.own("train"))
        mass = np.bincount(own // size, counts[own % size], minlength=users)
        # A held-out item that is also in the train record cannot be drawn.
        held_out = np.unique(records.own_later("train"))
        self._held_out = held_out[~is_in(held_out, own)]
        user, row = self._held_out // size, self._held_out % size
        left = np.maximum(1, counts.sum() - mass)
        self._counts, self._is_distinct = counts, records.info.candidate_sampling == DISTINCT
        starts = np.arange(users + 1) * size
        self._own = Ragged(counts[own % size], np.searchsorted(own, starts))
        self._counts_of_held_out = Ragged(counts[row], np.searchsorted(self._held_out, starts))
        self._probability = np.bincount(user, counts[row], minlength=users) / left
        self._found: dict[str, int] = {}
        self._expected: dict[str, float] = {}

    def add(self, batch: Batch) -> None:
        draws = batch.offered.shape[1] - 1
        if batch.split != "train" or draws < 1 or not (batch.user >= 0).all():
            return
        pairs = self._records.pair(batch.user[:, np.newaxis], batch.offered)
        found = int(is_in(pairs, self._held_out).sum())
        expected = float(self._expected_of(batch.user, draws).sum())
        self._found[batch.task] = self._found.get(batch.task, 0) + found
        self._expected[batch.task] = self._expected.get(batch.task, 0.0) + expected

    def _expected_of(self, users: np.ndarray, draws: int) -> np.ndarray:
        """How many held-out items are among a user's negatives on average, float64 [B]."""
        if draws == 1 or not self._is_distinct:
            return draws * self._probability[users]
        different, place = np.unique(users, return_inverse=True)
        rates = rates_of_distinct(self._counts, self._own.take(different), draws)
        held_out = self._counts_of_held_out.take(different)
        chances = -np.expm1(-held_out.values * rates[held_out.rows])
        return np.bincount(held_out.rows, chances, minlength=len(different))[place]

    def check(self) -> Check:
        offender = None
        figures = {}
        for task, found in self._found.items():
            expected = self._expected[task]
            figures[task] = found
            figures[f"{task} by chance"] = round(expected, 1)
            few = stats.poisson.cdf(found, expected) < TAIL
            many = stats.poisson.sf(found - 1, expected) < TAIL
            if offender is None and (few or many):
                offender = Offender(
                    f"held-out items among the negatives of {task}, expected about "
                    f"{expected:,.1f}; negatives must not depend on which items are held out",
                    value=f"{found:,}",
                    split="train",
                )
        claim = "held-out items are train negatives as often as expected by chance"
        return Check("held_out_negatives", claim, figures, offender)


def rates_of_distinct(counts: np.ndarray, own: Ragged, draws: int) -> np.ndarray:
    """Rates r of `draws` distinct items by popularity: one of count c is drawn with 1 - exp(-c r).

    Draws without replacement in proportion to the counts pick the items whose exponential clocks
    of these rates ring first (Rosén 1997). Our choice: the time at which `draws` have rung on
    average in place of its distribution. Chances are within 1 % for 7 of 40 items, and closer for
    more draws.

    Args:
      counts: int64 [N], of all items.
      own: int64 [B, n], counts of the items that each user is not offered.
      draws: at most as many as a user's other items of count above 0.

    Returns:
      float64 [B].
    """
    value_K, number_K = np.unique(counts[counts > 0], return_counts=True)
    left_B = counts.sum() - np.bincount(own.rows, own.values, minlength=len(own))
    rates_B = draws / np.maximum(left_B, 1)
    # The mean is concave in the rate, so Newton's steps from below stay below.
    for _ in range(100):
        silent_BxK = number_K * np.exp(-value_K * rates_B[:, np.newaxis])
        silent_own = np.exp(-own.values * rates_B[own.rows])
        rung_B = (number_K.sum() - silent_BxK.sum(axis=1)) - np.bincount(
            own.rows, 1 - silent_own, minlength=len(own)
        )
        slope_B = silent_BxK @ value_K - np.bincount(
            own.rows, own.values * silent_own, minlength=len(own)
        )
        missing_B = draws - rung_B
        if (missing_B < 1e-6 * draws).all():
            break
        rates_B += missing_B / np.maximum(slope_B, np.finfo(np.float64).tiny)
    return rates_B
