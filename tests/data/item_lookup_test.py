"""From names to catalog rows: ids, titles, parts of titles, and errors in them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.item_lookup import ItemLookup, split_names
from recllm_tasks.data.metadata import ItemText
from recllm_tasks.errors import UserError

TITLES = {
    "50": "Star Wars (1977)",
    "181": "Return of the Jedi (1983)",
    "268": "Chasing Amy (1997)",
    "246": "Chasing Amy (1997)",
    "100": "Fargo (1996)",
    "101": "FARGO (1996)",
    "127": "Godfather, The (1972)",
    "318": "Schindler's List (1993)",
    "I2": "2001",
    "no title": "",
    "900": "Amélie (2001)",
    "901": "Garçon!",
    "902": "Garcon!",
}


@pytest.fixture(scope="module")
def lookup():
    texts = {item: ItemText(title=title) for item, title in TITLES.items()}
    return ItemLookup(Catalog.build(list(TITLES), texts, np.ones(len(TITLES))))


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("I1", 0),
        ("181", 1),
        ("raw:181", 1),
        ("no title", 9),
        ("short:I2", 1),
        ("raw:I2", 8),
        ("Star Wars (1977)", 0),
        ("star wars (1977)", 0),
        ("FARGO (1996)", 5),
        ("Fargo (1996)", 4),
        ('"Fargo (1996)"', 4),
        ('"jedi"', 1),
        ("'Godfather'", 6),
        ("'Schindler''s'", 7),
        ('"I2"', None),
        ('"(1977)"', 0),
        ("AMELIE (2001)", 10),
        ("Ame\u0301lie (2001)", 10),
        ("'amelie'", 10),
        ("garçon!", 11),
        ("Garcon!", 12),
    ],
)
def test_names_of_all_kinds(lookup, name, row):
    if row is None:
        with pytest.raises(UserError, match="no such item"):
            lookup.row(name)
    else:
        assert lookup.row(name) == row


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("Chasing Amy (1997)", ["I3", "I4"]),
        ('"chasing"', ["I3", "I4"]),
        ("fargo (1996)", ["I5", "I6"]),
        ("I2", ["I2", "I9"]),
        ("'chasing amy'", ["I3", "I4"]),
    ],
)
def test_an_ambiguous_name_lists_the_choices_with_their_short_ids(lookup, name, choices):
    with pytest.raises(UserError) as caught:
        lookup.row(name)
    message = str(caught.value)
    assert f"got {len(choices)} items, expected one" in message
    listed = message.partition("expected one: ")[2].split("; ")[:-1]
    listed = [choice.split(' "')[0] for choice in listed]
    assert listed == choices
    assert message.endswith(f"give its short id, as short:{choices[0]}")
    assert lookup.row(f"short:{choices[0]}") == int(choices[0][1:]) - 1


def test_a_long_list_of_choices_is_cut():
    catalog = Catalog.build(
        [f"x{i}" for i in range(30)],
        {f"x{i}": ItemText(title=f"Part {i:02d}") for i in range(30)},
        np.ones(30),
    )
    with pytest.raises(UserError, match=r'I5 "Part 04" and 25 more; give'):
        ItemLookup(catalog).row('"part"')


@pytest.mark.parametrize("name", ["I99", "999", "Star", '"Star Warts (1977)"', "", '""', "' '"])
def test_an_unknown_name_is_an_error_that_shows_what_there_is(lookup, name):
    with pytest.raises(UserError, match=r"short id \(I1 to I13\), a raw id such as 50") as caught:
        lookup.row(name)
    if "Warts" in name:
        assert 'closest: I1 "Star Wars (1977)"' in str(caught.value)


def test_a_history_is_checked(lookup):
    assert lookup.rows(["I1", "181", "'godfather'"]) == [0, 1, 6]
    assert lookup.rows([], "line 3") == []
    assert lookup.rows(["I1", "181", "50"]) == [0, 1]
    with pytest.raises(UserError, match="'history, item 2'"):
        lookup.rows(["I1", "I77"])
    with pytest.raises(UserError, match="expected a list of items"):
        lookup.rows("I1")


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (None, "got NoneType None, expected a list of items"),
        (17, "got int 17, expected a list of items"),
        (b"I1", "got bytes b'I1', expected a list"),
        (["I1", 17], r"Item 2 of 'line 3': got int 17, expected text.*write ids as text"),
        ([np.int64(17)], "write ids as text"),
        ([None], "got NoneType None, expected text"),
    ],
)
def test_what_is_no_list_of_text_is_refused(lookup, history, message):
    for read in (lookup.rows, lookup.find):
        with pytest.raises(UserError, match=message):
            read(history, "line 3")


def test_names_that_are_no_item_are_listed():
    texts = {item: ItemText(title=title) for item, title in TITLES.items()}
    catalog = Catalog.build(list(TITLES), texts, np.ones(len(TITLES)))
    names = ["I1", "I77", "50", "Chasing Amy (1997)", "181", ""]
    found = ItemLookup(catalog).find(np.array(names))
    assert found == ([0, 1], ["I77", ""], ["Chasing Amy (1997)"], ["50"])
    assert ItemLookup(catalog, repeats=True).find(names).rows == [0, 0, 1]


@pytest.mark.parametrize("typed", ["Godfather, The (1972)", "godfather, the", "I1, Godfather, The"])
def test_a_title_with_a_comma_is_to_be_quoted(lookup, typed):
    with pytest.raises(UserError, match='needs quotes: give "Godfather, The \\(1972\\)"'):
        lookup.rows(split_names(typed))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("I17, I4", ["I17", "I4"]),
        ("I17,I4", ["I17", "I4"]),
        (' "Godfather, The" , 50 ', ['"Godfather, The"', "50"]),
        ("'Schindler''s List', Schindler's List", ["'Schindler''s List'", "Schindler's List"]),
        ("I17,,I4,", ["I17", "", "I4", ""]),
        ("", []),
        ("  \n", []),
    ],
)
def test_text_is_split_at_commas_outside_quotes(text, names):
    assert split_names(text) == names


@pytest.mark.parametrize("text", ['"Fargo', "I1, 'Fargo", '"Fargo" (1996), I1'])
def test_quotes_must_end_before_a_comma(text):
    with pytest.raises(UserError, match="correct the quotes"):
        split_names(text)


@given(st.lists(st.text(), min_size=1))
def test_any_title_can_be_quoted(titles):
    quoted = ['"' + title.replace('"', '""') + '"' for title in titles]
    assert split_names(", ".join(quoted)) == quoted


@given(st.text())
def test_any_text_is_split_or_refused(text):
    try:
        names = split_names(text)
    except UserError:
        return
    assert all(name == name.strip() for name in names)
