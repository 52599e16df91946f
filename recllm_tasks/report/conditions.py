"""Which rows may stand in one table: those of one dataset, fingerprint, split and set of users."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.dataset_info import DatasetInfo, dataset_dir, list_datasets
from recllm_tasks.data.specs import SPECS
from recllm_tasks.errors import UserError
from recllm_tasks.report import methods
from recllm_tasks.report.runs import Run


@dataclasses.dataclass(frozen=True)
class Condition:
    """What a column of a table was measured on.

    `num_users` is None where the runs do not tell it.
    """

    dataset: str
    fingerprint: str
    split: str
    ties: str
    num_users: int | None

    @property
    def title(self) -> str:
        return SPECS[self.dataset].title if self.dataset in SPECS else self.dataset

    @property
    def text(self) -> str:
        users = "users not told" if self.num_users is None else f"{self.num_users:,} users"
        ties = f"ties {self.ties}" if self.ties else "order of ties not told"
        return f"{self.title}: {self.split}, {users}, {ties}, data {self.fingerprint[:12]}"


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A prepared dataset, as far as a report needs it: train interactions of each item [N]."""

    train_count: np.ndarray
    ties: str


def prepared_datasets(data_dir: str | None, runs: Sequence[Run]) -> dict[str, Prepared]:
    """The datasets of the runs, by fingerprint, as far as they are in the data folder.

    Args:
      data_dir: None is $TFDS_DATA_DIR, or TFDS's own folder, where nothing need be.
      runs: whose fingerprints are wanted.

    Raises:
      UserError: a folder was named, and a run's dataset is in it with another fingerprint only.
    """
    folder = pathlib.Path(
        data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    ).expanduser()
    if data_dir and not folder.is_dir():
        raise UserError(
            f"--data_dir '{data_dir}': got no such folder, expected that of `recllm prepare`; "
            "correct it, or leave it out"
        )
    wanted = {run.dataset: {} for run in runs}
    for run in runs:
        wanted[run.dataset].setdefault(run.fingerprint, run.path)
    found = {}
    for name in set(list_datasets(folder)) & set(wanted):
        directory = dataset_dir(folder, name)
        info = DatasetInfo.load(directory)
        if info.fingerprint in wanted[name]:
            counts = Catalog.load(directory).train_count
            found[info.fingerprint] = Prepared(counts, info.ties)
        elif data_dir:
            fingerprint, path = next(iter(wanted[name].items()))
            raise UserError(
                f"'fingerprint' in '{path}': got {fingerprint[:12]}…, expected "
                f"{info.fingerprint[:12]}… as of '{name}' in {folder}; name the --data_dir that "
                "the run was measured with, or leave it out"
            )
    return found


def ties_of(run: Run, prepared: dict[str, Prepared]) -> str:
    """The order of equal times in the run's dataset; "" where nobody tells."""
    known = prepared.get(run.fingerprint)
    if known and run.ties and run.ties != known.ties:
        raise UserError(
            f"'ties' in '{run.path}': got {run.ties!r}, expected {known.ties!r} as in the dataset "
            f"'{run.dataset}' of that fingerprint; measure the run again"
        )
    return run.ties or (known.ties if known else "")


def by_condition(
    runs: Sequence[Run], kind: str, prepared: dict[str, Prepared]
) -> dict[Condition, list[Run]]:
    """The runs that measured the kind of task, in the order of a table, by condition.

    Test comes before validation, published order before shuffled, the paper's datasets first.
    """
    ties = {}
    for run in runs:
        ties[run.fingerprint] = ties.get(run.fingerprint) or ties_of(run, prepared)
    found: dict[Condition, list[Run]] = {}
    for run in runs:
        task = run.task_of(kind)
        if task is not None:
            condition = Condition(
                run.dataset,
                run.fingerprint,
                run.split,
                ties[run.fingerprint],
                run.num_examples.get(task),
            )
            found.setdefault(condition, []).append(run)
    return {
        condition: sorted(found[condition], key=lambda run: methods.sort_key(run, kind))
        for condition in sorted(found, key=_order)
    }


def _order(condition: Condition) -> tuple:
    names = list(SPECS)
    place = names.index(condition.dataset) if condition.dataset in names else len(names)
    return (
        condition.split != "test",
        condition.ties == "shuffled",
        place,
        condition.dataset,
        -(condition.num_users or 0),
        condition.fingerprint,
    )


def sheets(conditions: Sequence[Condition]) -> list[list[Condition]]:
    """Conditions that may be columns of one table: one a dataset, of one split and order of ties.

    A dataset's second condition of the same split and order goes to a table of its own.
    """
    found: dict[tuple, list[Condition]] = {}
    for condition in conditions:
        number = 0
        while any(
            other.dataset == condition.dataset
            for other in found.get((condition.split, condition.ties, number), [])
        ):
            number += 1
        found.setdefault((condition.split, condition.ties, number), []).append(condition)
    return list(found.values())
