"""One evaluated split beside the interactions that a baseline may learn from.

Letters: T users of the train split, U users of the evaluated split, C negatives (99 in the paper).
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from recllm_tasks.data.options import Options


@dataclasses.dataclass(frozen=True)
class SplitInteractions:
    """Leave-one-out data in memory; items are rows of the catalog, in [0, num_items).

    Attributes:
      num_items: N, the catalog's length.
      train_items: T of int32 [n], oldest first: all that a baseline may fit on.
      train_ratings: T of float32 [n] beside `train_items`, in stars, NaN where unknown.
      history_items: U of int32 [n], oldest first: what precedes the target. For test this holds
        the validation item, which is an input then, as it is in every model's prompt.
      targets: int32 [U], the last item of each evaluated record.
      target_ratings: float32 [U], in stars, NaN where unknown.
      train_users: int32 [U], where in `train_items` the evaluated user stands, -1 for nowhere.
      negatives: int32 [U, C], drawn with replacement, or None where the split has none.
      like_threshold: a rating above it is a like.
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
          train_records: the same without `negatives`; all their items are training items.
          num_items: the catalog's length.
          like_threshold: a rating above it is a like.

        Raises:
          ValueError: if a split has no record, an evaluated record no item, a user two records
            in train, or an item no row in the catalog.
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
        """The same with those of the U users for whom `chosen` [U] holds."""
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

    def train_counts(self) -> npt.NDArray[np.int64]:
        """How often each item stands in train: [N]."""
        return np.bincount(np.concatenate(self.train_items), minlength=self.num_items)


def _name(user: str | bytes) -> str:
    """TFDS gives strings as bytes."""
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
            "evaluate, expected one at least of each"
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
                f"record for '{_name(record['user'])}': got no items, expected a target at least"
            )
