"""Writes an Amazon-shaped interaction log of any size, with its metadata.

    python tools/make_log.py OUT --interactions 1_000_000            # gzip JSON lines
    python tools/make_log.py OUT --interactions 100_000_000 --format parquet

Item popularity follows a power law. A user has 5 interactions plus a log-normal number. Both are
dense enough that a 5-core keeps most of them. Lines are in random order, times are whole days with
ties as at Amazon, and some lines repeat a (user, item) pair. The same arguments give the same log.
Memory grows with users and items, not with interactions.
"""

import argparse
import gzip
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

_CHUNK = 1_000_000
_FIRST_DAY, _DAYS = 11_000, 5_000
_DAY = 86_400
_STARS = (0.06, 0.05, 0.10, 0.20, 0.59)  # shares of 1 to 5 stars, about Amazon's
_EXPONENT, _HEAD = 0.8, 20  # Zipf-Mandelbrot: weight of rank r is (r + head) ** -exponent
_WORDS = ("blue", "red", "soft", "large", "small", "wooden", "magic", "super", "classic", "mini")
_NOUNS = ("puzzle", "robot", "lamp", "brush", "bottle", "puppet", "guitar", "kettle", "mirror")
_FORMATS = {"json": "json.gz", "csv": "csv", "parquet": "parquet"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("out", type=Path, help="folder for the two files")
    parser.add_argument("--interactions", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, help="default: one per 50 interactions")
    parser.add_argument("--items", type=int, help="default: one per 200 interactions")
    parser.add_argument("--name", default="Gift_Cards", help="category in the files' names")
    parser.add_argument("--format", choices=_FORMATS, default="json")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    users = args.users or max(10, args.interactions // 50)
    items = args.items or max(10, args.interactions // 200)
    if args.interactions < 5 * users:
        parser.error(f"--interactions: got {args.interactions}, expected at least 5 per user")
    args.out.mkdir(parents=True, exist_ok=True)
    suffix = _FORMATS[args.format]
    rng = np.random.default_rng(args.seed)
    log = draw_interactions(args.interactions, users, items, rng)
    write(args.out / f"{args.name}_5.{suffix}", log)
    write(args.out / f"meta_{args.name}.{suffix}", draw_metadata(items, rng))


def draw_interactions(
    interactions: int, users: int, items: int, rng: np.random.Generator
) -> Iterator[pa.Table]:
    """Yields tables of `reviewerID`, `asin`, `overall` and `unixReviewTime` in random order."""
    ends = np.cumsum(_draw_lengths(interactions, users, rng))
    popularity = np.cumsum((np.arange(items) + _HEAD) ** -_EXPONENT)
    popularity /= popularity[-1]
    # Items are renamed at random, so that raw ids do not reveal popularity.
    names = rng.permutation(items)
    # An affine map of line numbers scatters each user over the file without a permutation.
    step = int(rng.integers(interactions // 3 + 1, interactions // 2 + 2))
    while math.gcd(step, interactions) != 1:
        step += 1
    for start in range(0, interactions, _CHUNK):
        line = np.arange(start, min(start + _CHUNK, interactions), dtype=np.int64)
        # The product fits into 64 bits up to three billion interactions.
        user = np.searchsorted(ends, line * step % interactions, side="right")
        item = names[np.searchsorted(popularity, rng.random(len(line)), side="right")]
        days = _FIRST_DAY + rng.integers(0, _DAYS, len(line))
        yield pa.table(
            {
                "reviewerID": _name("A", user, 13),
                "asin": _name("B", item, 9),
                "overall": pa.array(1.0 + rng.choice(5, len(line), p=_STARS)),
                "unixReviewTime": pa.array(days * _DAY),
            }
        )


def _draw_lengths(interactions: int, users: int, rng: np.random.Generator) -> np.ndarray:
    """Interactions per user: 5, plus a log-normal share of the remaining ones."""
    shares = rng.lognormal(0, 1, users)
    ends = np.floor(np.cumsum(shares) / shares.sum() * (interactions - 5 * users)).astype(np.int64)
    ends[-1] = interactions - 5 * users
    return 5 + np.diff(ends, prepend=0)


def draw_metadata(items: int, rng: np.random.Generator) -> Iterator[pa.Table]:
    """Yields tables of `asin`, `title`, `brand`, `price` and `category`."""
    words, nouns = pa.array(_WORDS), pa.array(_NOUNS)
    for start in range(0, items, _CHUNK):
        item = np.arange(start, min(start + _CHUNK, items))

        def pick(choices: pa.Array, item=item) -> pa.Array:
            return choices.take(pa.array(rng.integers(0, len(choices), len(item))))

        number, noun = pa.array(item).cast(pa.string()), pick(nouns)
        cents = pa.array(rng.integers(99, 9_999, len(item)) / 100).cast(pa.string())
        yield pa.table(
            {
                "asin": _name("B", item, 9),
                "title": pc.binary_join_element_wise(pick(words), pick(words), noun, number, " "),
                "brand": pc.binary_join_element_wise("Brand", pick(words), " "),
                "price": pc.binary_join_element_wise("$", cents, ""),
                "category": pc.binary_join_element_wise("Everything", noun, " > "),
            }
        )


def _name(letter: str, numbers: np.ndarray, width: int) -> pa.Array:
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width, "0")
    return pc.binary_join_element_wise(letter, digits, "")


def write(path: Path, tables: Iterator[pa.Table]) -> None:
    """Writes tables as Parquet, CSV or gzip JSON lines, depending on the path's suffix."""
    first = next(tables)
    if path.suffix == ".gz":
        # Level 1 is four times as fast as the default. Concatenated gzip members are a valid file.
        with path.open("wb") as file:
            for table in _chain(first, tables):
                file.write(gzip.compress(_json_lines(table), 1, mtime=0))
        return
    make = pa.parquet.ParquetWriter if path.suffix == ".parquet" else pa.csv.CSVWriter
    with make(path, first.schema) as writer:
        for table in _chain(first, tables):
            writer.write_table(table)


def _chain(first: pa.Table, rest: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield first
    yield from rest


def _json_lines(table: pa.Table) -> pa.Buffer:
    """JSON lines for columns of numbers, or of strings without quotes and backslashes."""
    parts, opening = [], "{"
    for name, column in zip(table.column_names, table.columns):
        quote = '"' if pa.types.is_string(column.type) else ""
        text = column.cast(pa.string()).combine_chunks()
        parts += [f'{opening}"{name}": {quote}', text, quote]
        opening = ", "
    lines = pc.binary_join_element_wise(*parts, "}\n", "")
    offsets = np.frombuffer(lines.buffers()[1], np.int32)
    return lines.buffers()[2][offsets[0] : offsets[len(lines)]]


if __name__ == "__main__":
    main()
