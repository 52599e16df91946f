"""Metadata: the texts of the catalog's items, read line by line."""

import ast
import collections
import dataclasses
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from recllm_tasks.data.bad_records import BadRecords
from recllm_tasks.data.formats import ITEM_ROLES, Layout, layout_of
from recllm_tasks.data.readers import delimited, json_lines, parquet
from recllm_tasks.data.readers.record import Problem, Record, identifier
from recllm_tasks.data.sources import SourceFile, as_utf8, shorten
from recllm_tasks.data.specs import DatasetSpec
from recllm_tasks.errors import UserError

_MAX_PRICE_LENGTH = 20

# Every line of the 2014 files starts like this, so unneeded items are skipped without parsing.
_LITERAL_START = re.compile(r"\{'asin': '([^'\\]*)'[,}]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_YEAR = re.compile(r"\d{4}(\.0)?")
# A longer field is no list of categories.
_MAX_LIST_LENGTH = 10_000

# Of categories in one field, where the format's own separator is not there.
_SEPARATORS = ("|", ";", ",")

# Ids without an interaction that are kept to find out why others have no text.
_KEPT_IDS = 10_000


@dataclasses.dataclass(frozen=True)
class ItemText:
    """The texts of an item; the empty string if unknown."""

    title: str = ""
    brand: str = ""
    price: str = ""
    categories: str = ""
    description: str = ""


@dataclasses.dataclass
class _Tally:
    """How often something happened, with the first example."""

    count: int = 0
    example: str = ""

    def add(self, example: str) -> None:
        self.count += 1
        self.example = self.example or example


class ItemTexts(dict[str, ItemText]):
    """Texts by raw id, and what happened to the files' records on the way.

    `not_bought` are some of the ids that were not asked for; `columns` says for each file which
    column became what.
    """

    def __init__(self) -> None:
        super().__init__()
        self.not_bought: dict[str, None] = {}
        self.columns: dict[Path, dict[str, str]] = {}
        self.unused: dict[Path, list[str]] = {}
        self.tallies: dict[str, _Tally] = collections.defaultdict(_Tally)

    def notes(self) -> list[str]:
        """What was dropped, derived or left unused, in lines for people, each with an example."""
        lines = []
        for path, columns in self.columns.items():
            named = ", ".join(f"{role} from {shorten(name)}" for role, name in columns.items())
            unused = self.unused[path]
            rest = f"; not used: {shorten(', '.join(unused))}" if unused else ""
            lines.append(f"{path.name}: {named}{rest}")
        for what, tally in self.tallies.items():
            lines.append(f"{tally.count:,} {what}, such as {tally.example}")
        return lines

    def why_untitled(self, untitled: Sequence[str]) -> str:
        """An explanation for items without a title, with an example of both sides."""
        missing = [item for item in untitled if item not in self]
        if not missing:
            has_column = any("title" in columns for columns in self.columns.values())
            reason = (
                "their records have none"
                if has_column or not self.columns
                else ("no file has a column of that name: name it with --columns title=…")
            )
            return f"such as {untitled[0]!r}; {reason}"
        hint = _other_form(missing, self.not_bought)
        return f"such as {missing[0]!r}, which is in no file of items{hint}"


def _other_form(missing: Sequence[str], others: Collection[str]) -> str:
    """A hint where ids differ only in form."""
    for form, change in _FORMS.items():
        by_form = {change(item): item for item in reversed(list(others))}
        for item in missing:
            if change(item) in by_form:
                return (
                    f"; the files of items have {by_form[change(item)]!r}: they differ in {form}; "
                    "write them alike in both"
                )
    if others:
        example = next(iter(others))
        return f"; the files of items have ids such as {example!r}: write them alike in both"
    return ""


_FORMS = {
    "blanks": lambda text: text.strip(),
    "case": lambda text: text.strip().casefold(),
    "leading zeros": lambda text: text.strip().lstrip("0") or "0",
    "a fraction": lambda text: re.sub(r"\.0+$", "", text.strip()),
    "zeros around the number": lambda text: re.sub(r"\.0+$", "", text.strip()).lstrip("0") or "0",
    "quotes": lambda text: text.strip("'\" "),
    "marks": lambda text: re.sub(r"\W|_", "", text).casefold(),
    "letters around the number": lambda text: (re.findall(r"[1-9]\d*|0$", text) or [text])[0],
}


def read_metadata(
    spec: DatasetSpec,
    sources: Sequence[SourceFile],
    items: Collection[str] | None,
    bad: BadRecords | None = None,
    scratch: str | Path | None = None,
) -> ItemTexts:
    """Returns the texts of the `items` (raw ids; None is all) that the files contain.

    Our choice: the first record of an item counts, because the 2018 files repeat some items.
    Raises `UserError` for a line that does not parse, unless `bad` sets such lines aside, and for
    files that contain none of the items. `scratch` is as in `read_interactions`.
    """
    bad = bad or BadRecords()
    wanted = None if items is None else frozenset(items)
    texts = ItemTexts()
    for source in sources:
        layout = layout_of(spec.format.items, source.path)
        with as_utf8(source, layout.encoding, scratch) as readable:
            for record in _records(readable, layout, wanted, texts):
                item = identifier(record.values.get("item"))
                problem = record.problem
                if problem is None and item is None:
                    name = "|".join(layout.columns["item"])
                    got = shorten(record.values.get("item"))
                    problem = Problem(name, got, "a non-empty string")
                if problem or item is None:
                    assert problem is not None
                    bad.add("metadata", source, record, problem)
                elif wanted is not None and item not in wanted:
                    _keep_id(texts, item)
                elif item in texts:
                    texts.tallies["repeated records of items left out"].add(repr(item))
                else:
                    texts[item] = _item_text(item, record.values, layout, texts)
    if sources and not texts and items is None:
        raise UserError(
            f"metadata for '{', '.join(str(source.path) for source in sources)}': got no items, "
            f"expected some; correct {spec.metadata_address}"
        )
    if sources and not texts:
        example = next(iter(items or ("",)))
        raise UserError(
            f"metadata for '{', '.join(str(source.path) for source in sources)}': got none of the "
            f"{len(wanted or ()):,} items of the interactions, such as {example!r}"
            f"{_other_form(list(items or ())[:_KEPT_IDS], texts.not_bought)}, expected their "
            f"titles; use the {spec.metadata_file} that belongs to {spec.interactions_file} "
            f"({spec.metadata_address}), and check that both use the same item ids"
        )
    return texts


def _keep_id(texts: ItemTexts, item: str) -> None:
    texts.tallies["items in the files that nobody has in the interactions"].add(repr(item))
    if len(texts.not_bought) < _KEPT_IDS:
        texts.not_bought[item] = None


def _records(
    source: SourceFile, layout: Layout, wanted: frozenset[str] | None, texts: ItemTexts
) -> Iterator[Record]:
    if layout.container == "text":
        layout = delimited.settled(source, layout)
        _note_columns(source, layout, delimited.column_names(source, layout), texts)
        return delimited.records(source, layout)
    if layout.container == "parquet":
        _note_columns(source, layout, parquet.column_names(source, layout), texts)
        return parquet.records(source, layout)

    def skip(text: str) -> bool:
        start = _LITERAL_START.match(text)
        if wanted is None or not start or start[1] in wanted:
            return False
        _keep_id(texts, start[1])
        return True

    return json_lines.records(source, layout, skip)


def _note_columns(
    source: SourceFile, layout: Layout, names: Sequence[str], texts: ItemTexts
) -> None:
    found = {role: layout.find(role, names) for role in ITEM_ROLES}
    columns = {role: name for role, name in found.items() if name is not None}
    texts.columns[source.path] = columns
    used = {*columns.values(), *layout.flags}
    texts.unused[source.path] = [name for name in names if name not in used]


def _item_text(
    item: str, values: Mapping[str, object], layout: Layout, texts: ItemTexts
) -> ItemText:
    price = _price(values.get("price"))
    if not price and values.get("price") not in (None, ""):
        what = "values that are no prices left out"
        texts.tallies[what].add(f"{shorten(values['price'])} of {item!r}")
    title = _title(values)
    if title.endswith(")") and title not in (values.get("title"), _text(values.get("title"))):
        texts.tallies["titles with the year added"].add(repr(title))
    return ItemText(
        title=title,
        brand=_text(values.get("brand")),
        price=price,
        categories=_categories(values.get("categories"), layout),
        description=_text(values.get("description")),
    )


def _title(values: Mapping[str, object]) -> str:
    """The title, with the year if it has a separate column: `Toy Story (1995)`.

    Our choice: the form that MovieLens uses. Only four digits count as a year, because one title of
    RecBole's file already contains its year, and one has none. Without a title, a year is none.
    """
    title, year = values.get("title"), values.get("year")
    # Such as 1984, in a table whose column holds numbers.
    title = str(title) if type(title) is int else _text(title)
    year = str(year) if isinstance(year, str | int | float) else ""
    return f"{title} ({year[:4]})" if title and _YEAR.fullmatch(year) else title


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


def _categories(value: object, layout: Layout) -> str:
    """Categories as one text.

    The first path of nested ones (2014) or the only path (2018) is joined by ` > `, several in one
    field by a comma, however they are separated there: as the format does it, or as a list written
    out (`'Care', 'Hair Oils'`; `["Care", "Hair Oils"]`), or by a bar, a semicolon or a comma.
    """
    if isinstance(value, list) and value and isinstance(value[0], list):
        value = value[0]
    if isinstance(value, list):
        texts = [text for text in map(_text, value) if text]
        return (", " if layout.flags else " > ").join(texts)
    if not isinstance(value, str):
        return ""
    listed = _listed(value)
    if listed is not None:
        return ", ".join(listed)
    if not layout.separator:
        return _text(value)
    others = (mark for mark in _SEPARATORS if mark in value)
    separator = layout.separator if layout.separator == "|" else next(others, layout.separator)
    return ", ".join(filter(None, map(_text, value.split(separator))))


def _listed(text: str) -> list[str] | None:
    """The strings of a list that is written out in a text, else None."""
    text = text.strip()
    ends = text[:1] + text[-1:]
    if ends not in ("[]", "''", '""') or not 2 <= len(text) <= _MAX_LIST_LENGTH:
        return None
    text = text if text.startswith("[") else f"[{text}]"
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        while isinstance(found, list) and found and isinstance(found[0], list):
            found = found[0]
        if isinstance(found, list) and all(isinstance(part, str) for part in found):
            return [part for part in map(_text, found) if part]
    return None
