"""Real data for the baselines, read here without the package's own readers.

The Amazon files (`toys_and_games`, `beauty`) are looked for in the folder `data` of
`$RECLLM_SHARED` or of `shared` beside the checkout; MovieLens 100k is the file `ml-100k.inter`
that `$RECLLM_MOVIELENS` names (it lies in the wheel of recbole==1.2.1).
"""

import gzip
import json
import os
import pathlib

import numpy as np
import pytest

from recllm_tasks.baselines.interactions import SplitInteractions

CHECKOUT = pathlib.Path(__file__).parents[2]
SHARED = pathlib.Path(os.environ.get("RECLLM_SHARED", CHECKOUT.parent / "shared"))


def test_split(user, item, time, rating) -> SplitInteractions:
    """The test split of arrays with one element an interaction, in the file's order."""
    user = np.unique(user, return_inverse=True)[1]
    item = np.unique(item, return_inverse=True)[1].astype(np.int32)
    order = np.lexsort((np.arange(len(user)), time, user))
    cuts = np.cumsum(np.bincount(user))[:-1]
    records = [
        {"user": str(row), "items": items, "ratings": ratings}
        for row, (items, ratings) in enumerate(
            zip(np.split(item[order], cuts), np.split(np.asarray(rating)[order], cuts))
        )
    ]
    train = [{**r, "items": r["items"][:-2], "ratings": r["ratings"][:-2]} for r in records]
    return SplitInteractions.from_records(records, train, num_items=int(item.max()) + 1)


test_split.__test__ = False


def amazon(path: str) -> SplitInteractions:
    file = SHARED / "data" / path
    if not file.exists():
        pytest.skip(f"needs {file}; name the folder above `data` in RECLLM_SHARED")
    with gzip.open(file, "rt") as lines:
        reviews = [json.loads(line) for line in lines]
    return test_split(
        [review["reviewerID"] for review in reviews],
        [review["asin"] for review in reviews],
        [review["unixReviewTime"] for review in reviews],
        np.full(len(reviews), np.nan),
    )


@pytest.fixture(scope="session")
def toys() -> SplitInteractions:
    return amazon("toys_and_games/reviews_Toys_and_Games_5.json.gz")


@pytest.fixture(scope="session")
def beauty() -> SplitInteractions:
    return amazon("beauty/reviews_Beauty_5.json.gz")


@pytest.fixture(scope="session")
def movielens() -> SplitInteractions:
    path = os.environ.get("RECLLM_MOVIELENS")
    if not path:
        pytest.skip("needs ml-100k.inter of recbole==1.2.1; name the file in RECLLM_MOVIELENS")
    table = np.loadtxt(path, skiprows=1)
    kept = np.zeros(0)
    while len(kept) != len(table):  # 5-core.
        kept = table
        for column in (0, 1):
            _, place, counts = np.unique(table[:, column], return_inverse=True, return_counts=True)
            table = table[counts[place] >= 5]
    return test_split(table[:, 0], table[:, 1], table[:, 3], table[:, 2])


@pytest.fixture
def shop() -> SplitInteractions:
    """Three users of train, three of test (one of them unknown to train), six items."""
    train = [
        {"user": b"ann", "items": [0, 1, 2], "ratings": [5.0, 4.0, 3.0]},
        {"user": b"bob", "items": [0, 1], "ratings": [1.0, 2.0]},
        {"user": b"cat", "items": [0, 3], "ratings": [np.nan, 5.0]},
    ]
    records = [
        {
            "user": "bob",
            "items": [0, 1, 4, 2],
            "ratings": [1.0, 2.0, 5.0, 3.0],
            "negatives": [5, 3, 5],
        },
        {
            "user": "ann",
            "items": [0, 1, 2, 4, 3],
            "ratings": [5.0, 4.0, 3.0, 1.0, 4.0],
            "negatives": [1, 5, 0],
        },
        {"user": "new", "items": [5, 1], "ratings": [1.0, 5.0], "negatives": [2, 0, 4]},
    ]
    return SplitInteractions.from_records(records, train, num_items=6)
