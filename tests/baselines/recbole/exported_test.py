import dataclasses

import numpy as np
import pyarrow.parquet as pq

from recllm_tasks.baselines.recbole import exported
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.metadata import ItemText

TEXTS = {"a": ItemText(categories="Toys > Games"), "c": ItemText(categories="Toys > Games > Toys")}
CATALOG = Catalog.build(list("abcdef"), TEXTS, np.zeros(6))


def lines(path):
    return path.read_text().splitlines()[1:]


def test_the_log_is_train_alone(shop, tmp_path):
    exported.write_log(tmp_path, shop, CATALOG, rated=False)
    # ann 0 1 2, bob 0 1, cat 0 3; likes are above 3 stars. Nothing of bob's 4 and 2, or ann's 3.
    assert lines(tmp_path / "data" / "log" / "log.inter") == [
        *("0\t0\t0\t1", "0\t1\t1\t1", "0\t2\t2\t0"),
        *("1\t0\t0\t0", "1\t1\t1\t0"),
        *("2\t0\t0\t0", "2\t3\t1\t1"),
    ]


def test_an_interaction_without_a_rating_has_no_label(shop, tmp_path):
    exported.write_log(tmp_path, shop, CATALOG, rated=True)
    found = lines(tmp_path / "data" / "log" / "log.inter")
    assert len(found) == 6
    assert found[-1] == "2\t3\t1\t1"


def test_every_item_is_listed_with_its_classes(shop, tmp_path):
    exported.write_log(tmp_path, shop, CATALOG, rated=False)
    found = lines(tmp_path / "data" / "log" / "log.item")
    assert found == ["0\t1 2", "1\t0", "2\t1 2", "3\t0", "4\t0", "5\t0"]


def test_users_keep_history_target_and_candidates_apart(shop, tmp_path):
    exported.write_users(tmp_path / "users.parquet", shop, rated=False)
    table = pq.read_table(tmp_path / "users.parquet").to_pydict()
    # bob stands second in train, ann first, the new user nowhere.
    assert table["user"] == ["1", "0", "-1"]
    assert table["history"] == [[0, 1, 4], [0, 1, 2, 4], [5]]
    assert table["target"] == [2, 3, 1]
    assert table["candidates"] == [[2, 3, 5, 5], [0, 1, 3, 5], [0, 1, 2, 4]]


def test_rated_users_have_a_like_and_no_candidates(shop, tmp_path):
    shop = dataclasses.replace(shop, negatives=None)
    exported.write_users(tmp_path / "users.parquet", shop, rated=True)
    table = pq.read_table(tmp_path / "users.parquet").to_pydict()
    assert table["liked"] == [False, True, True]
    assert "candidates" not in table
