import dataclasses

import numpy as np
import pytest

from recllm_tasks.baselines.interactions import SplitInteractions

RECORD = {"user": "ann", "items": [0, 1], "ratings": [1.0, 2.0]}


def test_from_records(shop):
    assert shop.num_items == 6
    assert [items.tolist() for items in shop.train_items] == [[0, 1, 2], [0, 1], [0, 3]]
    assert [items.tolist() for items in shop.history_items] == [[0, 1, 4], [0, 1, 2, 4], [5]]
    np.testing.assert_array_equal(shop.targets, [2, 3, 1])
    np.testing.assert_array_equal(shop.target_ratings, [3, 4, 5])
    np.testing.assert_array_equal(shop.train_ratings[2], [np.nan, 5])
    np.testing.assert_array_equal(shop.negatives, [[5, 3, 5], [1, 5, 0], [2, 0, 4]])
    assert {shop.targets.dtype, shop.negatives.dtype, shop.train_items[0].dtype} == {
        np.dtype(np.int32)
    }


def test_users_are_joined_by_name_as_bytes_or_strings(shop):
    np.testing.assert_array_equal(shop.train_users, [1, 0, -1])


def test_some_of_the_users(shop):
    found = shop.select(np.array([False, True, True]))
    assert found.users == ("ann", "new")
    assert [items.tolist() for items in found.history_items] == [[0, 1, 2, 4], [5]]
    np.testing.assert_array_equal(found.targets, [3, 1])
    np.testing.assert_array_equal(found.target_ratings, [4, 5])
    np.testing.assert_array_equal(found.train_users, [0, -1])
    np.testing.assert_array_equal(found.negatives, [[1, 5, 0], [2, 0, 4]])
    assert found.train_items is shop.train_items
    assert dataclasses.replace(shop, negatives=None).select(np.zeros(3, bool)).negatives is None


def test_train_counts_hold_nothing_but_train(shop):
    np.testing.assert_array_equal(shop.train_counts(), [3, 2, 1, 1, 0, 0])


def test_records_without_negatives():
    assert SplitInteractions.from_records([RECORD], [RECORD], num_items=2).negatives is None


def test_records_may_come_from_generators():
    found = SplitInteractions.from_records(
        (record for record in [RECORD]), (record for record in [RECORD]), num_items=2
    )
    assert len(found.targets) == len(found.train_items) == 1


@pytest.mark.parametrize(
    ("records", "train", "num_items", "message"),
    [
        ([RECORD], [RECORD, RECORD], 2, "got 2 records of 1 users, expected one a user"),
        ([{**RECORD, "items": []}], [RECORD], 2, "record for 'ann': got no items"),
        ([RECORD], [RECORD], 1, r"items for 'ann'.*expected rows in \[0, 1\)"),
        ([{**RECORD, "items": [-1, 0]}], [RECORD], 2, "a row outside the catalog"),
        ([], [RECORD], 2, "got 1 of train and 0 to evaluate"),
        ([RECORD], [], 2, "got 0 of train and 1 to evaluate"),
    ],
)
def test_bad_records_are_an_error(records, train, num_items, message):
    with pytest.raises(ValueError, match=message):
        SplitInteractions.from_records(records, train, num_items)


def test_frozen(shop):
    with pytest.raises(dataclasses.FrozenInstanceError):
        shop.num_items = 7
