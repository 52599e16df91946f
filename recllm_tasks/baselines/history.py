"""Rating baselines: how often the user liked, or the item was liked, in train.

A like is a rating above the dataset's threshold, 3 stars by default (Paper §4.1).
Letters: U users of the evaluated split, N items.
"""

import numpy as np
import numpy.typing as npt

from recllm_tasks.baselines.interactions import SplitInteractions
from recllm_tasks.errors import UserError


def score_users(interactions: SplitInteractions) -> npt.NDArray[np.float64]:
    """History: the share of likes among the user's ratings in train, [U].

    "A naive method that always predicts based on how likely a user likes the training items they
    purchased" (Paper §4.1). A user without ratings in train gets the share of all ratings.

    Raises:
      UserError: train has no ratings.
    """
    user = np.repeat(
        np.arange(len(interactions.train_ratings)),
        [len(ratings) for ratings in interactions.train_ratings],
    )
    share = _share_liked(interactions, user, len(interactions.train_ratings))
    # The last element is for users who are not in train, whose place is -1.
    return share[interactions.train_users]


def score_items(interactions: SplitInteractions) -> npt.NDArray[np.float64]:
    """Item mean: the share of likes among the target item's ratings in train, [U].

    Our choice: History with the item in place of the user. An item without ratings in train gets
    the share of all ratings. Raises the errors of `score_users`.
    """
    item = np.concatenate(interactions.train_items)
    share = _share_liked(interactions, item, interactions.num_items)
    return share[interactions.targets]


def _share_liked(
    interactions: SplitInteractions, group: npt.NDArray[np.integer], num_groups: int
) -> npt.NDArray[np.float64]:
    """Share of likes in each group of train ratings: [G + 1].

    An empty group gets the share of all ratings, and so does the last element.

    Args:
      interactions: of one split.
      group: int, of each train rating, in order.
      num_groups: G.
    """
    ratings = np.concatenate(interactions.train_ratings)
    known = ~np.isnan(ratings)
    if not known.any():
        raise UserError(
            "ratings for 'train': got none, expected stars of 1 to 5; a dataset without ratings "
            "has no rating task"
        )
    liked, group = ratings[known] > interactions.like_threshold, group[known]
    count = np.bincount(group, minlength=num_groups + 1)
    likes = np.bincount(group, weights=liked, minlength=num_groups + 1)
    return np.where(count > 0, likes / np.maximum(count, 1), liked.mean())
