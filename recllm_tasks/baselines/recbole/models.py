"""RecBole's models that are rows, and their settings.

Other settings are RecBole's defaults. Our choice: the same size and learning rate for all models,
and each model's default loss; no row is tuned. RecBole lacks BPR-MLP and SASRec with its paper's
loss; both are built in process/networks.py.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

_LISTS, _RATING = ("retrieval", "ranking"), ("rating",)


@dataclasses.dataclass(frozen=True)
class Model:
    """One row.

    Attributes:
      title: in tables.
      what: description in a line.
      network: RecBole's class, or one of process/networks.py.
      config: RecBole's settings of this model.
      kinds: of tasks that it is measured on.
      pretrain: limits of a first stage: epochs, and its share of the minutes.
    """

    title: str
    what: str
    network: str
    config: Mapping[str, Any]
    kinds: tuple[str, ...] = _LISTS
    pretrain: Mapping[str, float] | None = None


_ALL = {"learning_rate": 0.001, "train_batch_size": 1024}
_COLUMNS = {"inter": ["user_id", "item_id", "timestamp"]}
_WITH_CLASS = {**_COLUMNS, "item": ["item_id", "class"]}
_WITHOUT_CLASS = {**_COLUMNS, "item": ["item_id"]}
_NEGATIVES = {"distribution": "uniform", "sample_num": 1}


def _sequential(loss: str = "CE", **config: Any) -> dict[str, Any]:
    settings = {**_ALL, "load_col": _WITHOUT_CLASS, "MAX_ITEM_LIST_LENGTH": 20, "loss_type": loss}
    settings["train_neg_sample_args"] = None if loss == "CE" else dict(_NEGATIVES)
    return settings | config


def _transformer(loss: str = "CE", dropout: float = 0.5, **config: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 64, "inner_size": 256, "n_layers": 2, "n_heads": 2}
    numbers = {"hidden_act": "gelu", "layer_norm_eps": 1e-12, "initializer_range": 0.02}
    dropouts = {"hidden_dropout_prob": dropout, "attn_dropout_prob": dropout}
    return _sequential(loss, **sizes, **numbers, **dropouts, **config)


def _pairwise(negatives: int = 1, **config: Any) -> dict[str, Any]:
    sampling = {**_NEGATIVES, "sample_num": negatives}
    # RecBole counts the negatives into a batch.
    batch = {"train_batch_size": 1024 * negatives}
    columns = {"load_col": _WITHOUT_CLASS, "train_neg_sample_args": sampling}
    return {**_ALL, **batch, **columns, "embedding_size": 64, **config}


def _rating(columns: Mapping[str, Any], **config: Any) -> dict[str, Any]:
    columns = {**columns, "inter": ["user_id", "item_id", "label"]}
    labels = {"load_col": columns, "LABEL_FIELD": "label", "train_neg_sample_args": None}
    return {**_ALL, **labels, **config}


MODELS: Mapping[str, Model] = {
    "caser": Model(
        "Caser",
        "convolutions over the last ten items (Tang and Wang 2018)",
        "Caser",
        _sequential(MAX_ITEM_LIST_LENGTH=10),
    ),
    "hgn": Model("HGN", "gated sums of the last items (Ma et al. 2019)", "HGN", _sequential()),
    "gru4rec": Model(
        "GRU4Rec", "a recurrent network (Hidasi et al. 2016)", "GRU4Rec", _sequential()
    ),
    "bert4rec": Model(
        "BERT4Rec",
        "a transformer that fills masked items in (Sun et al. 2019)",
        "BERT4Rec",
        _transformer(dropout=0.2),
    ),
    "fdsa": Model(
        "FDSA",
        "transformers over items and their categories (Zhang et al. 2019)",
        "FDSA",
        _transformer(load_col=_WITH_CLASS, selected_features=["class"]),
    ),
    "sasrec_bce": Model(
        "SASRec, BCE",
        "a causal transformer (Kang and McAuley 2018), one negative a positive",
        "SASRecBCE",
        _transformer("BPR"),
    ),
    "sasrec_ce": Model(
        "SASRec, CE", "the same with cross-entropy over all items", "SASRec", _transformer()
    ),
    "s3rec": Model(
        "S3-Rec",
        "the same, pre-trained on items and categories (Zhou et al. 2020)",
        "S3Rec",
        _transformer(load_col=_WITH_CLASS, item_attribute="class"),
        pretrain={"epochs": 10, "share": 0.5},
    ),
    "bpr_mf": Model(
        "BPR-MF",
        "matrix factorisation, pairwise loss (Rendle et al. 2009)",
        "BPR",
        _pairwise(),
    ),
    "bpr_mlp": Model(
        "BPR-MLP",
        "the same loss, an MLP for a score",
        "BPRMLP",
        _pairwise(mlp_hidden_size=[64, 32], dropout_prob=0.1),
    ),
    "simplex": Model(
        "SimpleX",
        "cosine contrastive loss, 50 negatives (Mao et al. 2021)",
        "SimpleX",
        _pairwise(50),
    ),
    "dmf": Model(
        "DMF",
        "two MLPs over rows and columns (Xue et al. 2017)",
        "DMF",
        _rating({"item": ["item_id"]}),
        _RATING,
    ),
    "wide_deep": Model(
        "Wide & Deep",
        "user, item and categories, linear and in an MLP (Cheng et al. 2016)",
        "WideDeep",
        _rating({"item": ["item_id", "class"]}),
        _RATING,
    ),
}
