"""Facts about each dataset that can be prepared: files, addresses and wording."""

import dataclasses
import difflib
import re
from collections.abc import Sequence

from recllm_tasks.data.formats import Format, get_format, own_format
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
class OwnFiles:
    """Paths, or patterns such as `part-*.csv`, of the files of a dataset of one's own."""

    interactions: tuple[str, ...]
    items: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """One dataset.

    The two file names are what the publisher calls them; a `.gz` file may also lie unpacked. From
    the addresses files are fetched on request only (`download.py`); the publisher of the Amazon
    files tells no checksums, so that only the size is compared. `in_wheel` says that the files come
    from the PyPI wheel when no raw folder is given. A dataset of one's own has `own_files`
    instead of published names and addresses.
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
    own_files: OwnFiles | None = None


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


# Base forms of past forms that are not made by adding -ed, and of common ones that are.
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


def own_spec(
    name: str,
    interactions: Sequence[str],
    items: Sequence[str] = (),
    *,
    columns: str | None = None,
    format: str | None = None,
    time_unit: str = "seconds",
    noun: str = "products",
    verb: str = "purchased",
    title: str | None = None,
) -> DatasetSpec:
    """A dataset of one's own, to be given to `prepare` in place of a published one's name.

    Args:
      name: what its tasks are called; lower-case letters, digits and `_`.
      interactions: files or patterns, read in this order.
      items: files or patterns of the items' texts; may be none.
      columns: names of the columns by role, as in `formats.own_format`.
      format: a published format, a key of `formats.FORMATS`, instead of `columns`.
      time_unit: of times that are numbers, seconds or milliseconds.
      noun: what the items are, in the prompts ("products").
      verb: what users did with them ("purchased"), or both forms, "buy,bought".
      title: for tables; the name by default.

    Raises:
      UserError: a name that cannot be, a verb whose base form is not known, wrong columns.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(
            f"name of a dataset: got '{name}', expected lower-case letters, digits and _, a letter "
            "first; choose such a name"
        )
    if name in SPECS:
        raise UserError(
            f"name of a dataset: got '{name}', which is a published one, expected a name of its "
            "own; choose another name, or leave out --interactions and give --raw_dir"
        )
    if format and columns:
        raise UserError(
            f"columns for '{name}': got '{columns}' beside the format {format}, which names its "
            "columns itself, expected one of both; leave one out"
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
        format=get_format(format) if format else own_format(columns, time_unit),
        interactions_file=" ".join(interactions),
        metadata_file=" ".join(items),
        interactions_address="--interactions",
        metadata_address="--items",
        noun=noun.strip(),
        verb=base,
        verb_past=past,
        own_files=OwnFiles(tuple(interactions), tuple(items)),
    )


def get_spec(name: str) -> DatasetSpec:
    """Returns the spec called `name`; raises `UserError` with the known names for another one."""
    if name in SPECS:
        return SPECS[name]
    close = difflib.get_close_matches(str(name), SPECS, n=1)
    remedy = f"did you mean '{close[0]}'?" if close else "choose one of them"
    raise UserError(
        f"unknown dataset for 'name': got '{name}', expected one of {', '.join(SPECS)}; {remedy}, "
        "or give the files of your own with --interactions"
    )
