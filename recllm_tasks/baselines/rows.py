"""The baselines by name: rows of a table of results that are not language models."""

import dataclasses
import difflib
import re
from collections.abc import Sequence

from recllm_tasks.baselines.recbole.models import MODELS
from recllm_tasks.errors import UserError

# Origins, which are groups in `--rows` too.
BUILT_IN, RECBOLE = "house", "recbole"
_LISTS = ("retrieval", "ranking")


@dataclasses.dataclass(frozen=True)
class Row:
    """A baseline.

    Attributes:
      name: everywhere: in `--rows`, of its run's folder, in results and in tables.
      title: a longer name, kept in results.
      what: description in a line.
      kinds: of tasks that it is measured on.
      origin: what fits it.
      needs_repeats: whether it only means something where a dataset keeps repeats, and lists may
        hold seen items.
    """

    name: str
    title: str
    what: str
    kinds: tuple[str, ...] = _LISTS
    origin: str = BUILT_IN
    needs_repeats: bool = False


ROWS = {
    row.name: row
    for row in (
        Row("popularity", "Popularity", "the most frequent items of train, for everybody"),
        Row(
            "own_popularity",
            "Popularity in own history",
            "the most frequent items of the user's history; needs repeats, and seen items kept",
            needs_repeats=True,
        ),
        Row("item_to_item", "Item-to-item", "items near the user's last items in other histories"),
        Row("item_to_item_slow", "Item-to-item, slow decay", "the same with a wider neighbourhood"),
        Row(
            "item_to_item_texts",
            "Item-to-item, with texts",
            "the same with items of similar texts; models are ranked together with it",
        ),
        Row("ease", "EASE", "linear model in closed form, lambda chosen on validation"),
        Row("markov", "Markov chain", "items right after the user's last item in other histories"),
        Row(
            "sasrec",
            "SASRec, softmax",
            "a causal transformer, softmax over the catalog, trained for minutes",
        ),
        Row("history", "History", "share of likes among the user's ratings in train", ("rating",)),
        Row(
            "item_mean",
            "Item mean",
            "share of likes among the item's ratings in train",
            ("rating",),
        ),
        *(
            Row(name, model.title, model.what, model.kinds, RECBOLE)
            for name, model in MODELS.items()
        ),
    )
}

# Rows of older versions, of which results may still exist.
REPLACED = {"popularity_unseen": "popularity"}

# In the name of a model that ranks together with the prior, which is the row of that name with
# texts.
WITH_PRIOR, PRIOR = " + item_to_item", "item_to_item_texts"

GROUPS = {
    "all": tuple(ROWS),
    **{
        origin: tuple(r.name for r in ROWS.values() if r.origin == origin)
        for origin in (BUILT_IN, RECBOLE)
    },
}


def _plain(name: str) -> str:
    """A name without differences of spelling: `Item-to-item` equals `item_to_item`."""
    return re.sub(r"[-_ ]", "", name.lower())


_NAMES = {_plain(name): name for name in (*GROUPS, *ROWS)}
_REPLACED = {_plain(name): row for name, row in REPLACED.items()}


def name_of(spelled: str) -> str | None:
    """The name of the row that is spelled so, or nearly so; None if it is no row's."""
    name = _REPLACED.get(_plain(spelled)) or _NAMES.get(_plain(spelled))
    return name if name in ROWS else None


def chosen(names: str) -> Sequence[Row]:
    """The distinct rows that `--rows` names, in that order.

    Args:
      names: of rows or groups, in any spelling, separated by commas.

    Raises:
      UserError: no name, or an unknown one.
    """
    found: dict[str, Row] = {}
    for part in names.split(","):
        name = _NAMES.get(_plain(part), "")
        if not name:
            raise UserError(f"--rows: got '{part.strip()}', expected {_expected(part)}; correct it")
        found |= {row: ROWS[row] for row in GROUPS.get(name, (name,))}
    return list(found.values())


def _expected(part: str) -> str:
    replaced = _REPLACED.get(_plain(part))
    if replaced:
        return f"{replaced} with --seen leave_out"
    nearest = difflib.get_close_matches(_plain(part), _NAMES, 1, cutoff=0.6)
    if nearest:
        return f"the name of a row, perhaps {_NAMES[nearest[0]]}"
    return f"names among {', '.join((*ROWS, *GROUPS))}, separated by commas"
