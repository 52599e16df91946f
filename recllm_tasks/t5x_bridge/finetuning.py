"""What a T5X run's gin file asks for: steps from a checkpoint on, batches, the best checkpoint."""

import functools
import os
import re
from collections.abc import Callable, Sequence

import jax
import seqio
import tensorflow as tf
from t5x import checkpoints, utils

from recllm_tasks import mixtures, tasks
from recllm_tasks.engine import training
from recllm_tasks.errors import UserError, check_text, check_whole


def registered(name: str) -> str:
    """The name of a task or mixture, after those of one's own datasets are registered.

    Raises `UserError` as `tasks.get` does.
    """
    mixtures.register_stored()
    return tasks.get(name) and name


def step_of(checkpoint: str | Sequence[str] | None) -> int:
    """The step of a checkpoint's folder `checkpoint_<step>`, 0 without one.

    Raises:
      UserError: the folder has another name, which T5X cannot restore either.
    """
    if not checkpoint:
        return 0
    match = re.fullmatch(r"(.*/)?checkpoint_(\d+)/?", checkpoint)
    if match is None:
        raise UserError(
            f"INITIAL_CHECKPOINT_PATH: got '{checkpoint}', expected a folder named "
            "checkpoint_<step>; correct it"
        )
    return int(match[2])


def total_steps(checkpoint: str | None, steps: int) -> int:
    """T5X's step to stop at: `steps` after those of the checkpoint that training starts from."""
    check_whole("TRAIN_STEPS", steps, 1)
    return step_of(checkpoint) + steps


def learning_rate(
    schedule: Callable[[jax.Array], jax.Array], checkpoint: str | None
) -> Callable[[jax.Array], jax.Array]:
    """`schedule` over the steps of this run; T5X counts those of the checkpoint too."""
    start = step_of(checkpoint)
    return lambda step: schedule(step - start)


def training_batches(
    cfg: utils.DatasetConfig,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Callable[..., seqio.FeatureConverter],
    *args,
    model_dir: str,
    checkpoint: str | None,
    **kwargs,
) -> tf.data.Dataset:
    """T5X's batches, from the one on that a stopped run in `model_dir` would have seen next.

    T5X would begin at the first batch again. Batches that were seen are made and thrown away: all
    randomness comes from the seed and the place in the stream.
    """
    done = max(0, (latest_step(model_dir) or 0) - step_of(checkpoint))
    dataset = utils.get_dataset(cfg, shard_id, num_shards, feature_converter_cls, *args, **kwargs)
    return dataset.skip(done) if done else dataset


def latest_step(model_dir: str) -> int | None:
    """The last step with a checkpoint in T5X's `model_dir`, or None."""
    check_text("MODEL_DIR", model_dir)
    if not tf.io.gfile.isdir(model_dir):
        return None
    return max(checkpoints.all_steps(model_dir) or (), default=None)


def validation_task(mixture: str) -> str:
    """The one task that validates: it chooses the best checkpoint (see `training.SELECTION`)."""
    return training.choose_validation(tasks.get(registered(mixture)))[0] or mixture


def _metric_of(mixture: str) -> str | None:
    """Where T5X writes the metric that chooses: run and tag of TensorBoard's scalars."""
    task, metric = training.choose_validation(tasks.get(registered(mixture)))
    return metric and f"inference_eval/{task}/eval/{metric}"


def checkpointer(mixture: str) -> Callable[..., checkpoints.Checkpointer]:
    """`SaveCheckpointConfig.checkpointer_cls`: keeps what validated best, and the last state.

    Of a mixture without retrieval, ranking or rating, the last states are kept.
    """
    metric = _metric_of(mixture)
    if metric is None:
        return checkpoints.Checkpointer
    # T5X's Orbax manager reads the metric off the keywords of a partial.
    return functools.partial(checkpoints.SaveBestCheckpointer, metric_name_to_monitor=metric)


def checkpoint_to_use(model_dir: str | None, mixture: str, checkpoint: str | None = None) -> str:
    """`checkpoint` if it is named, else the checkpoint of a T5X run that validated best.

    A run whose states were not validated gives its last one.

    Raises:
      UserError: no checkpoint is there.
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
    # Of equal values the earlier, as while training.
    best = max(values, key=lambda step: (float(values[step]), -step)) if values else max(steps)
    return os.path.join(model_dir, f"checkpoint_{best}")
