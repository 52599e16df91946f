"""Per-user results give the metrics of SeqIO's evaluation."""

import numpy as np
import pytest
import seqio

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import tasks
from recllm_tasks.engine import user_rows
from recllm_tasks.models.beam_search import Beams
from recllm_tasks.prompts.windows import WINDOW
from recllm_tasks.runs import per_user

pytestmark = pytest.mark.usefixtures("small_data", "clean_gin")

LENGTHS = {"inputs": 512, "targets": 8}


def examples_of(name: str):
    task = seqio.TaskRegistry.get(name)
    dataset = task.get_dataset(LENGTHS, split="test", shuffle=False)
    return task, list(dataset.as_numpy_iterator())


def beams_of(texts, vocabulary, scores=None) -> Beams:
    """Beams that write `texts` [U][K], best first."""
    tokens = np.zeros((len(texts), len(texts[0]), 12), np.int32)
    for user, row in enumerate(texts):
        for beam, text in enumerate(row):
            ids = [*vocabulary.encode(text), vocabulary.eos_id] if text else []
            tokens[user, beam, : len(ids)] = ids
    scores = np.zeros(tokens.shape[:2], np.float32) if scores is None else scores
    return Beams(tokens, scores, np.full(tokens.shape[:2], -1))


def test_lists_keep_items_invalid_beams_and_duplicates(tmp_path):
    task, examples = examples_of("gift_cards_retrieval")
    vocabulary = task.output_features["targets"].vocabulary
    catalog = task.source.catalog()
    rng = np.random.default_rng(1)
    offered = np.array([*catalog.short_id, "I99999", "Gift card", "", "I1 I2"])
    texts = rng.choice(offered, (len(examples), 20))
    beams = beams_of(texts, vocabulary)
    with vocabulary.opened():
        rows = user_rows.rows(task, examples, beams)
        targets = [vocabulary.decode(example["targets"].tolist()) for example in examples]
        predictions = [[vocabulary.decode(b.tolist()) for b in found[::-1]] for found in beams[0]]
    per_user.write(tmp_path / "rows", [rows], {})

    expected = tasks.RankedItems(task.source)(targets, predictions)
    assert 0 < expected["invalid"] < 1
    assert 0 < expected["hr@10"] < 1
    assert per_user.metrics(tmp_path / "rows") == expected
    assert rows["user"].to_pylist() == [e["user"].decode() for e in examples]
    assert rows["target"].to_pylist() == [e["target"] for e in examples]
    row_of = {short_id: row for row, short_id in enumerate(catalog.short_id)}
    assert rows["items"].to_pylist() == [[row_of.get(t, -1) for t in row] for row in texts]


def test_history_counts_all_items_and_not_the_window():
    task, examples = examples_of("gift_cards_retrieval")
    num_users = len(examples)
    beams = beams_of([["I1"]] * num_users, task.output_features["targets"].vocabulary)
    lengths = user_rows.rows(task, examples, beams)["history"].to_pylist()
    stored = {r["user"]: len(r["items"]) for r in task.source.records("test").as_numpy_iterator()}
    users = [example["user"] for example in examples]
    assert lengths == [stored[user] - 1 for user in users]
    assert max(lengths) > WINDOW


def test_groups_are_those_of_the_whole_histories():
    """Of a record and the train records by hand, for every task with users."""
    task, examples = examples_of("gift_cards_retrieval")
    train = [set(r["items"].tolist()) for r in task.source.records("train").as_numpy_iterator()]
    stored = {r["user"]: r["items"] for r in task.source.records("test").as_numpy_iterator()}
    users = [example["user"] for example in examples]
    expected = []
    for *history, target in (stored[user].tolist() for user in users):
        together = any(target in items and items & set(history) for items in train)
        is_new = not any(target in items for items in train)
        expected.append("new" if is_new else "co_occurs" if together else "no_co_occurrence")
    beams = beams_of([["I1"]] * len(users), _vocabulary(task))
    assert user_rows.rows(task, examples, beams)["group"].to_pylist() == expected


def test_ratings_are_scored_by_the_log_odds():
    task, examples = examples_of("gift_cards_rating")
    scores = np.sort(np.random.default_rng(2).normal(size=(len(examples), 2)))[:, ::-1]
    answers = [["yes", "no"] if place % 2 else ["no", "yes"] for place in range(len(examples))]
    beams = beams_of(answers, task.output_features["targets"].vocabulary, scores)
    rows = user_rows.rows(task, examples, beams)
    sign = np.where([first == "yes" for first, _ in answers], 1, -1)
    np.testing.assert_allclose(rows["score"], sign * (scores[:, 0] - scores[:, 1]), rtol=1e-6)
    assert rows["liked"].to_pylist() == [bool(e["target_liked"]) for e in examples]


def test_a_task_without_one_answer_has_no_rows():
    task = seqio.TaskRegistry.get("gift_cards_mim")
    dataset = task.get_dataset(LENGTHS, split="train", shuffle=False)
    examples = list(dataset.take(1).as_numpy_iterator())
    assert user_rows.rows(task, examples, beams_of([["I1"]], _vocabulary(task))) is None


def _vocabulary(task):
    return task.output_features["targets"].vocabulary
