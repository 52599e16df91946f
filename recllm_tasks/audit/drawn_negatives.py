"""Whether the negatives that a task draws give away nothing about held-out interactions."""

import numpy as np
from scipy import stats

from recllm_tasks.audit.check import Check, Offender
from recllm_tasks.audit.examples import Batch
from recllm_tasks.audit.records import Records, is_in
from recllm_tasks.audit.short_ids import TAIL


class OwnNegatives:
    """Among the offered items, the user has interacted with the target only.

    In training this refers to the train split: negatives must not depend on later interactions.
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

    def check(self) -> Check:
        figures = {"examples": self._examples, "offered": self._offered}
        claim = "no drawn negative that the user has interacted with in the split"
        return Check("drawn_negatives", claim, figures, self._offender)


class HeldOutNegatives:
    """In training, held-out items are drawn as negatives as often as expected by chance.

    If negatives avoided them, an item that is never drawn would be recognisable as held out.
    Negatives are drawn by popularity in the train split among the items that the user does not have
    there (Paper §4.1). So the probability that a draw is a held-out item is known, and their number
    closely follows a Poisson distribution.
    """

    def __init__(self, records: Records):
        self._records = records
        self._records, size = records, len(records.catalog)
        counts, users = records.catalog.train_count, len(records.users)
        own = np.unique(records.own("train"))
        mass = np.bincount(own // size, counts[own % size], minlength=users)
        # A held-out item that is also in the train record cannot be drawn.
        held_out = np.unique(records.own_later("train"))
        self._held_out = held_out[~is_in(held_out, own)]
        user, row = self._held_out // size, self._held_out % size
        left = np.maximum(1, counts.sum() - mass)
        self._probability = np.bincount(user, counts[row], minlength=users) / left
        self._found: dict[str, int] = {}
        self._expected: dict[str, float] = {}

    def add(self, batch: Batch) -> None:
        draws = batch.offered.shape[1] - 1
        if batch.split != "train" or draws < 1 or not (batch.user >= 0).all():
            return
        pairs = self._records.pair(batch.user[:, np.newaxis], batch.offered)
        found = int(is_in(pairs, self._held_out).sum())
        expected = draws * float(self._probability[batch.user].sum())
        self._found[batch.task] = self._found.get(batch.task, 0) + found
        self._expected[batch.task] = self._expected.get(batch.task, 0.0) + expected

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
