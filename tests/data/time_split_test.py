"""A split by time against a plain reference, and the errors of wrong dates."""

import tempfile

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recllm_tasks.data import sequences, time_split
from recllm_tasks.data.dataset_info import open_dataset
from recllm_tasks.data.options import Options
from recllm_tasks.data.prepare import prepare
from recllm_tasks.data.specs import custom_spec
from recllm_tasks.data.ties import count_ties
from recllm_tasks.errors import UserError

V, T = 10.0, 14.0
logs = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(5, 18)), min_size=1, max_size=70
)


def connect(interactions):
    """A connection with (user, item, time, rating) tuples as `raw_interactions`."""
    connection = duckdb.connect()
    connection.execute("""
        create table raw_interactions (
            line bigint, user_id varchar, item_id varchar, time double, rating float, ok boolean)
    """)
    connection.executemany(
        "insert into raw_interactions values (?, ?, ?, ?, ?, true)",
        [(line, *row) for line, row in enumerate(interactions)],
    )
    return connection


def core_of(log, k_core, repeats):
    """(user, item, time) by order in time, users and items too rare in train removed."""
    rows = sorted(log, key=lambda row: row[2])
    if repeats == "first":
        rows = [row for n, row in enumerate(rows) if row[:2] not in [r[:2] for r in rows[:n]]]
    known = [{row[c] for row in rows if row[2] < V} for c in (0, 1)]
    while True:
        rare = [
            {
                value
                for value in known[c]
                if sum(row[c] == value and row[2] < V for row in rows) < k_core
            }
            for c in (0, 1)
        ]
        left = [row for row in rows if row[0] not in rare[0] and row[1] not in rare[1]]
        if left == rows:
            return rows
        rows = left


def records_of(rows):
    """Split → user → the items of the record, by the definition."""
    found = {"train": {}, "validation": {}, "test": {}}
    for user in {row[0] for row in rows}:
        own = [row for row in rows if row[0] == user]
        before = {cut: [row[1] for row in own if row[2] < cut] for cut in (V, T)}
        within = [row[1] for row in own if V <= row[2] < T]
        after = [row[1] for row in own if row[2] >= T]
        if before[V]:
            found["train"][user] = before[V]
        if before[V] and within:
            found["validation"][user] = [*before[V], within[0]]
        if before[T] and after:
            found["test"][user] = [*before[T], after[0]]
    return found


@settings(max_examples=40, deadline=None)
@given(logs, st.sampled_from([0, 2, 3]), st.sampled_from(["first", "keep"]))
def test_records_are_those_of_the_reference(log, k_core, repeats):
    rows = [(f"u{u}", f"i{i}", float(t)) for u, i, t in log]
    core, cuts = core_of(rows, k_core, repeats), time_split.Cuts(V, T)
    expected = records_of(core)
    with connect([(*row, None) for row in rows]) as connection, tempfile.TemporaryDirectory() as f:
        if not expected["train"]:
            with pytest.raises(UserError, match="nothing left"):
                sequences.build_core(connection, "tiny", k_core, repeats, cuts.validation)
            return
        sequences.build_core(connection, "tiny", k_core, repeats, cuts.validation)
        new_users = time_split.count_new_users(connection, cuts)
        users = {row[0] for row in core}
        assert new_users == {
            "validation": sum(
                all(row[2] >= V for row in core if row[0] == user)
                and any(row[2] < T for row in core if row[0] == user)
                for user in users
            ),
            "test": sum(all(row[2] >= T for row in core if row[0] == user) for user in users),
        }
        held = set().union(*expected.values())
        assert time_split.drop_users_without_record(connection, cuts) == len(users - held)
        count_ties(connection, "published", cuts.test)
        items = sequences.order_items(connection, 0)
        found = sequences.order_sequences(connection, f, cuts)
        names = found.users.to_pylist()
        for split, records in expected.items():
            order = sequences.open_record_order(f, split).tolist() if records else []
            assert {names[n] for n in order} == set(records)
            for n in order:
                own = [items[row] for row in found.items[found.of_split(n, split)]]
                assert own == records[names[n]]
            last = {names[n]: int(row) for n, row in zip(
                np.flatnonzero(found.sizes_of(split)), found.targets(split), strict=True
            )}  # fmt: skip
            assert last == {user: items.index(own[-1]) for user, own in records.items()}
        counts = found.count_train(len(items))
        trained = [item for own in expected["train"].values() for item in own]
        assert [trained.count(item) for item in items] == counts.tolist()
        part = found.take(np.arange(len(names))[::-1])
        assert (
            part.of_split(0, "train").stop - part.of_split(0, "train").start
            == (found.sizes_of("train")[-1])
        )


def test_a_tie_of_the_test_item_is_counted():
    log = [("u", "a", 1, None), ("u", "b", 14, None), ("u", "c", 14, None), ("u", "d", 18, None)]
    log += [("v", "a", 1, None), ("v", "b", 14, None), ("v", "c", 15, None), ("v", "d", 15, None)]
    log += [("new", "a", 15, None), ("new", "b", 15, None)]
    with connect(log) as connection:
        sequences.build_core(connection, "tiny", 0, "first", V)
        assert count_ties(connection, "published", T).users_with_test_tied == 1


LOG = [(f"u{u}", f"i{(u + k) % 9}", 86_400 * (u % 4 + k), 3) for u in range(12) for k in range(7)]


@pytest.fixture
def shop(tmp_path):
    lines = ["user,item,time,rating", *(",".join(map(str, row)) for row in LOG)]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    return lambda **options: prepare(
        custom_spec("shop", [str(tmp_path / "x.csv")]),
        tmp_path / "data",
        **{"k_core": 0, "split": "time", **options},
    )


def test_shares_are_dates(shop, tmp_path):
    shop(validation_share=0.2, test_share=0.1)
    info = open_dataset(tmp_path / "data", "shop")
    times = sorted(row[2] for row in LOG)
    for cut, share in ((info.validation_from, 0.3), (info.test_from, 0.1)):
        later = sum(time >= cut for time in times)
        assert later >= share * len(times)
        assert sum(time > cut for time in times) <= share * len(times)
    assert (info.split, info.protocol) == ("time", "time")
    assert info.split_counts.users["train"] == 12


def test_a_date_and_its_seconds_are_one_option():
    date = Options(split="time", validation_from="1970-01-06", test_from="1970-01-08")
    assert date == Options(split="time", validation_from="432000", test_from=604_800)
    zone = Options(split="time", validation_from="1970-01-06T02:00+02:00", test_from="1970-01-08")
    assert zone == date


DATES = {"validation_from": "1970-01-06", "test_from": "1970-01-08"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "got time with none, expected --validation_from and --test_from"),
        ({"test_from": "1970-01-08"}, "got time with --test_from, expected"),
        ({**DATES, "test_share": 0.1}, "give two of them"),
        ({**DATES, "validation_from": "soon"}, "validation_from: got 'soon', expected a date"),
        ({**DATES, "test_from": "1970-01-05"}, "expected a date after validation_from, 1970-01-06"),
        ({**DATES, "test_from": "1970-01-06"}, "got 1970-01-06, expected a date after"),
        ({**DATES, "test_from": "1971-01-01"}, "test_from for 'shop': .* up to its last, 1970-01"),
        ({**DATES, "validation_from": "1970-01-01"}, "after the log's first interaction"),
        ({**DATES, "split": "leave_one_out"}, "give --split time too, or leave --validation_from"),
        ({"split": "days"}, "split for 'shop': got 'days', expected one of leave_one_out, time"),
        ({"validation_share": 0.5, "test_share": 0.5}, "leave some for train, such as"),
        ({"validation_share": -0.5, "test_share": 0.1}, "expected two shares above 0"),
        ({"validation_share": 0.001, "test_share": 0.01}, "which leaves no time before the test"),
        ({"validation_share": 0.01, "test_share": 0.98}, "log's first interaction"),
    ],
)
def test_wrong_dates(shop, options, message):
    with pytest.raises(UserError, match=message):
        shop(**options)


def test_no_example(tmp_path):
    """Everybody in the test period is new."""
    rows = [(f"{'new' if day > 7 else 'old'}{u}", f"i{(u + day) % 9}", 86_400 * day, 3)
            for day in range(10) for u in range(5)]  # fmt: skip
    lines = ["user,item,time,rating", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    spec = custom_spec("shop", [str(tmp_path / "x.csv")])
    dates = {"validation_from": "1970-01-06", "test_from": "1970-01-09"}
    with pytest.raises(UserError, match=r"test_from for 'shop'.*leaves no test example"):
        prepare(spec, tmp_path / "data", k_core=0, split="time", **dates)
