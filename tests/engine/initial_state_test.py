"""Training begins with a checkpoint of any format: its parameters, a fresh optimizer, a step."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import gin
import jax
import numpy as np
import pytest
from flax import traverse_util

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import tasks
from recllm_tasks.data.item_embeddings import network_vectors
from recllm_tasks.engine import (
    checkpoints,
    devices,
    initial_state,
    optimizer,
    saved_run,
    training,
)
from recllm_tasks.errors import UserError
from recllm_tasks.models.formats import conversion
from recllm_tasks.models.network import Transformer
from recllm_tasks.prompts.vocabulary_training import train_vocabulary

# A task that is not validated: nothing is decoded here.
TASK = "gift_cards_mim"

pytestmark = pytest.mark.usefixtures("small_data", "clean_gin")


@pytest.fixture(scope="module")
def folders(run_dir, tmp_path_factory) -> dict[str, pathlib.Path]:
    """The run's best parameters in every format."""
    source = conversion.open_source("recllm", run_dir)
    made = {name: tmp_path_factory.mktemp(name) / "model" for name in conversion.FORMATS}
    for name, folder in made.items():
        conversion.convert(source, name, folder)
    return {**made, "run": pathlib.Path(run_dir)}


@pytest.fixture
def vocabulary(run_dir, clean_gin):
    """The run's vocabulary, named in gin as it has to be for T5X's checkpoints."""
    gin.bind_parameter("vocabulary.sentencepiece_file.path", f"{run_dir}/vocabulary.model")


@pytest.mark.usefixtures("vocabulary")
@pytest.mark.parametrize("format", [*conversion.FORMATS, "run"])
def test_no_steps_keep_the_checkpoint_as_it_is(format, folders, run_dir, tmp_path, settings):
    where = {"initial_checkpoint": str(folders[format]), "initial_step": 10}
    training.train(mixture=TASK, model_dir=str(tmp_path), steps=0, **where, **settings)
    found = saved_run.load(str(tmp_path))
    assert found.step == 10
    expected = saved_run.load(run_dir).params
    jax.tree.map(np.testing.assert_array_equal, found.params, expected)
    assert json.loads((tmp_path / "run.json").read_text())["initial_step"] == 10


@pytest.mark.usefixtures("vocabulary")
def test_a_stopped_run_resumes_without_the_checkpoint(folders, tmp_path, settings):
    shutil.copytree(folders["recllm"], tmp_path / "start")
    where = {"initial_checkpoint": str(tmp_path / "start"), "initial_step": 100}
    settings = {**settings, "eval_period": 2, **where}
    training.train(mixture=TASK, model_dir=str(tmp_path / "whole"), steps=4, **settings)
    training.train(mixture=TASK, model_dir=str(tmp_path / "parts"), steps=2, **settings)
    shutil.rmtree(tmp_path / "start")
    training.train(mixture=TASK, model_dir=str(tmp_path / "parts"), steps=4, **settings)
    whole, parts = (
        saved_run.load(str(tmp_path / name), checkpoint=checkpoints.LAST)
        for name in ("whole", "parts")
    )
    assert whole.step == parts.step == 104
    jax.tree.map(np.testing.assert_array_equal, whole.params, parts.params)
    started = conversion.open_source("recllm", folders["recllm"]).read("encoder/encoder_norm/scale")
    assert not np.array_equal(whole.params["encoder"]["encoder_norm"]["scale"], started)
    settings["initial_step"] = 99
    with pytest.raises(UserError, match=r"another run: got initial_step 99, expected 100"):
        training.train(mixture=TASK, model_dir=str(tmp_path / "parts"), steps=5, **settings)


def test_a_checkpoint_that_does_not_fit_is_refused(folders, tmp_path, settings, network):
    run = {"mixture": TASK, "model_dir": str(tmp_path / "run"), "steps": 1, **settings}
    wider = Transformer(dataclasses.replace(network.config, mlp_dim=96))
    with pytest.raises(UserError, match=r"of another shape: .*mlp/wo/kernel \[64, 32\] instead of"):
        training.train(**{**run, "network": wider}, initial_checkpoint=str(folders["hf"]))
    with pytest.raises(UserError, match=r"No checkpoint in '.*': got no files of one"):
        training.train(**run, initial_checkpoint=str(tmp_path))
    with pytest.raises(UserError, match=r"got 'gs://bucket/x'.*gcloud storage cp"):
        training.train(**run, initial_checkpoint="gs://bucket/x")
    with pytest.raises(UserError, match=r"TRAIN_STEPS: got 0"):
        training.train(**{**run, "steps": 0})
    assert not (tmp_path / "run").exists()


def test_the_vocabulary_must_be_the_checkpoints(folders, tmp_path, settings, run_dir):
    run = {"mixture": TASK, "model_dir": str(tmp_path / "run"), "steps": 1, **settings}
    with pytest.raises(UserError, match=r"expected the file that it was trained with"):
        training.train(**run, initial_checkpoint=str(folders["t5x"]))
    other = tmp_path / "hf"
    shutil.copytree(folders["hf"], other)
    (other / "spiece.model").write_bytes(b"another")
    with pytest.raises(UserError, match=r"expected that of INITIAL_CHECKPOINT, '.*spiece.model'"):
        training.train(**run, initial_checkpoint=str(other))


@pytest.mark.parametrize("tied", [False, True])
def test_a_normal_beginning_is_asked_for(network, tied):
    config = dataclasses.replace(network.config, logits_via_embedding=tied)
    network = Transformer(config)
    rule, mesh = optimizer.adamw(lambda step: 0.1), devices.make_mesh(1)

    def drawn():
        stddev = initial_state.normal()
        params = initial_state.random_state(network, rule, mesh, 0, stddev=stddev).params
        return traverse_util.flatten_dict(jax.device_get(params), sep="/")

    token = np.ones((1, 1), np.int32)
    own = network.init(jax.random.key(0), token, token, token, enable_dropout=False)["params"]
    plain = drawn()
    for name, array in traverse_util.flatten_dict(own, sep="/").items():
        np.testing.assert_allclose(plain[name], array, rtol=1e-6)
    gin.bind_parameter("initial_state.normal.stddev", 0.02)
    for name, array in drawn().items():
        if name.endswith(("kernel", "embedding")) and not name.endswith("rel_embedding"):
            assert array.std() == pytest.approx(0.02, rel=0.1)
            assert abs(array.mean()) < 0.002
            assert not np.allclose(array, plain[name])
        else:
            np.testing.assert_array_equal(array, plain[name])
    gin.bind_parameter("initial_state.normal.stddev", -1)
    with pytest.raises(UserError, match=r"initial_state.normal.stddev: got -1, expected"):
        drawn()


def rows_of(network, **bindings) -> initial_state.ItemRows | None:
    for name, value in bindings.items():
        gin.bind_parameter(f"initial_state.item_embeddings.{name}", value)
    return initial_state.item_rows(tasks.get(TASK), network, 0, None, is_resumed=False)


def table_of(network, items=None) -> np.ndarray:
    rule = optimizer.adafactor(optimizer.constant_with_warmup(0.01, 10))
    state = initial_state.random_state(network, rule, devices.make_mesh(), 0, items=items)
    return np.asarray(state.params["token_embedder"]["embedding"])


def test_item_embeddings_start_from_texts(network):
    assert rows_of(network) is None, "off by default"
    items = rows_of(network, source="texts")
    catalog = tasks.source_of(tasks.get(TASK)).catalog()
    vocabulary = tasks.get(TASK).output_features["inputs"].vocabulary
    pieces = [vocabulary.encode(short_id) for short_id in catalog.short_id]
    assert items.tokens.tolist() == [piece for (piece,) in pieces]
    before, after = table_of(network), table_of(network, items)
    others = np.setdiff1d(np.arange(len(before)), items.tokens)
    np.testing.assert_array_equal(after[others], before[others])
    expected = network_vectors(
        catalog, None, "gift_cards", 0, network.config.emb_dim, lambda done: None
    )
    np.testing.assert_allclose(after[items.tokens], expected * before.std(), rtol=1e-5)
    narrow = table_of(network, rows_of(network, stddev=0.02))
    np.testing.assert_allclose(narrow[items.tokens], expected * 0.02, rtol=1e-5)


def test_an_item_without_text_starts_at_random(network, monkeypatch):
    source = tasks.source_of(tasks.get(TASK))
    blank = [""] * len(source.catalog())
    texts = dict.fromkeys(("brand", "categories", "description"), blank)
    titles = ["", "a doll", "a doll", "two cars", *blank[4:]]
    catalog = dataclasses.replace(source.catalog(), title=titles, **texts)
    monkeypatch.setattr(type(source), "catalog", lambda self: catalog)
    items = rows_of(network, source="texts")
    assert len(items.tokens) == 3
    before, after = table_of(network), table_of(network, items)
    changed = np.flatnonzero((before != after).any(axis=1))
    assert sorted(changed) == sorted(items.tokens)
    np.testing.assert_allclose(after[items.tokens[0]], after[items.tokens[1]], rtol=1e-5)
    assert not np.allclose(after[items.tokens[0]], after[items.tokens[2]], rtol=1e-2)


def test_a_catalog_without_texts_is_refused_with_the_setting(network, monkeypatch):
    source = tasks.source_of(tasks.get(TASK))
    columns = ("title", "brand", "categories", "description")
    blank = dict.fromkeys(columns, [""] * len(source.catalog()))
    catalog = dataclasses.replace(source.catalog(), **blank)
    monkeypatch.setattr(type(source), "catalog", lambda self: catalog)
    remedy = r"got no words .*; or give --gin.initial_state.item_embeddings.source=None"
    with pytest.raises(UserError, match=remedy):
        rows_of(network, source="texts")


def test_item_embeddings_are_in_the_settings_and_read_only_once(tmp_path, settings, capsys):
    """A resumed run does not need the file, and has the same settings."""
    catalog = tasks.source_of(tasks.get(TASK)).catalog()
    rows = np.zeros(len(catalog), [("item", "U8"), ("embedding", "f4", (4,))])
    rows["item"], rows["embedding"] = catalog.item, np.eye(4)[np.arange(len(catalog)) % 4]
    np.save(tmp_path / "e.npy", rows)
    gin.bind_parameter("initial_state.item_embeddings.source", str(tmp_path / "e.npy"))
    run = {"mixture": TASK, "model_dir": str(tmp_path / "run"), **settings}
    training.train(steps=1, **run)
    written = (tmp_path / "run" / "config.gin").read_text().replace("\\\n    ", "")
    assert f"item_embeddings.source = '{tmp_path}/e.npy'" in written
    (tmp_path / "e.npy").unlink()
    training.train(steps=2, **run)
    printed = capsys.readouterr().err
    assert "other settings than before" not in printed


def test_item_embeddings_that_are_refused(folders, network, tmp_path, settings):
    gin.bind_parameter("initial_state.item_embeddings.source", "texts")
    run = {"mixture": TASK, "model_dir": str(tmp_path / "run"), "steps": 1, **settings}
    with pytest.raises(UserError, match=r"got 'texts' and INITIAL_CHECKPOINT '.*', expected one"):
        training.train(**run, initial_checkpoint=str(folders["hf"]))
    with pytest.raises(UserError, match=r"item_embeddings.stddev: got -1, expected a number"):
        rows_of(network, stddev=-1)
    gin.bind_parameter("initial_state.item_embeddings.stddev", None)
    texts = [("Item ID: I1, I2a3b4c5", 1)]
    train_vocabulary(str(tmp_path / "v.model"), texts, ["I1a2b3c4"], ids="semantic")
    gin.bind_parameter("vocabulary.sentencepiece_file.path", str(tmp_path / "v.model"))
    with pytest.raises(
        UserError,
        match=r"item_embeddings.source for 'gift_cards': got \d pieces of the vocabulary for the "
        r"id I\d+, expected 1; prepare the dataset with --ids atomic or semantic",
    ):
        training.train(**run)
    assert not (tmp_path / "run").exists()


ON_A_MESH = """
import jax, numpy as np
from recllm_tasks.engine import devices, initial_state, optimizer
from recllm_tasks.models.network import T5Config, Transformer
network = Transformer(T5Config(
    vocab_size=64, emb_dim=16, num_heads=2, num_encoder_layers=1, num_decoder_layers=1,
    head_dim=8, mlp_dim=16,
))
rule = optimizer.adafactor(optimizer.constant_with_warmup(0.01, 10))
rows = initial_state.ItemRows(
    np.array([60, 3, 31], np.int32), np.arange(48, dtype=np.float32).reshape(3, 16), None
)
tables = []
for model_parallel in (1, 2):
    mesh = devices.make_mesh(model_parallel)
    params = initial_state.random_state(network, rule, mesh, 0, items=rows).params
    plain = initial_state.random_state(network, rule, mesh, 0).params
    table = params["token_embedder"]["embedding"]
    assert table.sharding == plain["token_embedder"]["embedding"].sharding
    assert table.addressable_shards[0].data.shape[0] == 64 // model_parallel
    assert jax.tree.structure(params) == jax.tree.structure(plain)
    tables.append(np.asarray(table))
np.testing.assert_array_equal(*tables)
np.testing.assert_allclose(tables[0][[60, 3, 31]] / tables[0][3, 1] * 17, rows.vectors, rtol=1e-5)
"""


@pytest.mark.slow
def test_item_embeddings_on_a_mesh_that_splits_the_vocabulary():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "-P", "-c", ON_A_MESH]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_logits_that_are_not_scaled_move_to_formats_that_scale_them(tmp_path, network, settings):
    config = dataclasses.replace(network.config, logits_via_embedding=True, scaled_logits=False)
    plain = Transformer(config)
    settings = {**settings, "network": plain}
    training.train(mixture=TASK, model_dir=str(tmp_path / "run"), steps=1, **settings)
    params = saved_run.load(str(tmp_path / "run")).params
    source = conversion.open_any(str(tmp_path / "run"))
    assert source.config.scaled_logits
    flat = {path: source.read(path) for path in traverse_util.flatten_dict(params, sep="/")}
    moved = traverse_util.unflatten_dict(flat, sep="/")
    tokens = np.array([[5, 6, 7]])
    one, other = (
        model.apply({"params": own}, tokens, tokens, tokens, enable_dropout=False)
        for model, own in ((plain, params), (Transformer(source.config), moved))
    )
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    start = {"initial_checkpoint": str(tmp_path / "run"), "steps": 0}
    training.train(mixture=TASK, model_dir=str(tmp_path / "again"), **start, **settings)
    again = saved_run.load(str(tmp_path / "again")).params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), again, params)
