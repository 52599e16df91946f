"""Every format of interactions and items, read without line-by-line Python."""

import gzip
import json

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recllm_tasks.data import interactions as interactions_lib
from recllm_tasks.data.formats import FORMATS, Reading, custom_format
from recllm_tasks.data.interactions import read_interactions
from recllm_tasks.data.metadata import ItemText, read_metadata
from recllm_tasks.data.sources import check_source
from recllm_tasks.data.specs import custom_spec
from recllm_tasks.errors import UserError

# 2014-07-01 and half past noon of the day after it.
FIRST, SECOND = 1_404_172_800, 1_404_304_200


@pytest.fixture
def quickly(monkeypatch):
    """Makes the thorough way of reading an error."""

    def refuse(connection, source, *rest):
        raise AssertionError(f"{source.path} was read line by line")

    monkeypatch.setattr(interactions_lib, "_read_thoroughly", refuse)


def write(path, text, encoding="utf-8"):
    raw = text.encode(encoding)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(raw))
    elif path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(raw)
    else:
        path.write_bytes(raw)
    return path


def read(*paths, format=None, columns=None, unit=None):
    spec = custom_spec(
        "x",
        [str(p) for p in paths],
        format=format,
        columns=columns,
        reading=Reading(time_unit=unit),
    )
    with duckdb.connect() as connection:
        read_interactions(connection, spec, [check_source(path) for path in paths])
        rows = "select user_id, item_id, time, rating from raw_interactions order by line"
        return connection.execute(rows).fetchall()


def read_items(path, items, format=None, columns=None):
    spec = custom_spec("x", ["x.csv"], [str(path)], format=format, columns=columns)
    return read_metadata(spec, [check_source(path)], items)


EXPECTED = [("u1", "i1", FIRST, 5.0), ("u2", "i2", SECOND, 1.5)]
AMAZON = [
    {"reviewerID": u, "asin": i, "unixReviewTime": t, "overall": r, "reviewText": 'a, \n"b" ü'}
    for u, i, t, r in EXPECTED
]
AMAZON_2023 = [
    {"user_id": u, "parent_asin": i, "timestamp": 1000 * t, "rating": r, "images": [{}]}
    for u, i, t, r in EXPECTED
]
PUBLISHED = {
    "reviews_X_5.json": ("amazon_2014", "\n".join(map(json.dumps, AMAZON))),
    "ratings_X.csv": ("amazon_2014", f"u1,i1,5.0,{FIRST}\nu2,i2,1.5,{SECOND}\n"),
    "Gift_Cards_5.json": ("amazon_2018", "\n".join(map(json.dumps, AMAZON)) + "\n"),
    "Gift_Cards.csv": ("amazon_2018", f"i1,u1,5.0,{FIRST}\ni2,u2,1.5,{SECOND}\n"),
    "Gift_Cards.jsonl": ("amazon_2023", "\n".join(map(json.dumps, AMAZON_2023))),
    "Gift_Cards.train.csv": (
        "amazon_2023",
        "user_id,parent_asin,rating,timestamp,history\n"
        f'u1,i1,5.0,{FIRST}000,\nu2,i2,1.5,{SECOND}000,"i1 i9"\n',
    ),
    "rated.csv": (
        "amazon_2023",
        f"user_id,parent_asin,rating,timestamp\r\nu1,i1,5,{FIRST}000\r\nu2,i2,1.5,{SECOND}000\r\n",
    ),
    "u.data": ("movielens", f"u1\ti1\t5\t{FIRST}\nu2\ti2\t1.5\t{SECOND}\n"),
    "ratings.dat": ("movielens", f"u1::i1::5::{FIRST}\nu2::i2::1.5::{SECOND}\n"),
    "ratings.csv": (
        "movielens",
        f"userId,movieId,rating,timestamp\nu1,i1,5.0,{FIRST}\nu2,i2,1.5,{SECOND}\n",
    ),
    "x.inter": (
        "recbole",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        f"u1\ti1\t5\t{FIRST}\nu2\ti2\t1.5\t{SECOND}\n",
    ),
}


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_interactions(tmp_path, name, packing):
    format, text = PUBLISHED[name]
    assert read(write(tmp_path / (name + packing), text), format=format) == EXPECTED


OWN = {
    "x.csv": 'when,"who, then",what,stars\n2014-07-01,u1,i1,5\n"2014-07-02 12:30:00",u2,i2,1.5\n',
    "x.tsv": f'what\twho, then\twhen\tstars\ni1\tu1\t{FIRST}\t5\ni2\t"u2"\t{SECOND}.0\t1.5\n',
    "x.jsonl": json.dumps({"who, then": "u1", "what": "i1", "when": FIRST, "stars": 5})
    + "\n"
    + json.dumps({"stars": 1.5, "what": "i2", "when": "2014-07-02T12:30Z", "who, then": "u2"}),
}
COLUMNS = "item=what,time=when,rating=stars,user="


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", OWN)
def test_custom_interactions(tmp_path, name, packing):
    text = OWN[name].replace("who, then", "who/ ~t'h\u00fcn")
    path = write(tmp_path / (name + packing), text)
    assert read(path, columns=COLUMNS + "who/ ~t'h\u00fcn") == EXPECTED


PARQUET_TIMES = {
    "whole seconds": pa.array([FIRST, SECOND], pa.int32()),
    "seconds": pa.array([FIRST, SECOND], pa.float64()),
    "timestamps": pa.array([FIRST * 10**6, SECOND * 10**6], pa.timestamp("us")),
    "timestamps of a zone": pa.array(
        [FIRST * 1000, SECOND * 1000], pa.timestamp("ms", "Asia/Tokyo")
    ),
    "text": pa.array(["2014-07-01", "2014-07-02 14:30:00+02:00"]),
}


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("kind", PARQUET_TIMES)
def test_custom_parquet(tmp_path, kind):
    table = {
        "what": pa.array(["i1", "i2"]).dictionary_encode(),
        "time": PARQUET_TIMES[kind],
        'the "user"': ["u1", "u2"],
        "rating": pa.array([5, 1.5], pa.float32()),
    }
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    columns = 'user=the "user",item=what'
    assert read(tmp_path / "x.parquet", columns=columns) == EXPECTED


@pytest.mark.parametrize("kind", PARQUET_TIMES)
def test_both_ways_of_reading_parquet_agree(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(interactions_lib, "_read_quickly", lambda *_: False)
    table = {"user": ["u1", "u2"], "item": ["i1", "i2"], "time": PARQUET_TIMES[kind]}
    pq.write_table(pa.table({**table, "rating": [5, 1.5]}), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet") == EXPECTED


@pytest.mark.parametrize("name", [*PUBLISHED, *OWN])
def test_both_ways_of_reading_text_agree(tmp_path, name, monkeypatch):
    monkeypatch.setattr(interactions_lib, "_read_quickly", lambda *_: False)
    format, text = PUBLISHED[name] if name in PUBLISHED else (None, OWN[name])
    columns = None if format else COLUMNS + "who"
    text = text.replace("who, then", "who")
    assert read(write(tmp_path / name, text), format=format, columns=columns) == EXPECTED


@pytest.mark.usefixtures("quickly")
def test_numbers_may_be_ids_and_ratings_may_be_absent(tmp_path):
    path = write(tmp_path / "x.jsonl", '{"user": 7, "item": 18446744073709551615, "time": 1}')
    assert read(path) == [("7", "18446744073709551615", 1, None)]
    pq.write_table(pa.table({"user": [7], "item": [8], "time": [1]}), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet") == [("7", "8", 1, None)]
    path = write(tmp_path / "x.csv", "user,item,time,rating\n1,2,3,\n")
    assert read(path) == [("1", "2", 3, None)]


@pytest.mark.usefixtures("quickly")
def test_without_a_header_fields_are_numbered(tmp_path):
    path = write(tmp_path / "x.csv", f"5,i1,u1,{FIRST}\n")
    assert read(path, columns="user=3,item=2,rating=1,time=4") == EXPECTED[:1]
    with pytest.raises(UserError, match=r"got 4 fields.*field number 7 once, for the time"):
        read(path, columns="user=3,item=2,rating=1,time=7")
    with pytest.raises(UserError, match="either names or numbers for one file"):
        custom_format("user=3,time=when")


@pytest.mark.usefixtures("quickly")
def test_several_files_of_several_kinds_in_their_order(tmp_path):
    first = write(tmp_path / "b.csv.gz", f"user,item,time,rating\nu1,i1,{FIRST},5\n")
    text = f'{{"user": "u2", "item": "i2", "time": {SECOND}, "rating": 1.5}}'
    second = write(tmp_path / "a.jsonl", text)
    assert read(first, second) == EXPECTED
    assert read(second, first) == EXPECTED[::-1]


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.csv.zst", "x.jsonl", "x.parquet"])
def test_many_lines_keep_their_order(tmp_path, name):
    rows = [(f"u{n * 7919 % 1000}", f"i{n * n % 9973}", n) for n in range(200_000)]
    if name == "x.parquet":
        table = pa.table(dict(zip(("user", "item", "time"), map(list, zip(*rows)))))
        pq.write_table(table, tmp_path / name, row_group_size=10_000)
    elif name == "x.jsonl":
        lines = (f'{{"user":"{u}","item":"{i}","time":{t}}}' for u, i, t in rows)
        write(tmp_path / name, "\n".join(lines))
    else:
        write(tmp_path / name, "user,item,time\n" + "\n".join(f"{u},{i},{t}" for u, i, t in rows))
    assert [row[:3] for row in read(tmp_path / name)] == rows


def test_quoted_text_may_hold_anything(tmp_path):
    text = f'user,item,time\n"a,""b""\n\tc",i1,{FIRST}\r\nu2,i2,{SECOND}\n'
    rows = read(write(tmp_path / "x.csv", text))
    assert [row[:2] for row in rows] == [('a,"b"\n\tc', "i1"), ("u2", "i2")]


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    path = write(tmp_path / "x.csv", f"\ufeffuser,item,time\nu1,i1,{FIRST}\n")
    assert [row[:2] for row in read(path)] == [("u1", "i1")]
    path = write(tmp_path / "x.jsonl", '\ufeff{"user": "u1", "item": "i1", "time": 3}\n')
    assert [row[:2] for row in read(path)] == [("u1", "i1")]


ITEMS = {
    "u.item": (
        "movielens",
        "latin-1",
        "1|Misérables, Les (1995)|01-Jan-1995||http://x|"
        + "|".join("1" if place in (1, 8) else "0" for place in range(19)),
        ItemText("Misérables, Les (1995)", categories="Action, Drama"),
    ),
    "movies.dat": (
        "movielens",
        "latin-1",
        "1::Misérables, Les (1995)::Action|Drama",
        ItemText("Misérables, Les (1995)", categories="Action, Drama"),
    ),
    "movies.csv": (
        "movielens",
        "utf-8",
        'movieId,title,genres\n1,"Misérables, Les (1995)",Action|Drama\n',
        ItemText("Misérables, Les (1995)", categories="Action, Drama"),
    ),
    "x.item": (
        "recbole",
        "utf-8",
        "item_id:token\ttitle:token_seq\tbrand:token\tcategories:token_seq\tprice:float\n"
        "1\tA doll\tAcme\tToys Dolls\t3.5\n",
        ItemText("A doll", "Acme", "3.5", "Toys, Dolls"),
    ),
    "meta_X.jsonl": (
        "amazon_2023",
        "utf-8",
        json.dumps(
            {
                "parent_asin": "1",
                "title": "A doll",
                "store": "Acme",
                "price": 3.5,
                "categories": ["Toys", "Dolls"],
                "description": ["Nice.", "Red."],
                "main_category": "Toys",
            }
        ),
        ItemText("A doll", "Acme", "$3.50", "Toys > Dolls", "Nice. Red."),
    ),
    "own.csv": (
        None,
        "utf-8",
        'sku,name,brand,price,categories,description\n1,"A ""doll""",Acme,3.5,Toys,"Nice,\nred"\n',
        ItemText('A "doll"', "Acme", "3.5", "Toys", "Nice, red"),
    ),
}


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", ITEMS)
def test_items(tmp_path, name, packing):
    format, encoding, text, expected = ITEMS[name]
    path = write(tmp_path / (name + packing), text, encoding)
    columns = None if format else "item=id|sku,title=name"
    assert read_items(path, ["1"], format, columns) == {"1": expected}


def test_items_of_parquet(tmp_path):
    table = {"item": [1], "title": ["A doll"], "price": [3.5], "categories": [["Toys", "Dolls"]]}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    expected = ItemText("A doll", price="$3.50", categories="Toys > Dolls")
    assert read_items(tmp_path / "x.parquet", ["1"]) == {"1": expected}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("user", "got 'user' in 'user', expected role=name"),
        ("user=", "expected role=name"),
        ("usr=a", "did you mean 'user'"),
        ("user=a,user=b", "once for each"),
    ],
)
def test_wrong_columns(columns, message):
    with pytest.raises(UserError, match=message):
        custom_format(columns)


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_a_named_column_must_be_there(tmp_path, name):
    path = tmp_path / name
    if name == "x.parquet":
        pq.write_table(pa.table({"user": ["u"], "item": ["i"], "time": [1]}), path)
    else:
        lines = {"x.csv": "user,item,time\nu,i,1\n", "x.jsonl": '{"user":"u","item":"i","time":1}'}
        write(path, lines[name])
    assert read(path) == [("u", "i", 1, None)]
    with pytest.raises(UserError, match=r"(line 1|columns of).*customer"):
        read(path, columns="user=customer")
    if name != "x.jsonl":
        with pytest.raises(UserError, match=r"expected stars.* for the rating.*rating=…"):
            read(path, columns="rating=stars")


@pytest.mark.parametrize("column", ["user", "item", "time", "rating"])
def test_a_wrong_type_of_parquet_is_named(tmp_path, column):
    table = {"user": ["u"], "item": ["i"], "time": [1], "rating": [1.0]}
    pq.write_table(pa.table({**table, column: [[1]]}), tmp_path / "x.parquet")
    with pytest.raises(
        UserError, match=rf"column '{column}' of .*got the type list.*for the {column}"
    ):
        read(tmp_path / "x.parquet")


def test_damaged_parquet(tmp_path):
    table = pa.table({"user": ["u" * 999], "item": ["i"], "time": [1]})
    pq.write_table(table, tmp_path / "x.parquet")
    whole = (tmp_path / "x.parquet").read_bytes()
    for length in (1, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "x.parquet").write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged file"):
            read(tmp_path / "x.parquet")


def test_unknown_extension_and_format(tmp_path):
    path = write(tmp_path / "x.xls", "a")
    with pytest.raises(UserError, match=r"extension '\.xls', expected one of \.csv, \.tsv, \.json"):
        read(path)
    with pytest.raises(UserError, match="got 'amazon', expected one of amazon_2014"):
        read(path, format="amazon")
    assert "movielens" in FORMATS


def test_milliseconds(tmp_path):
    text = f"user,item,time\nu1,i1,{FIRST}000\n"
    path = write(tmp_path / "x.csv", text)
    assert read(path, unit="milliseconds")[0][2] == FIRST
    with pytest.raises(UserError, match=r"line 2: .*in milliseconds it would be 2014-07-01"):
        read(path)
    path = write(tmp_path / "y.csv", text.replace("000\n", "\n"))
    with pytest.raises(UserError, match=r"line 2: .*in seconds it would be 2014-07-01"):
        read(path, unit="milliseconds")
