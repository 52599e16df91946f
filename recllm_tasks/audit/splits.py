"""Whether the stored splits are those of the dataset's protocol, leave-one-out or by time."""

from collections.abc import Iterator

import numpy as np

from recllm_tasks.audit.check import Check, Offender
from recllm_tasks.audit.ragged import Ragged
from recllm_tasks.audit.records import Records, is_in
from recllm_tasks.data.options import LEAVE_ONE_OUT
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
    aligned = records.aligned()
    figures = {
        "users": len(records.users),
        "items": size,
        "interactions": len(aligned.whole.values),
    }
    if offender is None and records.users:
        found = Statistics.from_lengths(
            aligned.whole.lengths,
            size,
            records.info.window,
            aligned.splits["train"].items.lengths,
        ).to_json()
        for name, stored in records.info.statistics.to_json().items():
            if offender is None and not np.isclose(found[name], stored, rtol=1e-9):
                offender = Offender(
                    f"{name} counted in the records; recllm.json says {stored}",
                    value=str(found[name]),
                    split="test",
                )
    return Check("whole", "the records are complete, as counted by prepare", figures, offender)


def check_same_users(records: Records) -> Check:
    """Each user has exactly one record in each split; in a split by time, at most one."""
    offender = next(_misplaced_users(records), None)
    figures = {name: len(split.users) for name, split in records.splits.items()}
    same = "the same users in all splits, each once"
    claim = same if _has_all_users(records) else "each user at most once in a split"
    return Check("same_users", claim, figures, offender)


def _has_all_users(records: Records) -> bool:
    return records.info.split == LEAVE_ONE_OUT and not records.info.withhold_items


def _misplaced_users(records: Records) -> Iterator[Offender]:
    for name, split in records.splits.items():
        for before, user in zip(split.users, split.users[1:]):
            if before == user:
                yield Offender("two records", "2", user.decode(errors="replace"), name)
        if not _has_all_users(records):
            expected = records.info.users_of(name)
            if len(split.users) != expected:
                yield Offender(
                    f"records; recllm.json says {expected}", f"{len(split.users)}", None, name
                )
            continue
        users, test_users = {*split.users}, {*records.splits["test"].users}
        for user in sorted(users ^ test_users):
            missing_in = "test" if user in users else name
            problem = f"no record in the {missing_in} split"
            yield Offender(problem, "no record", user.decode(errors="replace"), name)


def check_splits(records: Records) -> Check:
    """Train is the test record minus its last two interactions, validation minus its last one.

    In a split by time: train is the validation record minus its last interaction, and validation is
    the start of the test record, without that one's last interaction. Users without one of these
    records are compared in the others.
    """
    offender = None
    for name, (expected, what) in _expected(records).items():
        offender = offender or _later_interaction(records, name, expected, what)
    interactions = {name: len(split.items.values) for name, split in records.splits.items()}
    return Check(
        "no_later_interaction",
        "no later interaction in an earlier split",
        interactions,
        offender,
    )


def _expected(records: Records) -> dict[str, tuple[Ragged, str]]:
    """What the records of a split must hold, and what that is."""
    found, withheld = _with_withheld(records), records.withheld
    if withheld is not None:
        rows, what = found["train"]
        kept = ~withheld[rows.values]
        lengths = np.bincount(rows.rows[kept], minlength=len(rows))
        rows = Ragged.of_lengths(rows.values[kept], lengths)
        found["train"] = (rows, f"{what}, and without withheld items")
    return found


def _with_withheld(records: Records) -> dict[str, tuple[Ragged, str]]:
    """`_expected`, if no item was withheld."""
    train, validation, test = (records.splits[name].items for name in HELD_OUT)
    if records.info.split == LEAVE_ONE_OUT:
        return {
            name: (test.without_last(num), f"the test record without its last {num} interactions")
            for name, num in HELD_OUT.items()
        }
    users = np.arange(len(train))
    before = Ragged.concatenate([validation.without_last(1), test.without_last(1), train])
    has_validation, has_test = validation.lengths > 0, (test.lengths > 0) & (train.lengths > 0)
    place = np.where(has_validation, 0, np.where(has_test, 1, 2))
    start = test.without_last(1)
    start = start.without_last(np.maximum(0, start.lengths - validation.lengths))
    has_both = has_validation & (test.lengths > 0)
    return {
        "train": (before.take(place * len(users) + users), "the next record without its target"),
        "validation": (
            Ragged.concatenate([validation, start]).take(has_both * len(users) + users),
            "the start of the test record without its target",
        ),
    }


def _later_interaction(records: Records, name: str, expected: Ragged, what: str) -> Offender | None:
    stored = records.splits[name].items
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
            f"expected {right}: {what}",
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
