"""The built-in baselines, fitted here with NumPy and SciPy; SASRec with JAX."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recllm_tasks import tasks
from recllm_tasks.baselines import ease, history, item_to_item, markov, popularity, sasrec
from recllm_tasks.baselines.interactions import SplitInteractions, Splits
from recllm_tasks.baselines.measured import Measured, measure_lists
from recllm_tasks.baselines.rows import ROWS, Row
from recllm_tasks.data import text_similarity
from recllm_tasks.data.item_to_item import FAST, SLOW, similarity
from recllm_tasks.runs.decoding import LEAVE_OUT, seen_rule

_DECAYS = {"item_to_item": FAST, "item_to_item_slow": SLOW}
_RATING_SCORES = {"history": history.score_users, "item_mean": history.score_items}

# The settings of a row, beside the rule for seen items; with its data they determine its results.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "popularity": {},
    "own_popularity": {},
    **{name: dataclasses.asdict(decay) for name, decay in _DECAYS.items()},
    "item_to_item_texts": {
        **dataclasses.asdict(SLOW),
        "power": text_similarity.POWER,
        "neighbours": text_similarity.NEIGHBOURS,
    },
    "ease": {"lambdas": list(ease.LAMBDAS), "first_lambda": ease.FIRST},
    "markov": {"smoothing": markov.SMOOTHING},
    "sasrec": dataclasses.asdict(sasrec.DEFAULT),
    "history": {},
    "item_mean": {},
}

# Those that take seconds, which `recllm eval` shows beside every model.
QUICK = (
    "popularity",
    "own_popularity",
    "item_to_item",
    "item_to_item_texts",
    "history",
    "item_mean",
)


def settings_of(name: str, seed: int = 0) -> dict[str, Any]:
    """The settings of a row. Only `sasrec` draws at random, and only its settings have the seed."""
    return {**SETTINGS[name], **({"seed": seed} if name == "sasrec" else {})}


def measure_baselines(
    dataset: str, split: str, num_examples: Mapping[str, int], seen: str | None = None
) -> dict[str, dict[str, dict[str, float]]]:
    """Metrics of the quick baselines by name and task.

    Args:
      dataset: a prepared dataset.
      split: `validation` or `test`.
      num_examples: users of each task; tasks without a `tasks.kind_of` are ignored.
      seen: the rule for seen items; None is the dataset's default.
    """
    kind_of = {task: tasks.kind_of(task, dataset) for task in num_examples}
    kind_of = {task: kind for task, kind in kind_of.items() if kind}
    num_users = {kind: num_examples[task] for task, kind in kind_of.items()}
    splits = Splits(dataset, split, num_users)
    found = {}
    keeps_repeats = splits.source.info().keeps_repeats
    seen = seen_rule(seen, keeps_repeats)
    for row in (ROWS[name] for name in QUICK):
        if row.needs_repeats and (not keeps_repeats or seen == LEAVE_OUT):
            continue
        kinds = [kind for kind in row.kinds if kind in num_users]
        if kinds:
            measured = measure(row, splits, kinds, seen)
            metrics = {kind: measured.metrics(kind, splits.of(kind)) for kind in kinds}
            found[row.name] = {
                task: metrics[kind] for task, kind in kind_of.items() if kind in metrics
            }
    return found


def measure(
    row: Row,
    splits: Splits,
    kinds: Sequence[str],
    seen: str,
    say: Callable[[str], None] = lambda text: None,
    folder: pathlib.Path | None = None,
    seed: int = 0,
) -> Measured:
    """Fits a row and measures it.

    Args:
      row: one of SETTINGS.
      splits: of a dataset.
      kinds: of tasks, among `row.kinds`.
      seen: the rule for seen items, see `seen_rule`.
      say: receives messages about progress.
      folder: of the row, where `sasrec`, which needs it, keeps the state of its training.
      seed: of `sasrec`.

    Raises:
      UserError: the dataset lacks something that the row needs.
    """
    # Reading does not count as work of the row that happens to be first.
    evaluated = splits.of(kinds[0])
    validation = splits.validation if row.name in ("ease", "sasrec") else evaluated
    start = time.monotonic()
    settings = settings_of(row.name, seed)
    exclude_seen = seen == LEAVE_OUT
    if row.name in _RATING_SCORES:
        scores = _RATING_SCORES[row.name](evaluated)
        seconds = time.monotonic() - start
        groups = evaluated.num_items if row.name == "item_mean" else len(evaluated.train_items)
        return Measured({}, {"rating": scores}, {"rating": seconds}, 0.0, settings, groups)
    fit_seconds = None
    if row.name == "sasrec":
        if folder is None:
            raise ValueError("folder for 'sasrec': got None, expected one for its training")
        model = sasrec.fit(validation, folder / sasrec.FOLDER, exclude_seen, seed)
        settings |= {"epoch": model.epoch, "validation_ndcg@10": model.validation}
        score_block, parameters = model.score_block(evaluated), model.num_parameters
        fit_seconds = model.seconds
    elif row.name == "ease":
        model = ease.fit(validation, done=say, exclude_seen=exclude_seen)
        settings |= {
            "lambda": model.regularization,
            "validation_ndcg@10": {f"{key:g}": value for key, value in model.validation.items()},
        }
        score_block, parameters = model.score_block(evaluated), model.weights.size
    else:
        score_block, parameters = _counted(row.name, evaluated, splits)
    fit_seconds = time.monotonic() - start if fit_seconds is None else fit_seconds
    ranked, seconds = measure_lists(row.name, score_block, evaluated, kinds, exclude_seen)
    return Measured(ranked, {}, seconds, fit_seconds, settings, parameters)


def _counted(name: str, interactions: SplitInteractions, splits: Splits):
    """The scores, and how many counts they are computed from."""
    if name == "own_popularity":
        return popularity.own_score_block(interactions), interactions.num_items
    if name == "popularity":
        return popularity.score_block(interactions), interactions.num_items
    if name == "markov":
        counts = markov.successors(interactions.train_items, interactions.num_items)
        return markov.score_block(interactions), counts.nnz + interactions.num_items
    if name == "item_to_item_texts":
        found = (
            similarity(interactions.train_items, interactions.num_items, SLOW),
            text_similarity.text_similarity(splits.source.catalog(), splits.source.dataset_name),
        )
        return item_to_item.joint_score_block(interactions, found), sum(s.nnz for s in found)
    decay = _DECAYS[name]
    pairs = similarity(interactions.train_items, interactions.num_items, decay).nnz
    return item_to_item.score_block(interactions, decay), pairs
