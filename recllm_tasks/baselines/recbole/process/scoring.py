"""Scores, ranks and lists of given users, without RecBole's splits.

Letters: B users of a batch, C candidates, L length of the history, N items of the catalog, U users.
"""

import contextlib
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from recbole.data.interaction import Interaction

LISTED = 20
BATCH = 256


class Users:
    """The users of a Parquet file, as numbers of RecBole's dataset."""

    def __init__(self, path, dataset, job):
        table = pq.read_table(path)
        # A user without interactions in the log becomes RecBole's padding.
        number_of = dataset.field2token_id["user_id"]
        self.user_U = torch.tensor([number_of.get(user, 0) for user in table["user"].to_pylist()])
        rows = [str(row) for row in range(job.num_items)]
        self.column_of_row_N = torch.tensor(dataset.token2id("item_id", rows))
        self.histories = [np.asarray(h, np.int64) for h in table["history"].to_pylist()]
        self.target_U = torch.tensor(table["target"].to_numpy().astype(np.int64))
        self.liked_U = table["liked"].to_numpy() if "liked" in table.column_names else None
        if "candidates" in table.column_names:
            self.candidates_UxC = torch.tensor(np.array(table["candidates"].to_pylist()))
        self.length = job.config.get("MAX_ITEM_LIST_LENGTH", 0)

    def __len__(self):
        return len(self.user_U)

    def inputs(self, block):
        """A model's inputs for the users of a slice."""
        fields = {"user_id": self.user_U[block]}
        if self.length:
            recent = [history[-self.length :] for history in self.histories[block]]
            items_BxL = torch.zeros((len(recent), self.length), dtype=torch.long)
            for row, history in enumerate(recent):
                items_BxL[row, : len(history)] = self.column_of_row_N[history]
            # An empty history is read as one unknown item, the padding.
            lengths = torch.tensor([max(len(history), 1) for history in recent])
            fields |= {"item_id_list": items_BxL, "item_length": lengths}
        return Interaction(fields)

    def blocks(self):
        return [slice(start, start + BATCH) for start in range(0, len(self), BATCH)]


@torch.no_grad()
def scores_of_block(model, users, block):
    """Scores of all items in catalog order: [B, N]."""
    scores = model.full_sort_predict(users.inputs(block))
    return scores.view(len(users.user_U[block]), -1)[:, users.column_of_row_N].double()


@torch.no_grad()
def scores_of_targets(model, dataset, users):
    """How likely each target is liked: [U]."""
    found = []
    for block in users.blocks():
        items = users.column_of_row_N[users.target_U[block]]
        pairs = Interaction({"user_id": users.user_U[block], "item_id": items})
        found.append(model.predict(dataset.join(pairs)))
    return torch.cat(found).double().numpy()


def without_seen(scores_BxN, users, block):
    for row, history in enumerate(users.histories[block]):
        scores_BxN[row, history] = -torch.inf
    return scores_BxN


def ranks_of_targets(scores_BxN, target_B):
    """1 is best, inf a miss; of equal scores the earlier row of the catalog comes first."""
    target_Bx1 = scores_BxN.gather(1, target_B[:, None])
    earlier_BxN = torch.arange(scores_BxN.shape[1]) < target_B[:, None]
    ahead_BxN = (scores_BxN > target_Bx1) | ((scores_BxN == target_Bx1) & earlier_BxN)
    ranks_B = 1.0 + ahead_BxN.sum(1).double()
    return torch.where(target_Bx1[:, 0] == -torch.inf, torch.inf, ranks_B)


def best_rows(scores_BxN):
    """The LISTED best catalog rows, best first, without those of -inf."""
    order_BxN = torch.sort(scores_BxN, dim=1, descending=True, stable=True)
    lists = []
    for rows, scores in zip(order_BxN.indices[:, :LISTED], order_BxN.values[:, :LISTED]):
        lists.append(rows[scores > -torch.inf].tolist())
    return lists


def validate(model, dataset, users, job):
    """The metric that chooses the best epoch: NDCG@10 among all items, or the AUC of likes."""
    model.eval()
    if "rating" in job.kinds:
        scores_U, liked_U = scores_of_targets(model, dataset, users), users.liked_U
        _, place_U, counts = np.unique(scores_U, return_inverse=True, return_counts=True)
        rank_U = (np.cumsum(counts) - (counts - 1) / 2)[place_U]
        positive, negative = int(liked_U.sum()), int((~liked_U).sum())
        wins = rank_U[liked_U].sum() - positive * (positive + 1) / 2
        return float(wins / max(positive * negative, 1))
    gains = []
    for block in users.blocks():
        scores_BxN = scores_of_block(model, users, block)
        if job.exclude_seen:
            without_seen(scores_BxN, users, block)
        ranks_B = ranks_of_targets(scores_BxN, users.target_U[block])
        gains.append(torch.where(ranks_B <= 10, 1 / torch.log2(ranks_B + 1), 0.0))
    return float(torch.cat(gains).mean())


@contextlib.contextmanager
def histories_of(model, users):
    """Within the block, SimpleX reads the items before the users' targets as their histories."""
    if not hasattr(model, "history_item_len"):  # DMF has history_item_id, its rows of train.
        yield
        return
    of_train = model.history_item_id, model.history_item_len
    model.history_item_id, model.history_item_len = (tensor.clone() for tensor in of_train)
    width = model.history_item_id.shape[1]
    for user, history in zip(users.user_U, users.histories):
        recent = users.column_of_row_N[history[-width:]]
        model.history_item_id[user] = 0
        model.history_item_id[user, : len(recent)] = recent
        model.history_item_len[user] = len(recent)
    yield
    model.history_item_id, model.history_item_len = of_train


def predict(model, dataset, users, job):
    """(columns of predictions.parquet, seconds by kind)."""
    model.eval()
    columns, seconds = {}, {}
    if "rating" in job.kinds:
        start = time.monotonic()
        columns["score"] = pa.array(scores_of_targets(model, dataset, users))
        return columns, {"rating": time.monotonic() - start}
    ranks, lists, candidates = [], [], []
    seconds = dict.fromkeys(job.kinds, 0.0)
    for block in users.blocks():
        start = time.monotonic()
        scores_BxN = scores_of_block(model, users, block)
        scored = time.monotonic()
        candidates.append(scores_BxN.gather(1, users.candidates_UxC[block]).numpy())
        picked = time.monotonic()
        if job.exclude_seen:
            without_seen(scores_BxN, users, block)
        ranks.append(ranks_of_targets(scores_BxN, users.target_U[block]).numpy())
        lists += best_rows(scores_BxN)
        # Scoring counts for both kinds, since both need it.
        seconds["retrieval"] += time.monotonic() - picked + scored - start
        seconds["ranking"] += picked - start
    columns["rank"] = pa.array(np.concatenate(ranks), pa.float64())
    columns["items"] = pa.array(lists, pa.list_(pa.int32()))
    columns["candidate_scores"] = pa.array(list(np.concatenate(candidates)))
    return columns, seconds
