"""Mutated lines: whatever a file holds, it is read, set aside, or a `UserError`.

`launch/test.sh -m slow` mutates a million lines; what runs each time mutates some thousands.
"""

import json
import re
import zlib

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recllm_tasks.data import interactions as interactions_lib
from recllm_tasks.data.bad_records import BadRecords
from recllm_tasks.data.interactions import read_interactions
from recllm_tasks.data.metadata import read_metadata
from recllm_tasks.data.sources import check_source
from recllm_tasks.data.specs import custom_spec
from recllm_tasks.errors import UserError

FIRST = 1_404_172_800
# Format, file, header, a sound line.
LINES = {
    "amazon_2014": (
        "x.json",
        b"",
        b'{"reviewerID": "u1", "asin": "i1", "unixReviewTime": 1404172800, "overall": 4.5}',
    ),
    "amazon_2018": ("x.csv", b"", b"i1,u1,4.5,1404172800"),
    "amazon_2023": (
        "x.csv",
        b"user_id,parent_asin,rating,timestamp\n",
        b'"u ""1""",i1,4.5,1404172800000',
    ),
    "movielens": ("x.dat", b"", b"1::2::4.5::1404172800"),
    "recbole": (
        "x.inter",
        b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n",
        b"1\t2\t4.5\t1404172800",
    ),
    None: ("x.jsonl", b"", b'{"user": "u1", "item": 7, "time": "2014-07-01 10:00", "rating": 4}'),
}
ITEM = b"{'asin': 'i1', 'title': 'A \\'doll\\'', 'price': 3.5, 'categories': [['Toys', 'Dolls']]}"

INSERTED = [
    *(bytes([byte]) for byte in b"\0\x01\t\n\r\"'\\,:{}[]|-.eE+ nN"),
    *(b"\xff", b"\xe2\x96\x81", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"::", b'""', b"\r\n"),
    *(b"NaN", b"Infinity", b"1e999", b"null", b"true", b"-0", b"<extra_id_0>", b"9" * 400),
    *(b"\xef\xbb\xbf", b"2024-02-30", b"[" * 2000, b"x" * 10_000, b"\xe2\x80\xae"),
    "🧸".encode(),
]
MUTATION = st.tuples(
    st.integers(0, 200), st.integers(0, 12), st.sampled_from(INSERTED) | st.binary(max_size=4)
)


def mutate(line, mutations):
    """The line with runs of bytes replaced."""
    for place, length, inserted in mutations:
        place = min(place, len(line))
        line = line[:place] + inserted + line[place + length :]
    return line


def read(spec, path, bad=None):
    """The rows, or the message of the error."""
    try:
        source = check_source(path)
        with duckdb.connect(config={"threads": 1}) as connection:
            read_interactions(connection, spec, [source], bad)
            return connection.execute(
                "select user_id, item_id, time, rating from raw_interactions"
            ).fetchall()
    except UserError as error:
        return str(error)


def check(folder, format, lines):
    """Reads valid and mutated lines in both modes; an error names the first line set aside."""
    name, header, sound = LINES[format]
    path = folder / name
    path.write_bytes(header + b"\n".join([sound, *lines, sound]) + b"\n")
    spec = custom_spec("x", [str(path)], format=format)
    bad_file = folder / "bad.jsonl"
    bad_file.write_text("")
    rows = read(spec, path, BadRecords(bad_file))
    if isinstance(rows, str):
        assert path.name in rows
        return
    for user, item, time, rating in rows:
        assert user.strip(" \t\n\r\v\f")
        assert item.strip(" \t\n\r\v\f")
        assert 0 <= time < 4_102_444_800
        assert rating is None or abs(rating) < 1e38
    aside = [json.loads(line) for line in bad_file.read_text().splitlines()]
    assert all(each["reason"].startswith("got ") for each in aside)
    # A mutation may join lines in quotes or break one in two; none vanishes.
    if name != "x.csv" or not header:
        full = [line for line in path.read_bytes().split(b"\n") if line.strip()]
        assert len(rows) + len(aside) == len(full) - bool(header)
    strictly = read(spec, path)
    if aside:
        assert f"line {aside[0]['line']}: " in strictly
    else:
        assert sorted(strictly, key=str) == sorted(rows, key=str)


@pytest.mark.parametrize("format", LINES)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(MUTATION, min_size=1, max_size=3), min_size=1, max_size=8))
def test_mutated_interactions(tmp_path, format, mutations):
    check(tmp_path, format, [mutate(LINES[format][2], each) for each in mutations])


# What files of custom formats hold: times, ratings and ids in many forms.
VALUES = st.sampled_from(
    [
        *("1", "01", "1.0", "1_0", "1e3", "+5", "-1", "0", ".5", "5.", "0x1f", "\u0663", "1,5", ""),
        *(" 5 ", "nan", "NaN", "inf", "1e400", "9" * 30, "true", "null", "None", "1 000", "5\t"),
        *("2020-01-01", "2020-1-5 9:05", "2020-01-01T10:00:00+0000", "2020-01-01 10:00:00 UTC"),
        *("2020-01-01 24:00", "2020-02-30", "20170714", "20170714.0", "31/12/2020", "1/2/2020"),
        *("2020-01-01T10:00:00.1234567Z", "2020/01/05", "1600000000", "1600000000000", "1e9"),
        *(
            'TV 24" black',
            "it's",
            'a "b" c',
            '"q"',
            '""',
            '"',
            "a,b",
            "a;b",
            "a|b",
            "x\\y",
            "\ufeff",
        ),
    ]
)
FILES = {
    "x.csv": ("user,item,time,rating", ","),
    "y.csv": ("user;item;time;rating", ";"),
    "x.tsv": ("user\titem\ttime\trating", "\t"),
    "q.tsv": ('"user"\t"item"\t"time"\t"rating"', "\t"),
    "x.txt": ("user|item|time|rating", "|"),
    "x.jsonl": None,
}


@pytest.mark.parametrize("name", FILES)
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(VALUES, VALUES, VALUES, VALUES), min_size=1, max_size=4), st.booleans())
def test_a_rows_verdict_depends_on_nothing_beside_it(tmp_path, name, rows, quote):
    """Alone or beside others, read by DuckDB or in Python: the same values or the same refusal."""
    if FILES[name] is None:
        lines = [json.dumps(dict(zip(("user", "item", "time", "rating"), row))) for row in rows]
        header, sound, broken = [], '{"user": "u", "item": "i", "time": 9}', "{"
    else:
        first, mark = FILES[name]
        quoted = [['"' + v.replace('"', '""') + '"' if quote else v for v in row] for row in rows]
        lines = [mark.join(row) for row in quoted]
        header, sound, broken = [first], mark.join("ui9") + mark, mark.join("uui99")

    def read_lines(*lines):
        path = tmp_path / name
        path.write_text("\n".join([*header, *lines]) + "\n", encoding="utf-8")
        (tmp_path / "bad.jsonl").write_text("")
        return read(custom_spec("x", [str(path)]), path, BadRecords(tmp_path / "bad.jsonl"))

    def read_thoroughly(*lines):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(interactions_lib, "_read_quickly", lambda *_: False)
            return read_lines(*lines)

    alone = []
    for line in lines:
        found = read_lines(sound, line, sound)
        assert found == read_thoroughly(sound, line, sound)
        assert found[0] == found[-1]
        alone += found[1:-1]
    # An open quote takes what stands after it into its field, so such lines are not put together.
    if quote or all('"' not in line for line in lines):
        assert read_lines(sound, *lines, sound)[1:-1] == alone
        assert read_lines(sound, *lines, broken, sound)[1:-1] == alone


@settings(max_examples=6, deadline=None)
@given(
    times=st.lists(st.none() | st.floats() | st.integers(0, 2**40), min_size=1, max_size=4),
    ratings=st.lists(st.none() | st.floats(width=32), min_size=4, max_size=4),
)
def test_statistics_in_a_parquet_file_change_no_verdict(tmp_path_factory, times, ratings):
    folder, found = tmp_path_factory.mktemp("parquet"), []
    table = pa.table(
        {
            "user": ["u"] * (len(times) + 1),
            "item": ["i"] * (len(times) + 1),
            "time": pa.array([1.0, *times], pa.float64()),
            "rating": pa.array([1.0, *ratings[: len(times)]], pa.float64()),
        }
    )
    for statistics in (True, False):
        path = folder / f"{statistics}.parquet"
        pq.write_table(table, path, write_statistics=statistics)
        found.append(read(custom_spec("x", [str(path)]), path, BadRecords(folder / "bad.jsonl")))
    assert found[0] == found[1]
    for time in times:
        sound = time is not None and 0 <= time < 4_102_444_800
        sound = sound and not re.fullmatch(r"(19|20)\d{6}", f"{time:.0f}")
        assert sound or all(row[2] != time for row in found[0] if time != 1)


def check_items(folder, lines):
    path = folder / "meta.json"
    path.write_bytes(b"\n".join([ITEM, *lines]))
    spec = custom_spec("x", ["x.json"], [str(path)], format="amazon_2014")
    (folder / "bad.jsonl").unlink(missing_ok=True)
    found = read_metadata(spec, [check_source(path)], ["i1"], BadRecords(folder / "bad.jsonl"))
    assert found["i1"].title == "A 'doll'"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(MUTATION, min_size=1, max_size=3), min_size=1, max_size=8))
def test_mutated_metadata(tmp_path, mutations):
    check_items(tmp_path, [mutate(ITEM, each) for each in mutations])


@pytest.mark.slow
@pytest.mark.parametrize("format", LINES)
def test_a_million_mutated_lines(tmp_path, format):
    """170,000 lines of each format in files of 1,000; a counter seeds the mutations."""

    def number(*parts):
        return zlib.crc32(repr((format, *parts)).encode())

    for file in range(170):
        lines = []
        for line in range(1000):
            mutations = [
                (
                    number(file, line, m, "place") % 100,
                    number(file, line, m, "length") % 8,
                    INSERTED[number(file, line, m) % len(INSERTED)],
                )
                for m in range(1 + number(file, line) % 3)
            ]
            lines.append(mutate(LINES[format][2], mutations))
        check(tmp_path, format, lines)
