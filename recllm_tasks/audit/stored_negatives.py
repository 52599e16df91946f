"""Whether stored negatives are new to their user and drawn from the train split only."""

import numpy as np

from recllm_tasks.audit.check import Check, Offender
from recllm_tasks.audit.records import Records, is_in
from recllm_tasks.data.negatives import SPLITS
from recllm_tasks.data.options import DISTINCT


def check_stored_negatives(records: Records) -> Check:
    """Each user has `candidates` - 1 negatives, none of them from the user's whole sequence.

    Paper §4.1: 99, in validation and test. The train split stores none. In a dataset prepared with
    distinct candidates no user has one twice.
    """
    offender = None
    for name, split in records.splits.items():
        negatives, expected = split.negatives, records.info.candidates - 1 if name in SPLITS else 0
        odd = np.flatnonzero(negatives.lengths != np.where(split.items.lengths, expected, 0))
        own = np.flatnonzero(
            is_in(records.pair(negatives.rows, negatives.values), records.own_whole())
        )
        if offender is None and len(odd):
            offender = Offender(
                f"expected {expected} negatives",
                value=str(negatives.lengths[odd[0]]),
                user=records.user(int(odd[0])),
                split=name,
            )
        if offender is None and len(own):
            offender = Offender(
                f"a negative that the user has interacted with ({len(own):,} in all)",
                value=records.catalog.short_id[negatives.values[own[0]]],
                user=records.user(int(negatives.rows[own[0]])),
                split=name,
                position=int(negatives.positions[own[0]]),
            )
        if offender is None and records.info.candidate_sampling == DISTINCT:
            offender = _repeated(records, name)
    figures = {name: len(records.splits[name].negatives.values) for name in SPLITS}
    claim = "no stored negative that the user has interacted with"
    return Check("stored_negatives", claim, figures, offender)


def _repeated(records: Records, split: str) -> Offender | None:
    """The first negative that a user has twice."""
    negatives = records.splits[split].negatives
    pairs = records.pair(negatives.rows, negatives.values)
    _, first = np.unique(pairs, return_index=True)
    again = np.setdiff1d(np.arange(len(pairs)), first)
    if not len(again):
        return None
    return Offender(
        f"a negative twice in a dataset of distinct candidates ({len(again):,} in all)",
        value=records.catalog.short_id[negatives.values[again[0]]],
        user=records.user(int(negatives.rows[again[0]])),
        split=split,
        position=int(negatives.positions[again[0]]),
    )


def check_popularity(records: Records) -> Check:
    """`train_count`, the weight by which negatives are drawn, counts only the train split."""
    train = records.splits["train"].items.values
    counted = np.bincount(train, minlength=len(records.catalog))
    stored = records.catalog.train_count
    wrong = np.flatnonzero(counted != stored)
    offender = None
    if len(wrong):
        item = records.catalog.item[wrong[0]]
        offender = Offender(
            f"train_count of item '{item}'; the train split has it {counted[wrong[0]]:,} times",
            value=str(stored[wrong[0]]),
            split="train",
            position=int(wrong[0]),
        )
    figures = {"items": len(counted), "interactions": int(stored.sum())}
    claim = "popularity counts only the train split"
    return Check("train_popularity", claim, figures, offender)
