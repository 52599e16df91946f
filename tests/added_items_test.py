"""Items that are added to a trained run: ids, trie, prompts, prior; nothing else changes."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
import seqio

from recllm_tasks import cli, mixtures, tasks
from recllm_tasks.data.added_items import FILE_NAME, AddedItems
from recllm_tasks.data.id_schemes import read_numbers
from recllm_tasks.engine import inference, optimizer, saved_run, training
from recllm_tasks.engine.answer_tries import answers_of, trie_path
from recllm_tasks.errors import UserError
from recllm_tasks.files import read_json, write_json
from recllm_tasks.prompts.source import CatalogSource
from recllm_tasks.recommender import Recommender
from recllm_tasks.runs.decoding import Decoding

NAME = "growing_shop"
KINDS = ("wooden puzzle", "plastic robot", "board game", "soft bear")
COLOURS = ("red", "green", "blue", "white", "black", "yellow", "brown", "pink", "grey")
ITEMS = {
    f"i{number}": f"{COLOURS[number % 9]} {KINDS[number % 4]} number {number % 5}"
    for number in range(36)
}
NEW = {
    "n1": "red wooden puzzle number 9",  # other words
    "n2": "green plastic robot number 1",  # those of i1
    "i3": ITEMS["i3"],  # there already
    "n3": "",
    "n4": "blue board game for two",
}


def write_items(path, items):
    with path.open("w", newline="") as f:
        csv.writer(f).writerows([("item", "title"), *items.items()])
    return str(path)


@pytest.fixture(scope="module")
def shop(tmp_path_factory, network):
    """(data folder, run's folder) of a run of one step; nothing is added."""
    folder = tmp_path_factory.mktemp("growing")
    log = ["user,item,time"]
    log += [f"u{u},i{(u * 5 + t) % 36},{t}" for u in range(40) for t in range(5 + u % 9)]
    (folder / "log.csv").write_text("\n".join(log))
    files = ["--interactions", str(folder / "log.csv")]
    files += ["--items", write_items(folder / "items.csv", ITEMS), "--candidates", "6"]
    data = str(folder / "data")
    for ids in ("semantic", "random"):
        assert cli.main(["prepare", NAME, *files, "--ids", ids, "--data_dir", f"{data}_{ids}"]) == 0
    mixtures.register_stored(f"{data}_semantic")
    seqio.set_tfds_data_dir_override(f"{data}_semantic")
    training.train(
        mixture=f"{NAME}_retrieval",
        model_dir=str(folder / "run"),
        model_name="very_small",
        lengths={"inputs": 256, "targets": 16},
        network=network,
        optimizer=optimizer.adafactor(optimizer.constant_with_warmup(0.01, 10)),
        steps=1,
        batch_size=4,
        eval_examples=4,
        decoding=Decoding(num_beams=2),
    )
    yield folder
    for registry in (seqio.MixtureRegistry, seqio.TaskRegistry):
        for name in [name for name in registry.names() if name.startswith(f"{NAME}_")]:
            registry.remove(name)
    seqio.set_tfds_data_dir_override(None)


def add(shop, run, items, *options):
    path = write_items(run.parent / "new.csv", items)
    data = str(shop / "data_semantic")
    return cli.main(["catalog", "add", str(run), "--items", path, "--data_dir", data, *options])


@pytest.fixture
def run(shop, tmp_path):
    """A copy of the run."""
    shutil.copytree(shop / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def grown(shop, tmp_path_factory):
    """A copy of the run, with NEW added."""
    folder = tmp_path_factory.mktemp("grown") / "run"
    shutil.copytree(shop / "run", folder)
    assert add(shop, folder, NEW) == 0
    return folder


def test_what_is_added_is_reported_and_stays(shop, run, capsys):
    assert add(shop, run, NEW) == 0
    said = capsys.readouterr().err
    assert "1 items exist already, such as 'i3'" in said
    assert "1 items left out, such as 'n3'" in said
    assert "3 items added" in said
    first = (run / FILE_NAME).read_bytes()
    assert add(shop, run, NEW) == 0
    assert "0 items added" in capsys.readouterr().err
    assert (run / FILE_NAME).read_bytes() == first
    assert add(shop, run, {"n9": "pink soft bear for two", **NEW}) == 0
    rows = json.loads((run / FILE_NAME).read_text())["items"]
    assert [row["item"] for row in rows] == ["n1", "n2", "n4", "n9"]
    assert rows[:3] == json.loads(first)["items"]


def test_ids_are_new_and_their_numbers_are_known(shop, grown):
    seqio.set_tfds_data_dir_override(str(shop / "data_semantic"))
    base, added = CatalogSource(NAME).catalog(), AddedItems.load(grown)
    assert not set(base.short_id) & set(added.catalog.short_id)
    assert len(set(added.catalog.short_id)) == 3
    known, numbers = read_numbers(base.short_id), read_numbers(added.catalog.short_id)
    for column, of_base in zip(numbers.T, known.T):
        assert set(column) <= set(of_base)
    # Equal texts have the same first codes unless the model knows no further number.
    twin = base.item.index(next(item for item, title in ITEMS.items() if title == NEW["n2"]))
    if known[:, 3].max() > 0:
        assert (numbers[1, :3] == known[twin, :3]).all()
    else:
        assert numbers[1, 0] == known[twin, 0]
    task = saved_run.load(str(grown)).tasks(f"{NAME}_retrieval")[0]
    vocabulary = task.output_features["targets"].vocabulary
    pieces = {piece for short_id in base.short_id for piece in vocabulary.encode(short_id)}
    for short_id in added.catalog.short_id:
        assert len(vocabulary.encode(short_id)) == 4
        assert set(vocabulary.encode(short_id)) <= pieces


def test_the_model_ranks_them_by_their_probability(shop, grown, forced_scores):
    """Every item of a beam as wide as the catalog has what teacher forcing gives its id."""
    wide = Recommender.from_run(
        str(grown), Decoding(num_beams=64, seen="keep"), data_dir=str(shop / "data_semantic")
    )
    assert len(wide.catalog) == 36 + 3
    (ranked,) = wide.recommend([["n2", NEW["n1"], "i5"]], k=39)
    assert {item.item for item in ranked} == {*ITEMS, "n1", "n2", "n4"}
    saved = saved_run.load(str(grown))
    task = saved.tasks(f"{NAME}_retrieval")[0]
    vocabulary = task.output_features["targets"].vocabulary
    prompt = wide._prompts([wide.lookup.rows(["n2", NEW["n1"], "i5"])])[0]["inputs"]
    assert NEW["n4"] not in (text := vocabulary.decode(prompt.tolist()))
    assert NEW["n1"] in text
    rows = [[*vocabulary.encode(item.short_id), vocabulary.eos_id] for item in ranked]
    targets = np.array([row + [0] * (5 - len(row)) for row in rows])
    inputs = np.tile(prompt, (len(ranked), 1))
    expected = np.asarray(forced_scores(saved.network, saved.params, inputs, targets))
    np.testing.assert_allclose([item.log_prob for item in ranked], expected, atol=1e-3)
    assert sum(math.exp(item.log_prob) for item in ranked) <= 1 + 1e-5


def test_the_prior_knows_their_texts(shop, grown):
    with_prior = Recommender.from_run(
        str(grown), Decoding(num_beams=39, prior_weight=8.0), data_dir=str(shop / "data_semantic")
    )
    (ranked,) = with_prior.recommend([["n1"]], k=5)
    assert ranked[0].title.startswith(("red wooden", "red"))
    row = with_prior.lookup.rows(["n1"])[0]
    (reason,) = with_prior.reasons.of(with_prior.lookup.rows(["i0"]), [row])
    assert reason.rank is not None


def test_infer_answers_with_them_and_eval_does_not(shop, grown, tmp_path):
    seqio.set_tfds_data_dir_override(str(shop / "data_semantic"))
    decoding = Decoding(num_beams=64, seen="keep")
    output = str(tmp_path / "lines")
    inference.infer(model_dir=str(grown), output=output, decoding=decoding, num_examples=2)
    for line in (tmp_path / "lines").read_text().splitlines():
        found = {answer["item"] for answer in json.loads(line)["ranked"]}
        assert found == {*ITEMS, "n1", "n2", "n4"}
    saved = saved_run.load(str(grown))
    (measured,) = saved.tasks(f"{NAME}_retrieval")
    assert tasks.answers(measured) == CatalogSource(NAME).catalog().short_id
    # Tries of both are cached side by side.
    with_added = tasks.with_added_items(measured, saved.added)
    for _ in range(2):
        assert answers_of(measured).trie.num_items == 36
        assert answers_of(with_added).trie.num_items == 39
    other = AddedItems(saved.added.fingerprint, saved.added.catalog.take([0, 2, 1]))
    with_other = tasks.with_added_items(measured, other)
    vocabulary = measured.output_features["targets"].vocabulary
    paths = {
        trie_path(tasks.source_of(task), vocabulary, "{short_id}")
        for task in (measured, with_added, with_other)
    }
    assert len(paths) == 3


def test_answers_record_what_was_added(shop, grown):
    data = str(shop / "data_semantic")
    before, after = (Recommender.from_run(str(of), data_dir=data) for of in (shop / "run", grown))
    assert "added_items" not in before.identity()
    assert after.identity() == {
        **before.identity(),
        "num_beams": after.identity()["num_beams"],
        "added_items": AddedItems.load(grown).digest,
    }


def test_ids_that_say_nothing_are_refused(shop, run, capsys):
    facts = read_json(shop / "data_random/rec_sequences" / NAME / "1.0.0/recllm.json")
    changed = {
        **read_json(run / "run.json"),
        "fingerprint": facts["fingerprint"],
        "records_digest": facts["records_digest"],
    }
    write_json(run / "run.json", changed)
    path = write_items(run.parent / "new.csv", NEW)
    data = ["--data_dir", str(shop / "data_random")]
    assert cli.main(["catalog", "add", str(run), "--items", path, *data]) == 2
    assert "got random ids (each is a random number, which tells" in capsys.readouterr().err
    assert not (run / FILE_NAME).exists()


def test_other_embeddings_are_refused(shop, run, capsys):
    rows = np.zeros(40, [("item", "U4"), ("embedding", "f4", (8,))])
    rows["item"] = [*ITEMS, "n1", "n2", "n3", "n4"]
    rows["embedding"] = np.random.Generator(np.random.Philox(0)).normal(size=(40, 8))
    np.save(run.parent / "e.npy", rows)
    assert add(shop, run, NEW, "--embeddings", str(run.parent / "e.npy")) == 2
    assert "got other codes for its own items than `recllm prepare` stored" in (
        capsys.readouterr().err
    )
    assert not (run / FILE_NAME).exists()


def test_a_damaged_file_and_one_of_another_dataset(shop, run, capsys):
    assert add(shop, run, NEW) == 0
    whole = (run / FILE_NAME).read_text()
    (run / FILE_NAME).write_text(whole.replace("n4", "n5"))
    assert add(shop, run, NEW) == 2
    assert "Damaged file" in capsys.readouterr().err
    assert cli.main(["doctor", str(run)]) == 1
    assert FILE_NAME in capsys.readouterr().out
    content = {**json.loads(whole), "fingerprint": "0" * 64}
    content.pop("checksum")
    write_json(run / FILE_NAME, content)
    with pytest.raises(UserError, match="added to the dataset with fingerprint 000000000000…"):
        Recommender.from_run(str(run), data_dir=str(shop / "data_semantic"))


def test_a_file_without_items(shop, run, capsys):
    assert add(shop, run, {}) == 2
    assert "got no items, expected some; correct --items" in capsys.readouterr().err
