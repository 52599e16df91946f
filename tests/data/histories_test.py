"""Files of histories in every form, against plain Python."""

import datetime
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recllm_tasks.data import histories
from recllm_tasks.errors import UserError

WIDE = {"u2": ["b", "a"], "u1": ["c"], "17": ["a", "x, y"], "u4": []}
# Events of three users, not sorted by time.
LONG = [("u2", "b", 3), ("u1", "c", 9), ("u2", "a", 4), ("17", "a", 2), ("17", "x, y", 1)]
SORTED = {"u2": ["b", "a"], "u1": ["c"], "17": ["x, y", "a"]}


@pytest.fixture
def read(tmp_path):
    """Reads bytes as a file of that name; returns (facts, items by user, in order)."""

    def call(name, content, **options):
        path, folder = tmp_path / name, tmp_path / "folder"
        folder.mkdir()
        if content is not None:
            path.write_bytes(content)
        facts = histories.take_in(path, folder, **options)
        found = [(h.user, h.items) for h in histories.read(folder, facts)]
        assert len(found) == facts.users
        assert histories.take_in(path, folder, **options) == facts
        return facts, found

    return call


def _json(rows):
    return "\n".join(map(json.dumps, rows)).encode()


def _quoted(items):
    return ", ".join(f'""{item}""' if "," in item else item for item in items)


WIDE_FILES = {
    "a.jsonl": _json({"user": u, "items": own} for u, own in WIDE.items()),
    "numbers.jsonl": _json(
        {"user_id": int(u) if u.isdigit() else u, "History": own or None} for u, own in WIDE.items()
    ),
    "a.csv": "\n".join(
        ["user,items", *(f'{u},"{_quoted(own)}"' for u, own in WIDE.items())]
    ).encode(),
    "a.tsv.gz": gzip.compress(
        "\r\n".join(
            ["x\tITEMS\tUser", *(f'1\t"{_quoted(own)}"\t{u}' for u, own in WIDE.items())]
        ).encode("utf-8-sig")
    ),
}


@pytest.mark.parametrize("name", WIDE_FILES)
def test_lists_of_users(read, name):
    facts, found = read(name, WIDE_FILES[name])
    # Text is split at commas outside quotes, which stay for ItemLookup.
    in_text = {"17": ["a", '"x, y"']} if ".jsonl" not in name else {}
    assert found == list({**WIDE, **in_text}.items())
    assert (facts.form, facts.bad, facts.replaced, facts.lines()) == ("wide", 0, 0, [])


def test_lists_in_parquet(read, tmp_path):
    table = pa.table({"customer": [*WIDE], "item_ids": [*WIDE.values()]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read("a.parquet", None)[1] == list(WIDE.items())


@pytest.mark.parametrize(
    "time",
    [
        str,
        lambda t: f"{t}.5",
        lambda t: f"2020-01-{t + 5:02}",
        lambda t: f"2020-01-01T0{t}:00:00",
    ],
)
def test_events_are_ordered_by_their_times(read, time):
    lines = [f"{u};{time(t)};{i}" for u, i, t in LONG]
    facts, found = read("log.csv", "\n".join(["user_id;time;item", *lines]).encode())
    assert found == list(SORTED.items())
    assert facts.form == "long"


def test_events_without_times_are_in_the_files_order(read):
    lines = [f"{u}|{i}" for u, i, _ in LONG]
    _, found = read("log.txt", "\n".join(["user|item", *lines]).encode())
    assert found == [("u2", ["b", "a"]), ("u1", ["c"]), ("17", ["a", "x, y"])]


def test_events_in_parquet(read, tmp_path):
    users, items, days = zip(*LONG)
    times = [datetime.datetime(2020, 1, day) for day in days]
    # A column of whole numbers with gaps is one of fractions in pandas.
    table = pa.table({"user": users, "sku": items, "timestamp": times, "n": [1.0] * 5})
    pq.write_table(table, tmp_path / "a.parquet")
    _, found = read("a.parquet", None, columns="item=sku")
    assert found == list(SORTED.items())


def test_text_has_one_history_a_line(read):
    facts, found = read("a.csv.txt", "\ufeffI1, 'x, y'\r\n\r\nI2".encode())
    assert found == [("1", ["I1", "'x, y'"]), ("2", []), ("3", ["I2"])]
    assert facts.form == "text"


def test_the_last_list_of_a_user_counts(read):
    rows = [("a", ["1"]), ("b", ["2"]), ("a", ["3"]), ("c", []), ("a", ["4"])]
    facts, found = read("a.jsonl", _json({"user": u, "items": own} for u, own in rows))
    assert found == [("b", ["2"]), ("c", []), ("a", ["4"])]
    assert (facts.replaced, facts.replaced_example) == (2, "a")


BAD = {
    "a.jsonl": (
        _json([{"user": "a", "items": ["1"]}, {"user": None, "items": []}])
        + b'\n[1]\n{"user": "b", "items": [1e999]}\n{"user\n\xff\n{"user": "c", "items": 7}',
        [("a", ["1"])],
        "row 2': got nothing, expected a user",
        6,
    ),
    "a.csv": (
        b"user,items\na,1\nb,2,3\n,4\n\xff,5\nc,'x\nd,6\n",
        [("a", ["1"]), ("d", ["6"])],
        "row 3': got 3 fields, expected 2 as the header; quote items",
        4,
    ),
    "log.csv": (
        b"user,item,time\na,1,5\na,2,\nb,,6\nb,3,x\na,4,4\n",
        [("a", ["4", "1"])],
        "log.csv, line 3: got '' in time",
        3,
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_left_out_and_counted(read, name):
    content, expected, problem, number = BAD[name]
    facts, found = read(name, content)
    assert found == expected
    assert facts.bad == number
    assert problem in facts.bad_example
    assert facts.lines()[0].startswith(f"{number} bad rows left out, the first: ")


@pytest.mark.parametrize("name", BAD)
def test_strict_refuses_bad_rows(read, name):
    with pytest.raises(UserError, match="leave out --strict") as caught:
        read(name, BAD[name][0], strict=True)
    assert BAD[name][2] in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.csv", b"", {}, "got none, expected at least one"),
        ("a.csv", b"buyer,items\na,1", {}, "--columns user=NAME"),
        ("a.csv", b"user,sku\na,1", {}, "--columns item=NAME"),
        ("a.csv", b"user,items\na,1", {"columns": "item=sku"}, "expected one called sku"),
        ("a.csv", b"user,items\na,1", {"columns": "itms=sku"}, "did you mean 'items'"),
        ("a.csv", b"user,item,time\na,1,31/12/2020", {}, r"--time_format '%d/%m/%Y'"),
        ("a.jsonl", b'{"user": "a", "items": ["1"]}\n' * 2, {"strict": True}, "got user 'a' twice"),
        ("a.parquet", b"PAR1xx", {}, "expected a Parquet file"),
        ("nowhere", None, {}, "No such file"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(read, name, content, options, message):
    with pytest.raises(UserError, match=message):
        read(name, content, **options)
