"""A dataset split by time, from a log to results: some users and items are in some splits only."""

import json
import shutil

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from recllm_tasks import cli, mixtures, tasks
from recllm_tasks.audit import examples
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.dataset_info import dataset_dir, open_dataset
from recllm_tasks.prompts.source import CatalogSource, SequenceSource
from recllm_tasks.prompts.templates import Wording
from recllm_tasks.prompts.vocabulary_training import ensure_vocabulary

NAME = "dated"
DAY = 86_400
VALIDATION, TEST = 12, 16
# Users begin on any of 15 days; the items of the last days are new.
LOG = [
    (f"u{user}", f"i{(user * 7 + place * 3) % 24 + 24 * (start + place > 13)}", start + place)
    for user in range(60)
    for start in [user % 15]
    for place in range(5 + user % 7)
]
# And some who buy nothing in the validation period.
LOG += [
    (f"v{user}", f"i{(user * 5 + day) % 24}", day) for user in range(5) for day in (3, 5, 8, 17)
]
LENGTHS = {"inputs": 512, "targets": 64}


@pytest.fixture(scope="module")
def dated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dated")
    lines = ["user,item,time,rating", *(f"{u},{i},{DAY * t},{1 + t % 5}" for u, i, t in LOG)]
    (folder / "log.csv").write_text("\n".join(lines))
    command = ["prepare", NAME, "--interactions", str(folder / "log.csv"), "--k_core", "3"]
    command += ["--split", "time", "--validation_from", "1970-01-13", "--test_from", "1970-01-17"]
    assert cli.main([*command, "--candidates", "6", "--data_dir", str(folder / "data")]) == 0
    mixtures.register_stored(folder / "data")
    ensure_vocabulary(CatalogSource(NAME))
    yield folder / "data"
    seqio.set_tfds_data_dir_override(None)


def records_of(data_dir, split):
    builder = tfds.builder_from_directory(dataset_dir(data_dir, NAME))
    return {r["user"].decode(): r for r in tfds.as_numpy(builder.as_dataset(split))}


def test_no_record_of_a_split_holds_a_later_interaction(dated):
    catalog = Catalog.load(dataset_dir(dated, NAME))
    day_of = {(user, item): day for user, item, day in reversed(LOG)}
    periods = {"train": (0, VALIDATION), "validation": (VALIDATION, TEST), "test": (TEST, 99)}
    for split, (first, after) in periods.items():
        records = records_of(dated, split)
        assert records
        for user, record in records.items():
            days = [day_of[user, catalog.item[row]] for row in record["items"]]
            assert days == sorted(days)
            history, target = (days, first) if split == "train" else (days[:-1], days[-1])
            assert all(day < (after if split == "train" else first) for day in history)
            assert first <= target < after
            assert len(record["negatives"]) == (0 if split == "train" else 5)
            assert not set(record["negatives"]) & set(record["items"])


def test_only_train_shapes_popularity_and_negatives(dated):
    catalog = Catalog.load(dataset_dir(dated, NAME))
    rows = np.concatenate([record["items"] for record in records_of(dated, "train").values()])
    assert catalog.train_count.tolist() == np.bincount(rows, minlength=len(catalog)).tolist()
    new = set(np.flatnonzero(catalog.train_count == 0))
    assert new
    drawn = {row for record in records_of(dated, "test").values() for row in record["negatives"]}
    assert not drawn & new


def test_what_is_left_out_is_counted(dated, capsys):
    info = open_dataset(dated, NAME)
    counts = info.split_counts
    found = {split: records_of(dated, split) for split in ("train", "validation", "test")}
    assert counts.users == {split: len(records) for split, records in found.items()}
    assert len(set(counts.users.values())) == 3
    catalog = Catalog.load(dataset_dir(dated, NAME))
    for split in ("validation", "test"):
        targets = [record["items"][-1] for record in found[split].values()]
        assert counts.new_targets[split] == sum(catalog.train_count[targets] == 0) > 0
    assert counts.new_users["validation"] > 0
    assert counts.new_items == sum(catalog.train_count == 0)
    assert cli.main(["stats", NAME, "--data_dir", str(dated), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["protocol"] == "time"
    samples = shown["table_10"]["here"]["retrieval"]
    assert (samples["validation"], samples["test"]) == (
        counts.users["validation"],
        counts.users["test"],
    )
    source = SequenceSource(NAME)
    assert source.num_examples() == samples["train"] == info.statistics.train_windows
    assert cli.main(["stats", NAME, "--data_dir", str(dated)]) == 0
    assert "validation from 1970-01-13, test from 1970-01-17" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["retrieval", "ranking", "rating", "p5_retrieval"])
def test_each_record_is_an_example_of_its_target(dated, kind):
    task = tasks.get(f"{NAME}_{kind}")
    for split in ("validation", "test"):
        records = records_of(dated, split)
        found = list(task.get_dataset(LENGTHS, split, shuffle=False).as_numpy_iterator())
        assert {e["user"].decode() for e in found} == set(records)
        for example in found:
            assert example["target"] == records[example["user"].decode()]["items"][-1]
            if kind == "p5_retrieval":
                assert 0 <= example["user_row"] < open_dataset(dated, NAME).statistics.users


@pytest.mark.parametrize("kind", ["ids_retrieval", "ids_ranking", "ids_bpr"])
def test_every_item_of_the_train_period_is_a_target(dated, kind, every_item_is_a_target_once):
    task = tasks.get(f"{NAME}_{kind}")
    lengths = [len(record["items"]) for record in records_of(dated, "train").values()]
    assert every_item_is_a_target_once(task, LENGTHS) == sum(lengths) - len(lengths)


def audit(data_dir, capsys, *arguments):
    code = cli.main(["audit", NAME, "--json", "--data_dir", str(data_dir), *arguments])
    return code, {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


@pytest.mark.parametrize("p5", [(), pytest.param(("--p5",), marks=pytest.mark.slow)])
def test_the_audit_passes(dated, capsys, p5):
    code, checks = audit(dated, capsys, *p5)
    assert code == 0, [check for check in checks.values() if not check["passed"]]
    counts = open_dataset(dated, NAME).split_counts.users
    assert checks["same_users"]["figures"] == counts


def write(data_dir, split, records):
    directory = dataset_dir(data_dir, NAME)
    features = tfds.builder_from_directory(directory).info.features
    (path,) = directory.glob(f"*-{split}.tfrecord*")
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(features.serialize_example(record))


@pytest.fixture
def only_records(monkeypatch):
    monkeypatch.setattr(examples, "tasks_of", lambda *arguments: [])


@pytest.mark.usefixtures("only_records")
@pytest.mark.parametrize("next_split", ["validation", "test"])
def test_the_audit_finds_a_later_interaction_in_train(dated, tmp_path, capsys, next_split):
    """The number of interactions stays, so that only the comparison can find it."""
    shutil.copytree(dated, tmp_path / "data")
    train, later = records_of(dated, "train"), records_of(dated, next_split)
    others = records_of(dated, "validation") if next_split == "test" else {}
    user = next(user for user in sorted(later) if user in train and user not in others)
    train[user]["items"][-1] = later[user]["items"][-1]
    write(tmp_path / "data", "train", train.values())
    code, checks = audit(tmp_path / "data", capsys)
    offender = checks["no_later_interaction"]["offender"]
    assert code == 1
    assert (offender["user"], offender["split"]) == (user, "train")
    assert offender["position"] == len(train[user]["items"]) - 1


@pytest.mark.usefixtures("only_records")
def test_the_audit_finds_a_test_item_in_a_validation_history(dated, tmp_path, capsys):
    shutil.copytree(dated, tmp_path / "data")
    validation, test = records_of(dated, "validation"), records_of(dated, "test")
    user = next(user for user in sorted(validation) if user in test)
    validation[user]["items"][0] = test[user]["items"][-1]
    write(tmp_path / "data", "validation", validation.values())
    _, checks = audit(tmp_path / "data", capsys)
    assert checks["no_later_interaction"]["offender"]["user"] == user


@pytest.mark.usefixtures("only_records")
def test_the_audit_finds_a_missing_record(dated, tmp_path, capsys):
    shutil.copytree(dated, tmp_path / "data")
    records = list(records_of(dated, "validation").values())
    write(tmp_path / "data", "validation", [*records[1:], records[1]])
    _, checks = audit(tmp_path / "data", capsys)
    assert not checks["same_users"]["passed"]


@pytest.mark.parametrize("kind", ["retrieval", "mlm"])
@pytest.mark.parametrize("next_split", ["validation", "test"])
def test_the_audit_finds_a_later_item_in_a_task(dated, capsys, monkeypatch, kind, next_split):
    later = {user: int(r["items"][-1]) for user, r in records_of(dated, next_split).items()}
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            tf.constant(list(later)), tf.constant(list(later.values()), tf.int64)
        ),
        -1,
    )

    def leak(batch):
        item = tf.cast(table.lookup(batch["user"]), tf.int32)
        return {**batch, "target": tf.where(item >= 0, item, batch["target"])}

    make = tasks.recommendation_task if kind == "retrieval" else tasks.auxiliary_task
    arguments = make(NAME, kind, Wording())
    steps = [lambda dataset: dataset.map(leak), *arguments["preprocessors"]]
    leaky = seqio.Task("leaky", **{**arguments, "preprocessors": steps})
    monkeypatch.setattr(
        examples, "tasks_of", lambda dataset, split, with_numbers: [leaky] * (split == "train")
    )
    code, checks = audit(dated, capsys, "--seeds", "1")
    assert code == 1
    offender = checks["held_out:leaky:train"]["offender"]
    assert offender["value"] == f"I{later[offender['user']] + 1}"


def test_baselines_carry_the_protocol(dated, tmp_path, capsys):
    command = ["baselines", NAME, "--rows", "house", "--out", str(tmp_path), "--json"]
    assert cli.main([*command, "--data_dir", str(dated)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"popularity", "ease", "item_to_item", "history"} <= set(found)
    users = open_dataset(dated, NAME).split_counts.users["test"]
    for row in found.values():
        assert row["protocol"] == "time"
        assert set(row["num_examples"].values()) == {users}


@pytest.mark.slow
def test_a_model_trains_and_is_measured(dated, network, decoding_buckets, monkeypatch, tmp_path):
    from recllm_tasks.engine import decoding, evaluation, optimizer, training
    from recllm_tasks.runs.decoding import Decoding

    monkeypatch.setattr(decoding, "BUCKETS", decoding_buckets)
    seqio.set_tfds_data_dir_override(str(dated))
    training.train(
        mixture=f"{NAME}_ut_at",
        model_dir=str(tmp_path),
        model_name="very_small",
        lengths=LENGTHS,
        network=network,
        optimizer=optimizer.adafactor(optimizer.constant_with_warmup(0.01, 10)),
        steps=4,
        batch_size=4,
        eval_period=4,
    )
    found = evaluation.evaluate(model_dir=str(tmp_path), decoding=Decoding(num_beams=4))
    users = open_dataset(dated, NAME).split_counts.users["test"]
    assert found.protocol == "time"
    assert set(found.num_examples.values()) == {users}


def test_latest_holds_the_longest_record_of_every_user(dated):
    records = {}
    for split in ("train", "validation", "test"):
        for user, record in records_of(dated, split).items():
            records[user] = max(records.get(user, []), record["items"].tolist(), key=len)
    assert len(records) == CatalogSource(NAME).num_users()
    only_train = {*records} - {*records_of(dated, "test"), *records_of(dated, "validation")}
    assert only_train
    task = tasks.get(f"{NAME}_retrieval")
    for shards in (1, 2):
        found = [
            example
            for shard in range(shards)
            for example in task.get_dataset(
                LENGTHS, split="latest", shuffle=False, shard_info=seqio.ShardInfo(shard, shards)
            ).as_numpy_iterator()
        ]
        assert len(found) == len(records)
        assert {e["user"].decode(): e["exclude"].tolist() for e in found} == records
