"""Facts about each dataset that can be prepared: files, addresses and wording."""

import dataclasses
import difflib

from recllm_tasks.errors import UserError

_AMAZON_2014 = "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles/"
_AMAZON_2018 = "https://jmcauley.ucsd.edu/data/amazon_v2/"
_WHEEL = "the PyPI wheel recbole==1.2.1, folder recbole/dataset_example/ml-100k/"


@dataclasses.dataclass(frozen=True)
class Table7:
    """One row of the paper's Table 7; `sparsity` is in percent."""

    users: int
    items: int
    interactions: int
    sparsity: float


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """One dataset.

    `format` is `amazon` (JSON lines of 2014 or 2018) or `recbole` (atomic files). The two file
    names are what the publisher calls them; a `.gz` file may also lie unpacked beside it. The
    addresses only serve messages: nothing is fetched from them. `in_wheel` says that the files
    come from the PyPI wheel when no raw folder is given.
    """

    name: str
    title: str
    format: str
    interactions_file: str
    metadata_file: str
    interactions_address: str
    metadata_address: str
    noun: str
    verb: str
    verb_past: str
    in_wheel: bool = False
    table7: Table7 | None = None


def _amazon_2014(name: str, title: str, category: str, table7: Table7) -> DatasetSpec:
    interactions, metadata = f"reviews_{category}_5.json.gz", f"meta_{category}.json.gz"
    return DatasetSpec(
        name=name,
        title=title,
        format="amazon",
        interactions_file=interactions,
        metadata_file=metadata,
        interactions_address=_AMAZON_2014 + interactions,
        metadata_address=_AMAZON_2014 + metadata,
        noun="Amazon products",
        verb="buy",
        verb_past="purchased",
        table7=table7,
    )


_ALL = (
    _amazon_2014("toys", "Toys & Games", "Toys_and_Games", Table7(19_412, 11_924, 167_597, 99.93)),
    _amazon_2014("beauty", "Beauty", "Beauty", Table7(22_363, 12_101, 198_502, 99.93)),
    _amazon_2014(
        "sports",
        "Sports & Outdoors",
        "Sports_and_Outdoors",
        Table7(35_598, 18_357, 296_337, 99.95),
    ),
    DatasetSpec(
        name="gift_cards",
        title="Gift Cards",
        format="amazon",
        interactions_file="Gift_Cards_5.json.gz",
        metadata_file="meta_Gift_Cards.json.gz",
        interactions_address=_AMAZON_2018 + "categoryFilesSmall/Gift_Cards_5.json.gz",
        metadata_address=_AMAZON_2018 + "metaFiles2/meta_Gift_Cards.json.gz",
        noun="Amazon products",
        verb="buy",
        verb_past="purchased",
    ),
    DatasetSpec(
        name="movielens_100k",
        title="MovieLens 100k",
        format="recbole",
        interactions_file="ml-100k.inter",
        metadata_file="ml-100k.item",
        interactions_address=_WHEEL,
        metadata_address=_WHEEL,
        noun="movies",
        verb="watch",
        verb_past="watched",
        in_wheel=True,
    ),
)

SPECS: dict[str, DatasetSpec] = {spec.name: spec for spec in _ALL}


def get_spec(name: str) -> DatasetSpec:
    """Returns the spec called `name`; raises `UserError` with the known names for another one."""
    if name in SPECS:
        return SPECS[name]
    close = difflib.get_close_matches(str(name), SPECS, n=1)
    remedy = f"did you mean '{close[0]}'?" if close else "choose one of them"
    raise UserError(
        f"unknown dataset for 'name': got '{name}', expected one of {', '.join(SPECS)}; {remedy}"
    )
