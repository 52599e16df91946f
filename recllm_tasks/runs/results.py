"""What an evaluation or a baseline measured: results.json, written and read in one place.

MODEL_DIR/results/<evaluation>.json  one file for each split and decoding, see `Results.name`
MODEL_DIR/results.json               a copy of the latest
MODEL_DIR/per_user/<evaluation>/     per-user results with their checksums.json, see per_user.py

Files are untrusted: `read` checks every type and range.
"""

import contextlib
import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from recllm_tasks import checksums
from recllm_tasks.data.co_occurrence import GROUPS
from recllm_tasks.data.options import ID_SCHEMES, LEAVE_ONE_OUT, PROTOCOLS
from recllm_tasks.errors import UserError
from recllm_tasks.files import from_object, write_json
from recllm_tasks.runs import per_user, run_folder
from recllm_tasks.runs.decoding import KEEP, LEAVE_OUT, SEEN, Decoding
from recllm_tasks.runs.fields import Fields, clean

LATEST, FOLDER = "results.json", "results"
SPLITS = ("validation", "test")

# How deep below a given folder `find` looks for runs, and how many it accepts.
_DEPTH, _MAX_RUNS = 4, 1_000

# Written even if unknown; other unknown values are left out.
_ALWAYS = {"step", "seed", "decoding", "seconds"}

Metrics = Mapping[str, Mapping[str, float]]  # by task and key, fractions

KINDS = ("retrieval", "ranking", "rating")
# The rule for seen items of those kinds whose answers are among given items.
GIVEN = "given"
_SEEN_TEXTS = {LEAVE_OUT: "seen items left out", KEEP: "seen items kept", GIVEN: "items given"}

# What older versions did with seen items in the baselines beside a model, without repeats.
_OLDER_RULES = {
    "popularity": KEEP,
    "popularity_unseen": LEAVE_OUT,
    "own_popularity": KEEP,
    "item_to_item": LEAVE_OUT,
}


def kind_of(task: str) -> str:
    """retrieval, ranking or rating; any other task is its own kind."""
    if re.fullmatch(r"(.*_)?ids_sequence", task):
        return "retrieval"
    return next((kind for kind in KINDS if re.fullmatch(rf"(.*_)?{kind}", task)), task)


def rule_of(kind: str, seen: str) -> str:
    """`seen`, or GIVEN for kinds that it says nothing about: see `seen_rule`."""
    return GIVEN if re.fullmatch(r"(.*_)?(ranking|rating)(_\d+)*", kind) else seen


def seen_text(rule: str) -> str:
    """A rule in the head of a table; "" is unknown."""
    return _SEEN_TEXTS.get(rule, "unknown rule for seen items")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """One method measured on one split of one dataset. None, "" and {} stand for unknown.

    Attributes:
      dataset, fingerprint: what it was measured on.
      split_fingerprint: shared by all id schemes of a dataset.
      records_digest: of the dataset's records; shared by all id schemes too.
      ids: the id scheme.
      protocol: how the dataset was split, see `DatasetInfo.protocol`; older files are of
        leave-one-out.
      seen: the rule for seen items, see `seen_rule`; "" is unknown.
      ties: the order of equal times in the dataset, `published` or `shuffled`.
      model: a name, such as `tiny` or `ease`.
      title: the model's name in tables.
      mixture: what it was trained on; "" if it is not a language model.
      version: of recllm_tasks.
      step, initial_step: of training.
      seed: of training.
      split: `validation` or `test`.
      decoding: None if it is not a language model.
      settings: of a baseline; JSON.
      parameters: their number.
      num_examples: users by task.
      metrics: by task.
      by_target: metrics by task and group of users, see data/co_occurrence.py, with the number of
        `users`. Older files have `seen` and `new`: whether the target is in train.
      baselines: metrics of built-in baselines on the same users, by name.
      baselines_seen: the rules of those baselines that were measured under another one than `seen`,
        by name; only older versions did.
      per_user: files of per-user results by task, relative to the run's folder.
      fit_seconds: of fitting a baseline, part of `seconds`.
      decode_seconds: by task.
      peak_memory_bytes: of the process.
      seconds: of the evaluation.
      row_fingerprint: of a baseline; everything that its results depend on.
    """

    dataset: str
    fingerprint: str
    split_fingerprint: str
    records_digest: str = ""
    ids: str = ""
    protocol: str = LEAVE_ONE_OUT
    seen: str = ""
    ties: str = ""
    model: str
    title: str = ""
    mixture: str = ""
    version: str = ""
    step: int | None = None
    initial_step: int | None = None
    seed: int | None = None
    split: str
    decoding: Decoding | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parameters: int | None = None
    num_examples: Mapping[str, int] = dataclasses.field(default_factory=dict)
    metrics: Metrics
    by_target: Mapping[str, Metrics] = dataclasses.field(default_factory=dict)
    baselines: Mapping[str, Metrics] = dataclasses.field(default_factory=dict)
    baselines_seen: Mapping[str, str] = dataclasses.field(default_factory=dict)
    per_user: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fit_seconds: float | None = None
    decode_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    peak_memory_bytes: int | None = None
    seconds: float | None = None
    row_fingerprint: str = ""

    @property
    def name(self) -> str:
        """Names the evaluation's files."""
        return name_of(self.split, self.decoding)

    @property
    def examples_per_second(self) -> dict[str, float]:
        """Decoding speed by task."""
        return {
            task: self.num_examples[task] / max(seconds, 1e-9)
            for task, seconds in self.decode_seconds.items()
            if task in self.num_examples
        }

    def as_json(self) -> dict[str, Any]:
        """The content of a results file."""
        content = dataclasses.asdict(self) | {"examples_per_second": self.examples_per_second}
        content["metrics"] = _as_json(self.metrics)
        content["baselines"] = {name: _as_json(found) for name, found in self.baselines.items()}
        undefined = {
            task: {
                key: _UNDEFINED.get(key, "it has no value") for key in values if values[key] is None
            }
            for task, values in content["metrics"].items()
        }
        content["undefined"] = {task: found for task, found in undefined.items() if found}
        empty = (None, "")
        for key in ("by_target", "baselines_seen", "undefined"):
            if not content[key]:
                del content[key]
        return {
            key: value for key, value in content.items() if key in _ALWAYS or value not in empty
        }

    def save(self, model_dir: str | os.PathLike) -> None:
        """Writes both files of the evaluation, and the checksums of its per-user results."""
        folder, content = pathlib.Path(model_dir), self.as_json()
        rows = [folder / file for file in self.per_user.values() if (folder / file).is_file()]
        if rows:
            checksums.write(rows[0].parent, [file.name for file in rows])
        with contextlib.suppress(OSError):  # write_json reports it
            (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        write_json(folder / FOLDER / f"{self.name}.json", content)
        write_json(folder / LATEST, content)


def name_of(split: str, decoding: Decoding | None) -> str:
    """Name of an evaluation, such as `test-beam20`; of a baseline's, the split alone."""
    return f"{split}-{decoding.name}" if decoding else split


def read(path: pathlib.Path) -> Results:
    """Reads an untrusted results file.

    Raises:
      UserError: a value is invalid; the message names its key.
    """
    fields = Fields.read(path)
    if "constrained" in fields:
        raise fields.error("constrained", "results of this version, with 'decoding'")
    split = fields.name("split", "|".join(SPLITS), "'validation' or 'test'")
    metrics = _metrics(fields.within("metrics"), fields.within("undefined"))
    if not metrics:
        raise fields.error("metrics", "metrics by task", "nothing")
    baselines, num_examples = fields.within("baselines"), fields.within("num_examples")
    decode_seconds = fields.within("decode_seconds")
    fingerprint = _fingerprint(fields, "fingerprint")
    decoding, settings = _decoding(fields), _settings(fields)
    rule = ("|".join(SEEN), f"one of {', '.join(SEEN)}")
    results = Results(
        dataset=fields.name(
            "dataset", r"[A-Za-z0-9]\w{0,99}", "a dataset's name of letters, digits and '_'"
        ),
        fingerprint=fingerprint,
        split_fingerprint=_fingerprint(fields, "split_fingerprint", fingerprint),
        records_digest=_fingerprint(fields, "records_digest", ""),
        ids=fields.name("ids", "|".join(ID_SCHEMES), f"one of {', '.join(ID_SCHEMES)}", ""),
        protocol=fields.name(
            "protocol",
            f"({'|'.join(PROTOCOLS)})(-[a-z]{{1,20}}){{0,3}}",
            f"{' or '.join(PROTOCOLS)}, and what differs from it",
            LEAVE_ONE_OUT,
        ),
        seen=fields.name("seen", *rule, _older_rule(decoding, settings)),
        ties=fields.name("ties", "published|shuffled", "'published' or 'shuffled'", ""),
        model=fields.text("model"),
        title=fields.text("title", ""),
        mixture=fields.text("mixture", ""),
        version=fields.text("version", ""),
        step=fields.whole("step"),
        initial_step=fields.whole("initial_step"),
        seed=fields.whole("seed"),
        split=split,
        decoding=decoding,
        settings=settings,
        parameters=fields.whole("parameters"),
        num_examples=_by_task(num_examples.whole, num_examples),
        metrics=metrics,
        by_target={
            task: _by_target(fields.within("by_target").within(task))
            for task in fields.within("by_target")
        },
        baselines={clean(name): _metrics(baselines.within(name)) for name in baselines},
        baselines_seen={
            clean(name): fields.within("baselines_seen").name(name, *rule)
            for name in fields.within("baselines_seen")
        },
        fit_seconds=fields.number("fit_seconds", 0),
        decode_seconds=_by_task(lambda task: decode_seconds.number(task, 0), decode_seconds),
        peak_memory_bytes=fields.whole("peak_memory_bytes"),
        seconds=fields.number("seconds", 0),
        row_fingerprint=fields.text("row_fingerprint", ""),
    )
    if decoding and decoding.seen != results.seen:
        raise fields.error("seen", f"{decoding.seen!r} as in 'decoding'")
    if "seen" not in fields:
        results = dataclasses.replace(results, baselines_seen=_older_baselines_seen(results))
    _check_run(path, results)
    return dataclasses.replace(results, per_user=_per_user(fields.within("per_user"), results))


# Why a metric has no value; it is null in a file, which `undefined` explains.
_UNDEFINED = {
    "auc": "all users like their item, or none does: there is nothing to tell apart, see "
    "--like_threshold of `recllm prepare`",
    "invalid": "nothing was answered",
}


def _as_json(metrics: Metrics) -> dict[str, dict[str, float | None]]:
    return {
        task: {key: None if math.isnan(value) else value for key, value in values.items()}
        for task, values in metrics.items()
    }


def _fingerprint(fields: Fields, key: str, default: str | None = None) -> str:
    return fields.name(key, r"[0-9a-zA-Z]{6,128}", "6 to 128 letters and digits", default)


def _decoding(fields: Fields) -> Decoding | None:
    settings = dict(fields.within("decoding").content)
    if settings and "seen" not in settings:  # of older versions, which ignored it for free text
        excludes = settings.pop("exclude_history", False)
        if not isinstance(excludes, bool):
            raise fields.error("decoding", "valid settings of decoding", f"{excludes!r}")
        settings["seen"] = LEAVE_OUT if excludes and settings.get("constrained", True) else KEEP
    try:
        return from_object(Decoding, settings) if settings else None
    except (UserError, ValueError) as error:
        raise fields.error("decoding", "valid settings of decoding", clean(str(error))) from error


def _older_rule(decoding: Decoding | None, settings: Mapping[str, Any]) -> str:
    """The rule of a file without `seen`: of a model's decoding, or of a baseline's settings."""
    if decoding is not None:
        return decoding.seen or ""
    excludes = settings.get("exclude_seen")
    return "" if not isinstance(excludes, bool) else LEAVE_OUT if excludes else KEEP


def _older_baselines_seen(results: Results) -> dict[str, str]:
    """`Results.baselines_seen` of a file of an older version."""
    rules = {name: rule for name, rule in _OLDER_RULES.items() if name in results.baselines}
    if "repeats" in results.protocol:
        rules |= {name: KEEP for name in rules if name != "popularity_unseen"}
    return {name: rule for name, rule in rules.items() if rule != results.seen}


def _settings(fields: Fields) -> Mapping[str, Any]:
    settings = fields.within("settings")
    for point in settings.each("curve"):
        point.whole("epoch")
        point.number("loss")
        point.number("validation")
    return settings.content


def _metrics(tasks: Fields, undefined: Fields | None = None) -> dict[str, dict[str, float]]:
    """Metrics by task, without those that are null.

    With `undefined`, reasons by task and key, each of those needs one.
    """
    found = {}
    for task in tasks:
        # A task's name becomes part of a path.
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,199}", task):
            raise tasks.error(task, "a name of letters, digits, '_', '-', '.'", "that name")
        values = tasks.within(task)
        numbers = {key: values.number(key, 0, 1) for key in values}
        explained = undefined.within(task) if undefined is not None and task in undefined else ()
        for key, value in numbers.items():
            if value is None and undefined is not None and key not in explained:
                raise values.error(key, "a number from 0 to 1, or null with its reason")
        found[task] = {key: value for key, value in numbers.items() if value is not None}
    return found


def _by_target(groups: Fields) -> dict[str, dict[str, float]]:
    found = {}
    for name in (name for name in (*GROUPS, "seen") if name in groups):
        of = groups.within(name)
        users = {"users": of.whole("users") or 0}
        values = {key: of.number(key, 0, 1) for key in of if key != "users"}
        found[name] = users | {key: value for key, value in values.items() if value is not None}
    return found


def by_target(model_dir: str | os.PathLike, files: Mapping[str, str]) -> dict[str, Metrics]:
    """`Results.by_target` of per-user files by task, relative to the run's folder."""
    found = {
        task: per_user.metrics_by_group(pathlib.Path(model_dir) / file)
        for task, file in files.items()
    }
    return {task: of for task, of in found.items() if of}


def _by_task(read: Callable[[str], Any], tasks: Iterable[str]) -> dict[str, Any]:
    values = {task: read(task) for task in tasks}
    return {task: value for task, value in values.items() if value is not None}


def _per_user(fields: Fields, results: Results) -> dict[str, str]:
    """Only the paths that we write, so that none leads out of the run's folder."""
    names = [results.name]
    if results.decoding and not results.decoding.constrained:
        names.append(f"{results.name}-new_items")  # older versions, see `_decoding`
    for task in fields:
        expected = [str(per_user.path_of("", name, task)) for name in names]
        if fields.content[task] not in expected:
            raise fields.error(task, f"'{expected[0]}'")
    return dict(fields.content)


def _check_run(path: pathlib.Path, results: Results) -> None:
    """Raises UserError if the run.json beside it belongs to another dataset."""
    folder = folder_of(path)
    if folder is None or not (folder / run_folder.FILE_NAME).is_file():
        return
    run = Fields.read(folder / run_folder.FILE_NAME)
    for key in ("dataset", "fingerprint"):
        if run.text(key) != getattr(results, key):
            raise run.error(key, f"{getattr(results, key)!r} as in {path.name}")


def folder_of(path: pathlib.Path) -> pathlib.Path | None:
    """The run's folder that a results file belongs to; None for a file copied elsewhere."""
    if path.name == LATEST:
        return path.parent
    return path.parent.parent if path.parent.name == FOLDER else None


def find(path: str | os.PathLike) -> list[pathlib.Path]:
    """The results files of a run's folder, of a folder of runs, or the given file itself.

    Links to folders are not followed.

    Raises:
      UserError: there are none, or too many.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_file():
        return [path.resolve()]
    if not path.is_dir():
        raise UserError(
            f"run '{path}': got no such file or folder, expected a run's folder, a folder of "
            f"runs, or a {LATEST}; correct the path"
        )
    found = []
    for folder, names, files in os.walk(path):
        names.sort()
        folder = pathlib.Path(folder)
        if LATEST in files:
            # The latest evaluation is one of `results/`, if that exists.
            each = sorted((folder / FOLDER).glob("*.json"), key=lambda file: file.stem)
            found += [file.resolve() for file in each or [folder / LATEST]]
        if LATEST in files or len(folder.relative_to(path).parts) == _DEPTH:
            names.clear()
        if len(found) > _MAX_RUNS:
            raise UserError(
                f"folder '{path}': got more than {_MAX_RUNS} results, expected fewer; name some "
                "of its runs"
            )
    if not found:
        raise UserError(
            f"run '{path}': got no {LATEST} in it, expected what `recllm eval` or `recllm "
            "baselines` writes; measure the run first"
        )
    return found
