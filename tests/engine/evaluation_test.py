"""A killed evaluation resumes, with the same results."""

import dataclasses
import json
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import tasks
from recllm_tasks.engine import decoding, devices, evaluation, prior_choice
from recllm_tasks.errors import UserError
from recllm_tasks.report import methods, runs
from recllm_tasks.runs import per_user
from recllm_tasks.runs.decoding import Decoding

pytestmark = pytest.mark.usefixtures("small_data", "clean_gin")

SETTINGS = Decoding(num_beams=4, batch_size=4, seen="keep")
# 60 test users in chunks of 16.
BATCHES, CHUNKS = 4, 4

# Dies in the third chunk of the second task, when its beams are found but not yet kept.
_KILLED = f"""
import os, signal, sys
import seqio
import recllm_tasks.mixtures
from recllm_tasks.engine import decoding, evaluation, prior_choice
from recllm_tasks.errors import UserError
from recllm_tasks.runs.decoding import Decoding
seqio.set_tfds_data_dir_override(sys.argv[2])
evaluation.BATCHES_IN_CHUNK = {BATCHES}
decoding.BUCKETS = tuple(map(int, sys.argv[3].split(",")))
decode, calls = decoding.TaskDecoder.decode, []
def dying(*args):
    beams = decode(*args)
    calls.append(1)
    if len(calls) == {CHUNKS} + 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return beams
decoding.TaskDecoder.decode = dying
settings = Decoding(num_beams=4, batch_size=4, seen="keep")
evaluation.evaluate(model_dir=sys.argv[1], decoding=settings)
"""


@pytest.fixture
def model_dir(run_dir, tmp_path):
    return str(shutil.copytree(run_dir, tmp_path / "run"))


@pytest.fixture
def decoded(monkeypatch):
    """Sizes of the chunks that are decoded from now on."""
    monkeypatch.setattr(evaluation, "BATCHES_IN_CHUNK", BATCHES)
    decode, sizes = decoding.TaskDecoder.decode, []

    def counting(self, params, examples, done=None):
        sizes.append(len(examples))
        return decode(self, params, examples, done)

    monkeypatch.setattr(decoding.TaskDecoder, "decode", counting)
    return sizes


def _evaluate(model_dir, **settings):
    """(results without times, bytes of every array of every chunk by file name)."""
    kept = {}

    def record(results):
        results.save(model_dir)
        for path in pathlib.Path(model_dir).glob("eval/*/*.npz"):
            with np.load(path, allow_pickle=False) as stored:
                kept[path.name] = {n: stored[n].tobytes() for n in stored.files if n != "seconds"}
        return results

    settings = {"decoding": SETTINGS, **settings}
    found = evaluation.evaluate(model_dir=model_dir, **settings, record=record)
    results = found.as_json()
    assert set(results["decode_seconds"]) == set(results["metrics"])
    assert set(results["per_user"]) == set(results["metrics"])
    for task, measured in results["metrics"].items():
        path = per_user.path_of(model_dir, found.name, task)
        assert str(path) == str(pathlib.Path(model_dir) / results["per_user"][task])
        assert per_user.metrics(path) == measured
        assert per_user.facts(path)["fingerprint"] == results["fingerprint"]
        assert results["examples_per_second"][task] > 0
    assert (results["ties"], results["ids"]) == ("published", "random")
    assert results["split_fingerprint"] == results["fingerprint"], "of random ids"
    assert results["peak_memory_bytes"] > results["parameters"] > 4096 * 32
    times = ("seconds", "decode_seconds", "examples_per_second", "peak_memory_bytes")
    return {name: value for name, value in results.items() if name not in times}, kept


def test_a_killed_evaluation_resumes(model_dir, decoded, small_data):
    whole, whole_chunks = _evaluate(model_dir)
    assert len(decoded) == len(whole_chunks) == 3 * CHUNKS
    assert decoded == [16, 16, 16, 12] * 3
    assert not (pathlib.Path(model_dir) / "eval").exists()

    buckets = ",".join(map(str, decoding.BUCKETS))
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, model_dir, str(small_data), buckets],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    left = sorted(path.name for path in pathlib.Path(model_dir).glob("eval/*/*"))
    assert len(left) == CHUNKS + 2
    (folder,) = (pathlib.Path(model_dir) / "eval").iterdir()
    (folder / left[0]).write_bytes(b"torn")

    decoded.clear()
    resumed, resumed_chunks = _evaluate(model_dir)
    assert decoded == [16, 16, 12, 16, 16, 16, 12], "the torn one and what was not done"
    assert json.dumps(resumed) == json.dumps(whole)
    assert resumed_chunks == whole_chunks
    assert not (pathlib.Path(model_dir) / "eval").exists()


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(
            {"decoding": dataclasses.replace(SETTINGS, num_beams=5)}, marks=pytest.mark.slow
        ),
        pytest.param(
            {"decoding": dataclasses.replace(SETTINGS, constrained=False)}, marks=pytest.mark.slow
        ),
        {"num_examples": 20},
        {"split": "validation"},
    ],
)
def test_other_settings_take_nothing(model_dir, decoded, other):
    mixture = {"mixture": "gift_cards_retrieval"}

    def stop(results):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        evaluation.evaluate(model_dir=model_dir, decoding=SETTINGS, **mixture, record=stop)
    assert len(list(pathlib.Path(model_dir).glob("eval/*/*"))) == CHUNKS
    decoded.clear()
    _evaluate(model_dir, **mixture, **other)
    assert sum(decoded) == (20 if "num_examples" in other else 60)
    assert len(list(pathlib.Path(model_dir).glob("eval/*/*"))) == CHUNKS, "the others stay"
    decoded.clear()
    _evaluate(model_dir, **mixture)
    assert decoded == []


def test_validation_in_training_keeps_nothing(run_dir):
    assert not (pathlib.Path(run_dir) / "eval").exists()


def test_another_decoding_keeps_the_results_of_the_first(model_dir):
    few = {"mixture": "gift_cards_retrieval", "num_examples": 8}
    first, _ = _evaluate(model_dir, **few)
    unconstrained = dataclasses.replace(SETTINGS, constrained=False)
    second, _ = _evaluate(model_dir, **few, decoding=unconstrained)
    folder = pathlib.Path(model_dir)
    for stored, name in ((first, "test-beam4"), (second, "test-beam4-unconstrained")):
        found = json.loads((folder / "results" / f"{name}.json").read_text())
        assert found["metrics"] == stored["metrics"]
        assert (folder / "per_user" / name / "gift_cards_retrieval.parquet").is_file()
    labels = [methods.label(run, "retrieval") for run in runs.load([folder])]
    assert labels == [
        "UT (very_small, 4 steps, 4 beams)",
        "UT (very_small, 4 steps, 4 beams, free text)",
    ]


@pytest.fixture
def two_weights(monkeypatch):
    monkeypatch.setattr(prior_choice, "GRID", (0.5, 3.0))
    return (0.5, 3.0)


CHOSEN = dataclasses.replace(SETTINGS, prior_weight="validation")


def _retrieval(model_dir, settings, split="test"):
    task = "gift_cards_retrieval"
    return evaluation.evaluate(model_dir=model_dir, mixture=task, split=split, decoding=settings)


def test_the_priors_weight_is_the_best_on_validation_and_is_remembered(
    model_dir, decoded, two_weights
):
    measured = {
        str(weight): _retrieval(
            model_dir, dataclasses.replace(SETTINGS, prior_weight=weight), "validation"
        ).metrics["gift_cards_retrieval"]["ndcg@10"]
        for weight in two_weights
    }
    best = float(max(measured, key=measured.get))
    decoded.clear()
    results = _retrieval(model_dir, CHOSEN)
    assert len(decoded) == 3 * CHUNKS, "two weights on validation, one on test"
    assert results.decoding.prior_weight == best
    assert results.name == f"test-beam4-prior{best:g}"
    assert results.settings["prior"]["validation_ndcg@10"] == measured
    given = _retrieval(model_dir, dataclasses.replace(SETTINGS, prior_weight=best))
    assert given.metrics == results.metrics

    decoded.clear()
    assert _retrieval(model_dir, CHOSEN).metrics == results.metrics
    assert len(decoded) == CHUNKS, "test alone"

    # Another width is another decoding, and both are kept.
    saved = evaluation.saved_run.load(model_dir)
    wider = prior_choice.begin(
        saved, "gift_cards_retrieval", dataclasses.replace(CHOSEN, num_beams=9)
    )
    assert prior_choice.choose(model_dir, wider, lambda weight: -weight).weight == 0.5
    remembered = prior_choice.remembered(model_dir, saved, "gift_cards_retrieval", CHOSEN)
    assert remembered.prior_weight == best
    other = dataclasses.replace(saved, params=jax.tree.map(lambda leaf: leaf + 1, saved.params))
    with pytest.raises(UserError, match="got none chosen for step 4"):
        prior_choice.remembered(model_dir, other, "gift_cards_retrieval", CHOSEN)
    begun = prior_choice.begin(other, "gift_cards_retrieval", CHOSEN)
    choice = prior_choice.choose(model_dir, begun, lambda weight: weight)
    assert choice.weight == 3.0, "another checkpoint chooses anew"


def test_a_killed_choice_resumes(model_dir, two_weights):
    saved = evaluation.saved_run.load(model_dir)
    begun = prior_choice.begin(saved, "gift_cards_retrieval", CHOSEN)

    def killed_at(last):
        def measure(weight):
            if weight == last:
                raise KeyboardInterrupt
            return 1 - weight / 10

        return measure

    with pytest.raises(KeyboardInterrupt):
        prior_choice.choose(model_dir, begun, killed_at(3.0))
    with pytest.raises(UserError, match="got none chosen"):
        prior_choice.remembered(model_dir, saved, "gift_cards_retrieval", CHOSEN)
    assert prior_choice.choose(model_dir, begun, killed_at(0.5)).weight == 0.5


@pytest.mark.parametrize("content", ['{"choices": [1]}', '{"choices": [{"step": 1}]}', "{}", "["])
def test_a_damaged_choice_is_named(model_dir, content):
    (pathlib.Path(model_dir) / "prior.json").write_text(content)
    saved = evaluation.saved_run.load(model_dir)
    with pytest.raises(UserError, match=r"Damaged file .*prior\.json"):
        prior_choice.remembered(model_dir, saved, "gift_cards_retrieval", CHOSEN)


def test_a_weight_cannot_be_chosen_on_rating(model_dir):
    with pytest.raises(UserError, match="expected a task that ranks items"):
        evaluation.evaluate(model_dir=model_dir, mixture="gift_cards_rating", decoding=CHOSEN)


def test_a_metric_of_scores_is_refused_and_a_name_twice(network, small_data):
    retrieval = tasks.get("gift_cards_retrieval")

    def by_scores(targets, scores):
        return {"mean": 0.0}

    def again(targets, predictions):
        return {"hr@10": 0.0}

    def measure(*metric_fns):
        task = retrieval.replace(metric_fns=metric_fns)
        lengths = {"inputs": 512, "targets": 64}
        found = evaluation.Evaluation(
            [task], "test", network, devices.make_mesh(), lengths, Decoding(), num_examples=2
        )
        token = np.ones((1, 1), np.int32)
        params = network.init(jax.random.key(0), token, token, token, enable_dropout=False)
        return found.run(params["params"])

    with pytest.raises(UserError, match=r"Metrics of 'gift_cards_retrieval': got one of scores"):
        measure(by_scores)
    with pytest.raises(UserError, match=r"got 'hr@10' twice, expected each name once"):
        measure(*retrieval.metric_fns, again)
