import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recllm_tasks.data.catalog import Catalog, order_items
from recllm_tasks.data.metadata import ItemText
from recllm_tasks.errors import UserError


@pytest.fixture
def catalog():
    texts = {"b": ItemText("Title &amp; é", "Brand", "$1.00", "A > B", "words")}
    return Catalog.build(["b", "a"], texts, np.array([3, 0]))


def test_order_is_pinned():
    """The order of `for i in 0 1 2 3 4 5; do printf 0:A$i | sha256sum; done` when sorted."""
    items = [f"A{i}" for i in range(6)]
    by_hand = sorted(items, key=lambda i: hashlib.sha256(b"0:" + i.encode()).hexdigest())
    assert order_items(items, 0) == by_hand == ["A3", "A4", "A1", "A2", "A0", "A5"]


def test_order_depends_on_the_seed_and_not_on_the_file():
    items = [f"A{i}" for i in range(100)]
    assert order_items(items[::-1], 0) == order_items(items, 0)
    assert order_items(items, 1) != order_items(items, 0)
    assert sorted(order_items(items, 1)) == sorted(items)


def test_round_trip(tmp_path, catalog):
    catalog.save(tmp_path)
    loaded = Catalog.load(tmp_path)
    assert loaded.short_id == ["I1", "I2"]
    assert loaded.item == ["b", "a"]
    assert loaded.title == ["Title &amp; é", ""]
    assert loaded.brand == ["Brand", ""]
    assert loaded.price == ["$1.00", ""]
    assert loaded.categories == ["A > B", ""]
    assert loaded.description == ["words", ""]
    assert loaded.train_count.dtype == np.int64
    assert list(loaded.train_count) == [3, 0]
    assert len(loaded) == 2


def test_columns_of_the_file(tmp_path, catalog):
    catalog.save(tmp_path)
    schema = pq.read_schema(tmp_path / "catalog.parquet")
    texts = ["item", "short_id", "title", "brand", "price", "categories", "description"]
    assert schema.names == [*texts, "train_count"]
    assert schema.types == [pa.string()] * 7 + [pa.int64()]


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"no catalog for .*catalog\.parquet.*recllm prepare"):
        Catalog.load(tmp_path)


def test_missing_column(tmp_path, catalog):
    catalog.save(tmp_path)
    path = tmp_path / "catalog.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["brand"]), path)
    with pytest.raises(UserError, match="got no column brand"):
        Catalog.load(tmp_path)


def test_not_parquet(tmp_path):
    (tmp_path / "catalog.parquet").write_text("x" * 100)
    with pytest.raises(UserError, match="expected a Parquet file"):
        Catalog.load(tmp_path)
