"""Metadata: the texts of the items, read line by line for the items of the catalog only."""

import ast
import dataclasses
import json
import re
from collections.abc import Callable, Collection

from recllm_tasks.data.sources import SourceFile, open_lines, shorten
from recllm_tasks.data.specs import DatasetSpec
from recllm_tasks.errors import UserError

_MAX_PRICE_LENGTH = 20

# The 2014 files start every line so; it spares parsing the items that nobody needs.
_LITERAL_START = re.compile(r"\{'asin': '([^'\\]*)'[,}]")
_YEAR = re.compile(r"\d{4}")


@dataclasses.dataclass(frozen=True)
class ItemText:
    """What an item's metadata says; the empty string where it says nothing."""

    title: str = ""
    brand: str = ""
    price: str = ""
    categories: str = ""
    description: str = ""


def read_metadata(
    spec: DatasetSpec, source: SourceFile, items: Collection[str]
) -> dict[str, ItemText]:
    """Returns the texts of those of `items` (raw ids) that the file knows.

    Our choice: the first line of an item counts, because the 2018 files repeat some items.
    Raises `UserError` for a line that does not parse and for a file that knows no item at all.
    """
    wanted = frozenset(items)
    texts: dict[str, ItemText] = {}
    parse = _parse_amazon if spec.format == "amazon" else _recbole_parser(source)
    for line, raw in open_lines(source.path):
        if not raw.strip():
            continue
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _bad_line(source, line, f"byte 0x{raw[error.start]:02x}", "UTF-8 text") from error
        item, item_text = parse(source, line, text, wanted)
        if item is not None and item not in texts:
            texts[item] = item_text
    if not texts:
        raise UserError(
            f"metadata for '{source.path}': got none of the {len(wanted):,} items of the "
            f"interactions, expected their titles; take the {spec.metadata_file} that belongs to "
            f"{spec.interactions_file} ({spec.metadata_address})"
        )
    return texts


def _bad_line(source: SourceFile, line: int, got: str, expected: str) -> UserError:
    return UserError(
        f"metadata for '{source.path}', line {line}: got {got}, expected {expected}; correct or "
        f"remove line {line}, or fetch the file again"
    )


Parsed = tuple[str | None, ItemText | None]


def _parse_amazon(source: SourceFile, line: int, text: str, wanted: frozenset[str]) -> Parsed:
    start = _LITERAL_START.match(text)
    if start and start[1] not in wanted:
        return None, None
    record = _parse_object(text)
    if record is None:
        raise _bad_line(source, line, shorten(text), "a JSON object or a Python dict literal")
    item = record.get("asin")
    if not isinstance(item, str) or not item.strip():
        raise _bad_line(source, line, f"{shorten(item)} in asin", "a string that is not empty")
    if item not in wanted:
        return None, None
    return item, ItemText(
        title=_text(record.get("title")),
        brand=_text(record.get("brand")),
        price=_price(record.get("price")),
        categories=_categories(record.get("categories") or record.get("category")),
        description=_text(record.get("description")),
    )


def _parse_object(text: str) -> dict | None:
    """Parses JSON (2018) or else a dict literal (2014); None for anything else."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        try:
            record = ast.literal_eval(text.strip())
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
            return None
    return record if isinstance(record, dict) else None


def _text(value: object) -> str:
    """One line of text: a string, or a list of strings joined by a space; HTML stays as it is."""
    if isinstance(value, list):
        value = " ".join(part for part in value if isinstance(part, str))
    if not isinstance(value, str):
        return ""
    # JSON can carry half a surrogate pair, which no file can hold as UTF-8.
    whole = value.encode("utf-8", "replace").decode("utf-8").replace("\0", " ")
    return " ".join(whole.split())


def _price(value: object) -> str:
    """A price as shown to people, such as `$1.99`; the empty string for what is no price."""
    if type(value) in (int, float):
        # NaN and infinity compare false.
        return f"${value:.2f}" if 0 <= value < 10**9 else ""
    text = _text(value) if isinstance(value, str) else ""
    junk = (
        len(text) > _MAX_PRICE_LENGTH or re.search(r"[<>{};]", text) or not re.search(r"\d", text)
    )
    return "" if junk else text


def _categories(value: object) -> str:
    """The first path of nested categories (2014), or the one path (2018), joined by ` > `."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        value = value[0]
    if isinstance(value, str):
        return _text(value)
    if not isinstance(value, list):
        return ""
    return " > ".join(text for text in map(_text, value) if text)


def _recbole_parser(source: SourceFile) -> Callable[..., Parsed]:
    _, header = next(open_lines(source.path))
    columns = [name.split(":")[0].strip() for name in header.decode("utf-8", "replace").split("\t")]
    for needed in ("item_id", "movie_title"):
        if needed not in columns:
            raise _bad_line(source, 1, f"the columns {shorten(columns)}", f"a column {needed}")

    def parse(source: SourceFile, line: int, text: str, wanted: frozenset[str]) -> Parsed:
        values = text.split("\t")
        if line == 1:
            return None, None
        if len(values) != len(columns):
            raise _bad_line(source, line, f"{len(values)} fields", f"{len(columns)} fields")
        record = dict(zip(columns, values))
        if not record["item_id"].strip():
            raise _bad_line(source, line, "an empty item_id", "a token")
        if record["item_id"] not in wanted:
            return None, None
        return record["item_id"], ItemText(
            title=_movie_title(record["movie_title"], record.get("release_year", "")),
            categories=", ".join(record.get("class", "").split()),
        )

    return parse


def _movie_title(title: str, year: str) -> str:
    """`Toy Story (1995)`. Our choice: as MovieLens itself writes it; one title of RecBole's file
    holds its year already, and one has no year, so only four digits are added."""
    return f"{_text(title)} ({year})" if _YEAR.fullmatch(year) else _text(title)
