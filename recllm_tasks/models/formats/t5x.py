"""T5X's checkpoints, `checkpoint_<step>` folders: Orbax, which T5X writes now, or legacy.

`--to t5x` writes the Orbax format. Neither has an optimizer state: to fine-tune from one, T5X needs
`RestoreCheckpointConfig.fallback_to_scratch = True` and an assignment map that omits
`state/param_states.*`.
"""

import contextlib
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from recllm_tasks.errors import UserError
from recllm_tasks.models.formats import t5x_legacy
from recllm_tasks.models.formats.checkpoint import Source, Target, Write
from recllm_tasks.models.formats.orbax_arrays import METADATA, NewArrays, StoredArrays
from recllm_tasks.models.formats.parameters import check_shapes, shapes_of, sizes_of

_STATE = "state"


def is_one(folder: pathlib.Path) -> bool:
    return _is_checkpoint(folder) or any(map(_is_checkpoint, folder.glob("checkpoint_*")))


def open_folder(folder: pathlib.Path) -> Source:
    """One checkpoint, or the latest in a folder of checkpoints.

    Raises:
      UserError: there is none, it is incomplete, or it is not a T5 1.1.
    """
    folder = _latest(folder)
    legacy = (folder / t5x_legacy.FILE).is_file()
    arrays = t5x_legacy.StoredArrays(folder) if legacy else StoredArrays(folder / _STATE)
    names = {"/".join(path[1:]): name for name, path in arrays.names.items() if path[0] == "target"}
    shapes = {path: arrays.shape(name) for path, name in names.items()}
    config = sizes_of(str(folder), shapes)
    check_shapes(str(folder), shapes, shapes_of(config))
    step = int(arrays.read("state.step")) if "state.step" in arrays.names else None
    return Source(str(folder), config, step, lambda path: arrays.read(names[path]))


def _latest(folder: pathlib.Path) -> pathlib.Path:
    if _is_checkpoint(folder):
        return folder
    steps = {
        int(match[1]): path
        for path in folder.glob("checkpoint_*")
        if (match := re.fullmatch(r"checkpoint_(\d+)", path.name)) and _is_checkpoint(path)
    }
    if not steps:
        raise UserError(
            f"No T5X checkpoint in '{folder}': got no checkpoint_<step>, expected one with a file "
            f"'{t5x_legacy.FILE}' (legacy) or '{_STATE}/{METADATA}' (Orbax); correct the path"
        )
    return steps[max(steps)]


def _is_checkpoint(folder: pathlib.Path) -> bool:
    return (folder / t5x_legacy.FILE).is_file() or (folder / _STATE / METADATA).is_file()


@contextlib.contextmanager
def writer(target: Target) -> Iterator[Write]:
    arrays = NewArrays(target.folder / f"checkpoint_{target.step}" / _STATE)
    yield lambda path, array: arrays.write(("target", *path.split("/")), array)
    arrays.write(("state", "step"), np.array(target.step, np.int32))
    arrays.close()
