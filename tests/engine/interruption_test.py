"""Training that is stopped, killed, or diverges: nothing is lost, nothing damaged is kept."""

import json
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import optax
import pytest

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import files
from recllm_tasks.engine import checkpoints, saved_run, training
from recllm_tasks.errors import Terminated, UserError

RETRIEVAL = "gift_cards_retrieval"

pytestmark = pytest.mark.usefixtures("small_data", "clean_gin")


class Crash(BaseException):
    """Stands for a kill: no handler catches it."""


def _state(model_dir) -> dict:
    """All that a finished run leaves for later use."""
    found = {}
    for kind in (checkpoints.BEST, checkpoints.LAST):
        saved = saved_run.load(str(model_dir), checkpoint=kind)
        leaves = jax.tree.leaves(saved.params)
        found[kind] = (saved.step, [np.asarray(leaf).tobytes() for leaf in leaves])
    found["best.json"] = json.loads((pathlib.Path(model_dir) / "best" / "best.json").read_text())
    return found


class _Crashes:
    """Crashes training at an event: before or after it saves, writes or validates."""

    def __init__(self, patch: pytest.MonkeyPatch, script_validations):
        self.events, self._number = [], 0
        script_validations(patch, lambda step: step / 100)
        for owner, name in (
            (checkpoints.Checkpoints, "save"),
            (training, "write_json"),
            (training.Validation, "measure"),
        ):
            patch.setattr(owner, name, self._wrapped(name, getattr(owner, name)))

    def at(self, number: int) -> None:
        """The next crash is at the event of that number, from 1; 0 is none."""
        self.events, self._number = [], number

    def _wrapped(self, name: str, function):
        def call(*args, **kwargs):
            self._event(f"before {name}")
            result = function(*args, **kwargs)
            self._event(f"after {name}")
            return result

        return call

    def _event(self, name: str) -> None:
        self.events.append(name)
        if len(self.events) == self._number:
            raise Crash(name)


def _check_crashes(tmp_path, settings, crashes, numbers=None):
    settings = {**settings, "eval_period": 2, "mixture": RETRIEVAL, "steps": 4}
    training.train(model_dir=str(tmp_path / "undisturbed"), **settings)
    expected = _state(tmp_path / "undisturbed")
    assert crashes.events.count("after save") == 4, "both states were saved twice"
    for number in numbers or range(1, len(crashes.events) + 1):
        model_dir = str(tmp_path / str(number))
        crashes.at(number)
        with pytest.raises(Crash):
            training.train(model_dir=model_dir, **settings)
        where = crashes.events[-3:]
        crashes.at(0)
        training.train(model_dir=model_dir, **settings)
        assert _state(model_dir) == expected, where


@pytest.fixture
def crashes(monkeypatch, script_validations):
    return _Crashes(monkeypatch, script_validations)


def test_a_crash_after_the_last_state_or_the_best_is_made_good(tmp_path, settings, crashes):
    _check_crashes(tmp_path, settings, crashes, (10, 14))


@pytest.mark.slow
def test_a_crash_between_any_two_writes_is_made_good(tmp_path, settings, crashes):
    _check_crashes(tmp_path, settings, crashes)


def test_a_loss_that_is_not_finite_reaches_no_checkpoint(tmp_path, settings, monkeypatch):
    """Its parameters do not either, which can be damaged by a step whose loss is finite."""
    settings = {**settings, "mixture": RETRIEVAL, "eval_period": 2}
    model_dir = str(tmp_path)
    training.train(model_dir=model_dir, steps=2, **settings)
    kept = _state(tmp_path)
    diverging = {**settings, "optimizer": _diverging(settings["optimizer"])}
    with pytest.raises(UserError, match=r"step 4: .*LEARNING_RATE.* last saved state, of step 2"):
        training.train(model_dir=model_dir, steps=4, **diverging)
    assert _state(tmp_path) == kept
    training.train(model_dir=model_dir, steps=4, **settings)
    assert saved_run.load(model_dir, checkpoint=checkpoints.LAST).step == 4


def _diverging(usual: optax.GradientTransformation) -> optax.GradientTransformation:
    """With the state of the usual one, and infinite updates."""

    def update(gradient, state, params=None):
        updates, state = usual.update(gradient, state, params)
        return jax.tree.map(lambda x: x * math.inf, updates), state

    return optax.GradientTransformation(usual.init, update)


def test_sigterm_saves_the_state_of_the_step(tmp_path, settings, monkeypatch):
    settings = {**settings, "mixture": RETRIEVAL, "eval_period": 4, "steps": 8}
    training.train(model_dir=str(tmp_path / "undisturbed"), **settings)
    model_dir = str(tmp_path / "stopped")
    step = training.train_step
    for stop_at in (3, 5):

        def stopped(network, rule, state, *args, stop_at=stop_at, **settings):
            if int(state.step) + 1 == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(network, rule, state, *args, **settings)

        monkeypatch.setattr(training, "train_step", stopped)
        with pytest.raises(Terminated, match=f"step {stop_at}.*same command") as stop:
            training.train(model_dir=model_dir, **settings)
        assert stop.value.code == 128 + signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        saved = saved_run.load(model_dir, checkpoint=checkpoints.LAST)
        assert saved.step == stop_at
    monkeypatch.undo()
    training.train(model_dir=model_dir, **settings)
    assert _state(model_dir) == _state(tmp_path / "undisturbed")


def test_sigterm_stops_a_validation_which_a_resumed_run_makes_up_for(
    tmp_path, settings, monkeypatch
):
    settings = {**settings, "mixture": RETRIEVAL, "eval_period": 2, "steps": 4}
    training.train(model_dir=str(tmp_path / "undisturbed"), **settings)
    measure = training.Validation.measure

    def stopped(self, params, check):
        os.kill(os.getpid(), signal.SIGTERM)
        return measure(self, params, check)

    monkeypatch.setattr(training.Validation, "measure", stopped)
    model_dir = tmp_path / "stopped"
    with pytest.raises(Terminated, match="step 2"):
        training.train(model_dir=str(model_dir), **settings)
    assert not (model_dir / "best" / "best.json").exists()
    monkeypatch.undo()
    training.train(model_dir=str(model_dir), **settings)
    assert _state(model_dir) == _state(tmp_path / "undisturbed")


def test_a_second_training_in_a_folder_is_refused(tmp_path, settings, monkeypatch):
    settings = {**settings, "mixture": RETRIEVAL, "steps": 1, "model_dir": str(tmp_path)}
    refused = f"'{tmp_path}' is in use: got a training of process {os.getpid()} on .*another folder"
    with files.locked(tmp_path, "training"), pytest.raises(UserError, match=refused):
        training.train(**settings)
    training.train(**settings)


@pytest.mark.parametrize("value", [[math.nan, 0.5], [math.nan, math.nan], [0.5, math.nan]])
def test_an_undefined_metric_does_not_lose_the_best(tmp_path, settings, monkeypatch, value):
    """Rating's AUC is undefined where all users of the validation like their item."""
    values = iter(value)
    measured = {"auc": 0.0}

    def measure(self, params, check):
        measured["auc"] = next(values)
        return "auc", dict(measured)

    monkeypatch.setattr(training.Validation, "measure", measure)
    settings = {**settings, "mixture": "gift_cards_rating", "eval_period": 1, "steps": 2}
    folder = training.train(model_dir=str(tmp_path), **settings)
    best = json.loads((folder / "best.json").read_text(), parse_constant=pytest.fail)
    assert best["step"] == (2 if value == [math.nan, 0.5] else 1)
    assert saved_run.load(str(tmp_path)).step == best["step"]


def test_what_is_open_is_closed_when_an_error_passes(tmp_path, settings, monkeypatch):
    closed = []
    writer = training.metric_writers.create_default_writer

    def spied(*args, **kwargs):
        made = writer(*args, **kwargs)
        close = made.close
        made.close = lambda: (closed.append("writer"), close())
        return made

    close = checkpoints.Checkpoints.close
    monkeypatch.setattr(training.metric_writers, "create_default_writer", spied)
    monkeypatch.setattr(
        checkpoints.Checkpoints, "close", lambda self: (closed.append("checkpoints"), close(self))
    )

    def fail(*args, **settings):
        raise Crash

    monkeypatch.setattr(training, "train_step", fail)
    with pytest.raises(Crash):
        training.train(model_dir=str(tmp_path), mixture=RETRIEVAL, steps=1, **settings)
    assert sorted(closed) == ["checkpoints", "writer"]


def test_resuming_with_other_settings_is_reported(tmp_path, settings, monkeypatch, capsys):
    text = ["# Macros:\nLEARNING_RATE = 0.001\nBATCH_SIZE = 4\n"]
    monkeypatch.setattr(training.gin, "operative_config_str", lambda: text[0])
    settings = {**settings, "mixture": RETRIEVAL, "model_dir": str(tmp_path)}
    training.train(steps=1, **settings)
    text[0] = text[0].replace("0.001", "0.1")
    for steps in (2, 3):
        training.train(steps=steps, **settings)
        said = " ".join(capsys.readouterr().err.split())
        assert "LEARNING_RATE: started with 0.001, now 0.1" in said
        assert "BATCH_SIZE" not in said
    assert (tmp_path / "config.gin").read_text().count("0.001") == 1
    assert "0.1" in (tmp_path / "config-1.gin").read_text()


_TRAIN = """
import sys
from recllm_tasks.cli import main
sys.exit(main(sys.argv[1:]))
"""


def _command(data_dir, model_dir):
    return [
        *(sys.executable, "-c", _TRAIN, "train", "--data_dir", str(data_dir)),
        *("--gin_file=models/tiny.gin", "--gin_file=runs/finetune.gin"),
        f"--gin.MODEL_DIR={model_dir}",
        f"--gin.MIXTURE_OR_TASK_NAME={RETRIEVAL}",
        *("--gin.TRAIN_STEPS=60", "--gin.BATCH_SIZE=2", "--gin.EVAL_PERIOD=3"),
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 256, 'targets': 32}",
        *("--gin.decoding.Decoding.num_beams=4", "--gin.WARMUP_STEPS=2"),
        *("--gin.network.T5Config.emb_dim=32", "--gin.network.T5Config.mlp_dim=64"),
    ]


@pytest.mark.slow
def test_twenty_random_kills_end_as_an_undisturbed_run_does(small_data, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    process = _started(_command(small_data, whole), whole)
    began = time.monotonic()
    assert not process.wait()
    length = time.monotonic() - began
    generator, killed = random.Random(0), 0
    for _ in range(20):
        process = _started(_command(small_data, folder), folder)
        time.sleep(generator.uniform(0, 0.3) * length)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        killed += 1
    assert killed >= 5
    subprocess.run(_command(small_data, folder), check=True)
    assert _state(folder) == _state(whole)


def _started(command: list[str], folder: pathlib.Path) -> subprocess.Popen:
    """A process that is about to train: it has written its first event."""
    before = len(list(folder.glob("events*")))
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while len(list(folder.glob("events*"))) == before and process.poll() is None:
        time.sleep(0.02)
    return process
