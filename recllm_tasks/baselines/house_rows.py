"""The rows that are fitted here, with NumPy and SciPy."""

import dataclasses
import functools
import time
from collections.abc import Callable

import numpy as np

from recllm_tasks.baselines import ease, history, item_to_item, markov, popularity
from recllm_tasks.baselines.house import read_split
from recllm_tasks.baselines.interactions import SplitInteractions
from recllm_tasks.baselines.measured import Measured, measure_lists
from recllm_tasks.baselines.rows import Row
from recllm_tasks.prompts.source import SequenceSource

_ALL = 1 << 62

_DECAYS = {"item_to_item": item_to_item.FAST, "item_to_item_slow": item_to_item.SLOW}

# What a row is made with, beside its data.
SETTINGS = {
    "popularity": {"exclude_seen": False},
    "popularity_unseen": {"exclude_seen": True},
    **{
        name: {"exclude_seen": True, **dataclasses.asdict(decay)} for name, decay in _DECAYS.items()
    },
    "ease": {"exclude_seen": True, "lambdas": list(ease.LAMBDAS), "first_lambda": ease.FIRST},
    "markov": {"exclude_seen": True, "smoothing": markov.SMOOTHING},
    "history": {},
    "item_mean": {},
}


class Splits:
    """The interactions of a prepared dataset, each split read once, when it is asked for."""

    def __init__(self, dataset: str, split: str):
        """Args:
        dataset: a prepared dataset.
        split: the one that rows are measured on, `validation` or `test`.
        """
        self.source, self.split = SequenceSource(dataset), split

    @functools.cached_property
    def evaluated(self) -> SplitInteractions:
        return read_split(self.source, self.split, _ALL, rated_only=False)

    @functools.cached_property
    def rated(self) -> SplitInteractions:
        """Of `evaluated`, the users whose target has a rating."""
        return self.evaluated.select(~np.isnan(self.evaluated.target_ratings))

    @functools.cached_property
    def validation(self) -> SplitInteractions:
        """What settings are chosen on: the first 3,000 users, as every model's validation has."""
        if self.split == "validation":
            return self.evaluated
        return read_split(self.source, "validation", _ALL, rated_only=False)

    def of(self, kind: str) -> SplitInteractions:
        """The users that a kind of task is measured on."""
        return self.rated if kind == "rating" else self.evaluated


def measure(row: Row, splits: Splits, say: Callable[[str], None]) -> Measured:
    """Fits a row and measures it on its tasks.

    Raises:
      UserError: the dataset does not have what the row needs.
    """
    # Reading is no row's own work: whichever is first would seem slow.
    evaluated = splits.of(row.kinds[0])
    validation = splits.validation if row.name == "ease" else None
    start = time.monotonic()
    settings = dict(SETTINGS[row.name])
    if row.kinds == ("rating",):
        score = {"history": history.score_users, "item_mean": history.score_items}[row.name]
        scores = score(evaluated)
        seconds = time.monotonic() - start
        users, items = len(evaluated.train_items), evaluated.num_items
        groups = items if row.name == "item_mean" else users
        return Measured({}, {"rating": scores}, {"rating": seconds}, 0.0, settings, groups)
    if row.name == "ease":
        model = ease.fit(validation, done=say)
        settings |= {
            "lambda": model.regularization,
            "validation_ndcg@10": {f"{key:g}": value for key, value in model.validation.items()},
        }
        score_block, parameters = model.score_block(evaluated), model.weights.size
    else:
        score_block, parameters = _counted(row.name, evaluated)
    fitted = time.monotonic()
    ranked, seconds = measure_lists(score_block, evaluated, row.kinds, settings["exclude_seen"])
    return Measured(ranked, {}, seconds, fitted - start, settings, parameters)


def _counted(name: str, interactions: SplitInteractions):
    """Scores and the number of counts that stand behind them."""
    if name.startswith("popularity"):
        return popularity.score_block(interactions), interactions.num_items
    if name == "markov":
        counts = markov.successors(interactions.train_items, interactions.num_items)
        return markov.score_block(interactions), counts.nnz + interactions.num_items
    decay = _DECAYS[name]
    similarity = item_to_item.similarity(interactions.train_items, interactions.num_items, decay)
    return item_to_item.score_block(interactions, decay), similarity.nnz
