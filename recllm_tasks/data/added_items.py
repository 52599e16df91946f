"""Items that came after training: `added_items.json` in a run's folder.

    {"fingerprint": "<of the dataset>", "items": [{"item": …, "short_id": …, "title": …, …}, …],
     "checksum": "sha256:<hex>"}

They follow the dataset's items in the catalog, in this order, and nobody has bought them. Our
choice: they belong to the run, not to the dataset, whose fingerprint, records and results stay what
they are; whoever recommends with the run uses them, and no measurement does. Deleting the file
takes them back.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.dataset_info import DatasetInfo
from recllm_tasks.data.id_schemes import read_numbers, write_codes
from recllm_tasks.data.item_embeddings import embed
from recllm_tasks.data.metadata import ItemText
from recllm_tasks.data.options import ATOMIC, SEMANTIC
from recllm_tasks.data.semantic_ids import assign_later_codes, fit_codes
from recllm_tasks.data.sources import SourceFile
from recllm_tasks.errors import UserError
from recllm_tasks.files import read_json, write_json

FILE_NAME = "added_items.json"

_COLUMNS = ("item", "short_id", *(field.name for field in dataclasses.fields(ItemText)))


@dataclasses.dataclass(frozen=True, eq=False)
class AddedItems:
    """Items that were added to a run.

    Attributes:
      fingerprint: of the dataset that the run was trained on.
      catalog: the added items alone.
    """

    fingerprint: str
    catalog: Catalog

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the items with their ids and texts, in order."""
        return hashlib.sha256(json.dumps(_rows(self.catalog)).encode()).hexdigest()

    def check(self, dataset: str, fingerprint: str) -> None:
        """Raises UserError unless a dataset is the one that the items were added to."""
        if fingerprint != self.fingerprint:
            raise UserError(
                f"{FILE_NAME} for '{dataset}': got items that were added to the dataset with "
                f"fingerprint {self.fingerprint[:12]}…, expected {fingerprint[:12]}…; delete the "
                "file in the run's folder, and add the items again with `recllm catalog add`"
            )

    def save(self, model_dir: str | Path) -> None:
        """Writes the file atomically."""
        content = {"fingerprint": self.fingerprint, "items": _rows(self.catalog)}
        write_json(Path(model_dir) / FILE_NAME, content)

    @classmethod
    def load(cls, model_dir: str | Path) -> "AddedItems | None":
        """The items that were added to a run; None for none.

        Raises:
          UserError: the file is damaged.
        """
        path = Path(model_dir) / FILE_NAME
        content = read_json(path)
        if content is None:
            return None
        try:
            rows = content["items"]
            columns = {name: [row[name] for row in rows] for name in _COLUMNS}
            if not all(isinstance(text, str) for column in columns.values() for text in column):
                raise ValueError("a value that is no text")
            catalog = Catalog(**columns, train_count=np.zeros(len(rows), np.int64))
            return cls(str(content["fingerprint"]), catalog)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"Damaged file '{path}': got {error}, expected what `recllm catalog add` wrote; "
                "restore it from a copy, or delete it and add the items again"
            ) from error


def _rows(catalog: Catalog) -> list[dict[str, str]]:
    columns = [getattr(catalog, name) for name in _COLUMNS]
    return [dict(zip(_COLUMNS, values)) for values in zip(*columns)]


@dataclasses.dataclass(frozen=True)
class Addition:
    """What became of a file's items.

    Attributes:
      items: all that are added now, those of before first; None if there are none.
      new: how many of them are new.
      known: raw ids that the catalog, or what was added before, has already.
      without_text: raw ids of items that say nothing to make codes from; left out.
    """

    items: AddedItems | None
    new: int
    known: Sequence[str]
    without_text: Sequence[str]


def check_scheme(info: DatasetInfo) -> None:
    """Raises UserError if the ids of a dataset say nothing about an item."""
    if info.ids == SEMANTIC:
        return
    reason = (
        "each is a piece of the vocabulary with an embedding of its own, and a new item has neither"
        if info.ids == ATOMIC
        else "each is a random number, which tells the model nothing about a new item"
    )
    raise UserError(
        f"ids of '{info.dataset}': got {info.ids} ids ({reason}), expected {SEMANTIC} ones, which "
        f"say what an item is like; prepare the dataset with --ids {SEMANTIC} and train on it, or "
        "prepare it with the new items (--items, --catalog all) and train again"
    )


def add_items(
    info: DatasetInfo,
    catalog: Catalog,
    before: AddedItems | None,
    texts: Mapping[str, ItemText],
    embeddings: SourceFile | None,
    advance: Callable[[int], None] = lambda done: None,
) -> Addition:
    """Gives ids to items that came after training.

    The embeddings and codes of the dataset's own items are computed as `recllm prepare` did, and
    must come out the same; the others get codes by the same centres.

    Args:
      info: of the dataset.
      catalog: of the dataset.
      before: what was added before; its ids stay.
      texts: the items of the file, by raw id.
      embeddings: what `prepare` was given as --embeddings; None for none.
      advance: called with the number of items that a text model has finished.

    Raises:
      UserError: the ids are not semantic, they cannot be computed again, or there is no
        combination of codes left.
    """
    check_scheme(info)
    if before is not None:
        before.check(info.dataset, info.fingerprint)
    all_before = catalog.joined(before.catalog) if before else catalog
    has = frozenset(all_before.item)
    known = [item for item in texts if item in has]
    new = Catalog.build([item for item in texts if item not in has], texts, _nobody(texts, has))
    if not len(new):
        return Addition(before, 0, known, [])
    together = all_before.joined(new)
    fitted = [*info.appended, len(catalog)][0]
    found_NxD = embed(together, embeddings, info.dataset, info.seed, advance, fitted=fitted)
    codes_FxC, codebooks = fit_codes(found_NxD[:fitted], info.seed)
    if write_codes(codes_FxC) != catalog.short_id[:fitted]:
        raise UserError(
            f"ids of '{info.dataset}': got other codes for its own items than `recllm prepare` "
            "stored, expected the same; give the --embeddings that it was prepared with, or none "
            "if it was prepared without, and use the same release of scikit-learn"
        )
    start = len(all_before)
    says_something = found_NxD[start:].any(axis=1)
    added = np.flatnonzero(says_something)
    without_text = [new.item[row] for row in np.flatnonzero(~says_something)]
    if not len(added):
        return Addition(before, 0, known, without_text)
    trained_N = np.concatenate([catalog.train_count > 0, np.zeros(start - len(catalog), bool)])
    codes_AxC = assign_later_codes(
        found_NxD[start + added],
        codebooks,
        found_NxD[:start],
        read_numbers(all_before.short_id),
        trained_N,
    )
    if codes_AxC is None:
        raise UserError(
            f"codes for '{info.dataset}': got {len(added):,} more items, expected no more than "
            "there are free combinations of codes; prepare the dataset with them, and train again"
        )
    chosen = dataclasses.replace(new.take(added.tolist()), short_id=write_codes(codes_AxC))
    whole = before.catalog.joined(chosen) if before else chosen
    return Addition(AddedItems(info.fingerprint, whole), len(added), known, without_text)


def _nobody(texts: Mapping[str, ItemText], has: frozenset[str]) -> np.ndarray:
    return np.zeros(sum(item not in has for item in texts), np.int64)
