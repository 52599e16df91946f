import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.metadata import ItemText
from recllm_tasks.errors import UserError


@pytest.fixture
def catalog():
    texts = {"b": ItemText("Title &amp; é", "Brand", "$1.00", "A > B", "words")}
    return Catalog.build(["b", "a"], texts, np.array([3, 0]))


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
