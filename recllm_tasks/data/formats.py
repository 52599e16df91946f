"""Formats: how published and custom files are laid out.

A format gives, for each file extension, the container of the records and the names of the columns.
Plain, `.gz` and `.zst` files are laid out the same way.
"""

import codecs
import dataclasses
import difflib
import re
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from recllm_tasks.errors import UserError

INTERACTION_ROLES = ("user", "item", "time", "rating")
ITEM_ROLES = ("item", "title", "brand", "price", "categories", "description", "year")
REQUIRED_ROLES = ("user", "item", "time")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}

# Seconds below this number are before 2100; milliseconds from it on are after 1970-02-17, and so
# on: no unit is ever mistaken for another.
UNIT_BOUNDARY = 4_102_444_800
UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}

# Of text whose separator is found out, those that come first are preferred.
SEPARATORS = ("\t", ";", ",", "|", "::", " ")
_SEPARATOR_NAMES = {"tab": "\t", "\\t": "\t", "space": " ", "comma": ",", "semicolon": ";"}

BY_TIME, BY_FILE = ORDERS = ("time", "file")
_QUOTING = {"csv": True, "none": False}

# What shops and converters call their columns. Texts of items are found under these names;
# interactions never are, the errors only suggest them: a wrong time would spoil everything.
SUGGESTED = {
    "user": (
        *("customer", "customer_id", "customerid", "userid", "client_id", "client", "member_id"),
        *("visitor_id", "visitorid", "session_id", "sessionid", "buyer", "uid", "reviewerid"),
    ),
    "item": (
        *("product", "product_id", "productid", "itemid", "sku", "article_id", "article", "asin"),
        *("movie_id", "movieid", "book_id", "artist_id", "track_id", "isbn", "stockcode", "iid"),
    ),
    "time": (
        *("date", "datetime", "order_date", "purchase_date", "invoicedate", "created_at", "ts"),
        *("event_time", "unixreviewtime", "t_dat", "rated_at"),
    ),
    "rating": ("stars", "score", "overall", "rate", "review_score"),
}
ALIASES = {
    "title": (
        *("movie_title", "movie_name", "book_title", "item_name", "product_name", "product_title"),
        *("track_name", "song_name", "artist_name", "app_name", "game_name", "name"),
    ),
    "brand": (
        *("manufacturer", "book_author", "author", "authors", "artist", "publisher", "developer"),
        *("studio", "label", "vendor"),
    ),
    "price": ("item_price", "unit_price", "product_price"),
    "categories": ("category", "class", "genre", "genres", "type", "tags", "category_name"),
    "description": ("item_description", "product_description", "summary"),
    "year": ("release_year", "publication_year", "movie_year"),
}

_LARGEST = sys.float_info.max


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one kind of file is laid out.

    Attributes:
      container: `json` (one object per line), `text` (delimited fields) or `parquet`.
      columns: names by role; if a role has several names, the first that the file has is used. In
        text without a header, a name is a field's number, from 1.
      needed: roles that a file must have.
      delimiter: between fields of text, one to four characters; None is found out from the file.
      quoted: whether a field of text may be in double quotes, and then hold any characters. None is
        yes if the names in the header are; if not, quotes are text, but those around whole ids and
        numbers are dropped, and those around a text that doubles the quotes within it.
      header: whether text starts with the column names.
      encoding: of text. A file that is valid UTF-8 is read as such in place of an encoding of one
        byte a character.
      unit: of times that are numbers, a key of `UNITS`; None is seconds, but a number that reads as
        a date, such as 20170714, is refused. Dates (`2024-05-01`, `2024-05-01 12:30:00`, `…+02:00`)
        are read too; without an offset they are UTC.
      ratings: lowest and highest rating.
      literals: whether a JSON line may also be a Python literal, as Amazon published in 2014.
      separator: between several categories in one field of text.
      flags: categories by the number of the field that holds a 0 or 1 for each of them.
      aliases: whether the texts of items are also found under the names in `ALIASES`.
      time_format: of times, as `strptime` takes it, instead of a unit and dates.
      decimal: what stands before the fraction of a number in text.
      unrated: ratings, in lower case, that mean that there is none.
      order: of a user's interactions, `time`, or `file` for logs without times.
    """

    container: str
    columns: Mapping[str, tuple[str, ...]]
    needed: tuple[str, ...] = REQUIRED_ROLES
    delimiter: str | None = ","
    quoted: bool | None = False
    header: bool = True
    encoding: str = "utf-8"
    unit: str | None = "seconds"
    ratings: tuple[float, float] = (-_LARGEST, _LARGEST)
    literals: bool = False
    separator: str | None = None
    flags: Mapping[str, str] = dataclasses.field(default_factory=dict)
    aliases: bool = False
    time_format: str | None = None
    decimal: str = "."
    unrated: tuple[str, ...] = ()
    order: str = BY_TIME

    def find(self, role: str, names: Collection[str]) -> str | None:
        """The name in `names` that has the role, or None."""
        found = next((name for name in self.columns.get(role, ()) if name in names), None)
        if found or not self.aliases or role in self.needed:
            return found
        lower = {name.lower(): name for name in reversed(list(names))}
        return next((lower[name] for name in ALIASES.get(role, ()) if name in lower), None)


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
                aliases=True,
            )
        },
    ),
}

# Of a role that no column shall have.
_NONE = ("-",)

_DEFAULT_NAMES = {role: (role,) for role in {*INTERACTION_ROLES, *ITEM_ROLES}} | {
    "user": ("user_id", "user"),
    "item": ("item_id", "item"),
    "time": ("timestamp", "time"),
    "year": (),
}


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the user says about files, beside the names of their columns.

    Attributes:
      separator: between fields of text; None finds out.
      encoding: of text, as Python calls it.
      quoting: `csv` or `none`: whether fields of text may be in double quotes; None is csv, but
        between tabs see `Layout.quoted`.
      time_unit, time_format, decimal, order: as in `Layout`.
      unrated: ratings that mean that there is none, separated by commas.
    """

    separator: str | None = None
    encoding: str | None = None
    quoting: str | None = None
    time_unit: str | None = None
    time_format: str | None = None
    decimal: str = "."
    unrated: str = ""
    order: str = BY_TIME

    def check(self) -> None:
        """Raises `UserError` for a value that cannot be."""
        for flag, value, known in (
            ("time_unit", self.time_unit, UNITS),
            ("quoting", self.quoting, _QUOTING),
            ("decimal", self.decimal, (".", ",")),
            ("order", self.order, ORDERS),
        ):
            if value is not None and value not in known:
                raise UserError(
                    f"{flag}: got '{value}', expected one of {', '.join(known)}; correct --{flag}"
                )
        separator = self.separator_text()
        if separator is not None and not (
            1 <= len(separator) <= 4 and not set(separator) & set('"\r\n')
        ):
            raise UserError(
                f"separator: got {self.separator!r}, expected one to four characters, such as ';', "
                "or tab; correct --separator"
            )
        if self.time_format is not None and self.time_unit is not None:
            raise UserError(
                f"time_format: got '{self.time_format}' and the time_unit {self.time_unit}, "
                "expected one of them; leave one out"
            )
        if self.time_format is not None and "%" not in self.time_format:
            raise UserError(
                f"time_format: got '{self.time_format}', expected a pattern of strptime such as "
                "'%d/%m/%Y' or '%m/%d/%Y %H:%M'; correct --time_format"
            )
        if self.order == BY_FILE and (self.time_format or self.time_unit):
            raise UserError(
                "order: got 'file' together with times, expected one of them; leave out --order or "
                "--time_unit and --time_format"
            )
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError as error:
            raise UserError(
                f"encoding: got '{self.encoding}', expected an encoding such as utf-8, cp1252, "
                "latin-1 or utf-16; correct --encoding"
            ) from error

    def separator_text(self) -> str | None:
        """The characters of the separator."""
        return _SEPARATOR_NAMES.get(str(self.separator), self.separator)

    def apply(self, format: Format) -> Format:
        """A format whose files are read so."""
        self.check()
        changes: dict[str, object] = {"order": self.order, "decimal": self.decimal}
        if self.encoding:
            changes["encoding"] = codecs.lookup(self.encoding).name
        if self.time_unit or self.time_format:
            changes |= {"unit": self.time_unit, "time_format": self.time_format}
        if self.unrated:
            changes["unrated"] = tuple(word.strip().lower() for word in self.unrated.split(","))

        def changed(layout: Layout) -> Layout:
            given = dict(changes)
            if layout.container == "text" and self.separator:
                given["delimiter"] = self.separator_text()
            if layout.container == "text" and self.quoting:
                given["quoted"] = _QUOTING[self.quoting]
            if self.order == BY_FILE:
                given["needed"] = tuple(role for role in layout.needed if role != "time")
            return dataclasses.replace(layout, **given)

        return _each(format, changed)


def _each(format: Format, change: Callable[[Layout], Layout]) -> Format:
    return Format(
        {ending: change(layout) for ending, layout in format.interactions.items()},
        {ending: change(layout) for ending, layout in format.items.items()},
    )


def custom_format(columns: str | None, reading: Reading = Reading()) -> Format:
    """The format of custom text, JSON lines or Parquet files.

    Args:
      columns: `role=name,…` for the roles user, item, rating, time, title, brand, price,
        categories, description and year (added to the title); `item=sku|id` if two files name the
        column differently. A number is the position, from 1, of a field in text without a header.
        A role without a name uses its own (user, item and time also `user_id`, `item_id` and
        `timestamp`), except for the year; texts of items are found under `ALIASES` too.
      reading: what else is known about the files.

    Raises:
      UserError: `columns` cannot be parsed, or a role is unknown or given twice.
    """
    named = _parse_columns(columns or "")

    def layouts(roles: tuple[str, ...], needed: tuple[str, ...]) -> dict[str, Layout]:
        given = [role for role in roles if role in named and named[role] != _NONE]
        needed = (*needed, *(role for role in given if role not in needed))
        header = _has_header(named, roles, columns)
        columns_of = {
            role: named.get(role, _DEFAULT_NAMES[role])
            for role in roles
            if named.get(role) != _NONE
        }
        facts = {"columns": columns_of, "needed": needed, "unit": None, "aliases": header}
        text = {"container": "text", "header": header, **facts}
        sniffed = Layout(delimiter=None, quoted=None, **text)
        return {
            ".csv": sniffed,
            ".tsv": dataclasses.replace(sniffed, delimiter="\t"),
            **dict.fromkeys(_JSON_ENDINGS, Layout("json", **facts)),
            ".parquet": Layout("parquet", **facts),
            ".txt": sniffed,
            ".dat": sniffed,
        }

    format = Format(layouts(INTERACTION_ROLES, REQUIRED_ROLES), layouts(ITEM_ROLES, ("item",)))
    return reading.apply(format)


def _has_header(
    named: Mapping[str, tuple[str, ...]], roles: tuple[str, ...], columns: str | None
) -> bool:
    # Both files share the item's name, so only the other roles say whether there is a header.
    named = {role: names for role, names in named.items() if names != _NONE}
    numbered = [named[role][0].isdigit() for role in roles if role in named and role != "item"]
    if any(numbered) and not all(numbered):
        raise UserError(
            f"columns: got '{columns}', expected either names or numbers for one file; "
            "use names if it has a header, else numbers"
        )
    return not any(numbered)


def refined_format(name: str, columns: str | None, reading: Reading = Reading()) -> Format:
    """A published format, some columns of which have other names; as in `custom_format`."""
    named = _parse_columns(columns or "")

    def change(layout: Layout) -> Layout:
        own = {role: names for role, names in named.items() if role in _roles_of(layout)}
        if not own:
            return layout
        # An item's name alone says nothing about a header.
        header = layout.header
        if any(role != "item" for role in own):
            header = _has_header(own, tuple(own), columns)
        given = [role for role in own if own[role] != _NONE]
        needed = (*layout.needed, *(role for role in given if role not in layout.needed))
        columns_of = {**layout.columns, **own}
        columns_of = {role: names for role, names in columns_of.items() if names != _NONE}
        return dataclasses.replace(layout, columns=columns_of, needed=needed, header=header)

    return reading.apply(_each(get_format(name), change))


def _roles_of(layout: Layout) -> tuple[str, ...]:
    return INTERACTION_ROLES if "user" in layout.columns else ITEM_ROLES


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


def missing_column_fix(layout: Layout, fields: list[str], text: str = "") -> str:
    """The flag that names the columns, with what they may be called in the file."""
    missing = [role for role in layout.needed if layout.find(role, fields) is None]
    lower = {field.lower(): field for field in reversed(fields)}
    guesses = {
        role: next((lower[name] for name in SUGGESTED.get(role, ()) if name in lower), "…")
        for role in missing
    }
    flag = ",".join(f"{role}={guess}" for role, guess in guesses.items())
    fix = f"name the columns with --columns {flag}" if flag else "correct the first line"
    if missing == ["time"] and "…" in flag:
        fix += ", or give --order file if there are no times and the lines are in their order"
    if layout.header and any(re.fullmatch(r"[\d.:-]+", field) for field in fields):
        fix += ", or by their numbers (--columns user=1,item=2,…) if the first line is no header"
    others = [mark for mark in SEPARATORS[:-1] if mark != layout.delimiter and mark in text]
    if len(fields) == 1 and others:
        fix = f"give --separator {named(others[0])} if the fields stand between those; else {fix}"
    return fix


def named(delimiter: str) -> str:
    return {"\t": "tab", " ": "space"}.get(delimiter, f"'{delimiter}'")
