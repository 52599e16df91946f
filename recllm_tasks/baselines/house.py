"""The baselines of the house on a prepared dataset, for every table of results."""

import itertools
from collections.abc import Mapping, Sequence

import tensorflow as tf

from recllm_tasks import tasks
from recllm_tasks.baselines import history, item_to_item, popularity
from recllm_tasks.baselines.interactions import SplitInteractions
from recllm_tasks.prompts.source import SequenceSource


def measure_baselines(
    dataset: str, split: str, task_names: Sequence[str], num_examples: Mapping[str, int]
) -> dict[str, dict[str, dict[str, float]]]:
    """Metrics by baseline and task.

    Args:
      dataset: a prepared dataset.
      split: `validation` or `test`.
      task_names: what is measured; those that are not `<dataset>_{retrieval,ranking,rating}` are
        left out.
      num_examples: by task; a baseline is measured on as many as the model was.
    """
    source = SequenceSource(dataset)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for task in task_names:
        kind = task.removeprefix(f"{dataset}_")
        if kind not in tasks.RECOMMENDATION_TASKS:
            continue
        interactions = read_split(source, split, num_examples[task], kind == "rating")
        for name, measured in _MEASURES[kind](interactions).items():
            results.setdefault(name, {})[task] = measured
    return results


def read_split(
    source: SequenceSource, split: str, num_examples: int, rated_only: bool
) -> SplitInteractions:
    """The first `num_examples` users of a split, as evaluation has them, and all of train."""
    records = source.records(split)
    if rated_only:
        records = records.filter(lambda record: ~tf.math.is_nan(record["ratings"][-1]))
    chosen = itertools.islice(records.as_numpy_iterator(), num_examples)
    train = source.records("train").as_numpy_iterator()
    return SplitInteractions.from_records(
        chosen, train, len(source.catalog()), source.info().like_threshold
    )


def _of_lists(interactions: SplitInteractions) -> dict[str, dict[str, float]]:
    return {
        "popularity": popularity.retrieval(interactions),
        "popularity, unseen": popularity.retrieval(interactions, exclude_seen=True),
        "item-to-item": item_to_item.retrieval(interactions),
    }


def _of_candidates(interactions: SplitInteractions) -> dict[str, dict[str, float]]:
    return {
        "popularity": popularity.ranking(interactions),
        "item-to-item": item_to_item.ranking(interactions),
    }


def _of_ratings(interactions: SplitInteractions) -> dict[str, dict[str, float]]:
    return {
        "history": history.rating(interactions),
        "item mean": history.rating_by_item_mean(interactions),
    }


_MEASURES = {"retrieval": _of_lists, "ranking": _of_candidates, "rating": _of_ratings}
