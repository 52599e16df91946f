"""Hostile files: every problem is reported with file and line, or set aside; nothing is lost."""

import gzip
import itertools
import json

import duckdb
import pyarrow as pa
import pytest

from recllm_tasks.data import sources
from recllm_tasks.data.bad_records import BadRecords
from recllm_tasks.data.interactions import read_interactions
from recllm_tasks.data.metadata import read_metadata
from recllm_tasks.data.sources import check_source
from recllm_tasks.data.specs import custom_spec
from recllm_tasks.errors import UserError

COLUMNS = "user=user,item=item,time=time,rating=rating"
GOOD = {"user": "u", "item": "i", "time": 5, "rating": 3}
FIELDS = ("user", "item", "time", "rating")


def read(path, bad=None, **options):
    spec = custom_spec("x", [str(path)], columns=COLUMNS, **options)
    with duckdb.connect() as connection:
        read_interactions(connection, spec, [check_source(path)], bad)
        columns = "user_id, item_id, time, rating"
        rows = connection.execute(f"select {columns} from raw_interactions order by line")
        return rows.fetchall()


def as_json(record):
    return json.dumps(record).encode()


def as_csv(record):
    values = ("" if record.get(f) is None else str(record[f]) for f in FIELDS)
    quoted = ('"' + v.replace('"', '""') + '"' if set(v) & set('",\n\r') else v for v in values)
    return ",".join(quoted).encode()


def write(path, *records):
    """Records (dict), or lines (bytes), in the kind of file that the name implies."""
    encode = as_csv if ".csv" in path.name else as_json
    lines = [r if isinstance(r, bytes) else encode(r) for r in records]
    raw = b"\n".join([b"user,item,time,rating"] * (".csv" in path.name) + lines) + b"\n"
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


BAD = {
    "nan rating": ({**GOOD, "rating": float("nan")}, "rating"),
    "infinite rating": ({**GOOD, "rating": float("inf")}, "rating"),
    "minus infinite rating": ({**GOOD, "rating": float("-inf")}, "rating"),
    "rating beyond float32": ({**GOOD, "rating": 1e39}, "rating"),
    "rating beyond float64": (b'{"user":"u","item":"i","time":5,"rating":1e400}', "rating"),
    "text rating": ({**GOOD, "rating": "five"}, "rating"),
    "nan time": ({**GOOD, "time": float("nan")}, "time"),
    "infinite time": ({**GOOD, "time": float("inf")}, "time"),
    "negative time": ({**GOOD, "time": -1}, "time"),
    "milliseconds": ({**GOOD, "time": 1_404_172_800_000}, "in milliseconds it would be 2014-07-01"),
    "microseconds": ({**GOOD, "time": 1_404_172_800_000_000}, "time"),
    "huge time": ({**GOOD, "time": 10**300}, "time"),
    "no time": ({**GOOD, "time": None}, "time"),
    "no such day": ({**GOOD, "time": "2023-02-29"}, "time"),
    "another calendar": ({**GOOD, "time": "29.02.2024"}, "time"),
    "empty user": ({**GOOD, "user": ""}, "user"),
    "blank user": ({**GOOD, "user": " \t"}, "user"),
    "empty item": ({**GOOD, "item": ""}, "item"),
    "blank item": ({**GOOD, "item": " "}, "item"),
    "not utf-8": (as_json(GOOD).replace(b'"u"', b'"\xff"'), "UTF-8"),
    "not utf-8 in text": (b"\xe9,i,5,3", "UTF-8"),
    "nothing but brackets": (b"[" * 100_000, "the line"),
    "few fields": (b"u,i,5", "fields"),
    "many fields": (b"u,i,5,3,x", "fields"),
    "an open quote": (b'"u,i,5,3', "quote"),
    "text after a quote": (b'"u"x,i,5,3', "quote"),
    "nul alone": (b"\0", "the line"),
}
IN_JSON_ONLY = {"rating beyond float64", "not utf-8", "nothing but brackets", "nul alone"}
IN_CSV_ONLY = {"not utf-8 in text", "few fields", "many fields", "an open quote"}
IN_CSV_ONLY |= {"text after a quote"}
CASES = [
    (name, case)
    for name, case in itertools.product(("x.jsonl", "x.csv", "x.csv.gz"), BAD)
    if case not in (IN_CSV_ONLY if name == "x.jsonl" else IN_JSON_ONLY)
]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_bad_line_is_named(tmp_path, name, case):
    bad, words = BAD[case]
    path = write(tmp_path / name, GOOD, bad, {**GOOD, "user": "v"})
    line = 2 if name == "x.jsonl" else 3
    with pytest.raises(UserError, match=rf"{name}', line {line}: .*{words}.*remove line {line}"):
        read(path)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_bad_line_is_set_aside_and_the_others_are_kept(tmp_path, name, case):
    bad, _ = BAD[case]
    last = {**GOOD, "user": "v", "time": "2024-02-29"}
    path = write(tmp_path / name, GOOD, bad, last, bad, GOOD)
    aside = BadRecords(tmp_path / "bad.jsonl")
    rows = read(path, aside)
    assert [row[0] for row in rows] == ["u", "v", "u"]
    lines = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    first = 2 if name == "x.jsonl" else 3
    assert [line["line"] for line in lines] == [first, first + 2]
    assert aside.count == 2
    assert all(line["file"] == str(path) and "expected" in line["reason"] for line in lines)
    raw = bad if isinstance(bad, bytes) else (as_csv if "csv" in name else as_json)(bad)
    assert lines[0]["text"] == raw.decode("utf-8", "backslashreplace")


def test_every_line_is_bad(tmp_path):
    path = write(tmp_path / "x.jsonl", b"{", b"}")
    with pytest.raises(UserError, match="got 2 bad lines and no valid record"):
        read(path, BadRecords(tmp_path / "bad.jsonl"))


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_of_50_megabytes(tmp_path, name, end):
    long = {**GOOD, "user": "x" * 50_000_000}
    path = write(tmp_path / name, GOOD, long, GOOD)
    if not end:
        path.write_bytes(path.read_bytes().rstrip(b"\n"))
    with pytest.raises(UserError, match=r"more than 16,777,216 bytes.*expected at most") as error:
        read(path)
    assert len(str(error.value)) < 1000
    assert len(read(path, BadRecords(tmp_path / "bad.jsonl"))) == 2


def test_a_line_of_10_megabytes_is_read(tmp_path):
    for name in ("x.jsonl", "x.csv"):
        path = write(tmp_path / name, GOOD, {**GOOD, "item": "x" * 10_000_000}, GOOD)
        assert [len(row[1]) for row in read(path)] == [1, 10_000_000, 1]


def test_every_record_behind_an_open_quote_is_read(tmp_path, monkeypatch):
    lines = [b'"u,i,5,3', *[b"u,i,6,3"] * 2000]
    for limit in (sources.MAX_LINE_BYTES, 1000):
        monkeypatch.setattr("recllm_tasks.data.readers.delimited.MAX_LINE_BYTES", limit)
        path = write(tmp_path / "x.csv", *lines)
        assert len(read(path, BadRecords(tmp_path / f"bad{limit}.jsonl"))) == 2000


@pytest.mark.parametrize("ends", [(b"\n", b"\r\n"), (b"\r\n", b"\n")])
def test_mixed_line_ends(tmp_path, ends):
    path = tmp_path / "x.csv"
    path.write_bytes(
        b"user,item,time,rating" + ends[0] + b"u,i,5,3" + ends[1] + b"\r\n \nv,i,6,3" + ends[0]
    )
    assert [row[0] for row in read(path)] == ["u", "v"]


# Ids may be anything that is not blank; they come out as they went in.
IDS = [
    "line\nbreak",
    "tab\tand \"quotes\" and 'these'",
    'starts "with, a quote',
    "carriage\rreturn",
    "\u202eright to left\u202c",
    "\x01\x1b[2J\x7f",
    "nul\0inside",
    "🧸👩‍👩‍👧",
    "x" * 10_000,
    "&amp;lt;b&gt;",
    "[masked item]",
    "<extra_id_0>",
    "Item ID: I7",
    "I7",
    " spaces ",
    "NULL",
    "nan",
    "-1",
    "\u00a0",
    "\ufeff",
    "{}",
    "%s{0}$1\\n",
    "'; drop table core; --",
]


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
@pytest.mark.parametrize("text", IDS)
def test_ids_come_out_as_they_went_in(tmp_path, name, text):
    path = write(tmp_path / name, GOOD, {**GOOD, "user": text}, {**GOOD, "item": text}, GOOD)
    assert [row[:2] for row in read(path)] == [("u", "i"), (text, "i"), ("u", text), ("u", "i")]


def test_a_repeated_pair_is_not_an_error(tmp_path):
    assert len(read(write(tmp_path / "x.csv", GOOD, GOOD))) == 2


def test_damaged_files_are_errors_in_any_mode(tmp_path):
    whole = write(tmp_path / "x.csv.gz", *[GOOD] * 1000).read_bytes()
    (tmp_path / "x.csv.gz").write_bytes(whole[:-9])
    with pytest.raises(UserError, match="truncated file after line"):
        read(tmp_path / "x.csv.gz", BadRecords(tmp_path / "bad.jsonl"))
    plain = gzip.decompress(whole)
    with pa.CompressedOutputStream(str(tmp_path / "x.csv.zst"), "zstd") as stream:
        stream.write(plain)
    whole = (tmp_path / "x.csv.zst").read_bytes()
    for broken in (whole[:-1], whole[:20], b"u" + whole[1:]):
        (tmp_path / "x.csv.zst").write_bytes(broken)
        with pytest.raises(UserError, match=r"x\.csv\.zst.*(truncated|not a valid zstd)"):
            read(tmp_path / "x.csv.zst", BadRecords(tmp_path / "bad.jsonl"))


def read_items(path, items, bad=None):
    spec = custom_spec("x", ["x.csv"], [str(path)])
    return read_metadata(spec, [check_source(path)], items, bad)


def test_metadata_without_items_and_items_without_metadata(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("item,title\na,A\nb,B\na,again\n")
    assert {k: v.title for k, v in read_items(path, ["a", "c"]).items()} == {"a": "A"}


def test_bad_metadata_is_set_aside(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'item,title\na,A\n,empty\n\xff,x\nb,"B\nc,C\n')
    bad = BadRecords(tmp_path / "bad.jsonl")
    assert {k: v.title for k, v in read_items(path, ["a", "b", "c"], bad).items()} == {
        "a": "A",
        "c": "C",
    }
    lines = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [line["line"] for line in lines] == [3, 4, 5]
    with pytest.raises(UserError, match=r"metadata for .*line 3: got '' in item_id\|item"):
        read_items(path, ["a"])


@pytest.mark.parametrize("text", [t for t in IDS if t.strip()])
def test_titles_are_one_line_without_control_characters(tmp_path, text):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"item": "a", "title": text}))
    title = read_items(path, ["a"])["a"].title
    controls = {chr(c) for c in (*range(32), *range(127, 160))}
    assert not controls & set(title)
    kept = "".join(" " if c in controls else c for c in text)
    assert title == " ".join(kept.split())
