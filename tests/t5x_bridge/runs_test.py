"""T5X's own programs on a very small model: they train, stop, resume, evaluate and infer."""

import json
import os
import pathlib
import random
import signal
import subprocess
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import seqio

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import cli, tasks
from recllm_tasks.engine import devices
from recllm_tasks.engine.evaluation import Evaluation
from recllm_tasks.models.network import T5Config, Transformer
from recllm_tasks.prompts.source import SequenceSource
from recllm_tasks.runs import per_user, results
from recllm_tasks.runs.decoding import Decoding

LENGTHS = {"inputs": 256, "targets": 16}
NETWORK = Transformer(
    T5Config(
        vocab_size=4096,
        emb_dim=32,
        mlp_dim=64,
        num_heads=2,
        head_dim=16,
        num_encoder_layers=1,
        num_decoder_layers=1,
        dropout_rate=0.0,
        logits_via_embedding=True,
    )
)
TRAIN = (
    "--gin_file=runs/t5x_finetune.gin",
    "--gin_file=mixtures/ut_at.gin",
    "--gin.DATASET=gift_cards",
    "--gin.EVAL_PERIOD=10",
    "--gin.EVAL_BATCH_SIZE=16",
    "--gin.WARMUP_STEPS=5",
    "--gin.LEARNING_RATE=0.02",
    "--gin.network.T5Config.remat=True",  # as XL has it
)

pytestmark = [pytest.mark.t5x, pytest.mark.usefixtures("t5x")]


def _done(process) -> str:
    """What a run that ended well has logged."""
    assert process.returncode == 0, process.stderr[-4000:]
    return process.stderr


def _train(start, data_dir, run, steps):
    _done(start("train", *_arguments(data_dir, run, steps)))
    return run


def _arguments(data_dir, run, steps):
    own = f"--data_dir={data_dir}", f"--gin.MODEL_DIR={run}", f"--gin.TRAIN_STEPS={steps}"
    return *TRAIN, *own


@pytest.fixture(scope="module")
def stopped(t5x, start, small_data_dir, tmp_path_factory):
    """A run that was stopped at step 20, and what it kept then; it resumes to 30."""
    run = tmp_path_factory.mktemp("t5x") / "run"
    _train(start, small_data_dir, run, 20)
    kept = {path.name for path in run.glob("checkpoint_*")}
    log = _done(start("train", *_arguments(small_data_dir, run, 30)))
    assert "other settings than before: TRAIN_STEPS: started with 20, now 30" in log
    return run, kept


@pytest.fixture(scope="module")
def eval_output_dir(start, small_data_dir, stopped, tmp_path_factory):
    """EVAL_OUTPUT_DIR of T5X's evaluation of the three tasks on the state at step 30."""
    out = tmp_path_factory.mktemp("t5x") / "out"
    _done(
        start(
            "eval",
            "--gin_file=runs/t5x_eval.gin",
            "--gin_file=mixtures/ut.gin",
            "--gin.DATASET=gift_cards",
            f"--data_dir={small_data_dir}",
            f"--gin.CHECKPOINT_PATH={stopped[0]}/checkpoint_30",
            f"--gin.EVAL_OUTPUT_DIR={out}",
        )
    )
    return out


@pytest.fixture(scope="module")
def evaluated(eval_output_dir):
    """Metrics by task, as T5X writes them."""
    return {
        path.name.removesuffix("-metrics.jsonl"): json.loads(path.read_text())
        for path in (eval_output_dir / "inference_eval").glob("*-metrics.jsonl")
    }


def _infer(start, data_dir, stopped, out, *settings, environment=None):
    """(recommendations, log) of the best state."""
    log = _done(
        start(
            "infer",
            "--gin_file=runs/t5x_infer.gin",
            "--gin.MIXTURE_OR_TASK_NAME=gift_cards_retrieval",
            f"--data_dir={data_dir}",
            f"--gin.MODEL_DIR={stopped[0]}",
            f"--gin.INFER_OUTPUT_DIR={out}",
            *settings,
            environment=environment,
        )
    )
    (path,) = out.glob("*-00000-of-00001")
    return [json.loads(line) for line in path.read_text().splitlines()], log


@pytest.fixture(scope="module")
def inferred(start, small_data_dir, stopped, tmp_path_factory):
    """Recommendations of the best state, on one device."""
    return _infer(start, small_data_dir, stopped, tmp_path_factory.mktemp("t5x"))[0]


def _params(checkpoint):
    with ocp.PyTreeCheckpointer() as reader:
        state = reader.restore(checkpoint / "state")
    assert int(state["state"]["step"]) == int(checkpoint.name.removeprefix("checkpoint_"))
    return jax.tree.map(np.asarray, state["target"])


def test_a_stopped_run_resumes_as_if_it_had_not_stopped(start, small_data_dir, stopped, tmp_path):
    run, kept = stopped
    assert "checkpoint_20" in kept
    whole = _train(start, small_data_dir, tmp_path / "whole", 30)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        _params(run / "checkpoint_30"),
        _params(whole / "checkpoint_30"),
    )


def test_a_loss_that_is_not_finite_reaches_no_checkpoint(start, small_data_dir, tmp_path):
    run = tmp_path / "run"
    process = start("train", *_arguments(small_data_dir, run, 20), "--gin.LEARNING_RATE=1e30")
    assert process.returncode == 2, process.stderr[-2000:]
    assert "lower LEARNING_RATE" in process.stderr.splitlines()[-1]
    assert [path.name for path in run.glob("checkpoint_*")] == ["checkpoint_0"]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(_params(run / "checkpoint_0")))


def test_sigterm_saves_the_state_and_two_trainings_do_not_share_a_folder(
    t5x_command, start, small_data_dir, tmp_path
):
    arguments = *_arguments(small_data_dir, tmp_path / "run", 2000), "--gin.STATS_PERIOD=2"
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(t5x_command("train", *arguments), stderr=log)
    _wait_for(tmp_path / "run" / "checkpoint_10", process)
    second = start("train", *arguments)
    assert second.returncode == 2, second.stderr[-2000:]
    assert f"in use: got a training of process {process.pid}" in second.stderr.splitlines()[-1]
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM, (tmp_path / "log").read_text()[-2000:]
    (last,) = sorted(int(p.name[11:]) for p in (tmp_path / "run").glob("checkpoint_*"))[-1:]
    assert last > 10
    _params(tmp_path / "run" / f"checkpoint_{last}")


def _wait_for(path, process) -> None:
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.1)


@pytest.mark.slow
def test_twenty_random_kills_end_as_an_undisturbed_run_does(t5x_command, small_data, tmp_path):
    def started(run) -> subprocess.Popen:
        """A process that is about to train: it has written its first event."""
        before = len(list(run.rglob("events*")))
        command = t5x_command("train", *_arguments(small_data, run, 60))
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while len(list(run.rglob("events*"))) == before and process.poll() is None:
            time.sleep(0.02)
        return process

    whole, killed = tmp_path / "whole", 0
    process = started(whole)
    began = time.monotonic()
    assert not process.wait()
    seconds = time.monotonic() - began
    generator = random.Random(0)
    for _ in range(20):
        process = started(tmp_path / "killed")
        time.sleep(generator.uniform(0, 0.25) * seconds)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        killed += 1
    assert killed >= 5
    assert not started(tmp_path / "killed").wait()
    runs = whole, tmp_path / "killed"
    from recllm_tasks.t5x_bridge import finetuning

    best = [
        pathlib.Path(finetuning.checkpoint_to_use(str(run), "gift_cards_ut_at")).name
        for run in runs
    ]
    assert best[0] == best[1]
    for name in (best[0], "checkpoint_60"):
        pair = (_params(run / name) for run in runs)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *pair)


def test_validation_is_on_retrieval_and_the_best_is_kept(stopped):
    run, _ = stopped
    (path,) = (run / "inference_eval").glob("*-metrics.jsonl")
    assert path.name == "gift_cards_retrieval-metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30]
    best = max(lines[:2], key=lambda line: line["ndcg@10"])["step"]
    # Training resumes from the last one; the one before training has no metrics.
    assert {p.name for p in run.glob("checkpoint_*")} == {
        "checkpoint_0",
        f"checkpoint_{best}",
        "checkpoint_30",
    }


def test_t5x_measures_what_our_engine_measures(stopped, evaluated, small_data):
    del small_data
    assert set(evaluated) == {f"gift_cards_{k}" for k in ("retrieval", "ranking", "rating")}
    found = seqio.get_subtasks(seqio.get_mixture_or_task("gift_cards_ut"))
    evaluation = Evaluation(found, "test", NETWORK, devices.make_mesh(), LENGTHS, Decoding())
    measured = evaluation.run(_params(stopped[0] / "checkpoint_30"))
    for task, metrics in measured.items():
        assert {"step": 30, **metrics} == pytest.approx(evaluated[task], abs=1e-5, nan_ok=True)
    # Who has had nearly everything has fewer items left than there are beams.
    assert 0 < measured["gift_cards_retrieval"]["invalid"] < 0.2


def test_t5x_writes_our_results_and_per_user_results(eval_output_dir, evaluated, tmp_path):
    found = results.read(eval_output_dir / "results.json")
    assert results.find(eval_output_dir) == [
        eval_output_dir / "results" / "test-beam20-new_items.json"
    ]
    assert (found.mixture, found.model, found.seed) == ("gift_cards_ut_at", "tiny", 0)
    assert (found.step, found.initial_step) == (30, 0)
    assert found.decoding == Decoding(batch_size=32, seen="leave_out")
    assert set(found.per_user) == set(found.metrics) == set(evaluated)
    for task, metrics in evaluated.items():
        path = eval_output_dir / found.per_user[task]
        assert {"step": 30, **per_user.metrics(path)} == metrics
        assert {"step": 30, **found.metrics[task]} == metrics
        assert found.num_examples[task] == sum(map(len, per_user.read(path))) > 0
    assert list(eval_output_dir.rglob("*.tmp")) == []
    page = tmp_path / "report.html"
    assert cli.main(["report", str(eval_output_dir), "--out", str(page)]) == 0
    assert "UT+AT (tiny, 30 steps)" in page.read_text()


def test_other_processes_than_the_first_write_nothing(small_data, tmp_path):
    del small_data
    from recllm_tasks.t5x_bridge.results import ResultsEvaluator

    evaluator = ResultsEvaluator(
        "gift_cards_retrieval",
        seqio.EncDecFeatureConverter(pack=False),
        eval_split="test",
        sequence_length=LENGTHS,
        num_examples=5,
        output_dir=str(tmp_path),
        model="tiny",
        checkpoint="/no/such/checkpoint_7",
        initial_checkpoint=None,
        decoding=Decoding(),
    )

    def predict(dataset):
        return [(place, np.ones((20, 4), np.int32)) for place, _ in dataset.as_numpy_iterator()]

    evaluator.evaluate(compute_metrics=False, step=7, predict_fn=predict)
    assert list(tmp_path.iterdir()) == []
    evaluator.evaluate(compute_metrics=True, step=7, predict_fn=predict)
    found = results.read(tmp_path / "results.json")
    assert (found.mixture, found.num_examples) == (
        "gift_cards_retrieval",
        {"gift_cards_retrieval": 5},
    )


def test_inference_writes_a_line_a_user(inferred, small_data):
    del small_data
    task = seqio.get_mixture_or_task("gift_cards_retrieval")
    assert len({line["user"] for line in inferred}) == len(inferred)
    assert len(inferred) == task.num_input_examples("test")
    for line in inferred:
        assert set(line) == {"user", "ranked", "target"}
        # Of 36 items, some users have had more than 16.
        assert 36 - 27 <= len(line["ranked"]) <= 20
        scores = [answer["log_prob"] for answer in line["ranked"]]
        assert scores == sorted(scores, reverse=True)
        assert all(answer["title"].startswith("Gift card of store") for answer in line["ranked"])


def test_inference_recommends_to_every_user_as_of_the_last_event(
    start, small_data_dir, small_data, stopped, tmp_path
):
    """The engine's answers for the split `latest`, whose examples have no target."""
    lines, _ = _infer(start, small_data_dir, stopped, tmp_path / "out", "--gin.SPLIT=latest")
    assert len(lines) == 60
    assert all({*line} == {"user", "ranked"} for line in lines)
    task = tasks.get("gift_cards_retrieval")
    examples = task.get_dataset(LENGTHS, split="latest", shuffle=False).as_numpy_iterator()
    catalog = SequenceSource("gift_cards").catalog()
    seen = {e["user"].decode(): [catalog.item[row] for row in e["exclude"]] for e in examples}
    for line in lines:
        found = {item["item"] for item in line["ranked"]}
        assert len(found) == min(20, len(catalog) - len(seen[line["user"]]))
        assert not found & {*seen[line["user"]]}


def test_evaluation_refuses_examples_without_a_target(start, small_data_dir, stopped, tmp_path):
    process = start(
        "eval",
        "--gin_file=runs/t5x_eval.gin",
        "--gin.MIXTURE_OR_TASK_NAME=gift_cards_retrieval",
        f"--data_dir={small_data_dir}",
        f"--gin.CHECKPOINT_PATH={stopped[0]}/checkpoint_30",
        f"--gin.EVAL_OUTPUT_DIR={tmp_path}",
        "--gin.SPLIT=latest",
    )
    assert process.returncode == 2, process.stderr[-2000:]
    assert "SPLIT: got 'latest', whose examples have no target" in process.stderr


def test_eight_devices_give_the_scores_of_one(start, small_data_dir, stopped, inferred, tmp_path):
    spread, log = _infer(
        start,
        small_data_dir,
        stopped,
        tmp_path,
        "--gin.MODEL_PARALLEL=2",
        "--verbosity=0",
        environment={
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
        },
    )
    assert "global_mesh devices shape: (4, 2)" in log
    for one, eight in zip(inferred, spread, strict=True):
        assert one["user"] == eight["user"]
        scores, others = (
            [answer["log_prob"] for answer in line["ranked"]] for line in (one, eight)
        )
        assert others == pytest.approx(scores, abs=1e-5)


def test_wrong_settings_are_reported_in_one_line(start, small_data_dir, tmp_path):
    for arguments, message in (
        (("--gin.MODEL_DIR=/no/such",), "No checkpoint in '/no/such'"),
        (("--gin.CHECKPOINT_PATH=/x/latest",), "expected a folder named checkpoint_<step>"),
        (("--gin.NO_SUCH.thing=1",), "NO_SUCH"),
        (("--gin.NUMBEAMS=5",), "perhaps NUM_BEAMS"),
    ):
        done = start(
            "infer",
            "--gin_file=runs/t5x_infer.gin",
            "--gin.MIXTURE_OR_TASK_NAME=gift_cards_retrieval",
            f"--data_dir={small_data_dir}",
            f"--gin.INFER_OUTPUT_DIR={tmp_path / 'out'}",
            *arguments,
        )
        assert done.returncode == 2, done.stderr[-3000:]
        assert message in done.stderr.splitlines()[-1]
