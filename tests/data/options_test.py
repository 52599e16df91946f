"""Options of `prepare`: the effect of each, and the paper's defaults."""

import itertools

import pytest
import tensorflow_datasets as tfds

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.dataset_info import dataset_dir, open_dataset
from recllm_tasks.data.options import Options
from recllm_tasks.data.prepare import prepare
from recllm_tasks.data.specs import custom_spec
from recllm_tasks.errors import UserError

# 30 users of 12 items each, three a day.
ROWS = [
    (f"u{user}", f"i{(user * 7 + place) % 40}", 86_400 * (place // 3), 1 + place % 5)
    for user, place in itertools.product(range(30), range(12))
]


@pytest.fixture
def make(tmp_path):
    """make(rows, **options): the facts, the catalog and the test records of a dataset."""
    count = itertools.count()

    def make(rows=ROWS, **options):
        number = next(count)
        path, data_dir = tmp_path / f"{number}.csv", tmp_path / f"data{number}"
        lines = ["user,item,time,rating", *(",".join(map(str, row)) for row in rows)]
        path.write_text("\n".join(lines))
        prepare(custom_spec("shop", [str(path)]), data_dir, **options)
        directory = dataset_dir(data_dir, "shop")
        builder, catalog = tfds.builder_from_directory(directory), Catalog.load(directory)
        records = tfds.as_numpy(builder.as_dataset("test"))
        sequences = {
            record["user"].decode(): ([catalog.item[row] for row in record["items"]], record)
            for record in records
        }
        return open_dataset(data_dir, "shop"), catalog, sequences

    return make


def test_defaults_are_the_papers():
    assert Options() == Options(5, 3.0, 20, 100, 0, "published")


def test_shuffled_ties_keep_the_time_and_depend_only_on_the_seed(make):
    def items(*arguments, **options):
        return {user: own for user, (own, _) in make(*arguments, **options)[2].items()}

    published, shuffled = items(), items(ties="shuffled")
    assert published == {f"u{u}": [r[1] for r in ROWS if r[0] == f"u{u}"] for u in range(30)}
    assert published != shuffled
    for user, own in published.items():
        for day in range(0, 12, 3):
            assert sorted(own[day : day + 3]) == sorted(shuffled[user][day : day + 3])
    firsts = [own[0] == shuffled[user][0] for user, own in published.items()]
    # A third of 30 stay first by chance.
    assert 3 <= sum(firsts) <= 20
    assert items(ROWS[::-1], ties="shuffled") == shuffled
    assert items(ties="shuffled", seed=1) != shuffled


def test_shuffled_ties_keep_the_first_of_repeated_pairs(make):
    repeated = [(user, item, time, 5 if rating < 5 else 1) for user, item, time, rating in ROWS]
    for ties in ("published", "shuffled"):
        info, _, sequences = make(ROWS + repeated, ties=ties)
        assert info.duplicates_dropped == len(ROWS)
        ratings = {(u, i): r for u, i, _, r in ROWS}
        for user, (items, record) in sequences.items():
            assert record["ratings"].tolist() == [ratings[user, item] for item in items]


def test_no_core_drops_and_counts_users_who_cannot_be_split(make):
    few = [("one", "i1", 5, 3), ("two", "i1", 5, 3), ("two", "new", 6, 3)]
    few += [("three", item, time, 3) for time, item in enumerate(("i1", "rare", "i2"))]
    info, catalog, sequences = make(ROWS + few, k_core=0)
    assert info.short_users_dropped == 2
    assert set(sequences) == {f"u{u}" for u in range(30)} | {"three"}
    assert sequences["three"][0] == ["i1", "rare", "i2"]
    assert "rare" in catalog.item
    assert "new" not in catalog.item
    assert make(ROWS + few)[0].short_users_dropped == 0


def test_all_users_are_too_short(make):
    with pytest.raises(UserError, match=r"nothing left of 'shop': got 1 users with fewer than 3"):
        make([("one", "i1", 5, 3)], k_core=0)
    with pytest.raises(UserError, match="nothing left of 'shop'"):
        make([("one", "i1", 5, 3)])


def test_a_catalog_of_one(make):
    with pytest.raises(UserError, match="nothing left of 'shop'"):
        make([(f"u{user}", "i", user, 3) for user in range(9)], k_core=0)


def test_candidates_and_window_come_from_the_dataset(make):
    info, _, sequences = make(candidates=8, window=4)
    assert (info.candidates, info.window, info.statistics.train_windows) == (8, 4, 30 * 6)
    assert {len(record["negatives"]) for _, record in sequences.values()} == {7}
    assert make()[0].statistics.train_windows == 30


def test_distinct_candidates_of_a_whole_dataset(make):
    """Stored ones and, of the same options, nothing else but them."""
    distinct = make(candidates=8, candidate_sampling="distinct")
    assert distinct[0].candidate_sampling == "distinct"
    default = make(candidates=8)
    for user, (items, record) in distinct[2].items():
        assert len(set(record["negatives"].tolist())) == 7
        assert default[2][user][0] == items
    repeats = [len(set(record["negatives"].tolist())) < 7 for _, record in default[2].values()]
    assert any(repeats)
    assert distinct[0].split_fingerprint != default[0].split_fingerprint


def test_too_many_distinct_candidates(make):
    with pytest.raises(UserError, match=r"got 28 items .* give --candidates 29 or"):
        make(candidates=40, candidate_sampling="distinct")
    with pytest.raises(UserError, match="expected one of with_replacement, distinct"):
        make(candidate_sampling="none")


def test_only_the_seed_changes_the_short_ids(make):
    default, other = make(), make(seed=3)
    assert make(candidates=8, window=4, ties="shuffled", k_core=3)[1].item == default[1].item
    assert other[1].item != default[1].item
    ours, theirs = ([r["negatives"].tolist() for _, r in m[2].values()] for m in (default, other))
    assert ours != theirs
