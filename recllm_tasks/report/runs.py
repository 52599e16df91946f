"""The rows of a report: results from run folders, and the baselines in them."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable

from recllm_tasks.errors import UserError
from recllm_tasks.runs import results
from recllm_tasks.runs.results import Results, kind_of, rule_of

# Of a baseline's epochs: the metric that chose the best one.
CHOSEN_BY = "validation/chosen by"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Results):
    """One method measured on one split of one dataset.

    Attributes:
      path: of its results file.
      inside: the name of a baseline within another run's results; else "".
    """

    path: pathlib.Path
    inside: str = ""

    @property
    def folder(self) -> pathlib.Path:
        """The run's folder; for a results file that was copied elsewhere, its own."""
        return results.folder_of(self.path) or self.path.parent

    @property
    def name(self) -> str:
        """Tells it from other runs: the name of its folder and evaluation, or of its file."""
        if self.path.name == results.LATEST:
            own = self.folder.name
        else:
            own = self.path.stem
            own = f"{self.folder.name}, {own}" if results.folder_of(self.path) else own
        return f"{own}: {self.inside}" if self.inside else own

    @property
    def epochs(self) -> dict[str, list[tuple[int, float]]]:
        """(epoch, value) of a baseline's training, by the tags of training.py."""
        found: dict[str, list[tuple[int, float]]] = {}
        for point in self.settings.get("curve") or ():
            for key, tag in (("loss", "loss"), ("validation", CHOSEN_BY)):
                if point.get("epoch") is not None and point.get(key) is not None:
                    found.setdefault(tag, []).append((int(point["epoch"]), point[key]))
        return {tag: sorted(points) for tag, points in found.items()}

    def kind(self, task: str) -> str:
        """retrieval, ranking or rating; any other task is its own kind."""
        return kind_of(task)

    @property
    def tasks(self) -> dict[str, str]:
        """The measured task of each kind, the first if there are several."""
        return {self.kind(task): task for task in reversed(list(self.metrics))}

    def per_user_file(self, task: str) -> pathlib.Path | None:
        """Path of the per-user results; None if there are none."""
        if self.inside or task not in self.per_user or results.folder_of(self.path) is None:
            return None
        path = self.folder / self.per_user[task]
        return path if path.is_file() else None


def load(paths: Iterable[str | os.PathLike]) -> list[Run]:
    """All runs in the given run folders, folders of runs and results files, in that order.

    A baseline within results is kept only if no run of that row is given.

    Raises:
      UserError: a path does not exist or holds no results, a file is invalid, or two runs were
        measured on different records of one dataset.
    """
    files = list(dict.fromkeys(file for path in paths for file in results.find(path)))
    if not files:
        raise UserError(
            "Nothing to report: got no run, expected folders with a results.json; name some"
        )
    runs = [_run(results.read(file), path=file) for file in files]
    _check_same_records(runs)
    places = {_place(run, task, run.num_examples.get(task)) for run in runs for task in run.metrics}
    for baseline in [baseline for run in runs for baseline in _baselines(run)]:
        new = {}
        for task, values in baseline.metrics.items():
            place = _place(baseline, task, baseline.num_examples.get(task))
            # A run without a number of users stands for any number of them.
            if not {place, _place(baseline, task, None)} & places:
                new[task] = values
            places.add(place)
        if new:
            runs.append(dataclasses.replace(baseline, metrics=new))
    return runs


def _check_same_records(runs: Iterable[Run]) -> None:
    """Raises UserError if the records of a dataset were changed between two runs."""
    seen: dict[str, Run] = {}
    for run in runs:
        if not run.records_digest:
            continue
        first = seen.setdefault(run.split_fingerprint, run)
        if run.records_digest != first.records_digest:
            raise UserError(
                f"'records_digest' in '{run.path}': got {run.records_digest[:12]}…, expected "
                f"{first.records_digest[:12]}… as in '{first.path}', because both belong to one "
                f"fingerprint; see whether `recllm audit {run.dataset}` finds the records changed, "
                "and measure the run again, or leave one out"
            )


def _run(found: Results, **more) -> Run:
    values = {field.name: getattr(found, field.name) for field in dataclasses.fields(Results)}
    return Run(**values | more)


def _baselines(run: Run) -> Iterable[Run]:
    for name, metrics in run.baselines.items():
        yield Run(
            path=run.path,
            inside=name,
            model=name,
            dataset=run.dataset,
            fingerprint=run.fingerprint,
            split_fingerprint=run.split_fingerprint,
            split=run.split,
            ties=run.ties,
            protocol=run.protocol,
            seen=run.baselines_seen.get(name, run.seen),
            metrics=metrics,
            num_examples={task: num for task, num in run.num_examples.items() if task in metrics},
        )


def normalized(name: str) -> str:
    """A method's name without differences of spelling: `item-to-item` equals `item_to_item`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _place(run: Run, task: str, num_examples: int | None) -> tuple:
    """The place of a method's row in a task's table; two runs of one place are one row."""
    where = (run.dataset, run.split_fingerprint, run.protocol, run.split)
    measured = (run.kind(task), rule_of(run.kind(task), run.seen), num_examples)
    return (*where, *measured, normalized(run.model), run.mixture)
