"""Metrics of the three tasks: hit ratio, NDCG and MRR of ranks, ROC AUC of scores. Pure NumPy.

All metrics are floats in [0, 1], and NaN without examples. `HR@k`, `NDCG@k` and
`AUC` are those of Paper §4.1: each example has one relevant item, its target.

Letters: U examples, K beams, B users of a block, N items.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from recllm_tasks.errors import UserError

HIT_RATIO_CUTS = (1, 5, 10)
NDCG_CUTS = (5, 10)

Answer = TypeVar("Answer", bound=Hashable)


def hit_ratio(ranks: npt.ArrayLike, k: int) -> float:
    """Share of `ranks` [U] (1 is best, inf a miss) that are at most `k`."""
    _check_cut(k)
    return _mean(np.asarray(ranks) <= k)


def ndcg(ranks: npt.ArrayLike, k: int) -> float:
    """Mean of 1 / log2(rank + 1) over `ranks` [U] (1 is best, inf a miss), 0 beyond `k`.

    The ideal DCG of a single relevant item is 1 / log2(2) = 1, so DCG is NDCG.
    """
    _check_cut(k)
    ranks = np.asarray(ranks, np.float64)
    return _mean(np.where(ranks <= k, 1 / np.log2(ranks + 1), 0.0))


def mrr(ranks: npt.ArrayLike) -> float:
    """Mean of 1 / rank over `ranks` [U] (1 is best, inf a miss), with no cut."""
    return _mean(1 / np.asarray(ranks, np.float64))


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive outscores a negative, ties half.

    Args:
      labels: [U] bool or 0/1; true is "liked".
      scores: [U] float, in any monotone unit, such as the log-odds of "yes" over "no".

    Returns:
      The area, or NaN when `labels` holds a single class, for which there is no curve.
    """
    positive, scores = np.asarray(labels).astype(bool), np.asarray(scores, np.float64)
    if positive.shape != scores.shape or positive.ndim != 1:
        raise ValueError(
            f"labels and scores for 'auc': got shapes {positive.shape} and {scores.shape}, "
            "expected one label and one score for each example"
        )
    if np.isnan(scores).any():
        raise ValueError(f"scores for 'auc': got {np.isnan(scores).sum()} NaN, expected numbers")
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if not num_positive or not num_negative:
        return float("nan")
    _, value, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # Equal scores share the mean of the ranks that they span.
    rank = (np.cumsum(counts) - (counts - 1) / 2)[value]
    wins = rank[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(wins / (num_positive * num_negative))


def distinct(answers: Iterable[Answer]) -> list[Answer]:
    """The different answers of a list, best first: of equal ones the best keeps its position.

    Our choice: a candidate's rank is one more than the number of *different* better answers, in
    every row of a table. Candidates drawn with replacement (Paper, Table 11) hold copies, which a
    beam search cannot list twice, so counting them would rank only baselines by another rule.
    """
    return list(dict.fromkeys(answers))


def rank_among(target: Answer, answers: Sequence[Answer]) -> float:
    """Rank of the target among `distinct` answers: 1 is best, inf a miss."""
    return answers.index(target) + 1 if target in answers else float("inf")


def distinct_answers(beams: Sequence[str]) -> list[str]:
    """The answers of one example, **best first**, from its K `beams`, **worst first**.

    T5X and SeqIO pass the beams worst first.

    Our choice: white space around an answer is dropped. An empty beam, which an unfinished beam
    decodes to, takes no position. Of equal answers the best is kept and lower ones move up, since
    two token spellings of one item are one recommendation. An answer that is not an item keeps its
    position. HR@10 thus looks at the ten best distinct answers.
    """
    return distinct(answer for beam in reversed(beams) if (answer := beam.strip()))


def ranks_of_targets(
    targets: Sequence[str], predictions: Sequence[Sequence[str]]
) -> npt.NDArray[np.float64]:
    """Rank of each target among its example's `distinct_answers`: [U], 1 is best, inf a miss.

    Args:
      targets: [U] decoded targets.
      predictions: `[U][K]` decoded beams, worst first; K may differ between examples.

    Raises:
      UserError: an example has one string instead of a list of beams.
    """
    if len(targets) != len(predictions):
        raise ValueError(
            f"targets and predictions for 'ranking metrics': got {len(targets)} and "
            f"{len(predictions)}, expected as many predictions as targets"
        )
    ranks = np.full(len(targets), np.inf)
    for example, (target, beams) in enumerate(zip(targets, predictions)):
        _check_beams(beams)
        ranks[example] = rank_among(target.strip(), distinct_answers(beams))
    return ranks


def ranks_from_scores(
    scores_BxN: npt.ArrayLike, targets_B: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Rank of each target in its user's list by score: [B], 1 is best, inf a miss.

    Columns are different items, so it equals `rank_among` of the list. Of equal scores the earlier
    column comes first. Constant scores hit only by chance, provided that the order of columns does
    not depend on the target: sort candidates by catalog row before scoring.

    Args:
      scores_BxN: float, higher is better; -inf leaves an item out of the list.
      targets_B: int, the target's column. A target with -inf is a miss.
    """
    scores_BxN, targets_B = np.asarray(scores_BxN), np.asarray(targets_B)
    target_Bx1 = np.take_along_axis(scores_BxN, targets_B[:, None], axis=1)
    if np.isnan(scores_BxN).any():
        raise ValueError("scores for 'ranks_from_scores': got NaN, expected numbers or -inf")
    earlier_BxN = np.arange(scores_BxN.shape[1]) < targets_B[:, None]
    ahead_BxN = (scores_BxN > target_Bx1) | ((scores_BxN == target_Bx1) & earlier_BxN)
    return np.where(target_Bx1[:, 0] == -np.inf, np.inf, 1.0 + ahead_BxN.sum(axis=1))


def rank_metrics(ranks: npt.ArrayLike) -> dict[str, float]:
    """`hr@1`, `hr@5`, `hr@10`, `ndcg@5`, `ndcg@10` and `mrr` of `ranks` [U] (inf is a miss)."""
    return {
        **{f"hr@{k}": hit_ratio(ranks, k) for k in HIT_RATIO_CUTS},
        **{f"ndcg@{k}": ndcg(ranks, k) for k in NDCG_CUTS},
        "mrr": mrr(ranks),
    }


def ranking_metrics(
    targets: Sequence[str], predictions: Sequence[Sequence[str]]
) -> dict[str, float]:
    """SeqIO metric function of retrieval and ranking: `rank_metrics` of `ranks_of_targets`.

    MRR counts ranks up to the number of beams.
    """
    return rank_metrics(ranks_of_targets(targets, predictions))


def ranking_metrics_with_validity(
    is_item: Callable[[str], bool],
) -> Callable[[Sequence[str], Sequence[Sequence[str]]], dict[str, float]]:
    """SeqIO metric function: `ranking_metrics` and `invalid`, the share of beams that are no item.

    `invalid` counts every beam, including duplicates; an empty beam is not an item. `is_item`
    receives a beam without surrounding white space.
    """

    def ranking_and_validity(
        targets: Sequence[str], predictions: Sequence[Sequence[str]]
    ) -> dict[str, float]:
        metrics = ranking_metrics(targets, predictions)
        stripped = [beam.strip() for beams in predictions for beam in beams]
        metrics["invalid"] = _mean([not (beam and is_item(beam)) for beam in stripped])
        return metrics

    return ranking_and_validity


def _mean(values: npt.ArrayLike) -> float:
    """Mean; NaN of nothing, without NumPy's warning."""
    values = np.asarray(values, np.float64)
    return float(values.mean()) if values.size else float("nan")


def _check_cut(k: int) -> None:
    if k < 1:
        raise ValueError(f"cut for 'hr@k and ndcg@k': got {k}, expected 1 or more")


def _check_beams(beams: Sequence[str]) -> None:
    if isinstance(beams, str):
        raise UserError(
            f"predictions for 'ranking metrics': got one string {beams!r} for an example, "
            "expected a list of beams; return all beams of the beam search "
            "(in T5X, models.DecoderParams.return_all_decodes = True)"
        )
