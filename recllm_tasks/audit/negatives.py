"""Whether negatives are what a user has not interacted with, drawn from the train split alone."""

import numpy as np

from recllm_tasks.audit.records import Records, is_in
from recllm_tasks.audit.verdict import Check, Offender
from recllm_tasks.data.negatives import SPLITS


def check_stored_negatives(records: Records) -> Check:
    """One negative fewer than candidates in validation and test, none of the user's whole sequence.

    Paper §4.1: 99. The train split stores none.
    """
    offender = None
    for name, split in records.splits.items():
        negatives, wanted = split.negatives, records.info.candidates - 1 if name in SPLITS else 0
        odd = np.flatnonzero(negatives.lengths != wanted)
        own = np.flatnonzero(
            is_in(records.pair(negatives.rows, negatives.values), records.own("test"))
        )
        if offender is None and len(odd):
            offender = Offender(
                f"expected {wanted} negatives",
                value=str(negatives.lengths[odd[0]]),
                user=records.user(odd[0]),
                split=name,
            )
        if offender is None and len(own):
            offender = Offender(
                f"a negative that the user has interacted with ({len(own):,} in all)",
                value=records.catalog.short_id[negatives.values[own[0]]],
                user=records.user(negatives.rows[own[0]]),
                split=name,
                position=int(negatives.places()[own[0]]),
            )
    figures = {name: len(records.splits[name].negatives.values) for name in SPLITS}
    claim = "no stored negative that the user has interacted with"
    return Check("stored_negatives", claim, figures, offender)


def check_popularity(records: Records) -> Check:
    """`train_count`, by which negatives are drawn, counts the train split and nothing else."""
    train = records.splits["train"].items.values
    counted = np.bincount(train, minlength=len(records.catalog))
    noted = records.catalog.train_count
    wrong = np.flatnonzero(counted != noted)
    offender = None
    if len(wrong):
        item = records.catalog.item[wrong[0]]
        offender = Offender(
            f"train_count of item '{item}'; the train split holds it {counted[wrong[0]]:,} times",
            value=str(noted[wrong[0]]),
            split="train",
            position=int(wrong[0]),
        )
    figures = {"items": len(counted), "interactions": int(noted.sum())}
    claim = "popularity counts the train split alone"
    return Check("train_popularity", claim, figures, offender)
