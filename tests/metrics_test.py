"""Metrics against formulas by hand, ir-measures and scikit-learn."""

import inspect
import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import RR, Success, nDCG
from sklearn.metrics import roc_auc_score

from recllm_tasks import metrics
from recllm_tasks.errors import UserError

MISS = math.inf


def test_formulas():
    ranks = [1, 3, 7, MISS]
    assert metrics.hit_ratio(ranks, 1) == 1 / 4
    assert metrics.hit_ratio(ranks, 3) == 2 / 4
    assert metrics.hit_ratio(ranks, 10) == 3 / 4
    assert metrics.ndcg(ranks, 5) == pytest.approx((1 + 1 / 2) / 4)
    assert metrics.ndcg(ranks, 10) == pytest.approx((1 + 1 / 2 + 1 / 3) / 4)
    assert metrics.mrr(ranks) == pytest.approx((1 + 1 / 3 + 1 / 7) / 4)


def test_nothing_to_measure_is_nan():
    assert all(math.isnan(value) for value in metrics.rank_metrics([]).values())
    assert math.isnan(metrics.auc([], []))


def test_cut_below_one_is_an_error():
    with pytest.raises(ValueError, match="got 0, expected 1 or more"):
        metrics.hit_ratio([1], 0)
    with pytest.raises(ValueError, match="got -1, expected 1 or more"):
        metrics.ndcg([1], -1)


ranks_with_misses = st.lists(st.one_of(st.integers(1, 30), st.just(MISS)), min_size=1)


@given(ranks_with_misses, st.integers(1, 30))
def test_metrics_never_fall_as_k_grows(ranks, k):
    for metric in (metrics.hit_ratio, metrics.ndcg):
        assert 0 <= metric(ranks, k) <= metric(ranks, k + 1) <= 1


@given(ranks_with_misses)
def test_metrics_bound_one_another(ranks):
    found = metrics.rank_metrics(ranks)
    assert list(found) == ["hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr"]
    assert found["hr@1"] <= found["ndcg@5"] + 1e-12
    assert found["ndcg@5"] <= found["hr@5"] + 1e-12
    assert found["hr@1"] <= found["mrr"] + 1e-12


# Beams.


def test_beams_are_read_from_worst_to_best():
    assert metrics.distinct_answers(["I3", "I2", "I1"]) == ["I1", "I2", "I3"]


def test_equal_beams_count_once_at_the_best_place():
    assert metrics.distinct_answers(["I9", "I1", "I2", " I1 "]) == ["I1", "I2", "I9"]


def test_empty_beams_take_no_position_and_invalid_ones_do():
    assert metrics.distinct_answers(["", "I2", " ", "none", "I1"]) == ["I1", "none", "I2"]


def test_ranks_of_targets():
    targets = ["I1", " I2", "I3", "I4", "", "I6"]
    predictions = [
        ["I3", "I2", "I1"],
        ["I2 ", "I7", "I7", "none"],
        ["I1", "I2"],
        [],
        ["", "I5"],
        np.array(["I6", "I5"]),
    ]
    np.testing.assert_array_equal(
        metrics.ranks_of_targets(targets, predictions), [1, 3, MISS, MISS, MISS, 2]
    )


def test_one_string_for_an_example_is_an_error():
    with pytest.raises(UserError, match="return_all_decodes = True"):
        metrics.ranks_of_targets(["I1"], ["I1"])


def test_unequal_lengths_are_an_error():
    with pytest.raises(ValueError, match="got 2 and 1"):
        metrics.ranks_of_targets(["I1", "I2"], [["I1"]])


def test_ranking_metrics_agree_with_ir_measures():
    rng = np.random.default_rng(0)
    num_examples, num_beams, num_items = 300, 20, 40
    # Draws with replacement hold duplicates; 0 is an unfinished beam; most targets past the
    # beams are misses.
    drawn = rng.integers(0, num_items, (num_examples, num_beams))
    targets = [f"I{item}" for item in rng.integers(1, num_items, num_examples)]
    predictions = [["" if item == 0 else f"I{item}" for item in row] for row in drawn]
    run, qrels = [], []
    for example, (target, beams) in enumerate(zip(targets, predictions)):
        qrels.append(ir_measures.Qrel(str(example), target, 1))
        best = {}
        for place, beam in enumerate(beams):  # Later beams are better.
            if beam:
                best[beam] = place
        run += [
            ir_measures.ScoredDoc(str(example), answer, place) for answer, place in best.items()
        ]
    expected = ir_measures.calc_aggregate(
        [Success @ 1, Success @ 5, Success @ 10, nDCG @ 5, nDCG @ 10, RR], qrels, run
    )
    found = metrics.ranking_metrics(targets, predictions)
    assert 0.05 < found["hr@10"] < 0.95
    assert found == pytest.approx(
        {
            "hr@1": expected[Success @ 1],
            "hr@5": expected[Success @ 5],
            "hr@10": expected[Success @ 10],
            "ndcg@5": expected[nDCG @ 5],
            "ndcg@10": expected[nDCG @ 10],
            "mrr": expected[RR],
        },
        abs=1e-9,
    )


def test_invalid_is_the_share_of_all_beams():
    catalog = {"I1", "I2"}
    metric = metrics.ranking_metrics_with_validity(catalog.__contains__)
    found = metric(["I1", "I2"], [["", "none", "none", "none", " I1"], ["I3", "I2", "I1"]])
    assert found["invalid"] == 5 / 8
    assert found["hr@1"] == 1 / 2
    assert found["mrr"] == (1 + 1 / 2) / 2


def test_an_empty_beam_is_no_item_whatever_is_item_says():
    assert metrics.ranking_metrics_with_validity(lambda _: True)(["I1"], [[" "]])["invalid"] == 1


@pytest.mark.parametrize(
    "metric", [metrics.ranking_metrics, metrics.ranking_metrics_with_validity(bool)]
)
def test_seqio_reads_the_kind_of_a_metric_from_its_arguments(metric):
    assert list(inspect.signature(metric).parameters) == ["targets", "predictions"]
    found = metric(["I1"], [["I2", "I1"]])
    assert all(type(value) is float for value in found.values())


# Scores.


def test_ties_go_by_column():
    scores = [[2.0, 1.0, 2.0, 1.0, 1.0]] * 5
    np.testing.assert_array_equal(metrics.ranks_from_scores(scores, np.arange(5)), [1, 3, 2, 4, 5])


def test_constant_scores_hit_by_chance_only():
    num_items = 50
    ranks = metrics.ranks_from_scores(np.zeros((num_items, num_items)), np.arange(num_items))
    assert metrics.hit_ratio(ranks, 10) == 10 / num_items


def test_a_target_left_out_is_a_miss():
    scores = [[-np.inf, 1.0, -np.inf], [-np.inf, 1.0, -5.0]]
    np.testing.assert_array_equal(metrics.ranks_from_scores(scores, [0, 2]), [MISS, 2])


def test_nan_scores_are_an_error():
    with pytest.raises(ValueError, match="got NaN"):
        metrics.ranks_from_scores([[np.nan, 1.0]], [0])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data())
def test_ranks_from_scores_are_places_in_a_stable_sort(scores, data):
    target = data.draw(st.integers(0, len(scores) - 1))
    order = sorted(range(len(scores)), key=lambda column: -scores[column])
    assert metrics.ranks_from_scores([scores], [target]) == [order.index(target) + 1]


# AUC.


def test_auc_formulas():
    assert metrics.auc([0, 1], [0.0, 1.0]) == 1
    assert metrics.auc([1, 0], [0.0, 1.0]) == 0
    assert metrics.auc([1, 0, 1], [3.0, 3.0, 3.0]) == 0.5
    # Pairs (positive, negative): 2 > 1 wins, 2 = 2 is half, 0 < 1 and 0 < 2 lose.
    assert metrics.auc([True, True, False, False], [2, 0, 1, 2]) == 1.5 / 4


@pytest.mark.parametrize("labels", [[1, 1], [0, 0]])
def test_auc_of_one_class_is_nan(labels):
    assert math.isnan(metrics.auc(labels, [0.1, 0.2]))


@pytest.mark.parametrize("num_scores", [3, 20, 10_000])
def test_auc_agrees_with_scikit_learn(num_scores):
    rng = np.random.default_rng(num_scores)
    labels = rng.random(500) < 0.3
    scores = rng.integers(num_scores, size=500) + labels * num_scores // 4  # Ties, few to many.
    assert metrics.auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auc_takes_infinite_scores_and_refuses_nan():
    assert metrics.auc([1, 0, 0], [np.inf, -np.inf, 0]) == 1
    with pytest.raises(ValueError, match="got 1 NaN"):
        metrics.auc([1, 0], [np.nan, 0])
    with pytest.raises(ValueError, match=r"got shapes \(2,\) and \(3,\)"):
        metrics.auc([1, 0], [1, 2, 3])
