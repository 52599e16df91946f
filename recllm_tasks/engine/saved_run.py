"""A trained run, loaded: its network, its parameters, its vocabulary."""

import dataclasses
import filecmp
import os
from typing import Any

import jax
import jax.numpy as jnp
import seqio

from recllm_tasks import tasks
from recllm_tasks.data.added_items import AddedItems
from recllm_tasks.engine import devices
from recllm_tasks.engine.checkpoints import BEST, LAST, Checkpoints
from recllm_tasks.errors import UserError, check_text
from recllm_tasks.files import from_object
from recllm_tasks.models.network import T5Config, Transformer
from recllm_tasks.prompts.vocabulary import sentencepiece_file
from recllm_tasks.runs import run_folder
from recllm_tasks.runs.run_folder import Run


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A run, loaded. Several can be used in one process: nothing is bound globally.

    Attributes:
      run: what was trained on what.
      network: the model.
      params: the chosen checkpoint's parameters, spread over `mesh`.
      step: the chosen checkpoint's step.
      mesh: this machine's devices.
      vocabulary: the run's SentencePiece file.
      added: items that `recllm catalog add` added to the run; None for none. Whoever recommends
        uses them (`tasks.with_added_items`); measurements are those of the dataset.
    """

    run: Run
    network: Transformer
    params: Any
    step: int
    mesh: jax.sharding.Mesh
    vocabulary: str
    added: AddedItems | None = None

    def tasks(self, name: str) -> list[seqio.Task]:
        """The tasks of a task or mixture with the run's vocabulary; copies, not registered.

        Raises:
          UserError: as `tasks.get`, the dataset is another one than the run's, or gin names another
            vocabulary.
        """
        check_vocabulary(self.vocabulary)
        found = tasks.get(name)
        info = tasks.source_of(found).info()
        self.run.check_dataset(info.dataset, info.fingerprint, info.records_digest)
        return [tasks.with_vocabulary(task, self.vocabulary) for task in seqio.get_subtasks(found)]


def check_vocabulary(own: str) -> None:
    """Raises UserError if gin names a vocabulary that is not the run's `own` or a copy of it."""
    named = sentencepiece_file()
    if named and not (os.path.isfile(named) and filecmp.cmp(own, named, shallow=False)):
        raise UserError(
            f"vocabulary.sentencepiece_file.path: got '{named}', expected the run's own, "
            f"'{own}', or a copy of it; leave the setting out"
        )


def load(
    model_dir: str,
    *,
    network: Transformer | None = None,
    checkpoint: str | None = None,
    model_parallel: int = 1,
) -> SavedRun:
    """Loads a run from its folder.

    Args:
      model_dir: the run's folder.
      network: None is the run's own; another one must fit the checkpoint.
      checkpoint: `best`, `checkpoints` (the last state), or None: the best if there is one.
      model_parallel: devices that share one copy of the parameters.

    Raises:
      UserError: there is no run, no such checkpoint, or it does not fit the network.
    """
    check_text("MODEL_DIR", model_dir)
    run = Run.load(model_dir)
    if checkpoint not in (None, BEST, LAST):
        raise UserError(
            f"CHECKPOINT for '{model_dir}': got '{checkpoint}', expected '{BEST}' or '{LAST}'; "
            "correct it"
        )
    network = network or Transformer(_config(run, model_dir))
    mesh = devices.make_mesh(model_parallel)
    like = abstract_params(network, mesh)
    with Checkpoints(model_dir) as checkpoints:
        kind = checkpoint or (BEST if checkpoints.latest_step(BEST) is not None else LAST)
        if kind == BEST:
            params = checkpoints.restore(BEST, like=like)
        else:
            params = checkpoints.restore_params(LAST, like=like)
        step = checkpoints.require_step(kind)
    vocabulary = os.path.join(model_dir, run_folder.VOCABULARY)
    return SavedRun(run, network, params, step, mesh, vocabulary, AddedItems.load(model_dir))


def _config(run: Run, model_dir: str) -> T5Config:
    try:
        return from_object(T5Config, run.network)
    except ValueError as error:
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
