"""Metadata: the texts of the catalog's items, read line by line."""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from recllm_tasks.data.bad_records import BadRecords
from recllm_tasks.data.formats import Layout, layout_of
from recllm_tasks.data.readers import delimited, json_lines, parquet
from recllm_tasks.data.readers.record import Problem, Record, identifier
from recllm_tasks.data.sources import SourceFile, shorten
from recllm_tasks.data.specs import DatasetSpec
from recllm_tasks.errors import UserError

_MAX_PRICE_LENGTH = 20

# Every line of the 2014 files starts like this, so unneeded items are skipped without parsing.
_LITERAL_START = re.compile(r"\{'asin': '([^'\\]*)'[,}]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_YEAR = re.compile(r"\d{4}")


@dataclasses.dataclass(frozen=True)
class ItemText:
    """The texts of an item; the empty string if unknown."""

    title: str = ""
    brand: str = ""
    price: str = ""
    categories: str = ""
    description: str = ""


def read_metadata(
    spec: DatasetSpec,
    sources: Sequence[SourceFile],
    items: Collection[str],
    bad: BadRecords | None = None,
) -> dict[str, ItemText]:
    """Returns the texts of the `items` (raw ids) that the files contain.

    Our choice: the first record of an item counts, because the 2018 files repeat some items.
    Raises `UserError` for a line that does not parse, unless `bad` sets such lines aside, and for
    files that contain none of the items.
    """
    bad = bad or BadRecords()
    wanted = frozenset(items)
    texts: dict[str, ItemText] = {}
    for source in sources:
        layout = layout_of(spec.format.items, source.path)
        for record in _records(source, layout, wanted):
            item = identifier(record.values.get("item"))
            problem = record.problem
            if problem is None and item is None:
                name = "|".join(layout.columns["item"])
                got = shorten(record.values.get("item"))
                problem = Problem(name, got, "a non-empty string")
            if problem:
                bad.add("metadata", source, record, problem)
            elif item in wanted and item not in texts:
                texts[item] = _item_text(record.values, layout)
    if sources and not texts:
        raise UserError(
            f"metadata for '{', '.join(str(source.path) for source in sources)}': got none of the "
            f"{len(wanted):,} items of the interactions, expected their titles; use the "
            f"{spec.metadata_file} that belongs to {spec.interactions_file} "
            f"({spec.metadata_address}), and check that both use the same item ids"
        )
    return texts


def _records(source: SourceFile, layout: Layout, wanted: frozenset[str]) -> Iterator[Record]:
    if layout.container == "text":
        return delimited.records(source, layout)
    if layout.container == "parquet":
        return parquet.records(source, layout)

    def skip(text: str) -> bool:
        start = _LITERAL_START.match(text)
        return bool(start) and start[1] not in wanted

    return json_lines.records(source, layout, skip)


def _item_text(values: Mapping[str, object], layout: Layout) -> ItemText:
    categories = values.get("categories")
    if layout.separator and isinstance(categories, str):
        categories = ", ".join(categories.split(layout.separator))
    elif layout.flags and isinstance(categories, list):
        categories = ", ".join(categories)
    return ItemText(
        title=_title(values),
        brand=_text(values.get("brand")),
        price=_price(values.get("price")),
        categories=_categories(categories),
        description=_text(values.get("description")),
    )


def _title(values: Mapping[str, object]) -> str:
    """The title, with the year if it has a separate column: `Toy Story (1995)`.

    Our choice: the form that MovieLens uses. Only four digits count as a year, because one title of
    RecBole's file already contains its year, and one has none.
    """
    title, year = _text(values.get("title")), values.get("year")
    return f"{title} ({year})" if isinstance(year, str) and _YEAR.fullmatch(year) else title


def _text(value: object) -> str:
    """One line of text: a string, or a list of strings joined by spaces; HTML is kept.

    Control characters, which could affect a terminal, become spaces.
    """
    if isinstance(value, list):
        value = " ".join(part for part in value if isinstance(part, str))
    if not isinstance(value, str):
        return ""
    # JSON can hold half a surrogate pair, which UTF-8 cannot encode.
    whole = value.encode("utf-8", "replace").decode("utf-8")
    return " ".join(_CONTROL.sub(" ", whole).split())


def _price(value: object) -> str:
    """A price for display, such as `$1.99`; the empty string for anything that is not a price."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        # NaN and infinity compare false.
        return f"${value:.2f}" if 0 <= value < 10**9 else ""
    text = _text(value) if isinstance(value, str) else ""
    junk = (
        len(text) > _MAX_PRICE_LENGTH or re.search(r"[<>{};]", text) or not re.search(r"\d", text)
    )
    return "" if junk else text


def _categories(value: object) -> str:
    """The first path of nested categories (2014) or the only path (2018), joined by ` > `."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        value = value[0]
    if isinstance(value, str):
        return _text(value)
    if not isinstance(value, list):
        return ""
    return " > ".join(text for text in map(_text, value) if text)
