"""Results come back from their file as they were; tests/report/runs_test.py reads hostile ones."""

import dataclasses
import json
import math

import pytest

from recllm_tasks.errors import UserError
from recllm_tasks.files import write_json
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
    seen="keep",
    ties="published",
    title="Tiny",
    mixture="toys_ut",
    version="1.0",
    step=7,
    initial_step=3,
    seed=0,
    decoding=Decoding(num_beams=4, constrained=False, method="score", seen="keep"),
    settings={"curve": [{"epoch": 1, "loss": 2.5}], "nested": {"a": [1, None]}},
    parameters=10,
    num_examples={"toys_retrieval": 60},
    by_target={
        "toys_retrieval": {
            "co_occurs": {"users": 40, "hr@10": 0.6},
            "no_co_occurrence": {"users": 10, "hr@10": 0.1},
            "new": {"users": 10, "hr@10": 0},
        },
        "toys_ranking": {"seen": {"users": 50, "hr@10": 0.6}, "new": {"users": 10, "hr@10": 0}},
    },
    baselines={"popularity": {"toys_retrieval": {"hr@10": 0.25}}},
    baselines_seen={"popularity": "leave_out"},
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
        Decoding(seen="keep"),
        Decoding(seen="keep", num_beams=50),
        Decoding(seen="keep", constrained=False),
        Decoding(seen="leave_out"),
        Decoding(seen="keep", method="score"),
    ]
    for decoding in decodings:
        for split in results.SPLITS:
            dataclasses.replace(SMALL, decoding=decoding, split=split).save(tmp_path)
    last = Decoding(seen="keep", batch_size=1)
    dataclasses.replace(SMALL, decoding=last, seen="keep").save(tmp_path)
    assert len(results.find(tmp_path)) == len(decodings) * len(results.SPLITS)
    assert results.read(tmp_path / "results.json").decoding == last


def older(tmp_path, *, settings=None, decoding=None, protocol="leave_one_out"):
    """Results as an older version wrote them, without a rule for all rows."""
    values = {"toys_retrieval": {"hr@10": 0.1}}
    names = ("popularity", "popularity_unseen", "own_popularity", "item_to_item")
    content = dataclasses.replace(
        SMALL, protocol=protocol, settings=settings or {}, baselines=dict.fromkeys(names, values)
    ).as_json()
    write_json(tmp_path / "results.json", content | {"decoding": decoding})
    return results.read(tmp_path / "results.json")


@pytest.mark.parametrize(
    ("decoding", "seen"),
    [
        ({"num_beams": 20, "exclude_history": True}, "leave_out"),
        ({"num_beams": 20, "exclude_history": False}, "keep"),
        ({"num_beams": 20}, "keep"),
        # Free text kept them all the same.
        ({"constrained": False, "exclude_history": True}, "keep"),
    ],
)
def test_models_of_older_versions_have_a_rule(tmp_path, decoding, seen):
    found = older(tmp_path, decoding=decoding)
    assert (found.seen, found.decoding.seen) == (seen, seen)
    assert dataclasses.replace(found) == found
    found.save(tmp_path / "again")
    assert results.read(tmp_path / "again" / "results.json") == found


@pytest.mark.parametrize(
    ("excluded", "seen"), [(True, "leave_out"), (False, "keep"), (None, ""), ([], "")]
)
def test_baselines_of_older_versions_have_that_of_their_settings(tmp_path, excluded, seen):
    settings = {} if excluded is None else {"exclude_seen": excluded}
    assert older(tmp_path, settings=settings).seen == seen


def test_baselines_beside_a_model_of_an_older_version_have_their_own_rules(tmp_path):
    decoding = {"exclude_history": False}
    found = older(tmp_path, decoding=decoding).baselines_seen
    assert found == {"popularity_unseen": "leave_out", "item_to_item": "leave_out"}
    found = older(tmp_path, decoding=decoding, protocol="leave_one_out-repeats").baselines_seen
    assert found == {"popularity_unseen": "leave_out"}
    found = older(tmp_path, decoding={"exclude_history": True}).baselines_seen
    assert found == {"popularity": "keep", "own_popularity": "keep"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seen": "some"}, "'seen' in .*: got 'some', expected one of leave_out, keep"),
        ({"seen": "leave_out"}, "'seen' in .*: got 'leave_out', expected 'keep' as in 'decoding'"),
        ({"seen": "keep", "decoding": {"seen": "some"}}, "'decoding' in"),
        ({"seen": None, "decoding": {"exclude_history": 1}}, "'decoding' in .*: got 1"),
    ],
)
def test_a_wrong_rule_is_reported(tmp_path, change, message):
    content = dataclasses.replace(SMALL, decoding=Decoding(seen="keep"), seen="keep").as_json()
    write_json(tmp_path / "results.json", content | change)
    with pytest.raises(UserError, match=message):
        results.read(tmp_path / "results.json")


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "results").touch()
    with pytest.raises(UserError, match="Cannot write"):
        SMALL.save(tmp_path)


def test_an_undefined_metric_is_null_with_its_reason(tmp_path):
    """The AUC of users who all like their item; JSON has no NaN."""
    metrics = {"toys_rating": {"auc": math.nan}, "toys_retrieval": {"hr@10": 0.5}}
    dataclasses.replace(SMALL, metrics=metrics, baselines={"popularity": metrics}).save(tmp_path)
    found = results.read(tmp_path / "results.json")
    assert found.metrics == {"toys_rating": {}, "toys_retrieval": {"hr@10": 0.5}}
    assert found.baselines["popularity"] == found.metrics
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["metrics"]["toys_rating"] == {"auc": None}
    assert "all users like their item" in written["undefined"]["toys_rating"]["auc"]
    del written["undefined"], written["checksum"]
    (tmp_path / "results.json").write_text(json.dumps(written))
    with pytest.raises(UserError, match="or null with its reason"):
        results.read(tmp_path / "results.json")
