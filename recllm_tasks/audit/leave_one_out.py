"""Whether the stored splits are what leave-one-out makes of each user's sequence."""

from collections.abc import Iterator

import numpy as np

from recllm_tasks.audit.records import Records
from recllm_tasks.audit.verdict import Check, Offender
from recllm_tasks.data.sequences import HELD_OUT
from recllm_tasks.data.statistics import Statistics


def check_whole(records: Records) -> Check:
    """Every row is of the catalog, and the counts are those that `recllm prepare` wrote down."""
    size, offender = len(records.catalog), None
    for name, split in records.splits.items():
        for rows in (split.items, split.negatives):
            wrong = np.flatnonzero((rows.values < 0) | (rows.values >= size))
            if len(wrong) and offender is None:
                number = rows.rows[wrong[0]]
                offender = Offender(
                    f"no such row in the catalog of {size:,} items",
                    value=str(rows.values[wrong[0]]),
                    user=split.users[number].decode(errors="replace"),
                    split=name,
                    position=int(rows.places()[wrong[0]]),
                )
    test = records.splits["test"]
    figures = {
        "users": len(test.users),
        "items": size,
        "interactions": len(test.items.values),
    }
    if offender is None and test.users:
        found = Statistics.from_lengths(test.items.lengths, size, records.info.window).to_json()
        for name, noted in records.info.statistics.to_json().items():
            if offender is None and not np.isclose(found[name], noted, rtol=1e-9):
                offender = Offender(
                    f"{name} counted in the records; recllm.json says {noted}",
                    value=str(found[name]),
                    split="test",
                )
    return Check("whole", "the records are whole, as counted when prepared", figures, offender)


def check_same_users(records: Records) -> Check:
    """Each user has exactly one record in each split."""
    offender = next(_odd_users(records), None)
    figures = {name: len(split.users) for name, split in records.splits.items()}
    return Check("same_users", "the same users in all splits, each once", figures, offender)


def _odd_users(records: Records) -> Iterator[Offender]:
    for name, split in records.splits.items():
        for before, user in zip(split.users, split.users[1:]):
            if before == user:
                yield Offender("two records", "2", user.decode(errors="replace"), name)
        here_all, there_all = {*split.users}, {*records.users}
        for user in sorted(here_all ^ there_all):
            here = user in here_all
            problem = "not in the test split" if here else "in the test split, but not here"
            yield Offender(problem, "no record", user.decode(errors="replace"), name)


def check_splits(records: Records) -> Check:
    """Train is the test record without its last two interactions, validation without its last."""
    offender = None
    for name, held_out in HELD_OUT.items():
        offender = offender or _later_interaction(records, name, held_out)
    interactions = {name: len(split.items.values) for name, split in records.splits.items()}
    return Check(
        "no_later_interaction",
        "no later interaction in an earlier split",
        interactions,
        offender,
    )


def _later_interaction(records: Records, name: str, held_out: int) -> Offender | None:
    stored = records.splits[name].items
    expected = records.splits["test"].items.without_last(held_out)
    for number in _unequal_rows(stored, expected):
        ours, theirs = stored[number], expected[number]
        common = min(len(ours), len(theirs))
        differing = np.flatnonzero(ours[:common] != theirs[:common])
        position = int(differing[0]) if len(differing) else common
        short_id = records.catalog.short_id
        is_more = position < len(ours)
        wanted = short_id[theirs[position]] if position < len(theirs) else "no interaction"
        return Offender(
            f"expected {wanted}: the test record without its last {held_out} interactions",
            value=short_id[ours[position]] if is_more else "no interaction",
            user=records.user(number),
            split=name,
            position=position,
        )
    return None


def _unequal_rows(first, second) -> Iterator[int]:
    if np.array_equal(first.splits, second.splits):
        yield from first.rows[np.flatnonzero(first.values != second.values)]
        return
    for number in range(len(first)):
        if not np.array_equal(first[number], second[number]):
            yield number


def check_repeats(records: Records) -> Check:
    """No sequence holds an item twice, so that no target is in its own history."""
    items = records.splits["test"].items
    pairs = records.pair(items.rows, items.values)
    order = np.argsort(pairs, kind="stable")
    again = np.sort(order[1:][np.diff(pairs[order]) == 0])
    offender = None
    if len(again):
        offender = Offender(
            f"interacted with before ({len(again):,} such interactions in all)",
            value=records.catalog.short_id[items.values[again[0]]],
            user=records.user(items.rows[again[0]]),
            split="test",
            position=int(items.places()[again[0]]),
        )
    figures = {"sequences": len(items), "repeats": len(again)}
    return Check("no_repeats", "no target in its own history", figures, offender)
