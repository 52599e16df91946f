import pytest

from recllm_tasks.data.metadata import ItemText, read_metadata
from recllm_tasks.data.sources import check_source
from recllm_tasks.data.specs import SPECS
from recllm_tasks.errors import UserError


@pytest.fixture
def read(tmp_path, write_lines):
    def read(lines, items=("A1", "A2"), dataset="gift_cards"):
        name = "meta.item.gz" if dataset == "movielens_100k" else "meta.json.gz"
        source = check_source(write_lines(tmp_path / name, lines))
        return read_metadata(SPECS[dataset], [source], items)

    return read


def test_2014_literals_and_json_side_by_side(read):
    lines = [
        "{'asin': 'A1', 'title': 'It\\'s  a &amp;\\n toy', 'price': 1.5, "
        "'categories': [['Toys', ' Dolls '], ['Other']], 'related': {'also': ['x']}}",
        {
            "asin": "A2",
            "brand": " B ",
            "category": ["Gift", "Cards"],
            "description": ["a", "", "b"],
        },
    ]
    assert read(lines) == {
        "A1": ItemText("It's a &amp; toy", price="$1.50", categories="Toys > Dolls"),
        "A2": ItemText(brand="B", categories="Gift > Cards", description="a b"),
    }


def test_keeps_items_of_the_catalog_and_their_first_line(read):
    lines = [{"asin": "A1", "title": t} for t in ("first", "second")]
    assert read([*lines, {"asin": "other", "title": "x"}]) == {"A1": ItemText("first")}


def test_does_not_parse_literals_of_other_items(read, monkeypatch):
    def refuse(text):
        raise AssertionError(text)

    lines = [{"asin": "A1", "title": "kept"}, "{'asin': 'other', 'title': 'x'}"]
    monkeypatch.setattr("ast.literal_eval", refuse)
    assert read(lines) == {"A1": ItemText("kept")}


@pytest.mark.parametrize(
    ("published", "shown"),
    [
        (1.99, "$1.99"),
        (5, "$5.00"),
        ("$1.99", "$1.99"),
        (" $10.00 -  $20.00", "$10.00 - $20.00"),
        ("", ""),
        (None, ""),
        (float("nan"), ""),
        (-1, ""),
        (True, ""),
        (["$1"], ""),
        ("from 12.00 dollars upwards", ""),
        ("<b>$1</b>", ""),
        (".a{width:1px}", ""),
        ("free", ""),
    ],
)
def test_price(read, published, shown):
    assert read([{"asin": "A1", "price": published}])["A1"].price == shown


def test_fields_of_unexpected_types_are_empty(read):
    record = {"asin": "A1", "title": {"a": 1}, "brand": 3, "categories": {"x": 1}, "description": 2}
    assert read([record])["A1"] == ItemText()


def test_half_a_surrogate_pair_can_be_written(read):
    title = read(['{"asin": "A1", "title": "a\\ud800b\\u0000c"}'])["A1"].title
    assert title.encode("utf-8") == b"a?b c"


@pytest.mark.parametrize(
    "bad",
    [
        "nonsense",
        "[1, 2]",
        "{'asin': __import__('os').getcwd()}",
        "{'asin': 'A1', 'title': (1).__class__}",
        "{'asin': 'A1', [1]: 2}",
        "{'asin': 'A1', 'x': " + "[" * 100_000 + "}",
        "{'asin': 'A1', 'x': " + "-" * 100_000 + "1}",
        '{"asin": "A1", "x": ' + "[" * 100_000,
        "{'asin': 'A1', 'x': 'a\0b'}",
        {"title": "no asin"},
        {"asin": 3.5},
        {"asin": " "},
    ],
)
def test_bad_line_is_named(read, bad):
    with pytest.raises(UserError, match=r"meta\.json\.gz', line 3: got .*remove line 3"):
        read([{"asin": "A2"}, "", bad])


def test_not_utf8(tmp_path):
    path = tmp_path / "meta.json"
    path.write_bytes(b'{"asin": "A1"}\n{"asin": "\xff"}\n')
    with pytest.raises(UserError, match="line 2: got byte 0xff"):
        read_metadata(SPECS["toys"], [check_source(path)], ["A1"])


def test_metadata_of_another_dataset(read):
    with pytest.raises(UserError, match=r"none of the 1 items.*meta_Gift_Cards"):
        read([{"asin": "A1"}], items=["B"])


ITEM_HEADER = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"


def test_movies(read):
    lines = [
        ITEM_HEADER,
        "1\tToy Story\t1995\tAnimation Children's",
        '2\t"Quoted" film\t\t',
        "3\tunkonwn\tunkonwn\tunknown",
        "4\tThe Great Giving (1995)\tV\tComedy",
        "5\tLeft out\t1990\t",
    ]
    assert read(lines, ["1", "2", "3", "4"], "movielens_100k") == {
        "1": ItemText("Toy Story (1995)", categories="Animation, Children's"),
        "2": ItemText('"Quoted" film'),
        "3": ItemText("unkonwn", categories="unknown"),
        "4": ItemText("The Great Giving (1995)", categories="Comedy"),
    }


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([ITEM_HEADER, "1\tx\t1"], "line 2: got 3 fields"),
        ([ITEM_HEADER, " \tx\t1\ty"], "line 2: got ' ' in item_id"),
        (["id:token\tname", "1\tx"], "line 1: .*expected item_id once"),
    ],
)
def test_bad_movie_line(read, lines, message):
    with pytest.raises(UserError, match=message):
        read(lines, ["1"], "movielens_100k")
