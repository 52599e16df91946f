"""What a history can tell of the target, against the definition, word for word."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recllm_tasks.data import co_occurrence
from recllm_tasks.data.co_occurrence import CoOccurrence

ITEMS = st.integers(0, 7)
TRAIN = st.lists(st.lists(ITEMS, max_size=5), min_size=1, max_size=8)
USERS = st.lists(st.tuples(st.lists(ITEMS, max_size=4), ITEMS), max_size=12)


def groups(train, users, num_items=8):
    starts = np.cumsum([0, *map(len, train)])
    found = CoOccurrence(np.array([i for items in train for i in items], int), starts, num_items)
    histories = [np.array(history, np.int32) for history, _ in users]
    return found.groups(histories, np.array([target for _, target in users], np.int32))


def by_definition(train, history, target):
    having = [set(items) for items in train if target in items]
    if not having:
        return "new"
    return "co_occurs" if any(items & set(history) for items in having) else "no_co_occurrence"


@settings(max_examples=200, deadline=None)
@given(train=TRAIN, users=USERS, few=st.integers(1, 3), block=st.integers(1, 20))
def test_groups_are_those_of_the_definition(train, users, few, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(co_occurrence, "_FEW", few)
        patch.setattr(co_occurrence, "_BLOCK", block)
        found = groups(train, users)
    assert found == [by_definition(train, *user) for user in users]


def test_by_hand():
    train = [[0, 1, 2], [3, 4], [4, 5]]
    users = [
        ([0], 2),  # both with the first user
        ([3], 5),  # with 4 in two sequences, never in one
        ([4], 5),
        ([7], 2),  # a history of items that nobody had
        ([0], 6),  # nobody had the target
        ([], 0),
        ([2, 0], 0),  # had before
    ]
    assert groups(train, users) == [
        "co_occurs",
        "no_co_occurrence",
        "co_occurs",
        "no_co_occurrence",
        "new",
        "no_co_occurrence",
        "co_occurs",
    ]


def test_an_item_of_many_users():
    """More than a count of one byte holds, and the one that tells comes last."""
    train = [[0, 1]] * 600 + [[0, 2]]
    assert groups(train, [([2], 0), ([1], 0), ([3], 0)]) == [
        "co_occurs",
        "co_occurs",
        "no_co_occurrence",
    ]
