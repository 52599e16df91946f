"""Scalars of training for Weights & Biases and MLflow, beside TensorBoard; LOG_TO names them.

Which project and which server are the packages' own settings: $WANDB_PROJECT, $WANDB_MODE,
$MLFLOW_TRACKING_URI, $MLFLOW_EXPERIMENT_NAME and so on. tracking.json in the run's folder keeps the
ids that they gave, so that a resumed run goes on in the same place.
"""

import importlib
import os
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from clu import metric_writers

from recllm_tasks import progress
from recllm_tasks.errors import UserError
from recllm_tasks.files import read_json, write_json
from recllm_tasks.runs import run_folder

FILE_NAME = "tracking.json"

# What MLflow accepts in one call.
_PARAMS_AT_ONCE = 100


def writer(
    model_dir: str, log_to: Sequence[str] = (), settings: str = ""
) -> metric_writers.MetricWriter:
    """Writes to TensorBoard's files in a run's folder, and to what `log_to` names.

    Only the first process of several writes.

    Args:
      model_dir: the run's folder.
      log_to: names of `WRITERS`.
      settings: text of gin, whose bindings are what each of them calls the run's config.

    Raises:
      UserError: a name is unknown, its package is not installed, or the package refuses.
    """
    is_first = jax.process_index() == 0
    default = metric_writers.create_default_writer(model_dir, just_logging=not is_first)
    if not log_to or not is_first:
        return default
    others = [WRITERS[name](model_dir, settings) for name in log_to]
    # In threads of their own: no step waits for a server.
    return metric_writers.MultiWriter([default, *map(metric_writers.AsyncWriter, others)])


def check(log_to: Sequence[str]) -> None:
    """Raises UserError for what `writer` cannot write to, before anything else is done."""
    if isinstance(log_to, str) or not all(name in WRITERS for name in log_to):
        raise UserError(
            f"LOG_TO: got {log_to!r}, expected names of {' and '.join(WRITERS)} in a list, or an "
            "empty one; correct it, as in --gin.LOG_TO=\"['wandb']\""
        )
    for name in log_to:
        _package(name)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"LOG_TO: got '{name}', whose package is not installed, expected one that is; run "
            f"`pip install {name}`, or leave it out"
        ) from error


class _Tracked(metric_writers.MetricWriter):
    """Writes scalars; training writes nothing else."""

    def _unsupported(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(f"{type(self).__name__} writes scalars only")

    write_summaries = write_images = write_videos = write_audios = _unsupported
    write_texts = write_histograms = write_hparams = _unsupported

    def flush(self) -> None:
        pass


class WandbWriter(_Tracked):
    """A run of Weights & Biases, with the settings of gin as its config."""

    def __init__(self, model_dir: str, settings: str):
        wandb = _package("wandb")
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "recllm_tasks"),
                name=os.environ.get("WANDB_NAME", pathlib.Path(model_dir).resolve().name),
                id=_known(model_dir, "wandb"),
                resume="allow",
                dir=model_dir,
                config=run_folder.bindings(settings),
                # What the terminal shows is a progress line.
                settings=wandb.Settings(console="off"),
            )
        except wandb.errors.Error as error:
            raise UserError(
                f"LOG_TO 'wandb' for '{model_dir}': got {_first_line(error)}, expected a run; log "
                "in with `wandb login`, set WANDB_MODE=offline to send it later (`wandb sync`), or "
                "leave it out"
            ) from error
        _remember(model_dir, "wandb", self._run.id)
        # Its own steps only grow, and a resumed run repeats some.
        self._run.define_metric("*", step_metric="step")

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        self._run.log({"step": step, **{name: float(value) for name, value in scalars.items()}})

    def close(self) -> None:
        self._run.finish(exit_code=int(_is_failing()))


class MlflowWriter(_Tracked):
    """A run of MLflow, whose parameters are the settings of gin that it started with.

    MLflow's names have no `@`: `ndcg@10` is called `ndcg_at_10`. Where its server fails, training
    goes on without it.
    """

    def __init__(self, model_dir: str, settings: str):
        mlflow = _package("mlflow")
        self._entities, self._errors = mlflow.entities, mlflow.exceptions.MlflowException
        self._is_lost = False
        try:
            self._client = mlflow.MlflowClient()
            known = _known(model_dir, "mlflow")
            if known is None:
                self._id = self._create(pathlib.Path(model_dir).resolve().name, settings)
                _remember(model_dir, "mlflow", self._id)
            else:
                self._id = self._client.get_run(known).info.run_id
                self._client.update_run(self._id, status="RUNNING")
        except self._errors as error:
            raise UserError(
                f"LOG_TO 'mlflow' for '{model_dir}': got {_first_line(error)}, expected a run at "
                f"{mlflow.get_tracking_uri()}; set MLFLOW_TRACKING_URI to the server that has it, "
                f"delete {pathlib.Path(model_dir) / FILE_NAME} to start another, or leave it out"
            ) from error

    def _create(self, name: str, settings: str) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        made = self._client.create_run(number, run_name=name).info.run_id
        params = [
            self._entities.Param(name, value)
            for name, value in run_folder.bindings(settings).items()
        ]
        for start in range(0, len(params), _PARAMS_AT_ONCE):
            self._client.log_batch(made, params=params[start : start + _PARAMS_AT_ONCE])
        return made

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        now = int(time.time() * 1000)
        metrics = [
            self._entities.Metric(name.replace("@", "_at_"), float(value), now, step)
            for name, value in scalars.items()
        ]
        self._try(lambda: self._client.log_batch(self._id, metrics=metrics), step)

    def close(self) -> None:
        status = "FAILED" if _is_failing() else "FINISHED"
        self._try(lambda: self._client.set_terminated(self._id, status), None)

    def _try(self, action, step: int | None) -> None:
        if self._is_lost:
            return
        try:
            action()
        except self._errors as error:
            self._is_lost = True
            where = "at the end" if step is None else f"from step {step:,} on"
            progress.console.print(
                f"MLflow gets nothing {where}: {_first_line(error)}; TensorBoard has all",
                markup=False,
                soft_wrap=True,
            )


WRITERS = {"wandb": WandbWriter, "mlflow": MlflowWriter}


def _known(model_dir: str, name: str) -> str | None:
    return (read_json(pathlib.Path(model_dir) / FILE_NAME) or {}).get(name)


def _remember(model_dir: str, name: str, value: str) -> None:
    path = pathlib.Path(model_dir) / FILE_NAME
    found = read_json(path) or {}
    if found.get(name) != value:
        write_json(path, {**found, name: value})


def _is_failing() -> bool:
    """Whether an exception, or a stop, is what ends the block that closes the writer."""
    return sys.exc_info()[0] is not None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
