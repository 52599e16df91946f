"""A dataset that keeps repeats: what is bought again stays, and may be the answer."""

import json

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from recllm_tasks import cli, mixtures, tasks
from recllm_tasks.audit import examples
from recllm_tasks.baselines import built_in, evaluation, popularity
from recllm_tasks.baselines.interactions import Splits
from recllm_tasks.baselines.rows import ROWS
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.dataset_info import dataset_dir, open_dataset
from recllm_tasks.data.item_lookup import ItemLookup
from recllm_tasks.engine.decoding import _history_of
from recllm_tasks.prompts.templates import Wording
from recllm_tasks.runs import per_user

NAME = "grocer"
# 24 customers buy every fourth day what they bought before: mostly one of three items.
LOG = [
    (f"c{user}", f"p{(user * 5 + (place % 3 if place % 4 else place)) % 26}", place)
    for user in range(24)
    for place in range(6 + user % 9)
]


@pytest.fixture(scope="module")
def grocer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grocer")
    lines = ["user,item,time,rating", *(f"{u},{i},{t},{1 + t % 5}" for u, i, t in LOG)]
    (folder / "log.csv").write_text("\n".join(lines))
    command = ["prepare", NAME, "--interactions", str(folder / "log.csv"), "--repeats", "keep"]
    command += ["--k_core", "3", "--candidates", "6", "--data_dir", str(folder / "data")]
    assert cli.main(command) == 0
    mixtures.register_stored(folder / "data")
    yield folder / "data"
    seqio.set_tfds_data_dir_override(None)


def sequences_of(data_dir, split="test"):
    directory = dataset_dir(data_dir, NAME)
    catalog = Catalog.load(directory)
    records = tfds.as_numpy(tfds.builder_from_directory(directory).as_dataset(split))
    return {r["user"].decode(): [catalog.item[row] for row in r["items"]] for r in records}


def test_sequences_hold_what_was_bought_again(grocer):
    expected = {}
    for user, item, _ in LOG:
        expected.setdefault(user, []).append(item)
    found = sequences_of(grocer)
    assert found == expected
    info = open_dataset(grocer, NAME)
    repeats = sum(len(items) - len(set(items)) for items in expected.values())
    assert (info.repeats, info.repeats_kept, info.duplicates_dropped) == ("keep", repeats, 0)
    assert any(items[-1] in items[:-1] for items in found.values())


def test_no_negative_is_an_item_of_the_user(grocer):
    records = tfds.builder_from_directory(dataset_dir(grocer, NAME)).as_dataset("test")
    for record in tfds.as_numpy(records):
        assert not set(record["negatives"]) & set(record["items"])


def test_the_history_that_may_be_left_out():
    """A target that stands in the history is left out too: being allowed would give it away."""
    again = {"exclude": np.array([4, 2, 4, 7, 4]), "target": 4}
    assert _history_of(again).tolist() == [4, 2, 4, 7]
    new = {"exclude": np.array([4, 2, 4, 7]), "target": 7}
    assert _history_of(new).tolist() == [4, 2, 4]
    asked = {"exclude": np.array([4, 2, 4]), "target": -1}
    assert _history_of(asked).tolist() == [4, 2, 4]


def test_a_history_may_name_an_item_twice(grocer):
    catalog = Catalog.load(dataset_dir(grocer, NAME))
    names = [catalog.short_id[1], catalog.short_id[3], catalog.item[1]]
    assert ItemLookup(catalog, repeats=True).rows(names) == [1, 3, 1]
    assert ItemLookup(catalog).rows(names) == [1, 3]


def test_own_popularity_ranks_by_the_users_own_purchases(grocer):
    split = Splits(NAME, "test").evaluated
    scores = popularity.own_score_block(split)(slice(0, len(split.targets)))
    counts = split.train_counts()
    for found, history in zip(scores, split.history_items):
        own = np.bincount(history, minlength=split.num_items)
        expected = sorted(range(split.num_items), key=lambda row: (-own[row], -counts[row], row))
        assert np.argsort(-found, kind="stable").tolist() == expected
    ranks = evaluation.rank_items(popularity.own_score_block(split), split, False).ranks
    again = [t in h for t, h in zip(split.targets, split.history_items)]
    assert np.mean(ranks[again] <= 3) > 0.5


def test_baselines_may_answer_with_seen_items(grocer, tmp_path, capsys):
    command = ["baselines", NAME, "--rows", "house", "--out", str(tmp_path), "--json"]
    assert cli.main([*command, "--data_dir", str(grocer)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "own_popularity" in found
    assert {row["seen"] for row in found.values()} == {"keep"}
    quick = built_in.measure_baselines(NAME, "test", {f"{NAME}_retrieval": 24})
    assert "own_popularity" in quick
    users = dict.fromkeys((f"{NAME}_ids_retrieval", f"{NAME}_ids_ranking", "another_task"), 24)
    of_ids = built_in.measure_baselines(NAME, "test", users)
    for row, measured in quick.items():
        assert of_ids[row][f"{NAME}_ids_retrieval"] == measured[f"{NAME}_retrieval"]
        assert "another_task" not in of_ids[row]
    assert set(of_ids["popularity"]) == {f"{NAME}_ids_retrieval", f"{NAME}_ids_ranking"}
    assert ROWS["own_popularity"].needs_repeats
    assert cli.main([*command, "--seen", "leave_out", "--data_dir", str(grocer)]) == 0
    without = json.loads(capsys.readouterr().out)
    assert set(without) == set(found) - {"own_popularity"}, "it lists nothing but seen items"
    assert {row["seen"] for row in without.values()} == {"leave_out"}
    split, task = Splits(NAME, "test").evaluated, f"{NAME}_retrieval"
    again = np.mean([t in h for t, h in zip(split.targets, split.history_items)])
    for name in ("popularity", "item_to_item", "markov", "ease"):
        path = tmp_path / name / without[name]["per_user"][task]
        ranks = np.concatenate([batch["rank"].to_numpy() for batch in per_user.read(path)])
        assert np.isinf(ranks).mean() == again
        ranking = f"{NAME}_ranking"
        assert without[name]["metrics"][ranking] == found[name]["metrics"][ranking], name
    leaving = built_in.measure_baselines(NAME, "test", {task: 24}, "leave_out")
    assert set(leaving) == set(quick) - {"own_popularity"}


@pytest.mark.parametrize("kind", ["retrieval", "ranking", "mim", "bpr"])
def test_tasks_show_repeats(grocer, kind):
    found = tasks.get(f"{NAME}_{kind}").get_dataset({"inputs": 512, "targets": 64}, "train")
    shown = [example["history"].tolist() for example in found.as_numpy_iterator()]
    assert any(len(set(items)) < len(items) for items in shown)


def test_a_repeated_item_is_a_target_each_time(grocer, every_item_is_a_target_once):
    lengths = [len(items) for items in sequences_of(grocer, "train").values()]
    task = tasks.get(f"{NAME}_ids_retrieval")
    found = every_item_is_a_target_once(task, {"inputs": 512, "targets": 64})
    assert found == sum(lengths) - len(lengths)


def audit(data_dir, capsys):
    code = cli.main(["audit", NAME, "--json", "--data_dir", str(data_dir)])
    return code, {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


def test_the_audit_passes_and_counts_the_repeats(grocer, capsys):
    code, checks = audit(grocer, capsys)
    assert code == 0, [check for check in checks.values() if not check["passed"]]
    figures = checks["no_repeats"]["figures"]
    assert figures["repeats"] == open_dataset(grocer, NAME).repeats_kept
    sequences = sequences_of(grocer).values()
    again = sum(items[-1] in items[:-1] for items in sequences)
    assert figures["users whose test item is in their history"] == again


@pytest.mark.parametrize(
    ("leak", "name"), [("test item", "held_out:leaky:train"), ("answer", "own_target")]
)
def test_the_audit_finds_a_leak_of_an_item_that_is_also_known(
    grocer, capsys, monkeypatch, leak, name
):
    """The leaked item stands in the train record anyway, but once less often than it is shown."""
    catalog = Catalog.load(dataset_dir(grocer, NAME))
    train, test = sequences_of(grocer, "train"), sequences_of(grocer)
    users = [user for user, items in test.items() if items[-1] in train[user]]
    rows = [catalog.item.index(test[user][-1]) for user in users]
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            tf.constant(users), tf.constant(rows, tf.int64)
        ), -1
    )  # fmt: skip

    def add(batch):
        item = tf.cast(table.lookup(batch["user"]), tf.int32)
        if leak == "answer":
            return {**batch, "history": tf.concat([batch["history"], batch["target"][:, None]], 1)}
        added = tf.RaggedTensor.from_tensor(item[:, None], row_splits_dtype=tf.int64)
        added = tf.ragged.boolean_mask(added, (item >= 0)[:, None])
        return {**batch, "history": tf.concat([batch["history"], added], 1)}

    arguments = tasks.recommendation_task(NAME, "retrieval", Wording())
    steps = [lambda dataset: dataset.map(add), *arguments["preprocessors"]]
    leaky = seqio.Task("leaky", **{**arguments, "preprocessors": steps})
    monkeypatch.setattr(
        examples, "tasks_of", lambda dataset, split, with_numbers: [leaky] * (split == "train")
    )
    code, checks = audit(grocer, capsys)
    assert code == 1
    assert not checks[name]["passed"]


@pytest.mark.slow
def test_a_model_trains_is_measured_and_recommends(
    grocer, network, decoding_buckets, monkeypatch, tmp_path
):
    from recllm_tasks.engine import decoding, evaluation, optimizer, training
    from recllm_tasks.prompts.source import CatalogSource
    from recllm_tasks.prompts.vocabulary_training import ensure_vocabulary
    from recllm_tasks.recommender import Recommender
    from recllm_tasks.runs.decoding import Decoding

    monkeypatch.setattr(decoding, "BUCKETS", decoding_buckets)
    seqio.set_tfds_data_dir_override(str(grocer))
    ensure_vocabulary(CatalogSource(NAME))
    training.train(
        mixture=f"{NAME}_reat",
        model_dir=str(tmp_path),
        model_name="very_small",
        lengths={"inputs": 512, "targets": 64},
        network=network,
        optimizer=optimizer.adafactor(optimizer.constant_with_warmup(0.01, 10)),
        steps=2,
        batch_size=4,
        eval_period=2,
    )
    sequences, task = sequences_of(grocer), f"{NAME}_retrieval"
    again = {user for user, items in sequences.items() if items[-1] in items[:-1]}
    for seen, most in ((None, 26), ("keep", 26), ("leave_out", 0)):
        # As many beams as items: only what is left out is a miss.
        chosen = Decoding(num_beams=26, seen=seen)
        found = evaluation.evaluate(model_dir=str(tmp_path), mixture=task, decoding=chosen)
        assert found.protocol == "leave_one_out-repeats"
        assert found.seen == (seen or "keep")
        (rows,) = per_user.read(tmp_path / found.per_user[task])
        hits = {
            user
            for user, rank in zip(rows["user"].to_pylist(), rows["rank"].to_pylist())
            if np.isfinite(rank)
        }
        assert len(hits & again) == min(most, len(again))
        assert hits - again == set(sequences) - again
    recommender = Recommender.from_run(str(tmp_path), data_dir=str(grocer))
    ids = recommender.catalog.short_id
    (ranked,) = recommender.recommend([[ids[2], ids[5], ids[2]]], k=5)
    assert len(ranked) == 5
