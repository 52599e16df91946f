"""Functions for the gin files of T5X runs: steps, batches, learning rate, best checkpoint."""

import contextlib
import functools
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
import seqio
import tensorflow as tf
from clu.data import dataset_iterator
from t5x import checkpoints, trainer, utils

from recllm_tasks import mixtures, tasks
from recllm_tasks.engine import training
from recllm_tasks.engine.preemption import preemption
from recllm_tasks.engine.train_step import all_finite
from recllm_tasks.errors import UserError, check_text, check_whole
from recllm_tasks.files import locked
from recllm_tasks.pipeline import training as pipeline
from recllm_tasks.prompts.source import LATEST, Shard


def registered(name: str) -> str:
    """The given name, after registering the tasks of custom datasets and checking it.

    Raises:
      UserError: as `tasks.get`.
    """
    mixtures.register_stored()
    tasks.get(name)
    return name


def step_of(checkpoint: str | None) -> int:
    """The step of a checkpoint folder named `checkpoint_<step>`; 0 if there is none.

    Raises:
      UserError: the folder has another name, which T5X cannot restore either.
    """
    if not checkpoint:
        return 0
    is_text = isinstance(checkpoint, str)  # T5X also accepts a list, which has no one step
    match = re.fullmatch(r"(.*/)?checkpoint_(\d+)/?", checkpoint) if is_text else None
    if match is None:
        raise UserError(
            f"INITIAL_CHECKPOINT_PATH: got '{checkpoint}', expected a folder named "
            "checkpoint_<step>; correct it"
        )
    return int(match[2])


def total_steps(checkpoint: str | None, steps: int) -> int:
    """The step at which T5X stops: `steps` after the initial checkpoint's step."""
    check_whole("TRAIN_STEPS", steps, 1)
    return step_of(checkpoint) + steps


def learning_rate(
    schedule: Callable[[jax.Array], jax.Array], checkpoint: str | None
) -> Callable[[jax.Array], jax.Array]:
    """`schedule` over the steps of this run; T5X's count starts at the checkpoint's step."""
    start = step_of(checkpoint)
    return lambda step: schedule(step - start)


def training_batches(
    cfg: utils.DatasetConfig,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Callable[..., seqio.FeatureConverter],
    *,
    num_epochs: int | None = None,
    continue_from_last_checkpoint: bool = True,
    model_dir: str,
    checkpoint: str | None,
) -> "Batches":
    """T5X's `get_dataset_fn`: the batches that the local engine trains on, for the same seed.

    It begins with the batch that a stopped run in `model_dir` would have seen next. T5X
    would begin at the first one again.

    Args:
      cfg: of the training data. Its batch size is that of all hosts together.
      shard_id: this host's number.
      num_shards: how many hosts there are.
      feature_converter_cls: T5X's; the batches have its features already.
      num_epochs: T5X's; training has no end but the number of steps.
      continue_from_last_checkpoint: T5X's; see `model_dir`.
      model_dir: of the run.
      checkpoint: the one that training started from, whose steps T5X counts too.

    Raises:
      UserError: the batch size is no multiple of the number of hosts, there is no seed, or another
        process trains in `model_dir`.
    """
    del feature_converter_cls, num_epochs, continue_from_last_checkpoint
    check_whole("RANDOM_SEED", cfg.seed, 0)
    if cfg.split == LATEST:
        raise UserError(
            f"train/utils.DatasetConfig.split: got {LATEST!r}, whose examples have no target to "
            "learn, expected 'train'; correct it"
        )
    if cfg.batch_size % num_shards:
        raise UserError(
            f"BATCH_SIZE: got {cfg.batch_size}, expected a multiple of {num_shards}, the number "
            "of hosts; correct it"
        )
    if shard_id == 0:
        _hold(model_dir)
    batches = pipeline.training_batches(
        cfg.mixture_or_task_name,
        cfg.task_feature_lengths,
        cfg.batch_size // num_shards,
        cfg.seed,
        max(0, (latest_step(model_dir) or 0) - step_of(checkpoint)),
        pack=cfg.pack,
        shard=Shard(shard_id, num_shards),
    )
    return Batches(batches)


@functools.cache
def _hold(model_dir: str) -> contextlib.ExitStack:
    """Holds a local run's folder until the process ends; UserError if another one trains there."""
    stack = contextlib.ExitStack()
    if os.path.isdir(model_dir):
        stack.enter_context(locked(model_dir, "training"))
    return stack


class Batches(dataset_iterator.DatasetIterator):
    """Batches as T5X reads them."""

    def __init__(self, batches: Iterator[Mapping[str, np.ndarray]]):
        first = next(batches)
        self._next = itertools.chain([first], batches)
        self._spec = {
            name: dataset_iterator.ArraySpec(array.dtype, array.shape)
            for name, array in first.items()
        }

    def __next__(self):
        return next(self._next)

    @property
    def element_spec(self):
        return self._spec

    def reset(self):
        raise NotImplementedError("batches begin where the run is")

    def save(self, filename):
        """Nothing: the step alone says where to resume."""

    def restore(self, filename):
        """Nothing: see `save`."""


class Watch(trainer.BaseAction):
    """A T5X action of training: nothing that is not finite is saved, and SIGTERM saves the state.

    It runs every STATS_PERIOD steps and before a state is saved, but not with concurrent metrics.
    After SIGTERM, T5X saves the state and ends; `stopped` is then true.
    """

    stopped = False

    def __init__(self, model_dir: str):
        self._model_dir = model_dir
        # Until the process ends; signals get their old handlers when the stack is collected.
        self._stack = contextlib.ExitStack()
        self._preemption = self._stack.enter_context(preemption())

    def run(self, train_state, metrics_by_task) -> bool:
        """Whether training is to end.

        Raises:
          UserError: the loss, a parameter or a moment is not finite.
        """
        losses = [float(metrics["loss"].value) for metrics in metrics_by_task.values()]
        # T5X calls this in the first process alone, which has no whole arrays beside others.
        alone = jax.process_count() == 1
        if not np.isfinite(losses).all() or (alone and not all_finite(train_state.state_dict())):
            saved = latest_step(self._model_dir)
            raise UserError(
                f"Training at step {int(train_state.step)}: got a loss of {losses[0]}, or "
                "parameters that are not finite, expected finite numbers; lower LEARNING_RATE or "
                "raise WARMUP_STEPS, and run the command again: it starts from the last saved "
                f"state, that of step {saved}"
            )
        Watch.stopped = self._preemption.requested
        return Watch.stopped


def latest_step(model_dir: str) -> int | None:
    """The last step with a checkpoint in T5X's `model_dir`, or None."""
    check_text("MODEL_DIR", model_dir)
    if not tf.io.gfile.isdir(model_dir):
        return None
    return max(checkpoints.all_steps(model_dir) or (), default=None)


def validation_task(mixture: str) -> str:
    """The task whose validation chooses the best checkpoint (see `training.SELECTION`)."""
    selection = _selection(mixture)
    return selection.task if selection else mixture


def _selection(mixture: str) -> training.Selection | None:
    return training.choose_validation(tasks.get(registered(mixture)))


def _metric_of(mixture: str) -> str | None:
    """The run and tag under which T5X writes the choosing metric for TensorBoard."""
    selection = _selection(mixture)
    if selection is None or selection.metric is None:
        return None
    return f"inference_eval/{selection.task}/eval/{selection.metric}"


def is_unvalidated(model_dir: str, mixture: str, checkpoint: str | None) -> bool:
    """Whether a run was killed between saving its last state and the end of its validation.

    T5X would go on without validating that state, and never choose it.
    """
    metric, step = _metric_of(mixture), latest_step(model_dir)
    if metric is None or step is None or step == step_of(checkpoint):
        return False
    return step not in checkpoints.populate_metrics_for_steps(model_dir, metric, [step])


def checkpointer(mixture: str) -> Callable[..., checkpoints.Checkpointer]:
    """`SaveCheckpointConfig.checkpointer_cls`: keeps the best state in validation, and the last.

    For a mixture without retrieval, ranking or rating it keeps the last states.
    """
    metric = _metric_of(mixture)
    if metric is None:
        return checkpoints.Checkpointer
    # T5X's Orbax manager reads the metric from the keywords of a partial.
    return functools.partial(checkpoints.SaveBestCheckpointer, metric_name_to_monitor=metric)


def checkpoint_to_use(model_dir: str | None, mixture: str, checkpoint: str | None = None) -> str:
    """`checkpoint` if given, else the best checkpoint in validation of a T5X run.

    If the run's states were not validated, this is the last one.

    Raises:
      UserError: there is no checkpoint.
    """
    if checkpoint:
        step_of(checkpoint)
        return checkpoint
    check_text("MODEL_DIR (or CHECKPOINT_PATH)", model_dir)
    steps = checkpoints.all_steps(model_dir) if tf.io.gfile.isdir(model_dir) else ()
    if not steps:
        raise UserError(
            f"No checkpoint in '{model_dir}': got no folder checkpoint_<step>, expected one that "
            "T5X wrote; train first, correct MODEL_DIR, or name one as CHECKPOINT_PATH"
        )
    metric = _metric_of(mixture)
    values = checkpoints.populate_metrics_for_steps(model_dir, metric, steps) if metric else {}
    # An AUC is undefined where all users like their item.
    values = {step: float(value) for step, value in values.items() if not np.isnan(value)}
    # Ties go to the earlier step, as in training.
    best = max(values, key=lambda step: (values[step], -step)) if values else max(steps)
    return os.path.join(model_dir or "", f"checkpoint_{best}")
