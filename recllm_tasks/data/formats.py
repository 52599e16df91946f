"""Formats: how published and custom files are laid out.

A format gives, for each file extension, the container of the records and the names of the columns.
Plain, `.gz` and `.zst` files are laid out the same way.
"""

import dataclasses
import difflib
import sys
from collections.abc import Mapping
from pathlib import Path

from recllm_tasks.errors import UserError

INTERACTION_ROLES = ("user", "item", "time", "rating")
ITEM_ROLES = ("item", "title", "brand", "price", "categories", "description", "year")
REQUIRED_ROLES = ("user", "item", "time")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}

# Seconds below this number are before 2100; milliseconds above it are after 1970-02-17. So neither
# is ever mistaken for the other.
UNIT_BOUNDARY = 4_102_444_800
UNITS = {"seconds": 1, "milliseconds": 1000}

_LARGEST = sys.float_info.max


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one kind of file is laid out.

    Attributes:
      container: `json` (one object per line), `text` (delimited fields) or `parquet`.
      columns: names by role; if a role has several names, the first that the file has is used. In
        text without a header, a name is a field's number, from 1.
      needed: roles that a file must have.
      delimiter: between fields of text; one to four characters.
      quoted: whether a field of text may be in double quotes, and then hold any characters.
      header: whether text starts with the column names.
      encoding: of text.
      unit: of times that are numbers, a key of `UNITS`. Dates (`2024-05-01`, `2024-05-01 12:30:00`,
        `…+02:00`) are read too; without an offset they are UTC.
      ratings: lowest and highest rating.
      literals: whether a JSON line may also be a Python literal, as Amazon published in 2014.
      separator: between several categories in one field of text.
      flags: categories by the number of the field that holds a 0 or 1 for each of them.
    """

    container: str
    columns: Mapping[str, tuple[str, ...]]
    needed: tuple[str, ...] = REQUIRED_ROLES
    delimiter: str = ","
    quoted: bool = False
    header: bool = True
    encoding: str = "utf-8"
    unit: str = "seconds"
    ratings: tuple[float, float] = (-_LARGEST, _LARGEST)
    literals: bool = False
    separator: str | None = None
    flags: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def find(self, role: str, names: list[str]) -> str | None:
        """The name in `names` that has the role, or None."""
        return next((name for name in self.columns.get(role, ()) if name in names), None)


@dataclasses.dataclass(frozen=True)
class Format:
    """Layouts by file extension, for interactions and for items."""

    interactions: Mapping[str, Layout]
    items: Mapping[str, Layout]


def extension(path: str | Path) -> str:
    """The extension of a file, without that of its compression: `.json` for `x.json.gz`."""
    path = Path(path)
    return Path(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix


def layout_of(layouts: Mapping[str, Layout], path: str | Path) -> Layout:
    """The layout of a file; raises `UserError` if the format has none for its extension."""
    kind = extension(path).lower()
    if kind not in layouts:
        raise UserError(
            f"format of '{path}': got the extension '{kind}', expected one of "
            f"{', '.join(layouts)}, with or without .gz or .zst; rename the file, or choose "
            "another --format"
        )
    return layouts[kind]


def _roles(names: str, roles: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Columns by role, from one word per role; `a|b` are two names of one role, `-` is none."""
    words = names.split()
    return {role: tuple(word.split("|")) for role, word in zip(roles, words) if word != "-"}


def _interactions(container: str, names: str, **facts) -> Layout:
    return Layout(container, _roles(names, INTERACTION_ROLES), **facts)


def _items(container: str, names: str, **facts) -> Layout:
    return Layout(container, _roles(names, ITEM_ROLES), needed=("item",), **facts)


_STARS = {"ratings": (0.0, 5.0)}
_JSON_ENDINGS = (".json", ".jsonl", ".ndjson")
_AMAZON_JSON = _interactions("json", "reviewerID asin unixReviewTime overall", **_STARS)
_AMAZON_ITEMS = _items(
    "json", "asin title brand price categories|category description", literals=True
)
_MS = {"unit": "milliseconds", **_STARS}

# The genres of MovieLens 100k, in the order of the flags in u.item (its file u.genre).
_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


def _amazon(columns_of_csv: str) -> Format:
    csv = _interactions("text", columns_of_csv, header=False, **_STARS)
    return Format(
        {**dict.fromkeys(_JSON_ENDINGS, _AMAZON_JSON), ".csv": csv},
        dict.fromkeys(_JSON_ENDINGS, _AMAZON_ITEMS),
    )


FORMATS: dict[str, Format] = {
    # reviews_X_5.json.gz, ratings_X.csv (user, item, rating, time), meta_X.json.gz (literals).
    "amazon_2014": _amazon("1 2 4 3"),
    # X_5.json.gz, X.csv (item, user, rating, time), meta_X.json.gz.
    "amazon_2018": _amazon("2 1 4 3"),
    # X.jsonl.gz, the benchmark's X.train.csv.gz and so on, meta_X.jsonl.gz.
    "amazon_2023": Format(
        {
            **dict.fromkeys(
                _JSON_ENDINGS, _interactions("json", "user_id parent_asin timestamp rating", **_MS)
            ),
            ".csv": _interactions(
                "text", "user_id parent_asin timestamp rating", quoted=True, **_MS
            ),
        },
        dict.fromkeys(
            _JSON_ENDINGS, _items("json", "parent_asin title store price categories description")
        ),
    ),
    # 100k: u.data, u.item; 1M: ratings.dat, movies.dat; 20M, 25M and 32M: ratings.csv, movies.csv.
    "movielens": Format(
        {
            ".data": _interactions("text", "1 2 4 3", delimiter="\t", header=False, **_STARS),
            ".dat": _interactions("text", "1 2 4 3", delimiter="::", header=False, **_STARS),
            ".csv": _interactions("text", "userId movieId timestamp rating", quoted=True, **_STARS),
        },
        {
            ".item": _items(
                "text",
                "1 2",
                delimiter="|",
                header=False,
                encoding="latin-1",
                flags={str(number): genre for number, genre in enumerate(_GENRES, start=6)},
            ),
            ".dat": _items(
                "text", "1 2 - - 3", delimiter="::", header=False, encoding="latin-1", separator="|"
            ),
            ".csv": _items("text", "movieId title - - genres", quoted=True, separator="|"),
        },
    ),
    # Atomic files: tab-separated, with a header of names and types such as user_id:token.
    "recbole": Format(
        {".inter": _interactions("text", "user_id item_id timestamp rating", delimiter="\t")},
        {
            ".item": _items(
                "text",
                "item_id movie_title|title|name|item_name brand|sales_type price "
                "class|genre|genres|categories description release_year",
                delimiter="\t",
                separator=" ",
            )
        },
    ),
}

_DEFAULT_NAMES = {role: (role,) for role in {*INTERACTION_ROLES, *ITEM_ROLES}} | {
    "user": ("user_id", "user"),
    "item": ("item_id", "item"),
    "time": ("timestamp", "time"),
    "year": (),
}


def custom_format(columns: str | None, unit: str = "seconds") -> Format:
    """The format of custom CSV, TSV, JSON lines or Parquet files.

    Args:
      columns: `role=name,…` for the roles user, item, rating, time, title, brand, price,
        categories, description and year (added to the title); `item=sku|id` if two files name the
        column differently. A number is the position, from 1, of a field in text without a header.
        A role without a name uses its own (user, item and time also `user_id`, `item_id` and
        `timestamp`), except for the year.
      unit: of times that are numbers.

    Raises:
      UserError: `columns` cannot be parsed, or a role is unknown or given twice.
    """
    if unit not in UNITS:
        raise UserError(f"time_unit: got '{unit}', expected one of {', '.join(UNITS)}; correct it")
    named = _parse_columns(columns or "")

    def layouts(roles: tuple[str, ...], needed: tuple[str, ...]) -> dict[str, Layout]:
        needed = (*needed, *(role for role in roles if role in named and role not in needed))
        # Both files share the item's name, so only the other roles say whether there is a header.
        numbered = [named[role][0].isdigit() for role in roles if role in named and role != "item"]
        if any(numbered) and not all(numbered):
            raise UserError(
                f"columns: got '{columns}', expected either names or numbers for one file; "
                "use names if it has a header, else numbers"
            )
        columns_of = {role: named.get(role, _DEFAULT_NAMES[role]) for role in roles}
        facts = {"columns": columns_of, "needed": needed, "unit": unit}
        text = {"container": "text", "quoted": True, "header": not any(numbered), **facts}
        return {
            ".csv": Layout(**text),
            ".tsv": Layout(delimiter="\t", **text),
            **dict.fromkeys(_JSON_ENDINGS, Layout("json", **facts)),
            ".parquet": Layout("parquet", **facts),
        }

    return Format(layouts(INTERACTION_ROLES, REQUIRED_ROLES), layouts(ITEM_ROLES, ("item",)))


def _parse_columns(columns: str) -> dict[str, tuple[str, ...]]:
    known = dict.fromkeys((*INTERACTION_ROLES, *ITEM_ROLES))
    named: dict[str, tuple[str, ...]] = {}
    for part in filter(None, columns.split(",")):
        role, equals, name = (word.strip() for word in part.partition("="))
        if not equals or not name or role not in known or role in named:
            close = difflib.get_close_matches(role, known, n=1)
            hint = f"did you mean '{close[0]}'" if close and close[0] != role else "correct it"
            raise UserError(
                f"columns: got '{part}' in '{columns}', expected role=name once for each of "
                f"{', '.join(known)}; {hint}"
            )
        named[role] = tuple(name.split("|"))
    return named


def get_format(name: str) -> Format:
    """The published format called `name`; raises `UserError` if there is none."""
    if name not in FORMATS:
        raise UserError(
            f"format: got '{name}', expected one of {', '.join(FORMATS)}, or no --format and "
            "the names of your columns in --columns; correct --format"
        )
    return FORMATS[name]
