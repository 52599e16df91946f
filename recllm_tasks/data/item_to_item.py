"""Item-to-item: items near the user's last items in other users' sequences.

    S[a, b] = sum over pairs of train_u with a at i, b at j of  w(j - i) / sqrt(count_a count_b)
    w(d)    = pair^(d - 1) forwards, backward * pair^(-d - 1) backwards, 0 beyond window
    score_u(b) = sum over the recent items a of the history of  v(age_a) * S[a, b]
    v(age)  = 1 / (1 + age), or age_decay^age;  age 0 for the last item

Our choice: cosine co-occurrence as in item-based collaborative filtering (Sarwar et al. 2001;
Linden et al. 2003) with decay by distance and age. Backward pairs count, because timestamps are
often whole days, within which the order is unknown. Two decays:

  FAST  pair .5, v(age) 1 / (1 + age), the whole history: the row `item_to_item`. Of about 140
        settings it is nearest to the test results of an earlier measurement of this baseline (Toys
        .0903 .0586, Beauty .0760 .0484), whose constants are unknown.
  SLOW  pair .8, age_decay .8, the last 20 items: the row `item_to_item_slow`. Of eleven settings it
        hits most on the validation targets of Toys and MovieLens 100k, and nearly most on Beauty's.
        It also hits more in the test:

                       Toys HR@10, NDCG@10   Beauty           MovieLens 100k
        FAST           .0905 .0586           .0761 .0484      .2131 .1133
        SLOW           .0923 .0597           .0796 .0491      .2195 .1171

The cosine is customary and was not chosen on validation, where plain counts hit more on Toys and
Beauty and less on MovieLens.

The row `item_to_item_texts`, which is also the prior that models are ranked with, adds what texts
say to SLOW, T of text_similarity.py in the place of S; of each of the two, the items outside of the
history share one:

    score_u(b) = s_u(b) / sum over b' of s_u(b') + t_u(b) / sum over b' of t_u(b')

S is fitted on train only. A history is an input; for test it includes the validation item, as every
model's prompt does.

Letters: N items, U users.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse


@dataclasses.dataclass(frozen=True)
class Decay:
    """Constants of the module's docstring.

    `age_decay` None is 1 / (1 + age); `recent` is the number of items of a history that count, None
    all.
    """

    pair: float = 0.5
    age_decay: float | None = None
    backward: float = 0.3
    window: int = 20
    recent: int | None = None

    def of_ages(self, ages: npt.NDArray[np.int_]) -> npt.NDArray[np.floating]:
        return 1 / (1 + ages) if self.age_decay is None else self.age_decay**ages


FAST, SLOW = Decay(), Decay(pair=0.8, age_decay=0.8, recent=20)


def similarity(
    train_items: Sequence[npt.NDArray[np.int32]], num_items: int, decay: Decay = FAST
) -> scipy.sparse.csr_array:
    """S of the module's docstring: float64 [N, N], from the earlier item (row) to the later."""
    flat = np.concatenate(train_items)
    user = np.repeat(np.arange(len(train_items)), [len(items) for items in train_items])
    counts_N = np.bincount(flat, minlength=num_items)
    forward = scipy.sparse.csr_array((num_items, num_items))
    for distance in range(1, decay.window + 1):
        pair = user[:-distance] == user[distance:]
        earlier, later = flat[:-distance][pair], flat[distance:][pair]
        weight = np.full(len(earlier), decay.pair ** (distance - 1))
        forward += scipy.sparse.csr_array((weight, (earlier, later)), shape=forward.shape)
    scale = scipy.sparse.diags_array(1 / np.sqrt(np.maximum(counts_N, 1)))
    return (scale @ (forward + decay.backward * forward.T) @ scale).tocsr()


def history_weights(
    history_items: Sequence[npt.NDArray[np.int32]], num_items: int, decay: Decay = FAST
) -> scipy.sparse.csr_array:
    """v(age) of the recent items of each history: float64 [U, N]."""
    recent = [items[-(decay.recent or len(items)) :] for items in history_items]
    age = np.concatenate([np.arange(len(items))[::-1] for items in recent])
    starts = np.cumsum([0, *map(len, recent)])
    rows = np.concatenate(recent)
    shape = (len(recent), num_items)
    return scipy.sparse.csr_array((decay.of_ages(age), rows, starts), shape=shape)


def joint_scores(
    history_items: Sequence[npt.NDArray[np.int32]],
    similarities: Sequence[Any],
    decay: Decay = SLOW,
) -> scipy.sparse.csr_array:
    """Scores by several similarities, each with the same say: float64 [U, N].

    Args:
      history_items: U of int32 [n], oldest first.
      similarities: sparse float64 [N, N] each, as S. Where one has nothing for a user, the others
        have all the say.
      decay: of the items' ages.
    """
    num_items = similarities[0].shape[0]
    weights_UxN: Any = history_weights(history_items, num_items, decay)
    lengths = [len(items) for items in history_items]
    users = np.repeat(np.arange(len(lengths)), lengths)
    seen = (np.ones(len(users), bool), (users, np.concatenate([*history_items, *_NOBODY])))
    seen_UxN = scipy.sparse.csr_array(seen, weights_UxN.shape)
    total_UxN: Any = scipy.sparse.csr_array(weights_UxN.shape)
    for similarity_NxN in similarities:
        scores_UxN = weights_UxN @ similarity_NxN
        unseen_U = scores_UxN.sum(axis=1) - scores_UxN.multiply(seen_UxN).sum(axis=1)
        # What rounding leaves of a sum that is zero.
        has_any_U = unseen_U > 1e-9 * scores_UxN.sum(axis=1)
        share_U = np.divide(1, unseen_U, out=np.zeros_like(unseen_U), where=has_any_U)
        total_UxN = total_UxN + scipy.sparse.diags_array(share_U) @ scores_UxN
    return total_UxN.tocsr()


_NOBODY = (np.zeros(0, np.int32),)
