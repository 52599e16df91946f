"""Our own checkpoints: runs of `recllm train`, and folders from `recllm convert --to recllm`.

A run's folder holds run.json, `best/<step>` (parameters) and `checkpoints/<step>` (the whole
state). A converted folder holds network.json instead of run.json, and only `best/<step>`.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np

from recllm_tasks import checksums
from recllm_tasks.errors import UserError
from recllm_tasks.files import from_object, parse_json, write_json
from recllm_tasks.models.config import T5Config
from recllm_tasks.models.formats.checkpoint import Source, Target, Write
from recllm_tasks.models.formats.orbax_arrays import NewArrays, StoredArrays
from recllm_tasks.models.formats.parameters import (
    OUTPUT_NORM,
    check_shapes,
    output_scale,
    shapes_of,
)

RUN, NETWORK, VOCABULARY = "run.json", "network.json", "vocabulary.model"
# The path of the parameters in each kind of state.
_KINDS = {"best": (), "checkpoints": ("params",)}
_ITEM = "default"


def is_one(folder: pathlib.Path) -> bool:
    run, _ = _run_of(folder)
    return any((run / name).is_file() for name in (RUN, NETWORK))


def open_folder(folder: pathlib.Path) -> Source:
    """A run's best state, else its last one; or the state whose own folder is given.

    Other formats know scaled logits alone: where a run's are not, its decoder's last norm is scaled
    instead.

    Raises:
      UserError: there is no run or no state, a file is damaged, or the state does not fit its
        network.
    """
    run, kind, step = _find(folder)
    config = _config(run)
    where = run / kind / str(step)
    # Of a converted folder, and of a step that training saved.
    for verified in (run, where):
        checksums.check(verified, "restore it from a copy, or use another checkpoint")
    arrays = StoredArrays(where / _ITEM)
    prefix = _KINDS[kind]
    names = {
        "/".join(path[len(prefix) :]): name
        for name, path in arrays.names.items()
        if path[: len(prefix)] == prefix
    }
    check_shapes(str(where), {p: arrays.shape(n) for p, n in names.items()}, shapes_of(config))
    vocabulary, scale = run / VOCABULARY, output_scale(config)

    def read(path: str) -> np.ndarray:
        array = arrays.read(names[path])
        return array * np.float32(scale) if path == OUTPUT_NORM and scale != 1 else array

    return Source(
        str(where),
        dataclasses.replace(config, scaled_logits=True),
        step,
        read,
        vocabulary if vocabulary.is_file() else None,
    )


def _find(folder: pathlib.Path) -> tuple[pathlib.Path, str, int]:
    """(run's folder, kind of state, step)."""
    run, within = _run_of(folder)
    for kind in within[:1] or _KINDS:
        steps = [int(p.name) for p in (run / kind).glob("*") if p.name.isdecimal()]
        if len(within) == 2:
            steps = [step for step in steps if str(step) == within[1]]
        if kind in _KINDS and steps:
            return run, kind, max(steps)
    raise UserError(
        f"No recllm checkpoint in '{folder}': got no {RUN} or {NETWORK} with a state in "
        f"{' or '.join(_KINDS)}, expected both; give the MODEL_DIR of a `recllm train`, or a "
        "converted folder"
    )


def _run_of(folder: pathlib.Path) -> tuple[pathlib.Path, tuple[str, ...]]:
    """(run's folder, path from there to `folder`): the run itself, a kind's folder, or a step's."""
    for depth, run in enumerate((folder, *folder.parents[:2])):
        if any((run / name).is_file() for name in (RUN, NETWORK)):
            return run, folder.parts[len(folder.parts) - depth :]
    return folder, ()


def _config(run: pathlib.Path) -> T5Config:
    path = run / (NETWORK if (run / NETWORK).is_file() else RUN)
    try:
        stored = parse_json(path.read_bytes())
        if path.name == RUN:
            stored = stored.get("network") if isinstance(stored, dict) else None
        return from_object(T5Config, stored)
    except (OSError, ValueError, UserError) as error:
        raise UserError(
            f"Network in '{path}': got {error}, expected the fields of T5Config; restore that "
            "file from a copy"
        ) from error


@contextlib.contextmanager
def writer(target: Target) -> Iterator[Write]:
    sizes = dataclasses.asdict(target.config)
    sizes |= {"dtype": np.dtype(sizes["dtype"]).name}
    write_json(target.folder / NETWORK, sizes)
    arrays = NewArrays(target.folder / "best" / str(target.step) / _ITEM)
    yield lambda path, array: arrays.write(tuple(path.split("/")), array)
    arrays.close()
