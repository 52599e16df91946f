"""The baselines by name: rows of a table of results that are not language models."""

import dataclasses
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
      name: in `--rows`, and of its run's folder.
      title: in tables.
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

# Rows of older versions.
_REPLACED = {"popularity_unseen": "popularity with --seen leave_out"}

GROUPS = {
    "all": tuple(ROWS),
    **{
        origin: tuple(r.name for r in ROWS.values() if r.origin == origin)
        for origin in (BUILT_IN, RECBOLE)
    },
}


def chosen(names: str) -> Sequence[Row]:
    """The distinct rows that `--rows` names, in that order.

    Args:
      names: of rows or groups, separated by commas.

    Raises:
      UserError: no name, or an unknown one.
    """
    found: dict[str, Row] = {}
    for name in (part.strip() for part in names.split(",")):
        if name not in ROWS and name not in GROUPS:
            known = _REPLACED.get(name, f"names among {', '.join((*ROWS, *GROUPS))}")
            raise UserError(
                f"--rows: got '{name}', expected {known}, separated by commas; correct it"
            )
        found |= {row: ROWS[row] for row in GROUPS.get(name, (name,))}
    return list(found.values())
