"""Models that RecBole lacks."""

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.model.layers import MLPLayers
from recbole.model.sequential_recommender import SASRec
from recbole.utils import InputType
from torch import nn


class SASRecBCE(SASRec):
    """SASRec with the loss of its paper (Kang and McAuley 2018): one negative for each positive.

    RecBole's SASRec has BPR or cross-entropy. Like all of its models, it learns from the last item
    of each prefix; the paper's learns from every position at once.
    """

    def calculate_loss(self, interaction):
        output_BxD = self.forward(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN])
        items = (interaction[self.POS_ITEM_ID], interaction[self.NEG_ITEM_ID])
        positive_B, negative_B = ((output_BxD * self.item_embedding(i)).sum(-1) for i in items)
        return (nn.functional.softplus(-positive_B) + nn.functional.softplus(negative_B)).mean()


class BPRMLP(GeneralRecommender):
    """BPR (Rendle et al. 2009) whose score is an MLP of user and item, which RecBole lacks."""

    input_type = InputType.PAIRWISE

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        size = config["embedding_size"]
        self.users = nn.Embedding(self.n_users, size)
        self.items = nn.Embedding(self.n_items, size)
        self.mlp = MLPLayers([2 * size, *config["mlp_hidden_size"]], config["dropout_prob"])
        self.last = nn.Linear(config["mlp_hidden_size"][-1], 1)
        for embedding in (self.users, self.items):
            nn.init.normal_(embedding.weight, std=0.1)

    def score(self, user, item):
        both = torch.cat([self.users(user), self.items(item)], dim=-1)
        return self.last(self.mlp(both)).squeeze(-1)

    def calculate_loss(self, interaction):
        user = interaction[self.USER_ID]
        positive = self.score(user, interaction[self.ITEM_ID])
        return nn.functional.softplus(
            self.score(user, interaction[self.NEG_ITEM_ID]) - positive
        ).mean()

    def predict(self, interaction):
        return self.score(interaction[self.USER_ID], interaction[self.ITEM_ID])

    def full_sort_predict(self, interaction):
        items = torch.arange(self.n_items)
        users = interaction[self.USER_ID]
        return torch.stack([self.score(user.expand(self.n_items), items) for user in users])


OWN = {"SASRecBCE": SASRecBCE, "BPRMLP": BPRMLP}
