"""A trained run, made ready for use: its network, its parameters, its vocabulary."""

import dataclasses
import filecmp
import os
from typing import Any

import gin
import jax
import jax.numpy as jnp

from recllm_tasks.engine import devices
from recllm_tasks.engine.checkpoints import BEST, LAST, Checkpoints
from recllm_tasks.errors import UserError, check_text
from recllm_tasks.models.network import T5Config, Transformer
from recllm_tasks.prompts import vocabulary
from recllm_tasks.runs import run_folder
from recllm_tasks.runs.run_folder import Run


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """What `load` found.

    Attributes:
      run: what was trained on what.
      network: the model.
      params: of the chosen checkpoint, spread over `mesh`.
      step: of the chosen checkpoint.
      mesh: this machine's devices.
    """

    run: Run
    network: Transformer
    params: Any
    step: int
    mesh: jax.sharding.Mesh


def load(
    model_dir: str,
    *,
    network: Transformer | None = None,
    checkpoint: str | None = None,
    model_parallel: int = 1,
) -> SavedRun:
    """Reads a run's folder and makes its vocabulary that of all tasks.

    Args:
      model_dir: the run's folder.
      network: None is the run's own; another one must fit the checkpoint.
      checkpoint: `best`, `checkpoints` (the last state), or None: the best if there is one.
      model_parallel: devices that share one copy of the parameters.

    Raises:
      UserError: no run there, no such checkpoint, or one that does not fit the network.
    """
    check_text("MODEL_DIR", model_dir)
    run = Run.load(model_dir)
    if checkpoint not in (None, BEST, LAST):
        raise UserError(
            f"CHECKPOINT for '{model_dir}': got '{checkpoint}', expected '{BEST}' or '{LAST}'"
        )
    network = network or Transformer(_config(run, model_dir))
    _use_vocabulary(os.path.join(model_dir, run_folder.VOCABULARY))
    mesh = devices.make_mesh(model_parallel)
    checkpoints = Checkpoints(model_dir)
    kind = checkpoint or (BEST if checkpoints.latest_step(BEST) is not None else LAST)
    like = abstract_params(network, mesh)
    if kind == BEST:
        params = checkpoints.restore(BEST, like=like)
    else:
        params = checkpoints.restore_params(LAST, like=like)
    step = checkpoints.latest_step(kind)
    checkpoints.close()
    return SavedRun(run, network, params, step, mesh)


def _use_vocabulary(path: str) -> None:
    """Makes the run's vocabulary that of all tasks.

    Gin may name a copy of it, or that of another run, which was in use before.
    """
    named = vocabulary.sentencepiece_file()
    foreign = named is not None and not run_folder.is_vocabulary_of_a_run(named)
    if foreign and not (os.path.isfile(named) and filecmp.cmp(path, named, shallow=False)):
        raise UserError(
            f"vocabulary.sentencepiece_file.path: got '{named}', expected the run's own, "
            f"'{path}', or a copy of it; leave the setting out"
        )
    with gin.unlock_config():
        gin.bind_parameter("vocabulary.sentencepiece_file.path", path)


def _config(run: Run, model_dir: str) -> T5Config:
    try:
        return T5Config(**run.network)
    except TypeError as error:
        raise UserError(
            f"Network of the run in '{model_dir}': got {error}, expected the fields of T5Config; "
            "use the version of recllm_tasks that trained it, or train again"
        ) from error


def abstract_params(network: Transformer, mesh: jax.sharding.Mesh) -> Any:
    """Shapes, dtypes and shardings of the network's parameters."""
    token = jnp.ones((1, 1), jnp.int32)
    shapes = jax.eval_shape(
        lambda key: network.init(key, token, token, token, enable_dropout=False), jax.random.key(0)
    )
    shardings = devices.parameter_shardings(mesh, shapes)
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        shapes["params"],
        shardings,
    )
