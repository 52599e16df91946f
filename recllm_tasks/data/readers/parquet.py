"""Parquet: typed columns, one row per record."""

import dataclasses
from collections.abc import Callable, Iterator

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from recllm_tasks.data.formats import Layout, missing_column_fix
from recllm_tasks.data.readers.record import Record
from recllm_tasks.data.readers.values import is_typed
from recllm_tasks.data.sources import SourceFile, shorten
from recllm_tasks.errors import UserError

_SQL = """
select file_row_number + 1 as line, cast({user} as varchar) as user_id,
    cast({item} as varchar) as item_id, {time_text} as time_text, {rating_text} as rating_text,
    {time_number} as time_number, {moment} as moment, {rating_number} as rating_number
from read_parquet(?, file_row_number = true)
"""

_ROWS = 100_000


def settled(source: SourceFile, layout: Layout) -> Layout:
    """The layout with the names of the file's columns."""
    names = list(_columns(source, layout))
    found = {role: layout.find(role, names) for role in layout.columns}
    columns = {role: (name,) for role, name in found.items() if name is not None}
    return dataclasses.replace(layout, columns={**layout.columns, **columns})


def relation(source: SourceFile, layout: Layout, typed: bool | None = None) -> tuple[str, list]:
    """SQL over the file, and its arguments; see the package. Raises `UserError` for wrong types.

    Where `typed`, by default as `is_typed` says, times and ratings that are no text stay what they
    are; see `values.checked`.
    """
    types = _columns(source, layout)
    typed = is_typed(layout) if typed is None else typed

    def column(role: str) -> str:
        name = layout.find(role, list(types))
        if name is None:
            return "null"
        fits, expected, fix = _TYPES[role]
        if not fits(types[name]):
            raise UserError(
                f"column '{name}' of '{source.path}': got the type {types[name]}, expected "
                f"{expected} for the {role}; {fix}name another column with --columns {role}=…, or "
                "convert it"
            )
        return '"' + name.replace('"', '""') + '"'

    columns = {role: column(role) for role in _TYPES}
    kinds = {role: types.get(layout.find(role, list(types)) or "") for role in _TYPES}

    def value(role: str, fits: Callable[[pa.DataType], bool]) -> bool:
        kind = kinds[role]
        return typed and kind is not None and fits(kind)

    is_number, is_date = value("time", _is_number), value("time", _is_date)
    has_rating = value("rating", _is_number)
    time, rating = columns["time"], columns["rating"]
    sql = _SQL.format(
        **columns,
        time_text="null::varchar" if is_number or is_date else f"cast({time} as varchar)",
        rating_text="null::varchar" if has_rating else f"cast({rating} as varchar)",
        time_number=f"try_cast({time} as double)" if is_number else "null::double",
        moment=f"epoch({time})" if is_date else "null::double",
        rating_number=f"try_cast({rating} as float)" if has_rating else "null::float",
    )
    return sql, [str(source.content)]


def interactions(source: SourceFile, layout: Layout) -> Iterator[Record]:
    """Every row, with texts by role; `line` is its number, from 1."""
    sql, arguments = relation(source, layout, typed=False)
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        for batch in connection.sql(sql, params=arguments).to_arrow_reader(_ROWS):
            for row in batch.to_pylist():
                line, *texts = row.values()
                values = dict(zip(_TYPES, texts[: len(_TYPES)]))
                yield Record(line, str(values), values)


def column_names(source: SourceFile, layout: Layout) -> list[str]:
    """Names in file order; raises `UserError` if a needed column is missing."""
    return list(_columns(source, layout))


def _columns(source: SourceFile, layout: Layout) -> dict[str, pa.DataType]:
    """Types by name; raises `UserError` if a needed column is missing."""
    types = {field.name: _plain(field.type) for field in _open(source).schema_arrow}
    for role in layout.needed:
        if layout.find(role, list(types)) is None:
            raise UserError(
                f"columns of '{source.path}': got the columns {shorten(', '.join(types))}, "
                f"expected {' or '.join(layout.columns[role])} for the {role}; "
                f"{missing_column_fix(layout, list(types))}"
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


_TYPES = {
    "user": (_is_id, "text or whole numbers", "write whole numbers as integers, "),
    "item": (_is_id, "text or whole numbers", "write whole numbers as integers, "),
    "time": (_is_time, "a number, a date, or text with dates", ""),
    "rating": (lambda kind: _is_number(kind) or _is_text(kind), "a number", ""),
}


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


def as_written(record: Record, layout: Layout) -> dict[str, object]:
    """The values of a refused interaction by role, for errors."""
    del layout
    return dict(record.values)
