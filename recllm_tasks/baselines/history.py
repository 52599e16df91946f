"""Rating baselines: how likely the user, or the item, is liked in train.

A rating above the dataset's threshold is a like: 3 stars (Paper §4.1) unless it was prepared with
another one. Letters: U users of the evaluated split, N items.
"""

import numpy as np
import numpy.typing as npt

from recllm_tasks import metrics
from recllm_tasks.baselines.interactions import SplitInteractions
from recllm_tasks.errors import UserError


def rating(interactions: SplitInteractions) -> dict[str, float]:
    """`auc` of `score_users`."""
    return _auc(interactions, score_users(interactions))


def rating_by_item_mean(interactions: SplitInteractions) -> dict[str, float]:
    """`auc` of `score_items`."""
    return _auc(interactions, score_items(interactions))


def score_users(interactions: SplitInteractions) -> npt.NDArray[np.float64]:
    """History: the share of likes among the user's own ratings in train, [U].

    "A naive method that always predicts based on how likely a user likes the training items they
    purchased" (Paper §4.1). A user without a rating in train gets the share of all ratings.

    Raises:
      UserError: if no rating is known in train.
    """
    user = np.repeat(
        np.arange(len(interactions.train_ratings)),
        [len(ratings) for ratings in interactions.train_ratings],
    )
    share = _share_liked(interactions, user, len(interactions.train_ratings))
    # The last element is for the users whom train does not know: train_users is -1 there.
    return share[interactions.train_users]


def score_items(interactions: SplitInteractions) -> npt.NDArray[np.float64]:
    """The share of likes among the target item's own ratings in train, [U].

    Our choice: the counterpart of History that looks at the item and not at the user. An item
    without a rating in train gets the share of all ratings. Errors as for `score_users`.
    """
    item = np.concatenate(interactions.train_items)
    share = _share_liked(interactions, item, interactions.num_items)
    return share[interactions.targets]


def _share_liked(
    interactions: SplitInteractions, group: npt.NDArray[np.int_], num_groups: int
) -> npt.NDArray[np.float64]:
    """Share of likes by group of train rating, that of all ratings for an empty group and last.

    Args:
      interactions: of one split.
      group: int, one for each train rating, in their order.
      num_groups: G.

    Returns:
      [G + 1].
    """
    ratings = np.concatenate(interactions.train_ratings)
    known = ~np.isnan(ratings)
    _check_known(known, "train")
    liked, group = ratings[known] > interactions.like_threshold, group[known]
    count = np.bincount(group, minlength=num_groups + 1)
    likes = np.bincount(group, weights=liked, minlength=num_groups + 1)
    return np.where(count > 0, likes / np.maximum(count, 1), liked.mean())


def _auc(interactions: SplitInteractions, score_U: npt.NDArray[np.float64]) -> dict[str, float]:
    known = ~np.isnan(interactions.target_ratings)
    _check_known(known, "the evaluated split")
    liked = interactions.target_ratings[known] > interactions.like_threshold
    return {"auc": metrics.auc(liked, score_U[known])}


def _check_known(known: npt.NDArray[np.bool_], where: str) -> None:
    if not known.any():
        raise UserError(
            f"ratings for '{where}': got none, expected stars of 1 to 5; "
            "a dataset without ratings has no rating task"
        )
