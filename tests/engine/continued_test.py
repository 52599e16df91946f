"""A run goes on after its dataset was appended to: `recllm train DATASET --from RUN`."""

import csv
import dataclasses
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from recllm_tasks import Recommender, cli, tasks
from recllm_tasks.data.dataset_info import open_dataset
from recllm_tasks.engine import devices, initial_state, optimizer, saved_run
from recllm_tasks.errors import UserError
from recllm_tasks.models.formats import conversion
from recllm_tasks.models.network import T5Config, Transformer
from recllm_tasks.prompts.vocabulary import SENTINELS, DatasetVocabulary
from recllm_tasks.runs.run_folder import Run

SHORT = ["--gin.TRAIN_STEPS=6", "--gin.EVAL_PERIOD=6", "--gin.WARMUP_STEPS=2"]

pytestmark = pytest.mark.usefixtures("clean_gin")


@pytest.fixture(autouse=True)
def _forget_data_dir():
    yield
    seqio.set_tfds_data_dir_override(None)


def write(path, users, items, day):
    with open(path, "w", newline="") as f:
        rows = csv.writer(f)
        rows.writerow(["user", "item", "time"])
        for user in users:
            for place in range(6):
                item = items[(user + place) % len(items)]
                rows.writerow([f"u{user}", f"sku{item}", 86_400 * (day + place)])
    return str(path)


@pytest.fixture(scope="module")
def stall(tmp_path_factory):
    """A folder: `data` as it was before, `later` as it is with more users and items, `run`."""
    folder = tmp_path_factory.mktemp("stall")
    first = write(folder / "first.csv", range(24), range(12), 0)
    second = write(folder / "second.csv", range(12, 36), range(9, 17), 10)
    prepare = ["prepare", "stall", "--data_dir", str(folder / "data")]
    options = ["--ids", "atomic", "--candidates", "4"]
    assert cli.main([*prepare, "--interactions", first, *options]) == 0
    train = ["train", "stall", "--data_dir", str(folder / "data"), *SHORT]
    assert cli.main([*train, "--out", str(folder / "run")]) == 0
    before = DatasetVocabulary(str(folder / "run" / "vocabulary.model")).vocab_size
    # In the process that read the dataset as it was.
    assert cli.main([*prepare, "--append", "--interactions", second]) == 0
    source = tasks.source_of(tasks.get("stall_ids_sequence"))
    assert DatasetVocabulary(source.vocabulary_file).vocab_size == before + 5
    seqio.set_tfds_data_dir_override(None)
    return folder


def test_a_run_goes_on_with_more_items(stall, capsys):
    data, run = str(stall / "data"), str(stall / "run")
    assert cli.main(["eval", run, "--data_dir", data]) == 2
    assert "train stall --from OLD_RUN --out NEW_RUN" in " ".join(capsys.readouterr().err.split())
    command = ["train", "stall", "--data_dir", data, "--out", str(stall / "next"), "--from", run]
    assert cli.main(command) == 0
    said = capsys.readouterr().err
    assert f"INITIAL_CHECKPOINT = {run!r}" in said
    trained = Run.load(str(stall / "next"))
    assert trained.fingerprint == open_dataset(data, "stall").fingerprint
    assert trained.initial_checkpoint == run
    # The settings of the run, with the schedule that it was given.
    assert "TRAIN_STEPS = 6" in (stall / "next" / "config.gin").read_text()
    assert cli.main(command) == 0  # resumed, with nothing left to do
    (found,) = Recommender.from_run(str(stall / "next"), data_dir=data).recommend(
        [["sku3", "sku15"]], k=17
    )
    assert {item.item for item in found} == {f"sku{n}" for n in range(17)} - {"sku3", "sku15"}


def test_new_ids_start_from_the_mean_and_others_as_they_were(stall):
    seqio.set_tfds_data_dir_override(str(stall / "data"))
    vocabulary = tasks.get("stall_ids_sequence").output_features["inputs"].vocabulary
    old = saved_run.load(str(stall / "run"))
    config = old.network.config
    size = config.vocab_size + 128  # as if rounded up to more
    larger = Transformer(T5Config(**{**vars(config), "vocab_size": size}))
    source = initial_state.open_checkpoint(str(stall / "run"), larger, vocabulary)
    mesh = devices.make_mesh(1)
    constant = optimizer.adafactor(optimizer.constant_with_warmup(0.01, 10))
    state = initial_state.state_of(source, larger, constant, mesh, 0)
    before = np.asarray(old.params["token_embedder"]["embedding"])
    after = np.asarray(state.params["token_embedder"]["embedding"])
    pieces = DatasetVocabulary(old.vocabulary).vocab_size - SENTINELS
    mean = before[: pieces + SENTINELS].mean(axis=0, dtype=np.float64)
    np.testing.assert_array_equal(after[:pieces], before[:pieces])
    np.testing.assert_allclose(after[pieces : pieces + 5], np.tile(mean, (5, 1)), atol=1e-6)
    np.testing.assert_array_equal(
        after[pieces + 5 : pieces + 5 + SENTINELS], before[pieces : pieces + SENTINELS]
    )
    # What was known is scored as before.
    tokens = jnp.array([vocabulary.encode("I3 I1 I7 I5 I2")])
    logits = [
        n.apply({"params": params}, tokens, tokens, tokens, enable_dropout=False)
        for n, params in ((old.network, old.params), (larger, state.params))
    ]
    np.testing.assert_allclose(logits[0][..., :pieces], logits[1][..., :pieces], atol=1e-5)


def test_a_vocabulary_larger_than_its_checkpoint_is_refused(stall, monkeypatch):
    seqio.set_tfds_data_dir_override(str(stall / "data"))
    vocabulary = tasks.get("stall_ids_sequence").output_features["inputs"].vocabulary
    found = conversion.open_any(str(stall / "run"))
    config = T5Config(**{**vars(found.config), "vocab_size": 100})
    smaller = dataclasses.replace(found, config=config)
    monkeypatch.setattr(conversion, "open_any", lambda path: smaller)
    with pytest.raises(UserError, match="expected that of INITIAL_CHECKPOINT"):
        initial_state.open_checkpoint(str(stall / "run"), Transformer(config), vocabulary)


@pytest.mark.slow
def test_semantic_ids_go_on(tmp_path):
    first = write(tmp_path / "first.csv", range(24), range(12), 0)
    second = write(tmp_path / "second.csv", range(12, 36), range(9, 17), 10)
    (tmp_path / "items.csv").write_text(
        "item,title\n" + "".join(f"sku{n},soap {n} of kind {n % 4}\n" for n in range(17))
    )
    data, items = str(tmp_path / "data"), ["--items", str(tmp_path / "items.csv")]
    prepare = ["prepare", "booth", "--data_dir", data, *items]
    options = ["--ids", "semantic", "--candidates", "4"]
    assert cli.main([*prepare, "--interactions", first, *options]) == 0
    train = ["train", "booth", "--data_dir", data, *SHORT]
    assert cli.main([*train, "--out", str(tmp_path / "run")]) == 0
    assert cli.main([*prepare, "--append", "--interactions", second]) == 0
    assert cli.main([*train, "--out", str(tmp_path / "next"), "--from", str(tmp_path / "run")]) == 0
    (found,) = Recommender.from_run(str(tmp_path / "next"), data_dir=data).recommend(
        [["sku3", "sku15"]], k=17
    )
    assert {item.item for item in found} == {f"sku{n}" for n in range(17)} - {"sku3", "sku15"}
    # Products that nobody has bought yet, with codes of the catalog as it has grown.
    (tmp_path / "new.csv").write_text("item,title\nsku17,soap 17 of kind 1\nsku3,known\n")
    add = ["catalog", "add", str(tmp_path / "next"), "--items", str(tmp_path / "new.csv")]
    assert cli.main([*add, "--data_dir", data]) == 0
    grown = Recommender.from_run(str(tmp_path / "next"), data_dir=data)
    (found,) = grown.recommend([["sku3", "sku17"]], k=17)
    assert {item.item for item in found} == {f"sku{n}" for n in range(18)} - {"sku3", "sku17"}


@pytest.mark.slow
def test_the_audit_passes(stall):
    assert cli.main(["audit", "stall", "--data_dir", str(stall / "data"), "--seeds", "1"]) == 0


def test_what_does_not_go_on_is_refused(stall, tmp_path, capsys):
    def error(*arguments):
        assert cli.main(list(arguments)) == 2
        return " ".join(capsys.readouterr().err.split())

    data, run = str(stall / "data"), str(stall / "run")
    train = ["train", "stall", "--out", str(tmp_path / "new"), "--data_dir", data, "--from"]
    other = tmp_path / "other"
    other.mkdir()
    text = pathlib.Path(run, "run.json").read_text()
    (other / "run.json").write_text(text.replace('"stall"', '"kiosk"').partition('"checksum"')[0])
    damaged = error(*train, str(other))
    assert "Damaged run file" in damaged
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / "config.gin").write_text((copy / "config.gin").read_text().replace("= 0.003", "= 0.03"))
    assert "Damaged run: got another checksum" in error(*train, str(copy))
    (copy / "config.gin").unlink()
    assert "Damaged run: got no such file" in error(*train, str(copy))
    first = write(tmp_path / "first.csv", range(24), range(12), 0)
    # The same name, but not appended to.
    prepare = ["prepare", "stall", "--data_dir", str(tmp_path / "data"), "--interactions", first]
    assert cli.main([*prepare, "--ids", "atomic", "--candidates", "4", "--seed", "1"]) == 0
    capsys.readouterr()
    train[train.index(data)] = str(tmp_path / "data")
    assert "is not the one that the run was trained on" in error(*train, run)
