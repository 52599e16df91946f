"""States on disk (Orbax): the last one to resume from, and the best one to use."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp

from recllm_tasks.errors import UserError

LAST, BEST = "checkpoints", "best"


class Checkpoints:
    """A run's states: whole ones in MODEL_DIR/checkpoints, parameters alone in MODEL_DIR/best.

    Orbax writes to a temporary folder and renames it, so that no partial state is ever seen.
    """

    def __init__(self, model_dir: str):
        self._dir = pathlib.Path(model_dir).resolve()
        self._managers: dict[str, ocp.CheckpointManager] = {}

    def _manager(self, kind: str) -> ocp.CheckpointManager:
        if kind not in self._managers:
            options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
            self._managers[kind] = ocp.CheckpointManager(
                self._dir / kind, options=options, item_handlers=ocp.StandardCheckpointHandler()
            )
        return self._managers[kind]

    def save(self, kind: str, step: int, state: Any) -> None:
        self._manager(kind).save(step, args=ocp.args.StandardSave(state), force=True)

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
def _damage_reported(folder: pathlib.Path) -> Iterator[None]:
    """Turns Orbax's errors about a checkpoint that it cannot read into UserErrors."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"Damaged checkpoint '{folder}': got '{first[:300]}', expected files as `recllm train` "
            "wrote them; restore that folder from a copy, or delete it: training then starts from "
            f"an earlier checkpoint. CHECKPOINT chooses between '{BEST}' and '{LAST}'"
        ) from error


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
