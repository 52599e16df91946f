"""Training begins with a checkpoint of any format: its parameters, a fresh optimizer, a step."""

import dataclasses
import json
import pathlib
import shutil

import gin
import jax
import numpy as np
import pytest
from flax import traverse_util

import recllm_tasks.mixtures  # noqa: F401
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
        params = initial_state.random_state(network, rule, mesh, 0).params
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
        elif name == "decoder/decoder_norm/scale" and tied:
            np.testing.assert_allclose(array, config.emb_dim**0.5)
        else:
            np.testing.assert_array_equal(array, plain[name])
    gin.bind_parameter("initial_state.normal.stddev", -1)
    with pytest.raises(UserError, match=r"initial_state.normal.stddev: got -1, expected"):
        drawn()
