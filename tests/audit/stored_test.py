"""Leaks planted in a stored dataset: each is found, and its record is named."""

import dataclasses
import hashlib
import json
import types

import duckdb
import numpy as np
import pytest

from recllm_tasks import checksums, cli
from recllm_tasks.audit import short_ids
from recllm_tasks.audit.ragged import Ragged
from recllm_tasks.audit.records import Records, Split
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.id_schemes import write_codes
from recllm_tasks.data.sequences import order_items

USER = "U012"


@pytest.fixture
def audit_records(run_audit, only_tasks, stored):
    """Runs the checks of the records; returns the offender of the check that must fail."""

    def run(name):
        only_tasks()
        code, checks = run_audit(stored.data_dir)
        assert code == 1
        assert not checks[name]["passed"]
        return checks[name]["offender"]

    return run


def short_id(row):
    return f"I{row + 1}"


def test_a_later_interaction_in_train(stored, audit_records):
    items, test = (stored.records(split)[USER]["items"] for split in ("train", "test"))
    longer = np.append(items, test[-1])
    stored.change("train", USER, items=longer, ratings=np.ones(len(longer), np.float32))
    offender = audit_records("no_later_interaction")
    assert (offender["user"], offender["split"]) == (USER, "train")
    assert (offender["position"], offender["value"]) == (len(items), short_id(test[-1]))


def test_the_test_item_in_place_of_another_item(stored, audit_records):
    items = stored.records("validation")[USER]["items"].copy()
    items[1] = stored.records("test")[USER]["items"][-1]
    stored.change("validation", USER, items=items)
    offender = audit_records("no_later_interaction")
    assert (offender["user"], offender["split"]) == (USER, "validation")
    assert (offender["position"], offender["value"]) == (1, short_id(items[1]))


def test_a_target_in_its_own_history(stored, audit_records):
    items = stored.records("test")[USER]["items"].copy()
    items[-1] = items[0]
    stored.change("test", USER, items=items)
    offender = audit_records("no_repeats")
    assert (offender["user"], offender["position"]) == (USER, len(items) - 1)
    assert offender["value"] == short_id(items[0])


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_negative_that_the_user_has_interacted_with(stored, audit_records, split, place):
    negatives = stored.records(split)[USER]["negatives"].copy()
    negatives[7] = stored.records("test")[USER]["items"][place]
    stored.change(split, USER, negatives=negatives)
    offender = audit_records("stored_negatives")
    assert (offender["user"], offender["split"], offender["position"]) == (USER, split, 7)
    assert offender["value"] == short_id(negatives[7])


def test_too_few_negatives(stored, audit_records):
    stored.change("test", USER, negatives=stored.records("test")[USER]["negatives"][:98])
    offender = audit_records("stored_negatives")
    assert (offender["user"], offender["value"]) == (USER, "98")


def test_popularity_that_counts_a_held_out_interaction(stored, audit_records):
    row = stored.records("test")[USER]["items"][-1]
    catalog = Catalog.load(stored.directory)
    catalog.train_count[row] += 1
    catalog.save(stored.directory)
    checksums.write(stored.directory)
    offender = audit_records("train_popularity")
    assert offender["position"] == row
    assert f"'{catalog.item[row]}'" in offender["problem"]


def renumber(stored, order):
    """Renames the items (raw ids) in `order` to I1, I2, … in the whole dataset."""
    catalog = Catalog.load(stored.directory)
    old = [catalog.item.index(item) for item in order]
    new_row = np.argsort(old).astype(np.int32)
    columns = {
        field.name: [getattr(catalog, field.name)[row] for row in old]
        for field in dataclasses.fields(catalog)
    }
    columns.update(short_id=catalog.short_id, train_count=catalog.train_count[old])
    Catalog(**columns).save(stored.directory)
    checksums.write(stored.directory)
    for split in ("train", "validation", "test"):
        records = stored.records(split)
        for record in records.values():
            record.update({name: new_row[record[name]] for name in ("items", "negatives")})
        stored.write(split, records.values())


def test_short_ids_in_the_order_of_raw_ids(stored, audit_records):
    items = sorted(Catalog.load(stored.directory).item)
    renumber(stored, items)
    assert "raw-id order" in audit_records("short_id_order")["problem"]


def test_short_ids_as_items_are_first_seen(stored, audit_records):
    """As in P5: user by user, each from the oldest item."""
    catalog, records = Catalog.load(stored.directory), stored.records("test")
    rows = np.concatenate([records[user]["items"] for user in sorted(records)])
    renumber(stored, [catalog.item[row] for row in dict.fromkeys(rows.tolist())])
    assert audit_records("short_id_order")["value"] == "I1"


def sequences_of_neighbours(new_row, appended=()):
    """400 users, each with one of 200 items and the item after it, as rows of the catalog."""
    last = (7 * np.arange(400)) % 199
    rows = np.asarray(new_row)[np.stack([last, last + 1], axis=1)].reshape(-1)
    items = Ragged.of_lengths(rows, np.full(400, 2))
    users = [f"U{number}".encode() for number in range(400)]
    texts = [short_id(row) for row in range(200)]
    catalog = Catalog(*[texts] * 7, train_count=np.zeros(200, np.int64))
    info = types.SimpleNamespace(appended=list(appended))
    return Records(info, catalog, {"test": Split(users, items, items)})


def test_consecutive_short_ids_in_shuffled_blocks():
    """No rank correlation shows it: neighbours stay together, but their blocks are shuffled."""
    blocks = np.arange(200).reshape(10, 20)[[3, 8, 1, 6, 0, 9, 4, 7, 2, 5]]
    check = short_ids.check_next_id(sequences_of_neighbours(np.argsort(blocks.reshape(-1))))
    assert check.figures["HR@10"] > 0.9
    assert check.offender.split == "test"
    assert check.offender.position == 1
    assert check.offender.user == "U0"


def test_the_order_that_prepare_makes_leaks_nothing():
    with duckdb.connect() as connection:
        connection.execute("""
            create table item_codes as select 'A' || item as item_id, item from range(200) t (item)
        """)
        connection.execute("create table core as select item from item_codes")
        order = order_items(connection, seed=0)
    new_row = np.argsort([int(item[1:]) for item in order])
    check = short_ids.check_next_id(sequences_of_neighbours(new_row))
    assert check.passed
    assert check.figures["chance"] == pytest.approx(10 / 200, abs=0.002)


def test_items_that_were_appended_come_later_but_in_random_order():
    def drawn(rows):
        return sorted(rows, key=lambda row: hashlib.sha256(str(row).encode()).digest())

    new_row = np.argsort([*drawn(range(120)), *drawn(range(120, 200))])
    texts = [f"A{item:03}" for item in np.argsort(new_row)]
    for appended, passes in (([120], True), ([], False)):
        records = sequences_of_neighbours(new_row, appended)
        records = dataclasses.replace(
            records, catalog=dataclasses.replace(records.catalog, item=texts)
        )
        assert short_ids.check_order(records).passed == passes
        assert short_ids.check_next_id(records).passed
    in_order = np.argsort([*drawn(range(120)), *range(120, 200)])
    records = sequences_of_neighbours(in_order, [120])
    texts = [f"A{item:03}" for item in np.argsort(in_order)]
    records = dataclasses.replace(records, catalog=dataclasses.replace(records.catalog, item=texts))
    assert short_ids.check_order(records).offender.position >= 120


def semantic_records(last_numbers):
    """Groups of ten items with the same codes; each user moves on to the item released next."""
    codes = np.tile(np.arange(200)[:, np.newaxis] // 10 * 7 % 20, (1, 3))
    records = sequences_of_neighbours(np.arange(200))
    texts = write_codes(np.concatenate([codes, last_numbers[:, np.newaxis]], axis=1))
    return dataclasses.replace(
        records, catalog=dataclasses.replace(records.catalog, short_id=texts)
    )


def test_semantic_ids_whose_last_number_is_in_order_of_time():
    check = short_ids.check_next_id(semantic_records(np.arange(200) % 10))
    assert check.figures["pairs found"] > 150
    assert not check.passed
    assert check.offender.value.startswith("I")


def test_semantic_ids_of_similar_items_that_follow_each_other_in_either_direction():
    """The rule finds far more than chance, but no more than "previous id - 1" does."""
    drawn = [hashlib.sha256(str(row).encode()).digest() for row in range(200)]
    last = np.concatenate([np.argsort(np.argsort(drawn[n : n + 10])) for n in range(0, 200, 10)])
    check = short_ids.check_next_id(semantic_records(last))
    assert check.passed
    assert check.figures["HR@10"] > 3 * check.figures["chance"]


def test_the_deviation_of_groups_is_that_of_random_groups():
    """Against a simulation: 20 groups of 10, ordered independently of the items."""
    order = np.arange(200)
    group = order // 10
    found = []
    for seed in range(400):
        place = np.argsort([hashlib.sha256(f"{seed}:{g}".encode()).digest() for g in range(20)])
        rank = np.argsort(np.argsort(place[group] * 1000 + order * 7919 % 1000))
        found.append(short_ids.rank_correlation(rank, order))
    assert short_ids.null_deviation(group, order) == pytest.approx(np.std(found), rel=0.15)
    assert short_ids.null_deviation(order, order) == pytest.approx(1 / np.sqrt(199))


def test_a_user_who_is_not_in_all_splits(stored, audit_records):
    stored.change("validation", USER, user="U999")
    offender = audit_records("same_users")
    assert (offender["user"], offender["split"]) == (USER, "validation")


def test_a_user_with_two_records(stored, audit_records):
    records = stored.records("train")
    records["U013"] = records[USER]
    stored.write("train", records.values())
    assert audit_records("same_users")["user"] == USER


def test_a_row_that_is_not_in_the_catalog(stored, audit_records):
    items = stored.records("train")[USER]["items"].copy()
    items[2] = 36
    stored.change("train", USER, items=items)
    offender = audit_records("whole")
    assert (offender["user"], offender["position"], offender["value"]) == (USER, 2, "36")


def test_counts_that_differ_from_the_records(stored, audit_records):
    path = stored.directory / "recllm.json"
    facts = json.loads(path.read_text())
    facts["statistics"]["interactions"] += 1
    path.write_text(json.dumps(facts))
    checksums.write(stored.directory)
    assert "interactions" in audit_records("whole")["problem"]


def test_records_that_a_program_rewrote(stored, audit_records):
    # No other check reads ratings.
    ratings = stored.records("test")[USER]["ratings"]
    stored.change("test", USER, ratings=ratings[::-1] + 1)
    assert "were changed" in audit_records("records_unchanged")["problem"]
    checksums.write(stored.directory)
    assert "were changed" in audit_records("records_unchanged")["problem"]


def test_ties_are_reported(stored, run_audit, only_tasks):
    only_tasks()
    code, checks = run_audit(stored.data_dir)
    assert checks["ties"]["figures"]["order"] == "published"
    assert code == 0


def test_what_the_user_can_fix(stored, tmp_path, capsys):
    def fails(*arguments):
        assert cli.main(["audit", *arguments]) == 2
        return capsys.readouterr().err

    data = ["--data_dir", str(stored.data_dir)]
    assert "recllm prepare toys" in fails("toys", *data)
    assert "perhaps toys" in fails("toyz", *data)
    assert "--seeds" in fails("gift_cards", "--seeds", "0", *data)
    records = stored.records("train")
    stored.write("train", list(records.values())[1:])
    assert "records of 'gift_cards'" in fails("gift_cards", *data)
    stored.write("train", records.values())
    (path,) = stored.directory.glob("*-test.tfrecord*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "records of 'gift_cards'" in fails("gift_cards", *data)
    path.unlink()
    assert "records of 'gift_cards'" in fails("gift_cards", *data)


@pytest.mark.parametrize(
    ("ids", "ranks"), [(["b", "a", "c"], [1, 0, 2]), (["10", "9", "1"], [2, 1, 0])]
)
def test_natural_ranks(ids, ranks):
    assert short_ids.natural_ranks(ids).tolist() == ranks
