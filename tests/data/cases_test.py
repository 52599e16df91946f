"""What shops' exports and published logs really look like: read, or refused with what helps."""

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import recllm_tasks
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.dataset_info import dataset_dir
from recllm_tasks.data.formats import Reading
from recllm_tasks.data.prepare import examine, prepare
from recllm_tasks.data.specs import custom_spec
from recllm_tasks.errors import UserError

FIRST = 1_600_000_000


def rows(users=6, items=8, length=5):
    """(user, item, rating, seconds); every user has `length` of the items."""
    return [
        (f"u{u}", f"i{(u + n) % items}", 1 + (u + n) % 5, FIRST + 100 * u + n)
        for u in range(users)
        for n in range(length)
    ]


def text(records, separator=",", header="user,item,rating,time"):
    lines = [header.replace(",", separator)] if header else []
    return "\n".join([*lines, *(separator.join(map(str, r)) for r in records)]) + "\n"


def write(path, content, encoding="utf-8"):
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def look(interactions, items=(), *, k_core=0, most=1000, columns=None, format=None, **reading):
    """(facts, lines said); raises where a line is bad, as `prepare` does."""
    said = []
    spec = custom_spec(
        "shop",
        [str(interactions)],
        [str(items)] if items else (),
        columns=columns,
        format=format,
        reading=Reading(**reading),
    )
    info = examine(spec, None, most, said.append, k_core=k_core)
    lines = "\n".join(said)
    if info.bad_records:
        raise UserError(next(line for line in said if "bad lines" in line))
    return info, lines


SHOWN = text(rows())


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", "::"])
@pytest.mark.parametrize("name", ["x.csv", "x.txt", "x.dat"])
def test_the_separator_is_found_out(tmp_path, name, separator):
    path = write(tmp_path / name, text(rows(), separator))
    assert look(path)[0].statistics.interactions == 30
    # Without a header, too; then columns are numbered.
    path = write(tmp_path / name, text(rows(), separator, header=""))
    columns = "user=1,item=2,rating=3,time=4"
    assert look(path, columns=columns)[0].statistics.interactions == 30


def test_a_wrong_separator_is_named_with_the_right_one(tmp_path):
    path = write(tmp_path / "x.csv", text(rows(), ";"))
    with pytest.raises(UserError, match=r"user;item;rating;time.*give --separator ';'"):
        look(path, separator=",")
    with pytest.raises(UserError, match="correct --separator"):
        look(path, separator="too long")


def test_columns_by_other_names_are_suggested(tmp_path):
    header = "customer_id,sku,stars,order_date"
    path = write(tmp_path / "x.csv", text(rows(), header=header))
    flag = "--columns user=customer_id,item=sku,time=order_date"
    with pytest.raises(UserError, match=flag):
        look(path)
    info, _ = look(path, columns=flag.removeprefix("--columns ") + ",rating=stars")
    assert info.has_ratings
    with pytest.raises(UserError, match="by their numbers"):
        look(write(tmp_path / "x.csv", text(rows(), header="")))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends(tmp_path, end):
    path = write(tmp_path / "x.csv", SHOWN.replace("\n", end))
    assert look(path)[0].statistics.interactions == 30
    assert prepare(custom_spec("shop", [str(path)]), tmp_path / "data", k_core=0).users == 6


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16", "utf-8-sig", "utf-8"])
def test_encodings(tmp_path, encoding):
    path = write(tmp_path / "x.csv", SHOWN.replace("u0", "Zoë"), encoding)
    items = write(tmp_path / "y.csv", "item;title\ni0;Café crème\n", encoding)
    spec = custom_spec("shop", [str(path)], [str(items)], reading=Reading(encoding=encoding))
    prepare(spec, tmp_path / "data", k_core=0)
    assert "Café crème" in Catalog.load(dataset_dir(tmp_path / "data", "shop")).title
    if not encoding.startswith("utf-8"):
        name = encoding if encoding == "utf-16" else "cp1252"
        with pytest.raises(UserError, match=rf"give --encoding {name}"):
            look(path)
    with pytest.raises(UserError, match="such as utf-8, cp1252"):
        look(path, encoding="klingon")


def test_a_published_formats_encoding_gives_way_to_valid_utf_8(tmp_path):
    log = write(tmp_path / "ratings.dat", text(rows(), "::", header=""))
    for encoding in ("utf-8", "latin-1"):
        movies = write(tmp_path / "movies.dat", "i0::Café (2001)::Drama|Short\n", encoding)
        spec = custom_spec("shop", [str(log)], [str(movies)], format="movielens")
        prepare(spec, tmp_path / encoding, k_core=0)
        catalog = Catalog.load(dataset_dir(tmp_path / encoding, "shop"))
        row = catalog.item.index("i0")
        assert (catalog.title[row], catalog.categories[row]) == ("Café (2001)", "Drama, Short")


TIMES = {
    "offset": ("2020-01-{:02}T10:00:00+0000", {}),
    "zone": ("2020-01-{:02} 10:00:00 UTC", {}),
    "short": ("2020-1-{} 9:05", {}),
    "slashes": ("2020/01/{:02}", {}),
    "nanoseconds": ("2020-01-{:02}T10:00:00.123456789Z", {}),
    "number in text": ("16000000{:02}", {}),
    "european": ("{:02}/01/2020", {"time_format": "%d/%m/%Y"}),
    "american": ("1/{}/2020 9:05", {"time_format": "%m/%d/%Y %H:%M"}),
    "bare": ("202001{:02}", {"time_format": "%Y%m%d"}),
    "milliseconds": ("16000000{:02}000", {"time_unit": "milliseconds"}),
    "microseconds": ("16000000{:02}000000", {"time_unit": "microseconds"}),
    "months by name": ("{} Jan 2020", {"time_format": "%d %b %Y"}),
}


@pytest.mark.parametrize("case", TIMES)
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_times(tmp_path, case, name):
    pattern, reading = TIMES[case]
    times = [pattern.format(n % 28 + 1) for n in range(30)]
    records = [(u, i, r, t) for (u, i, r, _), t in zip(rows(), times)]
    content = text(records)
    if name == "x.jsonl":
        keys = ("user", "item", "rating", "time")
        content = (
            pd.DataFrame(records, columns=keys).astype(str).to_json(orient="records", lines=True)
        )
    path = write(tmp_path / name, content)
    assert look(path, **reading)[0].statistics.interactions == 30
    if reading:
        ((flag, value),) = reading.items()
        with pytest.raises(UserError, match=f"--{flag} '?{value}"):
            look(path)


def test_a_day_that_could_be_a_month_is_asked_for(tmp_path):
    times = [f"{n % 9 + 1:02}/02/2020" for n in range(30)]
    records = [(u, i, r, t) for (u, i, r, _), t in zip(rows(), times)]
    path = write(tmp_path / "x.csv", text(records))
    both = r"'%d/%m/%Y' \(1 Feb 2020\) or --time_format '%m/%d/%Y' \(2 Jan 2020\)"
    with pytest.raises(UserError, match=f"which is the day and which the month: give .*{both}"):
        look(path)


def test_ratings_that_are_none(tmp_path):
    records = [(u, i, 0 if n % 3 else r, t) for n, (u, i, r, t) in enumerate(rows())]
    path = write(tmp_path / "x.csv", text(records))
    assert "ratings from 0 to 5; 0 interactions without one" in look(path)[1]
    assert "20 interactions without one" in look(path, unrated="0,-1")[1]
    path = write(tmp_path / "y.csv", SHOWN.replace(",1,", ",NaN,"))
    with pytest.raises(UserError, match=r"got 'NaN' in rating.*give --unrated 'NaN'"):
        look(path)
    assert "6 interactions without one" in look(path, unrated="nan")[1]


def test_decimal_commas(tmp_path):
    path = write(tmp_path / "x.csv", text(rows(), ";").replace(";1;", ";1,5;"))
    with pytest.raises(UserError, match=r"got '1,5' in rating.*give --decimal ,"):
        look(path)
    assert "ratings from 1.5 to 5" in look(path, decimal=",")[1]


def test_the_order_of_the_file(tmp_path):
    path = write(tmp_path / "x.csv", text([r[:2] for r in rows()], header="user,item"))
    with pytest.raises(UserError, match="or give --order file"):
        look(path)
    info, said = look(path, order="file")
    assert info.statistics.users == 6
    assert "in the order of the file's lines" in said


@pytest.mark.parametrize("k_core", [0, 3])
def test_a_user_who_has_every_item_is_left_out(tmp_path, k_core):
    hog = [("hog", f"i{n}", 3, FIRST + n) for n in range(8)]
    path = write(tmp_path / "x.csv", text([*rows(), *hog]))
    info, said = look(path, k_core=k_core)
    assert info.statistics.users == 6
    assert "left out 1 users whose items leave too few others" in said
    assert "'hog'" in said


def test_ratings_of_one_side_are_told(tmp_path):
    path = write(tmp_path / "x.csv", text([(u, i, 90 + r, t) for u, i, r, t in rows()]))
    _, said = look(path)
    assert "all ratings are above 3" in said
    assert "look like counts" in said
    assert not look(path, columns="rating=-")[0].has_ratings


def test_users_with_a_single_item_to_train_on_are_told(tmp_path):
    info, said = look(write(tmp_path / "x.csv", text(rows(length=3))))
    assert info.single_item_users == 6
    assert "6 of 6 users have a single item to train on" in said


def titles(folder, items, log="x.csv", format=None, columns=None):
    log = write(
        folder / log,
        SHOWN
        if format is None
        else text(rows(), "\t").replace(
            "user\titem\trating\ttime",
            "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        ),
    )
    said = []
    spec = custom_spec("shop", [str(log)], [str(items)], format=format, columns=columns)
    prepare(spec, folder / "data", k_core=0, progress=said.append, overwrite=True)
    catalog = Catalog.load(dataset_dir(folder / "data", "shop"))
    return dict(zip(catalog.item, catalog.title)), catalog, "\n".join(said)


def test_tabs_leave_quotes_alone(tmp_path):
    lines = ["item\ttitle", 'i0\t"Night" live', 'i1\t"Heroes"', 'i2\t"a ""b"""', '"i3"\tit"s']
    found, _, _ = titles(tmp_path, write(tmp_path / "items.tsv", "\n".join(lines)))
    expected = ['"Night" live', '"Heroes"', 'a "b"', 'it"s']
    assert [found[f"i{n}"] for n in range(4)] == expected
    quoted = '"item"\t"title"\n"i0"\t"Night ""live"""\n"i1"\t"two\nlines"\n'
    found, _, _ = titles(tmp_path, write(tmp_path / "items.tsv", quoted))
    assert (found["i0"], found["i1"]) == ('Night "live"', "two lines")


def test_a_year_alone_is_no_title(tmp_path):
    items = write(tmp_path / "x.item", "item_id:token\trelease_year:token\ni0\t1990\n")
    found, _, said = titles(tmp_path, items, "x.inter", "recbole")
    assert set(found.values()) == {""}
    assert "8 of 8 items have no title" in said
    items = write(
        tmp_path / "x.item", "item_id\tmovie_name\trelease_year\ttype\ni0\tFilm\t1990\tA\n"
    )
    found, catalog, said = titles(tmp_path, items, "x.inter", "recbole")
    assert found["i0"] == "Film (1990)"
    assert catalog.categories[catalog.item.index("i0")] == "A"
    assert "1 titles with the year added, such as 'Film (1990)'" in said


@pytest.mark.parametrize(
    ("written", "categories"),
    [
        ("'Care', 'Hair Oils'", "Care, Hair Oils"),
        ('["Care", "Hair Oils"]', "Care, Hair Oils"),
        ("['Care', 'It''s']", "Care, Its"),
        ("Care|Hair Oils", "Care, Hair Oils"),
        ("Care, Hair Oils", "Care, Hair Oils"),
        ("Care Oils", "Care, Oils"),
    ],
)
def test_categories_however_they_are_separated(tmp_path, written, categories):
    items = write(tmp_path / "x.item", f"item_id\ttitle\tcategories\ni0\tA\t{written}\n")
    _, catalog, _ = titles(tmp_path, items, "x.inter", "recbole")
    assert catalog.categories[catalog.item.index("i0")] == categories


@pytest.mark.parametrize(
    ("change", "form"),
    [
        (lambda n: f" i{n}", "blanks"),
        (lambda n: f"I{n}", "case"),
        (lambda n: f"i-{n}", "marks"),
        (lambda n: f"x{n}", "letters"),
    ],
)
def test_ids_that_differ_in_form_are_explained(tmp_path, change, form):
    lines = [f"{change(n) if n else 'i0'},T{n}" for n in range(8)]
    items = write(tmp_path / "items.csv", "\n".join(["item,title", *lines]))
    found, _, said = titles(tmp_path, items)
    assert sum(not title for title in found.values()) == 7
    assert f"they differ in {form}" in said


def test_items_that_nobody_bought_are_kept_on_request(tmp_path):
    items = write(tmp_path / "y.csv", "item,title\n" + "".join(f"i{n},T{n}\n" for n in range(12)))
    log = write(tmp_path / "x.csv", SHOWN)
    spec = custom_spec("shop", [str(log)], [str(items)])
    for catalog, number in (("bought", 8), ("all", 12)):
        prepare(spec, tmp_path / catalog, k_core=0, catalog=catalog)
        found = Catalog.load(dataset_dir(tmp_path / catalog, "shop"))
        assert len(found) == len(set(found.short_id)) == number
        assert sorted(found.title) == sorted(f"T{n}" for n in range(number))
        assert (found.train_count == 0).sum() >= number - 8
    with pytest.raises(UserError, match="give --items"):
        prepare(custom_spec("shop", [str(log)]), tmp_path / "none", k_core=0, catalog="all")


def test_a_format_may_be_refined(tmp_path):
    header = "user_id:token\tartist_id:token\tweight:float\ttimestamp:float"
    path = write(tmp_path / "x.inter", text(rows(), "\t", header).replace(",", "\t"))
    with pytest.raises(UserError, match="--columns item=artist_id"):
        look(path, format="recbole")
    info, _ = look(path, format="recbole", columns="item=artist_id,rating=weight")
    assert info.has_ratings


@pytest.mark.parametrize("statistics", [True, False])
def test_parquet_without_statistics_is_read_alike(tmp_path, statistics):
    table = pa.table(dict(zip(("user", "item", "rating", "time"), map(list, zip(*rows())))))
    ratings = [float("nan"), *map(float, table["rating"].to_pylist()[1:])]
    table = table.set_column(2, "rating", pa.array(ratings))
    pq.write_table(table, tmp_path / "x.parquet", write_statistics=statistics)
    with pytest.raises(UserError, match=r"line 1: got 'nan' in rating.*--unrated 'nan'"):
        look(tmp_path / "x.parquet")


TABLES = {
    "pandas": lambda table: table.to_pandas(),
    "polars": pl.from_arrow,
    "arrow": lambda table: table,
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_from_python(tmp_path, kind):
    names = ("customer", "sku", "stars", "when")
    table = pa.table(dict(zip(names, map(list, zip(*rows())))))
    items = pa.table({"sku": [f"i{n}" for n in range(8)], "name": [f"T{n}" for n in range(8)]})
    info = recllm_tasks.prepare(
        "shop",
        interactions=TABLES[kind](table),
        items=TABLES[kind](items),
        data_dir=tmp_path / kind,
        columns="user=customer,item=sku,rating=stars,time=when",
        k_core=0,
    )
    path = write(tmp_path / "x.csv", text(rows()))
    prepare(custom_spec("shop", [str(path)]), tmp_path / "file", k_core=0)
    assert info.statistics.interactions == 30
    folders = [dataset_dir(tmp_path / name, "shop") for name in (kind, "file")]
    of_table, of_file = (sorted(folder.glob("*.tfrecord*")) for folder in folders)
    assert [f.read_bytes() for f in of_table] == [f.read_bytes() for f in of_file]


def test_tables_that_are_none(tmp_path):
    mixed = pd.DataFrame({"user": ["a", 1], "item": ["i", "j"], "time": [1, 2]})
    for table, words in ((mixed, "convert that column"), (7, "expected a file, or a table")):
        with pytest.raises(UserError, match=words):
            recllm_tasks.prepare("shop", interactions=table, data_dir=tmp_path)
    floats = pd.DataFrame({"user": [1.0, None], "item": ["i", "j"], "time": [1, 2]})
    with pytest.raises(UserError, match="write whole numbers as integers"):
        recllm_tasks.prepare("shop", interactions=floats, data_dir=tmp_path)


def test_names_of_columns_do_not_reach_the_terminal_as_they_are(tmp_path):
    log = write(tmp_path / "x.csv", text(rows(), header="user,item,rating,\x1b[31mtime"))
    items = write(tmp_path / "y.csv", "item,title,\x1b[2J\ni0,T0,x\n")
    _, said = look(log, items, columns="time=\x1b[31mtime")
    assert "\x1b" not in said
    assert "time from '\\x1b[31mtime'" in said
