"""The catalog: one row per item, with its short id and its texts."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recllm_tasks import checksums
from recllm_tasks.data import id_schemes
from recllm_tasks.data.metadata import ItemText
from recllm_tasks.errors import UserError

FILE_NAME = "catalog.parquet"
_TEXT_COLUMNS = ("item", "short_id", "title", "brand", "price", "categories", "description")
_SCHEMA = pa.schema([(name, pa.string()) for name in _TEXT_COLUMNS] + [("train_count", pa.int64())])


@dataclasses.dataclass(frozen=True, eq=False)
class Catalog:
    """The items in random order, which numbers them; every field has N entries, one per row.

    Short ids number the rows from "I1", unless they are semantic: see id_schemes.py. Unknown texts
    are empty strings. `train_count` (int64 [N]) counts interactions in the train split.
    """

    item: list[str]
    short_id: list[str]
    title: list[str]
    brand: list[str]
    price: list[str]
    categories: list[str]
    description: list[str]
    train_count: np.ndarray

    def __len__(self) -> int:
        return len(self.item)

    def names(self, row: int) -> dict[str, str]:
        """The names of an item, for people and programs."""
        return {
            "short_id": self.short_id[row],
            "item": self.item[row],
            "title": self.title[row],
        }

    def joined(self, later: "Catalog") -> "Catalog":
        """The items of this catalog, and after them those of another one."""
        columns = {name: getattr(self, name) + getattr(later, name) for name in _TEXT_COLUMNS}
        train_count = np.concatenate([self.train_count, later.train_count])
        return Catalog(**columns, train_count=train_count)

    def take(self, rows: Sequence[int]) -> "Catalog":
        """The items of these rows, in that order."""
        columns = {name: [getattr(self, name)[row] for row in rows] for name in _TEXT_COLUMNS}
        return Catalog(**columns, train_count=self.train_count[np.asarray(rows, np.int64)])

    @classmethod
    def build(
        cls, items: list[str], texts: Mapping[str, ItemText], train_count: np.ndarray
    ) -> "Catalog":
        """Joins ordered raw ids, their texts (an item may have none) and their counts."""
        rows = [texts.get(item, ItemText()) for item in items]
        return cls(
            item=list(items),
            short_id=id_schemes.numbered(len(items)),
            train_count=np.asarray(train_count, np.int64),
            **{
                field.name: [getattr(row, field.name) for row in rows]
                for field in dataclasses.fields(ItemText)
            },
        )

    @classmethod
    def load(cls, dataset_dir: str | Path) -> "Catalog":
        """Reads `catalog.parquet` from the folder of a prepared dataset.

        Raises `UserError` if it is missing, damaged or changed.
        """
        path = Path(dataset_dir) / FILE_NAME
        if not path.is_file():
            raise UserError(
                f"no catalog for '{dataset_dir}': got no file {FILE_NAME}, expected a prepared "
                "dataset's folder; run `recllm prepare` or check the path"
            )
        checksums.check(path.parent, "run `recllm prepare` again with --overwrite", [FILE_NAME])
        try:
            table = pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"catalog for '{path}': got {str(error).splitlines()[0]}, expected a Parquet file; "
                "run `recllm prepare` again with --overwrite"
            ) from error
        missing = [name for name in _SCHEMA.names if name not in table.column_names]
        if missing:
            raise UserError(
                f"catalog for '{path}': got no column {', '.join(missing)}, expected "
                f"{', '.join(_SCHEMA.names)}; run `recllm prepare` again with --overwrite"
            )
        columns = {name: table.column(name).to_pylist() for name in _TEXT_COLUMNS}
        return cls(train_count=table.column("train_count").to_numpy().astype(np.int64), **columns)

    def save(self, dataset_dir: str | Path) -> None:
        """Writes `catalog.parquet` to an existing folder; equal catalogs give equal bytes."""
        columns = {name: getattr(self, name) for name in _SCHEMA.names}
        pq.write_table(pa.table(columns, schema=_SCHEMA), Path(dataset_dir) / FILE_NAME)
