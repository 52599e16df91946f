"""The rows of the table of results that are no language models, by name."""

import dataclasses
from collections.abc import Sequence

from recllm_tasks.baselines.recbole.models import MODELS
from recllm_tasks.errors import UserError

HOUSE, RECBOLE = "house", "recbole"
_LISTS = ("retrieval", "ranking")


@dataclasses.dataclass(frozen=True)
class Row:
    """One of them.

    Attributes:
      name: in `--rows` and of its run's folder.
      title: in tables.
      what: in a line.
      kinds: of the tasks that it is measured on.
      origin: what fits it.
    """

    name: str
    title: str
    what: str
    kinds: tuple[str, ...] = _LISTS
    origin: str = HOUSE


ROWS = {
    row.name: row
    for row in (
        Row("popularity", "Popularity", "the items most often had in train, for everybody"),
        Row(
            "popularity_unseen",
            "Popularity, unseen",
            "the same without what the user has had",
            ("retrieval",),
        ),
        Row("item_to_item", "Item-to-item", "what others had near the user's last items"),
        Row("item_to_item_slow", "Item-to-item, slow decay", "the same, of wider surroundings"),
        Row("ease", "EASE", "linear model in closed form; lambda chosen on validation"),
        Row("markov", "Markov chain", "what others had right after the user's last item"),
        Row("history", "History", "how much the user likes, in train", ("rating",)),
        Row("item_mean", "Item mean", "how much the item is liked, in train", ("rating",)),
        *(
            Row(name, model.title, model.what, model.kinds, RECBOLE)
            for name, model in MODELS.items()
        ),
    )
}

GROUPS = {
    "all": tuple(ROWS),
    **{
        origin: tuple(r.name for r in ROWS.values() if r.origin == origin)
        for origin in (HOUSE, RECBOLE)
    },
}


def chosen(names: str) -> Sequence[Row]:
    """The rows that `--rows` names, once each, in the order given.

    Args:
      names: of rows or groups, with commas between.

    Raises:
      UserError: no name, or an unknown one.
    """
    found: dict[str, Row] = {}
    for name in (part.strip() for part in names.split(",")):
        if name not in ROWS and name not in GROUPS:
            raise UserError(
                f"--rows: got '{name}', expected names among {', '.join((*ROWS, *GROUPS))}, with "
                "commas between; correct it"
            )
        found |= {row: ROWS[row] for row in GROUPS.get(name, (name,))}
    return list(found.values())
