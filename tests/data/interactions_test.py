import json

import duckdb
import pytest

from recllm_tasks.data.interactions import read_interactions
from recllm_tasks.data.sources import check_source
from recllm_tasks.data.specs import SPECS
from recllm_tasks.errors import UserError

GOOD = {"reviewerID": "U1", "asin": "A1", "unixReviewTime": 5, "overall": 4.0}
HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def read(path, dataset="gift_cards"):
    with duckdb.connect() as connection:
        has_ratings = read_interactions(connection, SPECS[dataset], [check_source(path)])
        columns = "line, user_id, item_id, time, rating"
        rows = connection.execute(f"select {columns} from raw_interactions order by line")
        return has_ratings, rows.fetchall()


@pytest.mark.parametrize("name", ["x.json", "x.json.gz"])
def test_reads_amazon_in_file_order(tmp_path, write_lines, name):
    records = [{**GOOD, "reviewerID": f"U{9 - i}", "style": {"a": [1]}} for i in range(3)]
    has_ratings, rows = read(write_lines(tmp_path / name, [*records, "", "  "]))
    assert has_ratings
    assert rows == [(i + 1, f"U{9 - i}", "A1", 5.0, 4.0) for i in range(3)]


def test_no_ratings_in_the_whole_file(tmp_path, write_lines):
    record = {"reviewerID": "U", "asin": "A", "unixReviewTime": 0, "overall_ge3": 1}
    has_ratings, rows = read(write_lines(tmp_path / "x.json", [record]))
    assert not has_ratings
    assert rows == [(1, "U", "A", 0.0, None)]


def test_some_ratings(tmp_path, write_lines):
    bare = {k: v for k, v in GOOD.items() if k != "overall"}
    has_ratings, rows = read(
        write_lines(tmp_path / "x.json", [bare, GOOD, {**GOOD, "overall": None}])
    )
    assert has_ratings
    assert [row[-1] for row in rows] == [None, 4.0, None]


BAD_LINES = {
    "not json": ("not json", "the line", "'not json'"),
    "cut json": ('{"reviewerID": "U1", "as', "the line", "JSON object"),
    "array": ("[1]", "the line", r"\[1\]"),
    "two objects": (json.dumps(GOOD) + json.dumps(GOOD), "the line", "JSON object"),
    "no user": ({**GOOD, "reviewerID": None}, "reviewerID", "None"),
    "empty user": ({**GOOD, "reviewerID": " "}, "reviewerID", "' '"),
    "fraction user": ({**GOOD, "reviewerID": 7.5}, "reviewerID", "7.5"),
    "missing item": ({k: v for k, v in GOOD.items() if k != "asin"}, "asin", "nothing"),
    "empty item": ({**GOOD, "asin": ""}, "asin", "''"),
    "true item": ({**GOOD, "asin": True}, "asin", "True"),
    "half a character": (json.dumps({**GOOD, "asin": "x\ud800"}), "asin", "Unicode"),
    "no time": ({**GOOD, "unixReviewTime": None}, "unixReviewTime", "None"),
    "text time": ({**GOOD, "unixReviewTime": "abc"}, "unixReviewTime", "'abc'"),
    "negative time": ({**GOOD, "unixReviewTime": -1}, "unixReviewTime", "-1"),
    "true time": ({**GOOD, "unixReviewTime": True}, "unixReviewTime", "True"),
    "text rating": ({**GOOD, "overall": "abc"}, "overall", "'abc'"),
    "nan rating": ({**GOOD, "overall": float("nan")}, "overall", "nan"),
    "infinite rating": (json.dumps(GOOD).replace("4.0", "1e999"), "overall", "inf"),
}


@pytest.mark.parametrize("name", ["x.json", "x.json.gz"])
@pytest.mark.parametrize("case", BAD_LINES)
def test_bad_amazon_line_is_named(tmp_path, write_lines, case, name):
    bad, field, got = BAD_LINES[case]
    path = write_lines(tmp_path / name, [GOOD, "", GOOD, bad, GOOD])
    with pytest.raises(UserError, match=rf"{name}', line 4: .*{field}.*remove line 4") as error:
        read(path)
    assert error.match(got)


def test_first_of_two_bad_lines_is_named(tmp_path, write_lines):
    path = write_lines(tmp_path / "x.json", [GOOD, {**GOOD, "asin": ""}, "{"])
    with pytest.raises(UserError, match=r"line 2: .* in asin"):
        read(path)


def test_not_utf8(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"reviewerID": "\xe9"}\n')
    with pytest.raises(UserError, match=r"line 2: got byte 0xe9 at position 16.*UTF-8"):
        read(path)


def write_inter(tmp_path, text):
    path = tmp_path / "ml-100k.inter"
    path.write_bytes(text.encode("latin-1"))
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_reads_recbole_with_columns_in_any_order(tmp_path, end):
    lines = ["timestamp:float\tuser_id:token\tother\titem_id:token", '7\t"u\t\ti#']
    lines += ['6.5\tv\tx\ti"', "", ""]
    has_ratings, rows = read(write_inter(tmp_path, end.join(lines)), "movielens_100k")
    assert not has_ratings
    assert rows == [(1, '"u', "i#", 7.0, None), (2, "v", 'i"', 6.5, None)]


def test_recbole_ratings_may_be_empty(tmp_path):
    path = write_inter(tmp_path, HEADER + "1\t2\t\t4\n1\t3\t2.5\t4\n")
    assert read(path, "movielens_100k") == (
        True,
        [(1, "1", "2", 4.0, None), (2, "1", "3", 4.0, 2.5)],
    )


BAD_ROWS = {
    "few fields": ("1\t2\t3", "3 fields", "the line"),
    "many fields": ("1\t2\t3\t4\t5", "5 fields", "the line"),
    "no user": ("\t2\t3\t4", "''", "user_id"),
    "blank item": ("1\t \t3\t4", "' '", "item_id"),
    "no time": ("1\t2\t3\t", "''", "timestamp"),
    "text time": ("1\t2\t3\tabc", "'abc'", "timestamp"),
    "negative time": ("1\t2\t3\t-4", "'-4'", "timestamp"),
    "nan time": ("1\t2\t3\tnan", "'nan'", "timestamp"),
    "text rating": ("1\t2\tabc\t4", "'abc'", "rating"),
    "nan rating": ("1\t2\tnan\t4", "'nan'", "rating"),
    "not utf-8": ("1\t\xe9\t3\t4", "0xe9", "the line"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_recbole_line_is_named(tmp_path, case):
    bad, got, field = BAD_ROWS[case]
    path = write_inter(tmp_path, HEADER + "1\t2\t3\t4\n\n" + bad + "\n5\t6\t7\t8\n")
    with pytest.raises(UserError, match=rf"line 4: got .*{got}.* in {field}"):
        read(path, "movielens_100k")


@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp"])
def test_recbole_without_a_needed_column(tmp_path, column):
    path = write_inter(tmp_path, HEADER.replace(column, "x") + "1\t2\t3\t4\n")
    with pytest.raises(UserError, match=f"line 1: .*expected {column} once"):
        read(path, "movielens_100k")


def test_recbole_header_alone(tmp_path):
    with pytest.raises(UserError, match=r"no valid record.*after the header"):
        read(write_inter(tmp_path, HEADER), "movielens_100k")
