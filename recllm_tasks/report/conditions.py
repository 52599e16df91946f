"""Which rows share a table: those of the same data, protocol, split, users and rule for seen items.

The fingerprint is that of the split. All id schemes of a dataset share it: they have the same
users, targets, negatives and catalog rows.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.dataset_info import DatasetInfo, dataset_dir, list_datasets
from recllm_tasks.data.options import LEAVE_ONE_OUT
from recllm_tasks.data.specs import SPECS
from recllm_tasks.errors import UserError
from recllm_tasks.report import methods
from recllm_tasks.report.runs import Run
from recllm_tasks.runs.decoding import KEEP, LEAVE_OUT
from recllm_tasks.runs.results import GIVEN, rule_of, seen_text


@dataclasses.dataclass(frozen=True)
class Condition:
    """What a column of a table was measured on.

    `fingerprint` is `Run.split_fingerprint`. `num_users` is None if unknown. `seen` is
    `results.rule_of`; "" is unknown.
    """

    dataset: str
    fingerprint: str
    split: str
    ties: str
    num_users: int | None
    protocol: str = LEAVE_ONE_OUT
    seen: str = ""

    @property
    def title(self) -> str:
        return SPECS[self.dataset].title if self.dataset in SPECS else self.dataset

    @property
    def is_papers(self) -> bool:
        """Whether the paper's numbers were measured so, apart from the rule for seen items."""
        return self.split == "test" and self.protocol == LEAVE_ONE_OUT

    @property
    def rule(self) -> str:
        """The rule for seen items, for the head of a table."""
        return seen_text(self.seen)

    @property
    def text(self) -> str:
        users = "unknown number of users" if self.num_users is None else f"{self.num_users:,} users"
        ties = f"ties {self.ties}" if self.ties else "unknown order of ties"
        facts = (self.split, self.protocol, users, self.rule, ties)
        facts += (f"data {self.fingerprint[:12]}",)
        return f"{self.title}: {', '.join(facts)}"


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """What a report needs of a prepared dataset: train interactions of each item [N], and facts."""

    train_count: np.ndarray
    ties: str
    protocol: str = LEAVE_ONE_OUT


def prepared_datasets(data_dirs: Sequence[str], runs: Sequence[Run]) -> dict[str, Prepared]:
    """The datasets of the runs that are found, by fingerprint and by split fingerprint.

    Args:
      data_dirs: folders of prepared datasets; if empty, $TFDS_DATA_DIR or TFDS's default, which
        need not exist.
      runs: whose datasets to find.

    Raises:
      UserError: the given folders hold a run's dataset with other fingerprints only.
    """
    wanted = {run.dataset: {} for run in runs}
    for run in runs:
        wanted[run.dataset].setdefault(run.split_fingerprint, run.path)
    found, others = {}, {}
    for folder in _folders(data_dirs):
        for name in sorted(set(list_datasets(folder)) & set(wanted)):
            directory = dataset_dir(folder, name)
            info = DatasetInfo.load(directory)
            of = {info.fingerprint, info.split_fingerprint}
            if of & set(wanted[name]):
                counts = Catalog.load(directory).train_count
                found |= dict.fromkeys(of, Prepared(counts, info.ties, info.protocol))
            else:
                others.setdefault(name, (info.split_fingerprint, folder))
    for name, (fingerprint, folder) in others.items():
        if data_dirs and not set(wanted[name]) & set(found):
            ran, path = next(iter(wanted[name].items()))
            raise UserError(
                f"'fingerprint' in '{path}': got {ran[:12]}…, expected {fingerprint[:12]}… as of "
                f"'{name}' in {folder}; add the --data_dir that the run was measured with, beside "
                "this one, or leave --data_dir out"
            )
    return found


def _folders(data_dirs: Sequence[str]) -> list[pathlib.Path]:
    if not data_dirs:
        default = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        return [pathlib.Path(default).expanduser()]
    folders = [pathlib.Path(data_dir).expanduser() for data_dir in data_dirs]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"--data_dir '{folder}': got no such folder, expected one of `recllm prepare`; "
                "correct it, or leave it out"
            )
    return folders


def ties_of(run: Run, prepared: Mapping[str, Prepared]) -> str:
    """The order of equal times in the run's dataset; "" if unknown."""
    known = prepared.get(run.split_fingerprint)
    if known and run.ties and run.ties != known.ties:
        raise UserError(
            f"'ties' in '{run.path}': got {run.ties!r}, expected {known.ties!r} as in the dataset "
            f"'{run.dataset}' with that fingerprint; measure the run again"
        )
    return run.ties or (known.ties if known else "")


def check_protocol(run: Run, prepared: Mapping[str, Prepared]) -> None:
    """Raises UserError if the run's dataset has another protocol than the run."""
    known = prepared.get(run.split_fingerprint)
    if known and run.protocol != known.protocol:
        raise UserError(
            f"'protocol' in '{run.path}': got {run.protocol!r}, expected {known.protocol!r} as in "
            f"the dataset '{run.dataset}' with that fingerprint; measure the run again"
        )


def by_condition(
    runs: Sequence[Run], kind: str, prepared: Mapping[str, Prepared]
) -> dict[Condition, list[Run]]:
    """The runs that measured a kind of task, by condition, in table order.

    Test comes before validation, published order before shuffled, the paper's datasets first.
    """
    ties = {}
    for run in runs:
        check_protocol(run, prepared)
        split = run.split_fingerprint
        ties[split] = ties.get(split) or ties_of(run, prepared)
    found: dict[Condition, list[Run]] = {}
    for run in runs:
        task = run.tasks.get(kind)
        if task is not None:
            condition = Condition(
                run.dataset,
                run.split_fingerprint,
                run.split,
                ties[run.split_fingerprint],
                run.num_examples.get(task),
                run.protocol,
                rule_of(kind, run.seen),
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
        condition.protocol != LEAVE_ONE_OUT,
        condition.protocol,
        condition.ties == "shuffled",
        (GIVEN, LEAVE_OUT, KEEP, "").index(condition.seen),
        place,
        condition.dataset,
        -(condition.num_users or 0),
        condition.fingerprint,
    )


def sheets(conditions: Sequence[Condition]) -> list[list[Condition]]:
    """Groups conditions into tables: one per dataset, with the same protocol, split, ties and rule.

    A dataset's second condition with the same ones goes to another table.
    """
    found: dict[tuple, list[Condition]] = {}
    for condition in conditions:
        number = 0
        kind = (condition.protocol, condition.split, condition.ties, condition.seen)
        while any(other.dataset == condition.dataset for other in found.get((*kind, number), [])):
            number += 1
        found.setdefault((*kind, number), []).append(condition)
    return list(found.values())
