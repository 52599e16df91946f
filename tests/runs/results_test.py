"""Results come back from their file as they were; tests/report/runs_test.py reads hostile ones."""

import dataclasses
import json
import math

import pytest

from recllm_tasks.errors import UserError
from recllm_tasks.runs import results
from recllm_tasks.runs.decoding import Decoding
from recllm_tasks.runs.results import Results

KEYS = {"dataset", "fingerprint", "model", "step", "seed", "split", "decoding", "metrics"}
KEYS |= {"baselines", "seconds"}

SMALL = Results(
    dataset="toys",
    fingerprint="ab" * 32,
    split_fingerprint="cd" * 32,
    model="tiny",
    split="test",
    metrics={"toys_retrieval": {"hr@10": 0.5}},
)
FULL = dataclasses.replace(
    SMALL,
    records_digest="ef" * 32,
    ids="random",
    protocol="time-repeats",
    ties="published",
    title="Tiny",
    mixture="toys_ut",
    version="1.0",
    step=7,
    initial_step=3,
    seed=0,
    decoding=Decoding(num_beams=4, constrained=False, method="score"),
    settings={"curve": [{"epoch": 1, "loss": 2.5}], "nested": {"a": [1, None]}},
    parameters=10,
    num_examples={"toys_retrieval": 60},
    by_target={
        "toys_retrieval": {"seen": {"users": 50, "hr@10": 0.6}, "new": {"users": 10, "hr@10": 0}}
    },
    baselines={"popularity": {"toys_retrieval": {"hr@10": 0.25}}},
    per_user={"toys_retrieval": "per_user/test-beam4-score-unconstrained/toys_retrieval.parquet"},
    fit_seconds=0.5,
    decode_seconds={"toys_retrieval": 2.0},
    peak_memory_bytes=1 << 30,
    seconds=3.5,
    row_fingerprint="f" * 64,
)


@pytest.mark.parametrize("written", [SMALL, FULL])
def test_what_is_written_is_read(written, tmp_path):
    written.save(tmp_path)
    path = tmp_path / "results" / f"{written.name}.json"
    assert results.find(tmp_path) == [path]
    assert results.read(path) == results.read(tmp_path / "results.json") == written
    content = json.loads(path.read_text())
    assert content.pop("checksum").startswith("sha256:")
    assert set(content) >= KEYS
    assert content == written.as_json()


def test_every_field_is_tested():
    for field in dataclasses.fields(Results):
        assert getattr(FULL, field.name) not in (None, "", {}), field.name


def test_decoding_is_an_object_and_speed_is_derived(tmp_path):
    content = FULL.as_json()
    assert content["decoding"] == dataclasses.asdict(FULL.decoding)
    assert content["examples_per_second"] == {"toys_retrieval": 30}
    assert SMALL.as_json()["decoding"] is None


def test_decodings_with_other_results_have_files_of_their_own(tmp_path):
    decodings = [
        None,
        Decoding(),
        Decoding(num_beams=50),
        Decoding(constrained=False),
        Decoding(exclude_history=True),
        Decoding(method="score"),
    ]
    for decoding in decodings:
        for split in results.SPLITS:
            dataclasses.replace(SMALL, decoding=decoding, split=split).save(tmp_path)
    dataclasses.replace(SMALL, decoding=Decoding(batch_size=1)).save(tmp_path)
    assert len(results.find(tmp_path)) == len(decodings) * len(results.SPLITS)
    assert results.read(tmp_path / "results.json").decoding == Decoding(batch_size=1)


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "results").touch()
    with pytest.raises(UserError, match="Cannot write"):
        SMALL.save(tmp_path)


def test_an_undefined_metric_is_left_out(tmp_path):
    """The AUC of users who all like their item; JSON has no NaN."""
    metrics = {"toys_rating": {"auc": math.nan}, "toys_retrieval": {"hr@10": 0.5}}
    dataclasses.replace(SMALL, metrics=metrics, baselines={"popularity": metrics}).save(tmp_path)
    found = results.read(tmp_path / "results.json")
    assert found.metrics == {"toys_rating": {}, "toys_retrieval": {"hr@10": 0.5}}
    assert found.baselines["popularity"] == found.metrics
