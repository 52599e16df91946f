"""The files that the RecBole process reads: the log of train, and the users to score.

    data/log/log.inter    user_id, item_id, timestamp (the place in the sequence), label (a like)
    data/log/log.item     item_id, class (categories, by number)
    users.parquet, validation.parquet   user, history, target, candidates or liked

The log has no held-out interactions, so that no model can train on them; log.item has all items, so
that all get an embedding. Users are numbers and items are catalog rows, since RecBole's atomic
files have no quoting.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recllm_tasks.baselines.evaluation import candidates_of
from recllm_tasks.baselines.interactions import SplitInteractions
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.files import atomic_write

# Separates the levels of `Catalog.categories`.
_LEVELS = " > "


def write_log(
    folder: pathlib.Path, interactions: SplitInteractions, catalog: Catalog, rated: bool
) -> None:
    """Writes log.inter and log.item into `folder`.

    Args:
      folder: of the job.
      interactions: with the train split.
      catalog: with the categories.
      rated: write only interactions with a rating; others have no label.
    """
    within = folder / "data" / "log"
    within.mkdir(parents=True, exist_ok=True)
    with atomic_write(within / "log.inter") as f:
        f.write("user_id:token\titem_id:token\ttimestamp:float\tlabel:float\n")
        for user, (items, ratings) in enumerate(
            zip(interactions.train_items, interactions.train_ratings)
        ):
            for place, (item, rating) in enumerate(zip(items, ratings)):
                if rated and np.isnan(rating):
                    continue
                label = int(rating > interactions.like_threshold)
                f.write(f"{user}\t{item}\t{place}\t{label}\n")
    with atomic_write(within / "log.item") as f:
        f.write("item_id:token\tclass:token_seq\n")
        for row, classes in enumerate(class_numbers(catalog.categories)):
            f.write(f"{row}\t{' '.join(map(str, classes))}\n")


def class_numbers(categories: Sequence[str]) -> list[list[int]]:
    """The levels of each item's categories as numbers, in order of first appearance.

    Our choice: items without categories form class 0.
    """
    numbers = {"": 0}
    found = []
    for text in categories:
        levels = dict.fromkeys(text.split(_LEVELS) if text else [""])
        found.append([numbers.setdefault(level, len(numbers)) for level in levels])
    return found


def write_users(path: pathlib.Path, interactions: SplitInteractions, rated: bool) -> None:
    """Writes the evaluated users, with their candidates or whether they liked the target."""
    histories = pa.array(interactions.history_items, pa.list_(pa.int32()))
    columns = {
        "user": pa.array(map(str, interactions.train_users), pa.string()),
        "history": histories,
        "target": pa.array(interactions.targets, pa.int32()),
    }
    if rated:
        columns["liked"] = pa.array(interactions.targets_liked())
    else:
        candidates = candidates_of(interactions)
        columns["candidates"] = pa.array(list(candidates), pa.list_(pa.int32()))
    with atomic_write(path, "wb") as f:
        pq.write_table(pa.table(columns), f)
