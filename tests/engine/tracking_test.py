"""Scalars for Weights & Biases and MLflow are TensorBoard's; nothing happens unless asked."""

import sys

import numpy as np
import pytest

from recllm_tasks import files
from recllm_tasks.engine import tracking
from recllm_tasks.errors import UserError
from recllm_tasks.report import curves

BOTH = ("wandb", "mlflow")
SETTINGS = "EPOCHS = 3\n\ntraining.train.mixture = \\\n    'shop_ut'\n"


def write(model_dir, steps, log_to=BOTH):
    writer = tracking.writer(str(model_dir), log_to, SETTINGS)
    for step in steps:
        writer.write_scalars(step, {"loss": np.float32(1 / step), "validation/x/ndcg@10": 0.1})
    writer.close()


def test_a_resumed_run_goes_on_in_the_same_place(tmp_path, tracked):
    run = tmp_path / "run"
    write(run, [20, 40, 60])
    first = {name: found.id for name, found in tracked(run).items()}
    # It was stopped after it had saved step 40.
    write(run, [60, 80])
    found = tracked(run)
    assert {name: of.id for name, of in found.items()} == first
    expected = {name: dict(values) for name, values in curves.load(run).items()}
    assert set(expected) == {"loss", "validation/x/ndcg@10"}
    for name, of in found.items():
        spelled = {key.replace("@", "_at_") if name == "mlflow" else key: key for key in expected}
        assert set(of.scalars) == set(spelled)
        for key, values in of.scalars.items():
            assert [step for step, _ in values] == [20, 40, 60, 60, 80]
            assert {step: float(np.float32(value)) for step, value in values} == expected[
                spelled[key]
            ]
        assert of.config == {"EPOCHS": "3", "training.train.mixture": "'shop_ut'"}


def test_nothing_is_imported_unless_asked(tmp_path, monkeypatch):
    for name in BOTH:
        monkeypatch.setitem(sys.modules, name, None)
    write(tmp_path, [20], log_to=())
    assert list(curves.load(tmp_path)["loss"]) == [(20, pytest.approx(0.05))]
    assert not (tmp_path / "tracking.json").exists()
    tracking.check(())
    for name in BOTH:
        with pytest.raises(UserError, match=f"got '{name}', whose package .*pip install {name}"):
            tracking.check([name])


@pytest.mark.parametrize("log_to", ["wandb", ["tensorboard"], ["wandb", "comet"]])
def test_unknown_names_are_refused(log_to, stand_in):
    with pytest.raises(UserError, match=r"LOG_TO: got .*, expected names of wandb and mlflow in a"):
        tracking.check(log_to)


def test_a_server_that_fails_does_not_end_training(tmp_path, stand_in, capsys):
    writer = tracking.writer(str(tmp_path), ["mlflow"], SETTINGS)
    writer.write_scalars(20, {"loss": 0.5})
    writer.flush()
    stand_in.fails = True
    for step in (40, 60):
        writer.write_scalars(step, {"loss": 0.25})
    writer.close()
    assert capsys.readouterr().err.splitlines() == [
        "MLflow gets nothing from step 40 on: connection refused; TensorBoard has all"
    ]
    assert [step for step, _ in curves.load(tmp_path)["loss"]] == [20, 40, 60]
    (run,) = stand_in.runs.values()
    assert run.scalars == {"loss": [(20, 0.5)]}


def test_what_the_packages_refuse_is_reported(tmp_path, stand_in, monkeypatch):
    def refuse(**_):
        raise sys.modules["wandb"].errors.Error("no API key\nmore")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with pytest.raises(UserError, match=r"'wandb' .*got no API key, expected .*`wandb login`, set"):
        tracking.writer(str(tmp_path), ["wandb"])
    files.write_json(tmp_path / "tracking.json", {"mlflow": "m9"})
    with pytest.raises(UserError, match=r"'mlflow' .*Run 'm9' not found, .*MLFLOW_TRACKING_URI"):
        tracking.writer(str(tmp_path), ["mlflow"])


def test_a_run_that_fails_is_marked_so(tmp_path, stand_in):
    write(tmp_path, [20])
    assert stand_in.asked[-2:] == [0, "FINISHED"]
    writer = tracking.writer(str(tmp_path), BOTH)
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        writer.close()
    assert stand_in.asked[-2:] == [1, "FAILED"]


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking.jax, "process_index", lambda: 1)
    write(tmp_path, [20], log_to=["not reached"])
    assert not list(tmp_path.iterdir())
