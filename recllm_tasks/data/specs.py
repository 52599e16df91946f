"""Facts about each dataset that can be prepared: files, addresses, wording, the paper's counts."""

import dataclasses
import difflib
import re
from collections.abc import Sequence

from recllm_tasks.data.formats import Format, Reading, custom_format, get_format, refined_format
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
class Samples:
    """Number of examples of one task; None is the paper's "DS", dynamic sampling."""

    train: int | None
    validation: int
    test: int


@dataclasses.dataclass(frozen=True)
class CustomFiles:
    """Paths, or patterns such as `part-*.csv`, of the files of a custom dataset."""

    interactions: tuple[str, ...]
    items: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """One dataset.

    The two file names are the publisher's; a `.gz` file may also be unpacked. Files are downloaded
    from the addresses only on request (`download.py`); the publisher of the Amazon files gives no
    checksums, so only sizes are compared. With `in_wheel`, the files come from the PyPI wheel if no
    raw folder is given. A custom dataset has `custom_files` instead of published names and
    addresses.
    """

    name: str
    title: str
    format: Format
    interactions_file: str
    metadata_file: str
    interactions_address: str
    metadata_address: str
    noun: str
    verb: str
    verb_past: str
    in_wheel: bool = False
    table7: Table7 | None = None
    interactions_sha256: str | None = None
    metadata_sha256: str | None = None
    custom_files: CustomFiles | None = None


def _amazon_2014(name: str, title: str, category: str, table7: Table7) -> DatasetSpec:
    interactions, metadata = f"reviews_{category}_5.json.gz", f"meta_{category}.json.gz"
    return DatasetSpec(
        name=name,
        title=title,
        format=get_format("amazon_2014"),
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
        format=get_format("amazon_2018"),
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
        format=get_format("recbole"),
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

SAMPLED = Samples(None, 0, 0)

_RECOMMENDATION = {
    "toys": Samples(30_761, 3_000, 19_412),
    "beauty": Samples(36_582, 3_000, 22_363),
    "sports": Samples(47_320, 3_000, 35_598),
}

# Paper Table 10, by dataset and task.
TABLE_10: dict[str, dict[str, Samples]] = {
    dataset: {
        **dict.fromkeys(("retrieval", "ranking", "rating"), samples),
        **dict.fromkeys(("mim", "mlm", "bpr"), SAMPLED),
    }
    for dataset, samples in _RECOMMENDATION.items()
}


# Base forms by past form.
_VERBS = {
    "bought": "buy",
    "purchased": "purchase",
    "ordered": "order",
    "watched": "watch",
    "read": "read",
    "played": "play",
    "listened to": "listen to",
    "heard": "hear",
    "visited": "visit",
    "viewed": "view",
    "clicked": "click",
    "rated": "rate",
    "liked": "like",
    "used": "use",
    "eaten": "eat",
}


def custom_spec(
    name: str,
    interactions: Sequence[str],
    items: Sequence[str] = (),
    *,
    columns: str | None = None,
    format: str | None = None,
    reading: Reading | None = None,
    noun: str = "products",
    verb: str = "purchased",
    title: str | None = None,
) -> DatasetSpec:
    """The spec of a custom dataset, which `prepare` takes in place of a published name.

    Args:
      name: prefix of its tasks: lower-case letters, digits and `_`.
      interactions: files or patterns, read in this order.
      items: files or patterns with the items' texts; may be empty.
      columns: column names by role, as in `formats.custom_format`.
      format: a published format, a key of `formats.FORMATS`; `columns` may rename some of its.
      reading: what else is known about the files.
      noun: what prompts call the items ("products").
      verb: what users did with them ("purchased"), or both forms, "buy,bought".
      title: for tables; the name by default.

    Raises:
      UserError: the name is not allowed, the verb's base form is unknown, or the columns are wrong.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(
            f"name of a dataset: got '{name}', expected lower-case letters, digits and _, a letter "
            "first; choose such a name"
        )
    if name in SPECS:
        raise UserError(
            f"name of a dataset: got '{name}', which is a published dataset, expected a new "
            "name; choose another one, or leave out --interactions and give --raw_dir"
        )
    base, comma, past = (word.strip() for word in verb.partition(","))
    if not comma:
        base, past = _VERBS.get(base, ""), base
    if not base or not past or not noun.strip():
        raise UserError(
            f"wording for '{name}': got the noun '{noun}' and the verb '{verb}', expected a noun "
            f"such as products and a verb such as {', '.join(list(_VERBS)[:3])}; give a verb's "
            "both forms, for instance --verb rent,rented"
        )
    return DatasetSpec(
        name=name,
        title=title or name,
        format=refined_format(format, columns, reading or Reading())
        if format
        else custom_format(columns, reading or Reading()),
        interactions_file=" ".join(interactions),
        metadata_file=" ".join(items),
        interactions_address="--interactions",
        metadata_address="--items",
        noun=noun.strip(),
        verb=base,
        verb_past=past,
        custom_files=CustomFiles(tuple(interactions), tuple(items)),
    )


def get_spec(name: str) -> DatasetSpec:
    """Returns the spec called `name`; raises `UserError` with the known names if there is none."""
    if name in SPECS:
        return SPECS[name]
    close = difflib.get_close_matches(str(name), SPECS, n=1)
    remedy = f"did you mean '{close[0]}'?" if close else "choose one of them"
    raise UserError(
        f"unknown dataset for 'name': got '{name}', expected one of {', '.join(SPECS)}; {remedy}, "
        "or give the files of a custom dataset with --interactions"
    )
