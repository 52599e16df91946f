"""`ids_sequence`: the decoder reads the history in training, evaluation and recommendation."""

import collections

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks import tasks
from recllm_tasks.engine import devices, optimizer, saved_run, training
from recllm_tasks.engine.decoding import TaskDecoder
from recllm_tasks.errors import UserError
from recllm_tasks.prompts import targets, templates
from recllm_tasks.prompts.assembly import Prompt
from recllm_tasks.recommender import Recommender
from recllm_tasks.runs.decoding import Decoding

LENGTHS = {"inputs": 8, "targets": 256}

pytestmark = pytest.mark.usefixtures("small_data", "clean_gin")


def _task():
    return tasks.get("gift_cards_ids_sequence")


def _examples(split, lengths=LENGTHS):
    dataset = _task().get_dataset(lengths, split=split, shuffle=False)
    return list(dataset.as_numpy_iterator())


def test_training_writes_each_item_after_the_first_once_and_evaluation_is_given_the_history():
    catalog = tasks.source_of(_task()).catalog()
    vocabulary = _task().output_features["targets"].vocabulary
    written, examples = collections.Counter(), _examples("train")
    with vocabulary.opened():
        texts = [vocabulary.decode(example["targets"].tolist()) for example in examples]
    for example, text in zip(examples, texts, strict=True):
        items = [*example["history"], example["target"]]
        assert text == _text(catalog, items)
        assert example["inputs"].tolist() == [vocabulary.eos_id]
        assert "beginning" not in example
        written.update((example["user"], int(item)) for item in items[1:] or items)
    expected = collections.Counter()
    for record in _task().source.records("train").as_numpy_iterator():
        items = record["items"].tolist()
        expected.update((record["user"], item) for item in items[1:] or items)
    assert written == expected
    for split in ("validation", "test"):
        for example in _examples(split):
            whole = [*example["beginning"].tolist(), *example["targets"].tolist()]
            both = _text(catalog, [*example["history"], example["target"]])
            assert vocabulary.decode(example["targets"].tolist()) == _text(
                catalog, [example["target"]]
            )
            assert whole == vocabulary.encode(both)


def _text(catalog, rows):
    return " ".join(catalog.short_id[row] for row in rows)


def test_what_does_not_fit_is_the_oldest_of_the_history():
    short = {"inputs": 8, "targets": 16}
    for split in ("train", "test"):
        for long, cut in zip(_examples(split), _examples(split, short)):
            kept = len(cut["history"])
            assert kept == 0 or cut["history"].tolist() == long["history"][-kept:].tolist()
            assert len(cut["targets"]) + len(cut.get("beginning", ())) <= 16


def test_beams_are_the_best_of_all_items_given_the_history(network, forced_scores):
    task = _task()
    params = network.init(jax.random.key(3), *[np.ones((1, 1), np.int32)] * 3)["params"]
    examples = _examples("test")[:6]
    decoding = Decoding(num_beams=len(task.source.catalog()), batch_size=4)
    decoder = TaskDecoder(task, network, devices.make_mesh(1), decoding, LENGTHS["targets"])
    beams = decoder.decode(params, examples)
    vocabulary = task.output_features["targets"].vocabulary
    answers = [vocabulary.encode(text) for text in decoder.answers]
    for example, rows, log_probs in zip(examples, beams.rows_BxK, beams.log_probs_BxK):
        given = example["beginning"].tolist()
        targets_NxT = np.zeros((len(answers) + 1, len(given) + max(map(len, answers))), np.int32)
        for target, tokens in zip(targets_NxT, [given, *([*given, *a] for a in answers)]):
            target[: len(tokens)] = tokens
        inputs = np.tile(example["inputs"], (len(targets_NxT), 1))
        scores = np.asarray(forced_scores(network, params, inputs, targets_NxT))
        expected = scores[1:] - scores[0]
        left = [row for row in np.argsort(-expected) if row not in example["exclude"][:-1]]
        np.testing.assert_allclose(log_probs[: len(left)], expected[left], atol=1e-3)
        assert sorted(rows[: len(left)].tolist()) == sorted(left)


@pytest.mark.parametrize("method", ["beam", "score"])
def test_ranking_gives_the_candidates_in_the_order_of_retrieval(method, network):
    ranking = tasks.get("gift_cards_ids_sequence_ranking")
    assert "train" not in ranking.splits
    assert tasks.kind_of(ranking.name, "gift_cards") == "ranking"
    params = network.init(jax.random.key(4), *[np.ones((1, 1), np.int32)] * 3)["params"]
    dataset = ranking.get_dataset(LENGTHS, split="test", shuffle=False)
    examples = list(dataset.take(4).as_numpy_iterator())
    mesh, length = devices.make_mesh(1), LENGTHS["targets"]
    every = Decoding(num_beams=len(ranking.source.catalog()))
    best = TaskDecoder(_task(), network, mesh, every, length).decode(params, examples).rows_BxK
    decoding = Decoding(num_beams=100, method=method)
    ranked = TaskDecoder(ranking, network, mesh, decoding, length).decode(params, examples).rows_BxK
    for example, rows, of_retrieval in zip(examples, ranked, best):
        offered = set(example["candidates"].tolist())
        expected = [row for row in of_retrieval.tolist() if row in offered]
        assert [row for row in rows.tolist() if row >= 0] == expected


def test_a_run_recommends_what_it_is_measured_by(tmp_path, network):
    training.train(
        mixture="gift_cards_ids_sequence",
        model_dir=str(tmp_path),
        model_name="very_small",
        lengths=LENGTHS,
        network=network,
        optimizer=optimizer.adamw(lambda step: 0.01),
        steps=3,
        batch_size=4,
        eval_period=3,
        eval_examples=20,
    )
    saved = saved_run.load(str(tmp_path))
    examples = _examples("test")[:3]
    (task,) = saved.tasks("gift_cards_ids_sequence")
    decoding = Decoding(num_beams=5)
    decoder = TaskDecoder(task, saved.network, saved.mesh, decoding, LENGTHS["targets"])
    beams = decoder.decode(saved.params, examples)
    recommender = Recommender(saved, decoding)
    found = recommender.recommend_rows([example["history"] for example in examples], k=5)
    for rows, recommended in zip(beams.rows_BxK, found):
        short_ids = [recommender.catalog.short_id[row] for row in rows]
        assert [item.short_id for item in recommended] == short_ids


def test_a_rating_is_asked_after_the_ratings_before_it():
    task = tasks.get("gift_cards_ids_sequence_rating")
    assert tasks.kind_of(task.name, "gift_cards") == "rating"
    vocabulary, catalog = task.output_features["targets"].vocabulary, task.source.catalog()
    threshold = task.source.info().like_threshold

    def rated(rows, ratings):
        return [
            word
            for row, stars in zip(rows, ratings)
            for word in (catalog.short_id[row], "yes" if stars > threshold else "no")
        ]

    examples = list(task.get_dataset(LENGTHS, split="test", shuffle=False).as_numpy_iterator())
    assert {vocabulary.decode(example["targets"].tolist()) for example in examples} == {"no", "yes"}
    for example in examples:
        asked = vocabulary.decode(example["beginning"].tolist()).split()
        history = rated(example["history"], example["history_ratings"])
        assert asked == ["rate", *history, catalog.short_id[example["target"]]]
    learned = list(task.get_dataset(LENGTHS, split="train", shuffle=False).as_numpy_iterator())
    with vocabulary.opened():
        texts = [vocabulary.decode(example["targets"].tolist()) for example in learned]
    for example, text in zip(learned, texts, strict=True):
        rows = [*example["history"], example["target"]]
        ratings = [*example["history_ratings"], example["target_rating"]]
        assert text.split() == ["rate", *rated(rows, ratings)]


def test_an_item_without_a_rating_has_no_mark():
    task = tasks.get("gift_cards_ids_sequence_rating")
    prompt = Prompt(templates.IDS_SEQUENCE_RATING, task.source)
    side = prompt.writer(None, task.output_features).targets
    batch = {
        "history": tf.ragged.constant([[0, 1, 2], []], tf.int32, row_splits_dtype=tf.int64),
        "mark": tf.ragged.constant([[0, 1, 2], []], tf.int32, row_splits_dtype=tf.int64),
        "target": tf.constant([3, 4]),
        "target_liked": tf.constant([1, 0]),
    }
    ids = task.source.catalog().short_id
    assert side.texts(batch) == [
        f"rate {ids[0]} {ids[1]} no {ids[2]} yes {ids[3]} yes",
        f"rate {ids[4]} no",
    ]
    written = [
        task.output_features["targets"].vocabulary.decode(row)
        for row in side.tokens(batch).to_list()
    ]
    assert written == side.texts(batch)
    costs = side.elastic_costs(batch).to_list()
    assert [cost - costs[0][0] for cost in costs[0]] == [0, 1, 1]


def test_free_text_is_refused(network):
    with pytest.raises(UserError, match=r"CONSTRAINED for .*: got False, expected True"):
        TaskDecoder(_task(), network, devices.make_mesh(1), Decoding(constrained=False), 8)


def test_only_sequences_have_whole_windows():
    with pytest.raises(UserError, match=r"targets.of\['retrieval'\]: got 'whole', expected"):
        targets.targets({"retrieval": "whole"})
    with pytest.raises(UserError, match=r"targets.of\['ids_sequence'\]: got 'every', expected"):
        targets.targets({"ids_sequence": "every"})
    assert targets.targets({"ids_sequence": "last"})["ids_sequence"] == "last"
    assert seqio.TaskRegistry.get("gift_cards_ids_sequence").source.targets == "whole"
