"""Training: it resumes exactly, keeps the best, refuses misfits, is the same on 8 devices."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import tasks
from recllm_tasks.engine import checkpoints, optimizer, saved_run, training
from recllm_tasks.errors import UserError
from recllm_tasks.models.network import T5Config, Transformer
from recllm_tasks.pipeline import training as pipeline
from recllm_tasks.report import curves

MIXTURE = "gift_cards_ut_at"
LENGTHS = {"inputs": 512, "targets": 64}

pytestmark = pytest.mark.usefixtures("small_data", "clean_gin")


def test_warm_up_grows_to_a_constant():
    schedule = optimizer.constant_with_warmup(0.001, 1000)
    steps = np.array([0, 499, 999, 1000, 70_000])
    expected = [1e-6, 5e-4, 1e-3, 1e-3, 1e-3]
    assert np.asarray(jax.vmap(schedule)(steps)) == pytest.approx(expected, rel=1e-5)


def test_the_short_schedule_moves_at_once_and_ends_at_a_fiftieth():
    schedule = optimizer.warmup_then_decay(0.02, 50, 14_000)
    steps = np.array([0, 24, 49, 50, 7025, 14_000])
    expected = [0.02 / 50, 0.01, 0.02, 0.02, 0.02 * (1 + 1 / 50) / 2, 0.02 / 50]
    assert np.asarray(jax.vmap(schedule)(steps)) == pytest.approx(expected, rel=1e-5)
    assert float(optimizer.warmup_then_decay(0.02, 0, 10)(0)) == pytest.approx(0.02)


@pytest.mark.parametrize(("warmup", "total"), [(10, 10), (11, 10), (1, 1)])
def test_a_warm_up_as_long_as_the_training_is_refused(warmup, total):
    with pytest.raises(UserError, match=f"WARMUP_STEPS: got {warmup}, .* TRAIN_STEPS, {total}"):
        optimizer.warmup_then_decay(0.02, warmup, total)
    optimizer.constant_with_warmup(0.02, warmup)


def _last_params(model_dir, network):
    found = saved_run.load(model_dir, checkpoint=checkpoints.LAST)
    return found.step, jax.tree.map(np.asarray, found.params)


def test_a_stopped_run_resumes_as_if_it_had_not_stopped(tmp_path, settings, network, stand_in):
    training.train(mixture=MIXTURE, model_dir=str(tmp_path / "whole"), steps=6, **settings)
    assert not stand_in.runs
    settings["log_to"] = ["mlflow"]
    for steps in (3, 6):
        training.train(mixture=MIXTURE, model_dir=str(tmp_path / "parts"), steps=steps, **settings)
    (run,) = stand_in.runs.values()
    logged = curves.load(tmp_path / "parts")
    assert {step for step, _ in logged["loss"]} == {3, 6}
    assert set(run.scalars) == {name.replace("@", "_at_") for name in logged}
    with pytest.raises(UserError, match="LOG_TO: got"):
        training.train(
            mixture=MIXTURE, model_dir=str(tmp_path), steps=1, **{**settings, "log_to": ["x"]}
        )
    (step_1, whole), (step_2, parts) = (
        _last_params(str(tmp_path / name), network) for name in ("whole", "parts")
    )
    assert step_1 == step_2 == 6
    jax.tree.map(np.testing.assert_array_equal, whole, parts)


def test_it_learns_and_keeps_the_best(tmp_path, settings):
    settings = {**settings, "eval_period": 20}
    training.train(mixture="gift_cards_retrieval", model_dir=str(tmp_path), steps=60, **settings)
    best = json.loads((tmp_path / "best" / "best.json").read_text())
    assert best["metric"] == "ndcg@10"
    assert (tmp_path / "best" / str(best["step"])).is_dir()
    assert saved_run.load(str(tmp_path)).step == best["step"]
    assert list(tmp_path.glob("events.out.tfevents*")), "TensorBoard scalars"
    assert (tmp_path / "config.gin").is_file()
    assert (tmp_path / "vocabulary.model").is_file()


@pytest.mark.parametrize(
    ("mixture", "task", "metric"),
    [
        ("ut_at", "retrieval", "ndcg@10"),
        ("raat", "ranking", "ndcg@10"),
        ("rpat", "rating", "auc"),
        ("p5", "p5_retrieval", "ndcg@10"),
        ("p5_rating", "p5_rating", "auc"),
        ("ids_ut_at", "ids_retrieval", "ndcg@10"),
        ("ids_raat", "ids_ranking", "ndcg@10"),
        ("ids_rpat", "ids_rating", "auc"),
    ],
)
def test_validation_is_on_retrieval_where_there_is_any(mixture, task, metric):
    found = tasks.get(f"gift_cards_{mixture}")
    assert training.choose_validation(found) == (f"gift_cards_{task}", metric)


def test_adamw_decays_matrices_and_not_the_scales_of_norms():
    rule = optimizer.adamw(lambda step: 0.1, weight_decay=0.5)
    params = {"kernel": np.full((2, 2), 4.0), "scale": np.full(2, 4.0)}
    gradient = jax.tree.map(np.zeros_like, params)
    updates, _ = rule.update(gradient, rule.init(params), params)
    assert np.asarray(updates["kernel"]) == pytest.approx(np.full((2, 2), -0.2))
    assert not np.any(updates["scale"])
    for name, value in {"weight_decay": -1, "beta_1": 1, "beta_2": "x"}.items():
        with pytest.raises(UserError, match=f"optimizer.adamw.{name}: got {value!r}, expected"):
            optimizer.adamw(lambda step: 0.1, **{name: value})
    with pytest.raises(UserError, match=r"optimizer.adamw.schedule: got 0\.1, expected a schedule"):
        optimizer.adamw(0.1)


def _scripted(monkeypatch, script_validations, values):
    """Validations give these values of ndcg@10, by step; returns the steps that were validated."""
    asked = []
    script_validations(monkeypatch, lambda step: asked.append(step) or values[step])
    return asked


def test_training_ends_after_as_many_worse_validations_as_its_patience(
    tmp_path, settings, network, monkeypatch, script_validations
):
    values = {2: 0.1, 4: 0.3, 6: 0.2, 8: 0.3, 10: 0.9, 12: 0.9}
    asked = _scripted(monkeypatch, script_validations, values)
    settings = {**settings, "mixture": MIXTURE, "eval_period": 2, "steps": 12}
    ended = {**settings, "model_dir": str(tmp_path / "ended"), "patience": 2}
    training.train(**ended)
    assert asked == [2, 4, 6, 8]
    assert _last_params(ended["model_dir"], network)[0] == 8
    assert saved_run.load(ended["model_dir"]).step == 4
    training.train(**ended)
    assert asked == [2, 4, 6, 8], "the same command does not go on"

    parts = {**settings, "model_dir": str(tmp_path / "parts")}
    for patience, steps in ((None, 6), (2, 12)):
        training.train(**{**parts, "patience": patience, "steps": steps})
    assert asked[4:] == [2, 4, 6, 8], "patience counts the validations before a resumption too"
    training.train(**{**ended, "patience": 3})
    assert asked[8:] == [10, 12], "with more patience it goes on"
    with pytest.raises(UserError, match=r"PATIENCE .*: got 0, expected"):
        training.train(**{**ended, "patience": 0})


def test_patience_needs_something_to_validate(tmp_path, settings):
    with pytest.raises(UserError, match="PATIENCE: got 1, expected None, because no task of"):
        training.train(
            mixture="gift_cards_mim", model_dir=str(tmp_path), steps=1, patience=1, **settings
        )


def test_another_run_in_the_same_folder_is_refused(tmp_path, settings):
    training.train(mixture=MIXTURE, model_dir=str(tmp_path), steps=1, **settings)
    with pytest.raises(UserError, match=r"holds another run: got seed 2, expected 1"):
        training.train(mixture=MIXTURE, model_dir=str(tmp_path), steps=1, **{**settings, "seed": 2})


def test_a_checkpoint_that_does_not_fit_names_the_array(tmp_path, settings, network):
    training.train(mixture=MIXTURE, model_dir=str(tmp_path), steps=1, **settings)
    wider = Transformer(T5Config(**{**network.config.__dict__, "mlp_dim": 128}))
    with pytest.raises(UserError, match=r"does not fit the model: got .*mlp.* \(32, 64\)"):
        saved_run.load(str(tmp_path), network=wider)


def test_a_vocabulary_larger_than_the_model_is_refused(tmp_path, settings, network):
    small = Transformer(T5Config(**{**network.config.__dict__, "vocab_size": 64}))
    with pytest.raises(UserError, match=r"too large for the model: got .* expected at most 64"):
        training.train(
            mixture=MIXTURE, model_dir=str(tmp_path), steps=1, **{**settings, "network": small}
        )


def test_a_folder_without_a_run_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"No run in .* train one"):
        saved_run.load(str(tmp_path))


def test_batches_are_packed_and_the_same_for_the_same_seed():
    first, again = (pipeline.training_batches(MIXTURE, LENGTHS, 4, seed=3) for _ in range(2))
    later = pipeline.training_batches(MIXTURE, LENGTHS, 4, seed=3, start_step=2)
    taken = [next(first) for _ in range(3)]
    for one in taken:
        other = next(again)
        assert set(one) == set(other)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    np.testing.assert_array_equal(
        next(later)["encoder_input_tokens"], taken[2]["encoder_input_tokens"]
    )
    assert taken[0]["encoder_segment_ids"].max() > 1
    assert pipeline.num_examples(taken[0]) > 4


_ON_DEVICES = """
import dataclasses, sys, jax, numpy as np, seqio
import recllm_tasks.mixtures
from recllm_tasks.engine import devices, initial_state, optimizer
from recllm_tasks.pipeline import training as pipeline
from recllm_tasks.engine.train_step import train_step
from recllm_tasks.models.network import T5Config, Transformer
seqio.set_tfds_data_dir_override(sys.argv[1])
config = T5Config(vocab_size=4096, emb_dim=32, num_heads=2, num_encoder_layers=1,
                  num_decoder_layers=1, head_dim=16, mlp_dim=64, dropout_rate=0.1)
rule = optimizer.adafactor(optimizer.constant_with_warmup(0.01, 10))
every = jax.local_devices()
for num_devices, model_parallel in ((1, 1), (8, 1), (8, 2)):
    jax.local_devices = lambda: every[:num_devices]
    network = Transformer(dataclasses.replace(config, loop_attention=num_devices == 1))
    mesh = devices.make_mesh(model_parallel)
    state = initial_state.random_state(network, rule, mesh, 0)
    stream = pipeline.training_batches("gift_cards_ut_at", {"inputs": 512, "targets": 64}, 8, 0)
    for _ in range(3):
        batch = devices.put(next(stream), devices.split_batch(mesh))
        state, measures = train_step(network, rule, state, batch, jax.random.key(0))
    kernel = state.params["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"]
    shape = kernel.sharding.shard_shape(kernel.shape)
    print("RESULT", len(kernel.sharding.device_set), shape, float(measures.loss))
"""


def test_eight_devices_train_as_one_does(small_data):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", _ON_DEVICES, str(small_data)],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    results = [line.split() for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert [row[1:4] for row in results] == [
        ["1", "(32,", "64)"],
        ["8", "(32,", "64)"],
        ["8", "(32,", "32)"],
    ], done.stderr[-2000:]
    losses = [float(row[-1]) for row in results]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
