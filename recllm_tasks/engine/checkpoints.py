"""States on disk (Orbax): the last one to resume from, and the best one to use."""

import contextlib
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from recllm_tasks import checksums
from recllm_tasks.errors import UserError

LAST, BEST = "checkpoints", "best"


class Checkpoints:
    """A run's states: whole ones in MODEL_DIR/checkpoints, parameters alone in MODEL_DIR/best.

    Orbax writes to a temporary folder and renames it, so that no partial state is ever seen.
    """

    def __init__(self, model_dir: str, *, writes: bool = False):
        """Args:
        model_dir: the run's folder.
        writes: whether this process saves states; it must then hold the folder alone, because
          temporary folders that a killed process left are removed.
        """
        self._dir = pathlib.Path(model_dir).resolve()
        self._writes = writes
        self._managers: dict[str, ocp.CheckpointManager] = {}

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def _manager(self, kind: str) -> ocp.CheckpointManager:
        if kind not in self._managers:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=1,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=self._writes,
            )
            self._managers[kind] = ocp.CheckpointManager(
                self._dir / kind, options=options, item_handlers=ocp.StandardCheckpointHandler()
            )
        return self._managers[kind]

    def save(self, kind: str, step: int, state: Any) -> None:
        """Saves the state of `step`; replaces one that a killed run left.

        Raises:
          UserError: the folder cannot be written to, or the disk is full.
        """
        manager = self._manager(kind)
        with _failure_reported(self._dir / kind, step):
            if step in manager.all_steps():
                manager.delete(step)
            manager.save(step, args=ocp.args.StandardSave(state), force=True)
            if jax.process_index() == 0:
                checksums.write(self._dir / kind / str(step))

    def latest_step(self, kind: str) -> int | None:
        return self._manager(kind).latest_step() if (self._dir / kind).is_dir() else None

    def restore(self, kind: str, like: Any, step: int | None = None) -> Any:
        """The state of `step` (by default the latest), with `like`'s shapes, dtypes and sharding.

        Raises:
          UserError: there is none, it is damaged, or its arrays have other names or shapes.
        """
        step = self.require_step(kind, step)
        folder = self._dir / kind / str(step)
        with _damage_reported(folder):
            checksums.check(folder, _advice(folder))
            stored = self._manager(kind).item_metadata(step)
            check_fits(str(folder), stored, like)
            return self._manager(kind).restore(step, args=ocp.args.StandardRestore(like))

    def require_step(self, kind: str, step: int | None = None) -> int:
        """`step`, or the latest one; UserError if there is no such state."""
        folder = self._dir / kind
        step = self.latest_step(kind) if step is None else step
        if step is None or not (folder / str(step)).is_dir():
            raise UserError(
                f"No checkpoint in '{folder}': got {step or 'none'} as its step, expected one that "
                "`recllm train` wrote; train first, or correct the path"
            )
        return step

    def restore_params(self, kind: str, like: Any) -> Any:
        """The parameters of the latest whole state."""
        like = {"params": like}
        folder = self._dir / kind / str(self.require_step(kind)) / "default"
        with _damage_reported(folder.parent), ocp.PyTreeCheckpointer() as reader:
            checksums.check(folder.parent, _advice(folder.parent))
            stored = reader.metadata(folder).item_metadata.tree
            check_fits(str(folder.parent), {"params": stored["params"]}, like)
            restore_args = ocp.checkpoint_utils.construct_restore_args(like)
            return reader.restore(
                folder, ocp.args.PyTreeRestore(like, restore_args, partial_restore=True)
            )["params"]

    def close(self) -> None:
        for manager in self._managers.values():
            manager.close()
        self._managers.clear()


@contextlib.contextmanager
def _failure_reported(folder: pathlib.Path, step: int) -> Iterator[None]:
    """Turns the errors of a file system into UserErrors, without the traces that Orbax logs."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    except (OSError, ValueError) as error:
        # TensorStore raises ValueError, with the system's error in its message.
        found = re.search(r"([^:]*) \[os_error_code='\d+'\]", str(error))
        if not found and not isinstance(error, OSError):
            raise
        reason = found[1].strip() if found else getattr(error, "strerror", None) or error
        raise UserError(
            f"Cannot save the state of step {step} in '{folder}': got '{reason}', expected a "
            "writable folder with free space; free some and run the same command: it resumes from "
            "the last saved state"
        ) from error
    finally:
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _damage_reported(folder: pathlib.Path) -> Iterator[None]:
    """Turns errors about a checkpoint that cannot be read into UserErrors.

    Where there are checksums, and the files have them, an error of Orbax is not damage.
    """
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        if checksums.read(folder) is not None and not isinstance(error, OSError):
            raise
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"Damaged checkpoint '{folder}': got '{first[:300]}', expected files as `recllm train` "
            f"wrote them; {_advice(folder)}"
        ) from error


def _advice(folder: pathlib.Path) -> str:
    other = LAST if folder.parent.name == BEST else BEST
    return (
        f"restore '{folder}' from a copy, or use the run's other state with "
        f"--gin.CHECKPOINT={other}; to train anew, choose another MODEL_DIR"
    )


def check_fits(where: str, stored: Any, expected: Any) -> None:
    """Raises UserError that names the first array whose name or shape differs."""
    shapes = [
        {
            jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
            for path, leaf in leaves
        }
        for leaves in (
            jax.tree_util.tree_flatten_with_path(getattr(tree, "tree", tree))[0]
            for tree in (stored, expected)
        )
    ]
    for name in sorted({*shapes[0], *shapes[1]}):
        got, want = (side.get(name, "no such array") for side in shapes)
        if got != want:
            raise UserError(
                f"Checkpoint '{where}' does not fit the model: got {name} {got}, expected {want}; "
                "use the model's gin file that the run was trained with"
            )
