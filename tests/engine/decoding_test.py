"""Decoding and evaluation on the small dataset: order, answers, metrics, files."""

import json

import jax
import numpy as np
import pytest

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import metrics, tasks
from recllm_tasks.engine import decoding, devices, evaluation, inference
from recllm_tasks.engine.answer_tries import Answers
from recllm_tasks.errors import UserError
from recllm_tasks.runs.decoding import Decoding

LENGTHS = {"inputs": 512, "targets": 64}
BUCKETS = decoding.BUCKETS
pytestmark = pytest.mark.usefixtures("small_data", "clean_gin")


def _decoder(kind, network, **settings):
    task = tasks.get(f"gift_cards_{kind}")
    settings = Decoding(**{"num_beams": 5, "batch_size": 8, **settings})
    decoder = decoding.TaskDecoder(task, network, devices.make_mesh(), settings, max_steps=8)
    examples = list(task.get_dataset(LENGTHS, split="test", shuffle=False).as_numpy_iterator())
    return decoder, examples


@pytest.fixture(scope="module")
def params(network):
    token = np.ones((1, 1), np.int32)
    return network.init(jax.random.key(3), token, token, token, enable_dropout=False)["params"]


def test_beams_do_not_depend_on_batches_and_keep_the_order(network, params):
    decoder, examples = _decoder("retrieval", network)
    alone, _ = _decoder("retrieval", network, batch_size=3)
    together, apart = (d.decode(params, examples[:20]) for d in (decoder, alone))
    np.testing.assert_array_equal(together.rows_BxK, apart.rows_BxK)
    np.testing.assert_allclose(together.log_probs_BxK, apart.log_probs_BxK, atol=1e-4)
    one = decoder.decode(params, [examples[7]])
    np.testing.assert_array_equal(one.rows_BxK[0], together.rows_BxK[7])


def test_ranking_beams_are_candidates(network, params):
    decoder, examples = _decoder("ranking", network)
    beams = decoder.decode(params, examples)
    for example, rows in zip(examples, beams.rows_BxK):
        assert set(rows[rows >= 0]) <= set(example["candidates"].tolist())


def test_scored_ranking_is_the_widest_beam(network, params):
    scoring, examples = _decoder("ranking", network, method="score")
    searching, _ = _decoder("ranking", network, num_beams=128)
    scored, searched = (d.decode(params, examples[:20]) for d in (scoring, searching))
    np.testing.assert_allclose(scored.log_probs_BxK, searched.log_probs_BxK, atol=1e-4)
    for example, rows in zip(examples, scored.rows_BxK):
        assert set(rows[rows >= 0]) == set(example["candidates"].tolist())


@pytest.mark.parametrize("settings", [{}, {"method": "score"}])
@pytest.mark.parametrize("kind", ["retrieval", "ranking"])
def test_what_the_user_has_had_is_excluded_on_request(network, params, kind, settings):
    free, examples = _decoder(kind, network, num_beams=200, seen="keep", **settings)
    default, _ = _decoder(kind, network, num_beams=200, **settings)
    excluding, _ = _decoder(kind, network, num_beams=200, seen="leave_out", **settings)
    every, left, same = (
        d.decode(params, examples[:20]).rows_BxK for d in (free, excluding, default)
    )
    np.testing.assert_array_equal(left, same, "without repeats, seen items are left out")
    for example, rows, fewer in zip(examples, every, left):
        seen = set(example["exclude"].tolist()) - {int(example["target"])}
        assert [row for row in rows if row >= 0 and row not in seen] == fewer[fewer >= 0].tolist()
        assert kind == "ranking" or seen & set(rows.tolist())


def test_ranking_orders_all_candidates_under_either_rule(network, params):
    """Also one that the user has had, as a target may be where repeats are kept."""
    for method in ("beam", "score"):
        decoder, examples = _decoder(
            "ranking", network, num_beams=128, seen="leave_out", method=method
        )
        example = dict(examples[0])
        example["candidates"] = np.array([*example["candidates"][:-1], example["exclude"][0]])
        (rows,) = decoder.decode(params, [example]).rows_BxK
        assert set(rows[rows >= 0]) == set(example["candidates"].tolist())


def test_an_answer_that_several_items_share_stays():
    """Otherwise a target would be left out that the user has not had."""
    found = Answers(["a", "b"], np.array([0, 1, 0, -1], np.int32), None).own_text_of_answer
    assert found.tolist() == [-1, 1, -1, -1]
    assert Answers([], np.array([-1], np.int32), None).own_text_of_answer.tolist() == [-1]


def test_examples_that_lack_what_is_left_out_are_reported(network, params):
    decoder, (example, *_) = _decoder("retrieval", network)
    with pytest.raises(
        UserError, match=r"'gift_cards_retrieval': got none of exclude, .*SEEN='keep'"
    ):
        decoder.decode(params, [{"inputs": example["inputs"], "target": example["target"]}])
    keeping, _ = _decoder("retrieval", network, seen="keep")
    keeping.decode(params, [{"inputs": example["inputs"]}])


def test_rating_scores_both_answers_exactly(network, params, forced_scores):
    decoder, examples = _decoder("rating", network)
    assert decoder.answers == ["no", "yes"]
    beams = decoder.decode(params, examples[:6])
    vocabulary = tasks.get("gift_cards_rating").output_features["targets"].vocabulary
    for example, rows, log_probs in zip(examples, beams.rows_BxK, beams.log_probs_BxK):
        assert sorted(rows[:2].tolist()) == [0, 1]
        for row, log_prob in zip(rows[:2], log_probs):
            target = [*vocabulary.encode(decoder.answers[row]), vocabulary.eos_id]
            inputs = np.asarray(example["inputs"])[None]
            expected = forced_scores(network, params, inputs, np.array([target]))
            assert log_prob == pytest.approx(float(expected[0]), abs=1e-4)


def test_free_text_may_be_no_item(network, params):
    decoder, examples = _decoder("retrieval", network, constrained=False)
    beams = decoder.decode(params, examples[:4])
    assert (beams.rows_BxK == -1).all()


@pytest.mark.parametrize("settings", [{"seen": "keep"}, {"seen": "leave_out"}])
def test_metrics_are_those_of_the_beams(run_dir, network, settings):
    results = evaluation.evaluate(model_dir=run_dir, decoding=Decoding(num_beams=10, **settings))
    assert set(results.metrics) == {f"gift_cards_{k}" for k in ("retrieval", "ranking", "rating")}
    measured = results.metrics["gift_cards_retrieval"]
    found = evaluation.saved_run.load(run_dir)
    decoder, examples = _decoder("retrieval", network, num_beams=10, **settings)
    beams = decoder.decode(found.params, examples)
    # Who has had nearly everything has fewer items left than there are beams.
    assert measured["invalid"] == pytest.approx((beams.rows_BxK < 0).mean())
    assert (measured["invalid"] == 0) == (settings["seen"] == "keep")
    assert (results.seen, results.decoding.seen) == (settings["seen"], settings["seen"])
    ranks = [
        1 + list(rows).index(example["target"]) if example["target"] in rows else np.inf
        for example, rows in zip(examples, beams.rows_BxK)
    ]
    for key, value in metrics.rank_metrics(ranks).items():
        assert measured[key] == pytest.approx(value)


def test_unconstrained_evaluation_reports_invalid_beams(run_dir):
    results = evaluation.evaluate(
        model_dir=run_dir,
        mixture="gift_cards_retrieval",
        decoding=Decoding(num_beams=4, constrained=False),
        num_examples=8,
    )
    assert results.metrics["gift_cards_retrieval"]["invalid"] > 0


def test_inference_writes_a_line_a_user(run_dir, tmp_path):
    output = tmp_path / "lines.jsonl"
    written = inference.infer(
        model_dir=run_dir, output=str(output), decoding=Decoding(num_beams=5, constrained=False)
    )
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    task = tasks.get("gift_cards_retrieval")
    assert written == len(lines) == task.num_input_examples("test")
    assert len({line["user"] for line in lines}) == len(lines)
    for line in lines:
        assert set(line) == {"user", "history", "ranked", "target"}
        assert len(line["ranked"]) == 5
        log_probs = [answer["log_prob"] for answer in line["ranked"]]
        assert log_probs == sorted(log_probs, reverse=True)
        assert all(answer["title"].startswith("Gift card of store") for answer in line["ranked"])
        assert all(item["item"].startswith("A") for item in line["history"])
    assert list(tmp_path.iterdir()) == [output], "no temporary file is left"


def test_a_mixture_cannot_be_inferred(run_dir, tmp_path):
    with pytest.raises(UserError, match="expected a task whose target is one answer"):
        inference.infer(model_dir=run_dir, output=str(tmp_path / "x"), task="gift_cards_mim")
    assert not (tmp_path / "x").exists()


def test_buckets_hold_every_length(monkeypatch):
    monkeypatch.setattr(decoding, "BUCKETS", BUCKETS)
    lengths = np.arange(1, 5000)
    padded = np.array([decoding.padded_length(int(length)) for length in lengths])
    assert (padded >= lengths).all()
    assert len(set(padded[:1024])) <= 11
