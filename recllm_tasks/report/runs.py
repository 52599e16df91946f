"""Run folders as a report needs them: every results.json read, checked, and its baselines beside.

Nothing in a run's folder is trusted: types and ranges are checked here and in fields.py, and what
is shown is escaped where it is written.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Mapping

from recllm_tasks.data.options import ID_SCHEMES
from recllm_tasks.errors import UserError
from recllm_tasks.report.fields import Fields, clean

RESULTS, RUN = "results.json", "run.json"
KINDS = ("retrieval", "ranking", "rating")
# Of the epochs of a baseline: what the best one was chosen by.
CHOSEN_BY = "validation/chosen by"

# How far below a given folder runs are looked for, and how many at most.
_DEPTH, _MOST_RUNS = 4, 1_000


@dataclasses.dataclass(frozen=True)
class Run:
    """One method measured on one split of one dataset.

    Attributes:
      path: of its results.json.
      inside: the name of a baseline that stands inside another run's results.json; else "".
      model: a name, such as `tiny` or `ease`.
      mixture: what it was trained on, "" for a method that is no language model.
      dataset, fingerprint, split: what it was measured on.
      split_fingerprint: the same for all id schemes of a dataset; of results from before there was
        one, the fingerprint.
      ids: the scheme, `random`, `semantic`, `atomic` or "" for unknown.
      ties: the order of equal times in the dataset, `published`, `shuffled` or "" for unknown.
      metrics: by task and metric, fractions.
      num_examples: users, by task, where told.
      step, initial_step: of training; None where there is none, or not told.
      seed: of training.
      constrained, exclude_history: of decoding; None where not told.
      method: of decoding, `beam` or `score`.
      title: what the run calls its method, where it does.
      version: of recllm_tasks, or another name of the code.
      seconds: of the whole evaluation.
      fit_seconds: of fitting before it, for baselines.
      decode_seconds, examples_per_second: by task.
      peak_memory_bytes, parameters: None where not told.
      epochs: scalars of training by name, each (epoch, value), where settings have a `curve`.
      settings: everything else that is told, as text by name.
    """

    path: pathlib.Path
    inside: str
    model: str
    mixture: str
    dataset: str
    fingerprint: str
    split: str
    ties: str
    metrics: Mapping[str, Mapping[str, float]]
    num_examples: Mapping[str, int]
    split_fingerprint: str
    ids: str = ""
    step: int | None = None
    initial_step: int | None = None
    seed: int | None = None
    constrained: bool | None = None
    exclude_history: bool | None = None
    method: str = ""
    title: str = ""
    version: str = ""
    seconds: float | None = None
    fit_seconds: float | None = None
    decode_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    examples_per_second: Mapping[str, float] = dataclasses.field(default_factory=dict)
    peak_memory_bytes: int | None = None
    parameters: int | None = None
    epochs: Mapping[str, list[tuple[int, float]]] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def folder(self) -> pathlib.Path:
        return self.path.parent

    @property
    def name(self) -> str:
        """What tells it from others: the name of its folder, or of its file."""
        own = self.path.parent.name if self.path.name == RESULTS else self.path.stem
        return f"{own}: {self.inside}" if self.inside else own

    def kind(self, task: str) -> str:
        """retrieval, ranking or rating; another task is its own kind."""
        return next((kind for kind in KINDS if re.fullmatch(rf"(.*_)?{kind}", task)), task)

    def task_of(self, kind: str) -> str | None:
        return next((task for task in self.metrics if self.kind(task) == kind), None)

    def per_user_file(self, task: str) -> pathlib.Path | None:
        """Where one row a user would lie."""
        if self.inside or self.path.name != RESULTS:
            return None
        return self.folder / "per_user" / f"{task}-{self.split}.parquet"


def load(paths: Iterable[str | os.PathLike]) -> list[Run]:
    """All runs of the given run folders, folders of them, and results files, in that order.

    A baseline inside a results.json is kept only where no run of that row is given.

    Raises:
      UserError: a path is not there or holds no results, or a file is not what it should be.
    """
    files = list(dict.fromkeys(file for path in paths for file in results_files(path)))
    if not files:
        raise UserError(
            "Nothing to report: got no run, expected folders with a results.json; name some"
        )
    runs, inner = [], []
    for file in files:
        fields = Fields.read(file)
        runs.append(_read(fields))
        inner += _baselines(fields, runs[-1])
    seen = {_place(run, task, run.num_examples.get(task)) for run in runs for task in run.metrics}
    for baseline in inner:
        new = {}
        for task, values in baseline.metrics.items():
            place = _place(baseline, task, baseline.num_examples.get(task))
            # A run that does not tell how many users it is of stands for any number of them.
            if not {place, _place(baseline, task, None)} & seen:
                new[task] = values
            seen.add(place)
        if new:
            runs.append(dataclasses.replace(baseline, metrics=new))
    return runs


def results_files(path: str | os.PathLike) -> list[pathlib.Path]:
    """The results files that a path stands for; links to folders are not followed."""
    path = pathlib.Path(path).expanduser()
    if path.is_file():
        return [path.resolve()]
    if not path.is_dir():
        raise UserError(
            f"run '{path}': got no such file or folder, expected a run's folder, a folder of "
            f"such, or a {RESULTS}; correct the path"
        )
    found = []
    for folder, names, files in os.walk(path):
        names.sort()
        depth = len(pathlib.Path(folder).relative_to(path).parts)
        if RESULTS in files:
            found.append((pathlib.Path(folder) / RESULTS).resolve())
        if RESULTS in files or depth == _DEPTH:
            names.clear()
        if len(found) > _MOST_RUNS:
            raise UserError(
                f"folder '{path}': got more than {_MOST_RUNS} runs, expected fewer; name them"
            )
    if not found:
        raise UserError(
            f"run '{path}': got no {RESULTS} in it, expected what `recllm eval` or `recllm "
            "baselines` writes; measure the run first"
        )
    return found


def normalized(name: str) -> str:
    """A method's name without the differences of spelling: `item-to-item` is `item_to_item`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _place(run: Run, task: str, num_examples: int | None) -> tuple:
    """Where a method's row of a task stands: two of one place are one row."""
    measured = (run.dataset, run.split_fingerprint, run.split, task, num_examples)
    return (*measured, normalized(run.model), run.mixture)


def _read(fields: Fields) -> Run:
    split = fields.text("split")
    if split not in ("validation", "test"):
        raise fields.error("split", repr(split), "'validation' or 'test'")
    ties = fields.text("ties", "")
    if ties not in ("", "published", "shuffled"):
        raise fields.error("ties", repr(ties), "'published' or 'shuffled'")
    ids = fields.text("ids", "")
    if ids not in ("", *ID_SCHEMES):
        raise fields.error("ids", repr(ids), f"one of {', '.join(ID_SCHEMES)}")
    metrics = _metrics(fields.within("metrics"))
    if not metrics:
        raise fields.error("metrics", "nothing", "metrics by task")
    run = Run(
        path=fields.path,
        inside="",
        model=fields.text("model"),
        mixture=fields.text("mixture", ""),
        dataset=_dataset(fields),
        fingerprint=_fingerprint(fields, "fingerprint"),
        split=split,
        ties=ties,
        metrics=metrics,
        num_examples=_by_task(fields, "num_examples", "whole"),
        split_fingerprint=_fingerprint(
            fields, "split_fingerprint" if "split_fingerprint" in fields else "fingerprint"
        ),
        ids=ids,
        step=fields.whole("step"),
        seed=fields.whole("seed"),
        constrained=fields.switch("constrained"),
        exclude_history=fields.switch("exclude_history"),
        method=fields.text("method", ""),
        title=fields.text("title", ""),
        version=fields.text("code", "") or fields.text("version", ""),
        seconds=fields.number("seconds", 0),
        fit_seconds=fields.number("fit_seconds", 0),
        decode_seconds=_by_task(fields, "decode_seconds", "number"),
        examples_per_second=_by_task(fields, "examples_per_second", "number"),
        peak_memory_bytes=fields.whole("peak_memory_bytes"),
        parameters=fields.whole("parameters"),
        epochs=_epochs(fields.within("settings")),
        settings=fields.within("settings").flat(),
    )
    return _checked_beside(run)


def _dataset(fields: Fields) -> str:
    dataset = fields.text("dataset")
    if not re.fullmatch(r"[A-Za-z0-9]\w{0,99}", dataset):
        raise fields.error("dataset", repr(dataset), "a dataset's name of letters, digits and '_'")
    return dataset


def _fingerprint(fields: Fields, key: str) -> str:
    fingerprint = fields.text(key)
    if not re.fullmatch(r"[0-9a-zA-Z]{6,128}", fingerprint):
        raise fields.error(key, repr(fingerprint), "6 to 128 letters and digits")
    return fingerprint


def _metrics(tasks: Fields) -> dict[str, dict[str, float]]:
    found = {}
    for task in tasks:
        _check_name(tasks, task)
        values = tasks.within(task)
        found[task] = {key: values.number(key, 0, 1) for key in values}
        for key, value in found[task].items():
            if value is None:
                raise values.error(key, "nothing", "a number from 0 to 1")
    return found


def _check_name(fields: Fields, task: str) -> None:
    """A task's name becomes part of a path."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,199}", task):
        raise fields.error(task, "that name", "a task's name of letters, digits, '_', '-', '.'")


def _by_task(fields: Fields, key: str, kind: str) -> dict:
    """Numbers by task; one number for all of them stands under ""."""
    if fields.is_number(key):
        return {"": getattr(fields, kind)(key, 0)}
    within = fields.within(key)
    values = {task: getattr(within, kind)(task, 0) for task in within}
    return {task: value for task, value in values.items() if value is not None}


def _epochs(settings: Fields) -> dict[str, list[tuple[int, float]]]:
    """What a baseline tells of each epoch, by the tags of training.py."""
    found: dict[str, list[tuple[int, float]]] = {}
    for point in settings.each("curve"):
        epoch = point.whole("epoch")
        for key, tag in (("loss", "loss"), ("validation", CHOSEN_BY)):
            value = point.number(key)
            if epoch is not None and value is not None:
                found.setdefault(tag, []).append((epoch, value))
    return {tag: sorted(points) for tag, points in found.items()}


def _checked_beside(run: Run) -> Run:
    """The run with what its run.json adds, which must tell of the same dataset."""
    path = run.folder / RUN
    if run.path.name != RESULTS or not path.is_file():
        return run
    fields = Fields.read(path)
    for key, expected in (("dataset", run.dataset), ("fingerprint", run.fingerprint)):
        if fields.text(key) != expected:
            raise fields.error(key, repr(fields.text(key)), f"{expected!r} as in {RESULTS}")
    return dataclasses.replace(run, initial_step=fields.whole("initial_step"))


def _baselines(fields: Fields, run: Run) -> Iterable[Run]:
    baselines = fields.within("baselines")
    for name in baselines:
        metrics = _metrics(baselines.within(name))
        num_examples = {
            task: run.num_examples[task] for task in metrics if task in run.num_examples
        }
        yield Run(
            path=run.path,
            inside=clean(name),
            model=clean(name),
            mixture="",
            dataset=run.dataset,
            fingerprint=run.fingerprint,
            split=run.split,
            ties=run.ties,
            metrics=metrics,
            num_examples=num_examples,
            split_fingerprint=run.split_fingerprint,
        )
