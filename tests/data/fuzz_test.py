"""Mutated lines: whatever a file holds, it is read, set aside, or a `UserError`.

`launch/test.sh -m slow` mutates a million lines; what runs each time mutates some thousands.
"""

import json
import zlib

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
