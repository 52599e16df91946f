"""The built-in baselines, fitted here with NumPy and SciPy."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recllm_tasks.baselines import ease, history, item_to_item, markov, popularity
from recllm_tasks.baselines.interactions import SplitInteractions, Splits
from recllm_tasks.baselines.measured import Measured, measure_lists
from recllm_tasks.baselines.rows import ROWS, Row
from recllm_tasks.data.item_to_item import FAST, SLOW, similarity

_DECAYS = {"item_to_item": FAST, "item_to_item_slow": SLOW}
_RATING_SCORES = {"history": history.score_users, "item_mean": history.score_items}

# The settings of a row on a dataset without repeats, see `settings_of`.
SETTINGS = {
    "popularity": {"exclude_seen": False},
    "popularity_unseen": {"exclude_seen": True},
    "own_popularity": {"exclude_seen": False},
    **{
        name: {"exclude_seen": True, **dataclasses.asdict(decay)} for name, decay in _DECAYS.items()
    },
    "ease": {"exclude_seen": True, "lambdas": list(ease.LAMBDAS), "first_lambda": ease.FIRST},
    "markov": {"exclude_seen": True, "smoothing": markov.SMOOTHING},
    "history": {},
    "item_mean": {},
}

# Those that take seconds, which `recllm eval` shows beside every model.
QUICK = (
    "popularity",
    "popularity_unseen",
    "own_popularity",
    "item_to_item",
    "history",
    "item_mean",
)


def settings_of(name: str, keeps_repeats: bool) -> dict[str, Any]:
    """The settings of a row; with its data they determine its results.

    Where a dataset keeps repeats, a seen item may be the target, so lists hold seen items: all but
    those of `popularity_unseen`, which are made without.
    """
    settings = dict(SETTINGS[name])
    if keeps_repeats and name != "popularity_unseen" and "exclude_seen" in settings:
        settings["exclude_seen"] = False
    return settings


def measure_baselines(
    dataset: str, split: str, num_examples: Mapping[str, int]
) -> dict[str, dict[str, dict[str, float]]]:
    """Metrics of the quick baselines by name and task.

    Args:
      dataset: a prepared dataset.
      split: `validation` or `test`.
      num_examples: users of each task; other tasks than `<dataset>_{retrieval,ranking,rating}` are
        ignored.
    """
    num_users = {task.removeprefix(f"{dataset}_"): num for task, num in num_examples.items()}
    splits = Splits(dataset, split, num_users)
    found = {}
    keeps_repeats = splits.source.info().keeps_repeats
    for row in (ROWS[name] for name in QUICK):
        if row.needs_repeats and not keeps_repeats:
            continue
        kinds = [kind for kind in row.kinds if kind in num_users]
        if kinds:
            measured = measure(row, splits, kinds)
            found[row.name] = {
                f"{dataset}_{kind}": measured.metrics(kind, splits.of(kind)) for kind in kinds
            }
    return found


def measure(
    row: Row, splits: Splits, kinds: Sequence[str], say: Callable[[str], None] = lambda text: None
) -> Measured:
    """Fits a row and measures it.

    Args:
      row: one of SETTINGS.
      splits: of a dataset.
      kinds: of tasks, among `row.kinds`.
      say: receives messages about progress.

    Raises:
      UserError: the dataset lacks something that the row needs.
    """
    # Reading does not count as work of the row that happens to be first.
    evaluated = splits.of(kinds[0])
    validation = splits.validation if row.name == "ease" else None
    start = time.monotonic()
    settings = settings_of(row.name, splits.source.info().keeps_repeats)
    if row.name in _RATING_SCORES:
        scores = _RATING_SCORES[row.name](evaluated)
        seconds = time.monotonic() - start
        groups = evaluated.num_items if row.name == "item_mean" else len(evaluated.train_items)
        return Measured({}, {"rating": scores}, {"rating": seconds}, 0.0, settings, groups)
    if validation is not None:
        model = ease.fit(validation, done=say, exclude_seen=settings["exclude_seen"])
        settings |= {
            "lambda": model.regularization,
            "validation_ndcg@10": {f"{key:g}": value for key, value in model.validation.items()},
        }
        score_block, parameters = model.score_block(evaluated), model.weights.size
    else:
        score_block, parameters = _counted(row.name, evaluated)
    fitted = time.monotonic()
    ranked, seconds = measure_lists(
        row.name, score_block, evaluated, kinds, settings["exclude_seen"]
    )
    return Measured(ranked, {}, seconds, fitted - start, settings, parameters)


def _counted(name: str, interactions: SplitInteractions):
    """The scores, and how many counts they are computed from."""
    if name == "own_popularity":
        return popularity.own_score_block(interactions), interactions.num_items
    if name.startswith("popularity"):
        return popularity.score_block(interactions), interactions.num_items
    if name == "markov":
        counts = markov.successors(interactions.train_items, interactions.num_items)
        return markov.score_block(interactions), counts.nnz + interactions.num_items
    decay = _DECAYS[name]
    pairs = similarity(interactions.train_items, interactions.num_items, decay).nnz
    return item_to_item.score_block(interactions, decay), pairs
