"""A results.json: what `recllm eval` or `recllm baselines` measured, here or on another machine."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from recllm_tasks.report.fields import Fields, clean

FILE_NAME = "results.json"
SPLITS = ("validation", "test")
TIES = ("published", "shuffled")

Metrics = dict[str, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Results:
    """What the file says; None or empty where it says nothing.

    Attributes:
      path: of the file.
      dataset: that was measured.
      fingerprint: of the dataset as it was prepared.
      split: `validation` or `test`.
      ties: order at equal times, `published` or `shuffled`.
      model: name of a language model's size, or of a baseline.
      mixture: that a language model was trained on; None for a baseline.
      step: of the checkpoint.
      seed: of the run.
      metrics: fractions by task and key.
      baselines: metrics by name, as `recllm eval` adds them.
      num_examples: users measured, by task.
      choices: `constrained`, `exclude_history`, `method`, `ids` where they are told.
      seconds: what measuring took in all.
      training_seconds: what fitting took.
      rates: users a second, by task.
      peak_memory_bytes: of the process.
      parameters: how many the model has.
      version: of recllm_tasks.
      settings: whatever was set, by name, as text; and the SHA-256 of it all.
    """

    path: pathlib.Path
    dataset: str
    fingerprint: str
    split: str
    ties: str | None
    model: str
    mixture: str | None
    step: int | None
    seed: int | None
    metrics: Metrics
    baselines: dict[str, Metrics]
    num_examples: dict[str, int]
    choices: dict[str, Any]
    seconds: float | None
    training_seconds: float | None
    rates: dict[str, float]
    peak_memory_bytes: int | None
    parameters: int | None
    version: str | None
    settings: dict[str, str]
    settings_sha256: str | None

    @classmethod
    def load(cls, path: pathlib.Path) -> "Results":
        """Raises UserError, which names the file and the key, for whatever is not as it must be."""
        fields = Fields.read(path)
        split = fields.text("split")
        if split not in SPLITS:
            raise fields.error("split", split, " or ".join(SPLITS))
        ties = fields.text("ties") if "ties" in fields else None
        if ties not in (None, *TIES):
            raise fields.error("ties", ties, " or ".join(TIES))
        metrics = _metrics(fields.within("metrics"))
        if not metrics:
            raise fields.error("metrics", fields.raw("metrics"), "metrics by task")
        num_examples = _by_task(fields.within("num_examples"), Fields.whole)
        baselines = fields.within("baselines")
        settings = fields.within("settings")
        return cls(
            path=path,
            dataset=fields.name("dataset"),
            fingerprint=fields.text("fingerprint"),
            split=split,
            ties=ties,
            model=fields.text("model"),
            mixture=_optional(fields, "mixture", Fields.text),
            step=_optional(fields, "step", Fields.whole),
            seed=_optional(fields, "seed", Fields.whole),
            metrics=metrics,
            baselines={clean(name): _metrics(baselines.within(name)) for name in baselines},
            num_examples=num_examples,
            choices=_choices(fields),
            seconds=_optional(fields, "seconds", Fields.number),
            training_seconds=_training_seconds(fields),
            rates=_rates(fields, num_examples),
            peak_memory_bytes=_optional(fields, "peak_memory_bytes", Fields.whole),
            parameters=_optional(fields, "parameters", Fields.whole),
            version=_version(fields),
            settings={clean(key): _as_text(settings.raw(key)) for key in settings},
            settings_sha256=_sha256(fields.raw("settings")) if "settings" in fields else None,
        )


def _optional(fields: Fields, key: str, read) -> Any:
    return read(fields, key) if key in fields else None


def _metrics(fields: Fields) -> Metrics:
    measured = {}
    for task in fields.names():
        by_key = fields.within(task)
        measured[task] = {clean(key): by_key.number(key, 0.0, 1.0) for key in by_key}
    return measured


def _by_task(fields: Fields, read) -> dict[str, Any]:
    return {task: read(fields, task) for task in fields.names()}


def _choices(fields: Fields) -> dict[str, Any]:
    reads = {
        "constrained": Fields.switch,
        "exclude_history": Fields.switch,
        "method": Fields.text,
        "ids": Fields.text,
    }
    return {key: read(fields, key) for key, read in reads.items() if key in fields}


def _training_seconds(fields: Fields) -> float | None:
    for key in ("fit_seconds", "training_seconds"):
        if key in fields:
            return fields.number(key)
    return None


def _rates(fields: Fields, num_examples: dict[str, int]) -> dict[str, float]:
    """Users a second by task: as told, else of what decoding took."""
    rates = _by_task(fields.within("examples_per_second"), Fields.number)
    for task, seconds in _by_task(fields.within("decode_seconds"), Fields.number).items():
        if seconds > 0 and task in num_examples:
            rates.setdefault(task, num_examples[task] / seconds)
    return rates


def _version(fields: Fields) -> str | None:
    for where in (fields, fields.within("settings")):
        if "version" in where:
            return where.text("version")
    return None


def _as_text(value: Any) -> str:
    return clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _sha256(settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
