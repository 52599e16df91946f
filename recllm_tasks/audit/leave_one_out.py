"""Whether the stored splits are the leave-one-out splits of each user's sequence."""

from collections.abc import Iterator

import numpy as np

from recllm_tasks.audit.check import Check, Offender
from recllm_tasks.audit.records import Records, is_in
from recllm_tasks.data.sequences import HELD_OUT
from recllm_tasks.data.statistics import Statistics


def check_whole(records: Records) -> Check:
    """Every item is in the catalog, and the counts are those that `recllm prepare` stored."""
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
                    position=int(rows.positions[wrong[0]]),
                )
    test = records.splits["test"]
    figures = {
        "users": len(test.users),
        "items": size,
        "interactions": len(test.items.values),
    }
    if offender is None and test.users:
        found = Statistics.from_lengths(test.items.lengths, size, records.info.window).to_json()
        for name, stored in records.info.statistics.to_json().items():
            if offender is None and not np.isclose(found[name], stored, rtol=1e-9):
                offender = Offender(
                    f"{name} counted in the records; recllm.json says {stored}",
                    value=str(found[name]),
                    split="test",
                )
    return Check("whole", "the records are complete, as counted by prepare", figures, offender)


def check_same_users(records: Records) -> Check:
    """Each user has exactly one record in each split."""
    offender = next(_misplaced_users(records), None)
    figures = {name: len(split.users) for name, split in records.splits.items()}
    return Check("same_users", "the same users in all splits, each once", figures, offender)


def _misplaced_users(records: Records) -> Iterator[Offender]:
    for name, split in records.splits.items():
        for before, user in zip(split.users, split.users[1:]):
            if before == user:
                yield Offender("two records", "2", user.decode(errors="replace"), name)
        users, test_users = {*split.users}, {*records.splits["test"].users}
        for user in sorted(users ^ test_users):
            missing_in = "test" if user in users else name
            problem = f"no record in the {missing_in} split"
            yield Offender(problem, "no record", user.decode(errors="replace"), name)


def check_splits(records: Records) -> Check:
    """Train is the test record minus its last two interactions, validation minus its last one."""
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
        found, wanted = stored[number], expected[number]
        common = min(len(found), len(wanted))
        differing = np.flatnonzero(found[:common] != wanted[:common])
        position = int(differing[0]) if len(differing) else common
        short_id = records.catalog.short_id
        got, right = (
            short_id[rows[position]] if position < len(rows) else "no interaction"
            for rows in (found, wanted)
        )
        return Offender(
            f"expected {right}: the test record without its last {held_out} interactions",
            value=got,
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
    """No sequence has an item twice, so no target is in its own history.

    Where repeats are kept, they are counted, and the check never fails.
    """
    items = records.whole
    pairs = records.pair(items.rows, items.values)
    order = np.argsort(pairs, kind="stable")
    again = np.sort(order[1:][np.diff(pairs[order]) == 0])
    figures: dict[str, int | float] = {"sequences": len(items), "repeats": len(again)}
    if records.info.keeps_repeats:
        test = records.splits["test"].items
        targets, size = test.last_columns(1)[:, 0], len(records.catalog)
        history = test.without_last(1)
        own = np.sort(history.rows * np.int64(size) + history.values)
        known = is_in(np.arange(len(test)) * np.int64(size) + targets, own) & (targets >= 0)
        figures["users whose test item is in their history"] = int(known.sum())
        return Check("no_repeats", "repeats counted", figures)
    offender = None
    if len(again):
        offender = Offender(
            f"the user has interacted with it before ({len(again):,} repeats in all)",
            value=records.catalog.short_id[items.values[again[0]]],
            user=records.user(int(items.rows[again[0]])),
            split="test",
            position=int(items.positions[again[0]]),
        )
    return Check("no_repeats", "no target in its own history", figures, offender)


def check_ties(records: Records) -> Check:
    """Reports how many times are tied and how ties are ordered, for comparing results; never fails.

    Times are not stored, so `recllm prepare` counts the ties.
    """
    facts = records.info.tie_counts
    if facts is None:
        figures = {"not counted": "prepare again with --overwrite to count them"}
        return Check("ties", "ties: nothing to check", figures)
    share = facts.users_with_test_tied / max(1, len(records.users))
    figures = {
        "order": facts.order,
        "interactions tied": facts.interactions,
        "users whose test item is tied": facts.users_with_test_tied,
        "share of users": round(share, 4),
    }
    return Check("ties", "ties counted, their order known", figures)
