"""How well items are recommended that came after training, which nobody has bought.

    tools/measure_added_items.py toys --data_dir ~/recllm_data --out /tmp/added --gin.EPOCHS=5

A share of a dataset's items is taken out of its log altogether. What is left is prepared with
semantic ids and trained on by `recllm train`, with the settings given here; then `recllm catalog
add` adds the items that were taken out. Asked are the users whose last item is one of them. Ranked
are all items but those of the history, and the new items alone. Run again, it goes on where it
stopped.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from recllm_tasks.baselines.interactions import read_split
from recllm_tasks.data.added_items import AddedItems
from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.dataset_info import dataset_dir
from recllm_tasks.data.item_to_item import joint_scores
from recllm_tasks.data.sequences import withheld_items
from recllm_tasks.data.text_similarity import text_similarity
from recllm_tasks.prompts.source import SequenceSource
from recllm_tasks.recommender import Recommender
from recllm_tasks.runs.decoding import Decoding

NAME = "before_new_items"
K = 10
_RECLLM = Path(sys.executable).with_name("recllm")
_TEXTS = ("item", "title", "brand", "price", "categories", "description")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dataset", help="a prepared dataset")
    parser.add_argument("--data_dir", required=True, help="folder of prepared datasets")
    parser.add_argument("--out", required=True, type=Path, help="folder to work in")
    parser.add_argument("--share", type=float, default=0.05, help="of the items (.05)")
    args, settings = parser.parse_known_args()
    args.out.mkdir(parents=True, exist_ok=True)
    histories, targets = _split(args)
    folder, run = args.out / "data", args.out / "run"
    data = ["--data_dir", str(folder)]
    files = ["--interactions", str(args.out / "log.parquet")]
    files += ["--items", str(args.out / "known.parquet")]
    _recllm("prepare", NAME, *files, "--k_core", "0", "--ids", "semantic", *data)
    _recllm("train", NAME, "--out", str(run), *settings, *data)
    _recllm("catalog", "add", str(run), "--items", str(args.out / "new.parquet"), *data)
    Console(width=100).print(_measured(run, folder, histories, targets))


def _split(args) -> tuple[list[list[str]], list[str]]:
    """Writes the log and the items without those taken out; the users to ask, by raw ids."""
    source = SequenceSource(args.dataset, data_dir=args.data_dir)
    catalog, users = source.catalog(), read_split(source, "test")
    is_new = withheld_items(catalog.item, source.info().seed, args.share)
    assert is_new is not None
    rows: dict[str, list] = {"user": [], "item": [], "time": []}
    histories, targets = [], []
    for user, history, target in zip(users.users, users.history_items, users.targets):
        if is_new[target]:
            histories.append([catalog.item[row] for row in history])
            targets.append(catalog.item[target])
        for place, row in enumerate([*history, target]):
            if not is_new[row]:
                for name, value in zip(rows, (str(user), catalog.item[row], place)):
                    rows[name].append(value)
    pq.write_table(pa.table(rows), args.out / "log.parquet")
    for name, chosen in (("known", ~is_new), ("new", is_new)):
        part = catalog.take(np.flatnonzero(chosen).tolist())
        texts = {column: getattr(part, column) for column in _TEXTS}
        pq.write_table(pa.table(texts), args.out / f"{name}.parquet")
    return histories, targets


def _recllm(*arguments: str) -> None:
    subprocess.run([str(_RECLLM), *arguments], check=True)


def _measured(
    run: Path, data_dir: Path, names: Sequence[Sequence[str]], targets: Sequence[str]
) -> Table:
    added = AddedItems.load(run)
    assert added is not None
    base = Catalog.load(dataset_dir(data_dir, NAME))
    catalog = base.joined(added.catalog)
    row_of = {item: row for row, item in enumerate(catalog.item)}
    asked = [
        ([row_of[name] for name in history if name in row_of], row_of[target])
        for history, target in zip(names, targets)
        if target in row_of
    ]
    histories, wanted = zip(*((rows, target) for rows, target in asked if rows))
    is_new = np.arange(len(catalog)) >= len(base)
    table = Table(
        title=f"{len(wanted):,} users whose next item is one of {is_new.sum():,} new ones, of "
        f"{len(catalog):,} items"
    )
    for name in ("", f"HR@{K}", f"NDCG@{K}", f"HR@{K} among new", f"NDCG@{K} among new"):
        table.add_column(name, justify="right" if name else "left")

    def add(name: str, *ranked: Sequence[Sequence[int]]) -> None:
        cells = []
        for lists in ranked:
            places = [
                list(rows).index(target) if target in rows else -1
                for rows, target in zip(lists, wanted)
            ]
            gains = [1 / np.log2(place + 2) if place >= 0 else 0.0 for place in places]
            cells += [f"{np.mean(np.array(places) >= 0):.4f}", f"{np.mean(gains):.4f}"]
        table.add_row(name, *cells)

    popularity = catalog.train_count.astype(float)
    add("popularity", *(_best(lambda history: popularity, histories, of) for of in (None, is_new)))
    alike = text_similarity(catalog, NAME)

    def by_texts(history):
        return joint_scores([np.array(history, np.int32)], [alike]).toarray()[0]

    add("text similarity", *(_best(by_texts, histories, of) for of in (None, is_new)))
    for weight, name in ((0.0, "model"), (1.0, "model + item_to_item")):
        decoding = Decoding(num_beams=20, prior_weight=weight)
        recommender = Recommender.from_run(str(run), decoding, data_dir=str(data_dir))
        assert recommender.catalog.item == catalog.item
        short = {one: row for row, one in enumerate(catalog.short_id)}
        lists = []
        for mask in (None, recommender.mask(is_new)):
            masks = None if mask is None else [mask] * len(histories)
            found = recommender.recommend_rows(histories, K, allowed=masks)
            lists.append([[short[item.short_id] for item in items] for items in found])
        add(name, *lists)
    return table


def _best(scores_of, histories, allowed) -> list[list[int]]:
    """The K best rows of each history, without its own; equal scores in the catalog's order."""
    found = []
    for history in histories:
        scores = np.array(scores_of(history), float)
        scores[history] = -np.inf
        if allowed is not None:
            scores[~allowed] = -np.inf
        found.append(np.argsort(-scores, kind="stable")[:K].tolist())
    return found


if __name__ == "__main__":
    main()
