"""A dataset's interactions as baselines use them: what they learn from, and what they predict.

Letters: T users of the train split, U users of the evaluated split, C negatives (99 in the paper).
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from recllm_tasks.data.options import Options
from recllm_tasks.errors import UserError
from recllm_tasks.prompts.source import SequenceSource


@dataclasses.dataclass(frozen=True)
class SplitInteractions:
    """Leave-one-out data of one split in memory; items are catalog rows in [0, num_items).

    Attributes:
      num_items: N, the catalog's length.
      train_items: T of int32 [n], oldest first; a baseline is fitted on nothing else.
      train_ratings: T of float32 [n] beside `train_items`, in stars, NaN where unknown.
      history_items: U of int32 [n], oldest first: the items before the target. For test they
        include the validation item, as every model's prompt does.
      targets: int32 [U], the last item of each evaluated record.
      target_ratings: float32 [U], in stars, NaN where unknown.
      train_users: int32 [U], the evaluated user's place in `train_items`, -1 for none.
      negatives: int32 [U, C], drawn with replacement, or None where the split has none.
      like_threshold: a rating above it is a like.
      users: U names.
    """

    num_items: int
    train_items: list[npt.NDArray[np.int32]]
    train_ratings: list[npt.NDArray[np.float32]]
    history_items: list[npt.NDArray[np.int32]]
    targets: npt.NDArray[np.int32]
    target_ratings: npt.NDArray[np.float32]
    train_users: npt.NDArray[np.int32]
    negatives: npt.NDArray[np.int32] | None = None
    like_threshold: float = Options.like_threshold
    users: tuple[str, ...] = ()

    @classmethod
    def from_records(
        cls,
        records: Iterable[Mapping[str, Any]],
        train_records: Iterable[Mapping[str, Any]],
        num_items: int,
        like_threshold: float = Options.like_threshold,
    ) -> Self:
        """Joins the records of an evaluated split and of train by `user`.

        Args:
          records: with `user` (str or bytes), `items` (int [n], oldest first, the target last),
            `ratings` (float [n]) and, in all or none of them, `negatives` (int [C]).
          train_records: the same without `negatives`.
          num_items: the catalog's length.
          like_threshold: a rating above it is a like.

        Raises:
          ValueError: a split has no record, an evaluated record has no item, a user has two
            records in train, or an item is not in the catalog.
        """
        records, train_records = list(records), list(train_records)
        place = {_name(record["user"]): row for row, record in enumerate(train_records)}
        _check(records, train_records, len(place), num_items)
        items = [np.asarray(record["items"], np.int32) for record in records]
        has_negatives = "negatives" in records[0]
        return cls(
            num_items=num_items,
            train_items=[np.asarray(record["items"], np.int32) for record in train_records],
            train_ratings=[np.asarray(record["ratings"], np.float32) for record in train_records],
            history_items=[row[:-1] for row in items],
            targets=np.array([row[-1] for row in items], np.int32),
            target_ratings=np.array([record["ratings"][-1] for record in records], np.float32),
            train_users=np.array(
                [place.get(_name(record["user"]), -1) for record in records], np.int32
            ),
            negatives=np.array([record["negatives"] for record in records], np.int32)
            if has_negatives
            else None,
            like_threshold=like_threshold,
            users=tuple(_name(record["user"]) for record in records),
        )

    def select(self, chosen: npt.NDArray[np.bool_]) -> Self:
        """Keeps those of the U users for whom `chosen` [U] holds."""
        places = np.flatnonzero(chosen)
        return dataclasses.replace(
            self,
            history_items=[self.history_items[place] for place in places],
            targets=self.targets[places],
            target_ratings=self.target_ratings[places],
            train_users=self.train_users[places],
            negatives=None if self.negatives is None else self.negatives[places],
            users=tuple(self.users[place] for place in places),
        )

    def rated(self) -> Self:
        """Keeps the users whose target has a rating; UserError if none has."""
        known = ~np.isnan(self.target_ratings)
        if not known.any():
            raise UserError(
                "ratings for 'the evaluated split': got none, expected stars of 1 to 5; a dataset "
                "without ratings has no rating task"
            )
        return self.select(known)

    def targets_liked(self) -> npt.NDArray[np.bool_]:
        """Whether each user liked the target: [U]."""
        return self.target_ratings > self.like_threshold

    def train_counts(self) -> npt.NDArray[np.int64]:
        """Interactions of each item in train: [N]."""
        return np.bincount(np.concatenate(self.train_items), minlength=self.num_items)


class Splits:
    """The splits of a prepared dataset, each read once, on first use."""

    def __init__(self, dataset: str, split: str, num_users: Mapping[str, int] | None = None):
        """Args:
        dataset: a prepared dataset.
        split: to evaluate, `validation` or `test`.
        num_users: for each kind of task, how many users to evaluate, from the first; a kind that
          is not named has them all.
        """
        self.source, self.split, self._num_users = SequenceSource(dataset), split, num_users or {}

    @functools.cached_property
    def evaluated(self) -> SplitInteractions:
        return read_split(self.source, self.split)

    @functools.cached_property
    def validation(self) -> SplitInteractions:
        """What baselines choose settings on: the first 3,000 users, as for every model."""
        return (
            self.evaluated if self.split == "validation" else read_split(self.source, "validation")
        )

    def of(self, kind: str) -> SplitInteractions:
        """The users of a kind of task."""
        found = self.evaluated.rated() if kind == "rating" else self.evaluated
        num = self._num_users.get(kind, len(found.targets))
        return (
            found.select(np.arange(len(found.targets)) < num) if num < len(found.targets) else found
        )

    def groups(self, kind: str) -> list[str]:
        """What the history of each of these users can tell of the target: co_occurrence.GROUPS."""
        found = self.of(kind)
        return self.source.co_occurrence().groups(found.history_items, found.targets)


def read_split(source: SequenceSource, split: str) -> SplitInteractions:
    """All users of a split in evaluation's order, and all of train."""
    return SplitInteractions.from_records(
        source.records(split).as_numpy_iterator(),
        source.records("train").as_numpy_iterator(),
        len(source.catalog()),
        source.info().like_threshold,
    )


def _name(user: str | bytes) -> str:
    """TFDS returns strings as bytes."""
    return user.decode() if isinstance(user, bytes) else str(user)


def _check(
    records: list[Mapping[str, Any]],
    train_records: list[Mapping[str, Any]],
    num_train_users: int,
    num_items: int,
) -> None:
    if not records or not train_records:
        raise ValueError(
            f"records for 'baselines': got {len(train_records)} of train and {len(records)} to "
            "evaluate, expected at least one of each"
        )
    if num_train_users < len(train_records):
        raise ValueError(
            f"train records for 'baselines': got {len(train_records)} records of "
            f"{num_train_users} users, expected one a user"
        )
    for record in (*records, *train_records):
        if len(record["items"]) and not (
            np.min(record["items"]) >= 0 and np.max(record["items"]) < num_items
        ):
            raise ValueError(
                f"items for '{_name(record['user'])}': got a row outside the catalog, expected "
                f"rows in [0, {num_items})"
            )
    for record in records:
        if not len(record["items"]):
            raise ValueError(
                f"record for '{_name(record['user'])}': got no items, expected at least a target"
            )
