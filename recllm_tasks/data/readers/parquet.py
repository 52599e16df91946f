"""Parquet: typed columns, one row per record."""

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from recllm_tasks.data.formats import Layout
from recllm_tasks.data.readers.record import DATE, Record
from recllm_tasks.data.sources import SourceFile, shorten
from recllm_tasks.errors import UserError

_SQL = """
select file_row_number + 1 as line, cast({user} as varchar) as user_id,
    cast({item} as varchar) as item_id, {number} as number, {date} as date,
    try_cast({rating} as float) as rating, true as rating_known
from read_parquet(?, file_row_number = true)
"""


def relation(source: SourceFile, layout: Layout) -> tuple[str, list]:
    """SQL over the file, and its arguments; see the package. Raises `UserError` for wrong types."""
    types = _columns(source, layout)

    def column(role: str, fits: Callable[[pa.DataType], bool], expected: str) -> str:
        name = layout.find(role, list(types))
        if name is None:
            return "null"
        if not fits(types[name]):
            raise UserError(
                f"column '{name}' of '{source.path}': got the type {types[name]}, expected "
                f"{expected} for the {role}; name another column with --columns, or convert it"
            )
        return '"' + name.replace('"', '""') + '"'

    time = column("time", _is_time, "a number, a date, or text with dates")
    kind = next(types[name] for name in layout.columns["time"] if name in types)
    if _is_text(kind):
        date = f"case when regexp_full_match({time}, '{DATE}') then {time} end"
        date = f"epoch(try_cast({date} as timestamptz))"
    else:
        date = f"epoch({time})" if _is_date(kind) else "null::double"
    return _SQL.format(
        user=column("user", _is_id, "text or whole numbers"),
        item=column("item", _is_id, "text or whole numbers"),
        number=f"try_cast({time} as double)" if _is_number(kind) else "null::double",
        date=date,
        rating=column("rating", _is_number, "a number"),
    ), [str(source.path)]


def _columns(source: SourceFile, layout: Layout) -> dict[str, pa.DataType]:
    """Types by name; raises `UserError` if a needed column is missing."""
    types = {field.name: _plain(field.type) for field in _open(source).schema_arrow}
    for role in layout.needed:
        if layout.find(role, list(types)) is None:
            raise UserError(
                f"columns of '{source.path}': got the columns {shorten(', '.join(types))}, "
                f"expected {' or '.join(layout.columns[role])} for the {role}; name them with "
                f"--columns ({role}=…)"
            )
    return types


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_id(kind: pa.DataType) -> bool:
    return _is_text(kind) or pa.types.is_integer(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _is_date(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def _is_time(kind: pa.DataType) -> bool:
    return _is_number(kind) or _is_date(kind) or _is_text(kind)


def _open(source: SourceFile) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(source.path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(source, error) from error


def _damaged(source: SourceFile, error: Exception) -> UserError:
    return UserError(
        f"damaged file for '{source.path}': got {str(error).splitlines()[0]}, expected a valid "
        "Parquet file; download the file again"
    )


def records(source: SourceFile, layout: Layout) -> Iterator[Record]:
    """Every row; `line` is its number, from 1."""
    types = _columns(source, layout)
    names = {role: layout.find(role, list(types)) for role in layout.columns}
    names = {role: name for role, name in names.items() if name is not None}
    line = 0
    try:
        for batch in _open(source).iter_batches(columns=sorted(set(names.values()))):
            for row in batch.to_pylist():
                line += 1
                yield Record(line, str(row), {role: row[name] for role, name in names.items()})
    except (pa.ArrowException, OSError) as error:
        raise _damaged(source, error) from error
