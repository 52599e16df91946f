"""Items that are kept out of training: in no training example, but among the targets."""

import json
import shutil

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from recllm_tasks import cli, mixtures
from recllm_tasks.audit import examples
from recllm_tasks.baselines.interactions import Splits
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.co_occurrence import GROUPS
from recllm_tasks.data.dataset_info import dataset_dir, open_dataset
from recllm_tasks.data.sequences import withheld_items
from recllm_tasks.prompts import templates
from recllm_tasks.prompts.source import CatalogSource, ItemSource
from recllm_tasks.prompts.vocabulary_training import ensure_vocabulary
from recllm_tasks.report import conditions, report, runs

NAME = "withheld_shop"
DAY = 86_400
LOG = [
    (f"u{user}", f"i{(user * 7 + place * 3) % 30}", user % 15 + place)
    for user in range(60)
    for place in range(5 + user % 7)
]
SPLITS = {
    "leave_one_out": [],
    "time": ["--split", "time", "--validation_share", ".3", "--test_share", ".3"],
}


@pytest.fixture(scope="module", params=SPLITS)
def shop(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("withheld")
    lines = ["user,item,time,rating", *(f"{u},{i},{DAY * t},{1 + t % 5}" for u, i, t in LOG)]
    (folder / "log.csv").write_text("\n".join(lines))
    items = ["item,title", *(f"i{item},The {item}th article" for item in range(30))]
    (folder / "items.csv").write_text("\n".join(items))
    command = ["prepare", NAME, "--interactions", str(folder / "log.csv"), "--candidates", "6"]
    command += ["--items", str(folder / "items.csv"), "--k_core", "3", "--withhold_items", ".2"]
    assert cli.main([*command, *SPLITS[request.param], "--data_dir", str(folder / "data")]) == 0
    mixtures.register_stored(folder / "data")
    ensure_vocabulary(CatalogSource(NAME))
    yield folder / "data"
    for registry in (seqio.MixtureRegistry, seqio.TaskRegistry):
        for name in [name for name in registry.names() if name.startswith(f"{NAME}_")]:
            registry.remove(name)
    seqio.set_tfds_data_dir_override(None)


def records_of(data_dir, split):
    builder = tfds.builder_from_directory(dataset_dir(data_dir, NAME))
    return {r["user"].decode(): r for r in tfds.as_numpy(builder.as_dataset(split))}


def withheld_of(data_dir):
    catalog = Catalog.load(dataset_dir(data_dir, NAME))
    return np.flatnonzero(withheld_items(catalog.item, 0, 0.2))


def test_a_larger_share_holds_a_smaller_one():
    items = [f"i{n}" for n in range(40)]
    assert withheld_items(items, 0, 0.0) is None
    few, many = withheld_items(items, 0, 0.1), withheld_items(items, 0, 0.3)
    assert (few.sum(), many.sum()) == (4, 12)
    assert not (few & ~many).any()
    assert (withheld_items(items, 1, 0.3) != many).any()
    # By hand: printf withheld:0:i$n | sha256sum, sorted.
    assert [item for item, is_it in zip(items, few) if is_it] == ["i2", "i8", "i10", "i31"]


def test_train_holds_no_withheld_item_and_loses_nothing_else(shop):
    withheld = set(withheld_of(shop).tolist())
    assert len(withheld) == 6
    train, later = records_of(shop, "train"), records_of(shop, "test")
    for record in train.values():
        assert not withheld & set(record["items"])
        assert len(record["items"])
    others = records_of(shop, "validation")
    for user, record in others.items():
        whole = record["items"][:-1].tolist()
        kept = [row for row in whole if row not in withheld]
        assert kept == (train[user]["items"].tolist() if user in train else [])
    catalog = Catalog.load(dataset_dir(shop, NAME))
    assert not catalog.train_count[list(withheld)].any()
    assert any(record["items"][-1] in withheld for record in later.values())
    counts = open_dataset(shop, NAME).split_counts
    assert counts.withheld == 6
    for split, records in (("validation", others), ("test", later)):
        new = sum(catalog.train_count[record["items"][-1]] == 0 for record in records.values())
        assert counts.new_targets[split] == new
    assert counts.users["train"] == len(train)
    assert open_dataset(shop, NAME).protocol.endswith("-withheld")


def test_every_item_but_the_withheld_is_a_target(shop, every_item_is_a_target_once):
    task = seqio.TaskRegistry.get(f"{NAME}_ids_ranking")
    lengths = [len(record["items"]) for record in records_of(shop, "train").values()]
    expected = sum(max(1, length - 1) for length in lengths)
    assert every_item_is_a_target_once(task, {"inputs": 512, "targets": 64}) == expected
    # What is withheld leaves some users one item, who keep their example.
    is_by_time = open_dataset(shop, NAME).split == "time"
    assert is_by_time or min(lengths) == 1


def test_their_texts_are_in_no_training_example(shop):
    source = ItemSource(NAME, templates.ITEM_ATTRIBUTES)
    seqio.set_tfds_data_dir_override(str(shop))
    shown = {row for batch in source.get_dataset(shuffle=False) for row in batch["item"].numpy()}
    assert shown
    assert not shown & set(withheld_of(shop).tolist())


def audit(data_dir, capsys):
    code = cli.main(["audit", NAME, "--json", "--data_dir", str(data_dir), "--seeds", "1"])
    return code, {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


@pytest.mark.slow
def test_the_audit_passes(shop, capsys):
    code, checks = audit(shop, capsys)
    assert code == 0, [check for check in checks.values() if not check["passed"]]


def test_the_audit_finds_a_withheld_item_in_train(shop, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(examples, "tasks_of", lambda *arguments: [])
    shutil.copytree(shop, tmp_path / "data")
    records = records_of(shop, "train")
    user = sorted(records)[0]
    records[user]["items"][0] = withheld_of(shop)[0]
    directory = dataset_dir(tmp_path / "data", NAME)
    features = tfds.builder_from_directory(directory).info.features
    (path,) = directory.glob("*-train.tfrecord*")
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records.values():
            writer.write(features.serialize_example(record))
    code, checks = audit(tmp_path / "data", capsys)
    assert code == 1
    assert checks["no_later_interaction"]["offender"]["user"] == user


def test_a_task_that_shows_one_is_found(shop, capsys, monkeypatch):
    monkeypatch.setattr(
        "recllm_tasks.data.dataset_info.DatasetInfo.hides_items", property(lambda info: False)
    )
    task = seqio.TaskRegistry.get(f"{NAME}_ie")
    monkeypatch.setattr(
        examples, "tasks_of", lambda dataset, split, numbers: [task] * (split == "train")
    )
    code, checks = audit(shop, capsys)
    assert code == 1
    offender = checks[f"held_out:{NAME}_ie:train"]["offender"]
    assert "withheld from training" in offender["problem"]


def test_results_by_whether_the_target_was_in_train(shop, tmp_path, capsys):
    command = ["baselines", NAME, "--rows", "popularity,markov", "--out", str(tmp_path), "--json"]
    assert cli.main([*command, "--data_dir", str(shop)]) == 0
    found = json.loads(capsys.readouterr().out)["markov"]
    split = Splits(NAME, "test").evaluated
    new = split.train_counts()[split.targets] == 0
    task = f"{NAME}_retrieval"
    groups = found["by_target"][task]
    train = [set(items.tolist()) for items in split.train_items]
    together = [
        any(target in items and items & set(history.tolist()) for items in train)
        for target, history in zip(split.targets, split.history_items)
    ]
    sizes = [sum(together), len(new) - sum(together) - new.sum(), new.sum()]
    assert [groups[name]["users"] for name in GROUPS] == sizes
    assert new.any()
    for key, value in found["metrics"][task].items():
        weighed = sum(of.get(key, 0) * of["users"] for of in groups.values())
        if key != "invalid":
            assert weighed / len(new) == pytest.approx(value)
    loaded = runs.load([tmp_path])
    assert [run.by_target[task]["new"] for run in loaded if run.model == "markov"] == [
        groups["new"]
    ]
    prepared = conditions.prepared_datasets([str(shop)], loaded)
    made = report.build(loaded, prepared)
    titles = [table.title for table in made.tables]
    title = "Retrieval by co-occurrence of target and history, seen items left out, NDCG@10"
    assert title in titles
    (table,) = (t for t in made.tables if t.title == title)
    assert [cell.text for cell in table.rows[0].cells] == [str(size) for size in sizes if size]


@pytest.mark.parametrize("share", ["-0.1", "0.6", "nan"])
def test_a_wrong_share(tmp_path, capsys, share):
    (tmp_path / "x.csv").write_text("user,item,time\nu,i,1\n")
    command = ["prepare", "x", "--interactions", str(tmp_path / "x.csv")]
    assert cli.main([*command, "--withhold_items", share, "--data_dir", str(tmp_path)]) == 2
    assert "withhold_items for 'x': got" in capsys.readouterr().err
