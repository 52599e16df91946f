"""What `recllm doctor PATH` checks: every file of prepared datasets and runs.

A file is verified by the `checksums.json` of a folder above it, by the checksum that it holds
itself, or by those of its format. Like `doctor`, this imports only the standard library at the top.
"""

import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from recllm_tasks import checksums
from recllm_tasks.errors import UserError
from recllm_tasks.files import is_intact

# The names of files that tell a dataset's or a run's folder.
_DATASET = "recllm.json"
_MARKS = (_DATASET, "run.json", "results.json", "network.json", checksums.FILE_NAME)

# How many names of files without checksums are shown.
_SHOWN = 3


class Finding(NamedTuple):
    """One line: `kind` is ok, note or problem; the `advice` of a problem says how to fix it."""

    kind: str
    what: str
    found: str
    advice: str = ""


def check(paths: Sequence[str]) -> Iterator[Finding]:
    """Checks all datasets and runs in the given folders.

    Yields:
      A problem for each damaged or missing file, a note for each folder with files that nothing
      verifies, and a line for each folder without problems.

    Raises:
      UserError: a path is no folder, or there is no dataset and no run in it.
    """
    for path in paths:
        folders = list(_folders(path))
        if not folders:
            raise UserError(
                f"folder '{path}': got no prepared dataset and no run in it, expected a folder "
                f"with one of {', '.join(_MARKS)}, or with such folders in it; correct the path"
            )
        for folder in folders:
            yield from check_folder(folder)


def _folders(path: str) -> Iterator[pathlib.Path]:
    """The folders of datasets and runs in `path`; what is within them belongs to them."""
    if not os.path.isdir(os.path.expanduser(path)):
        raise UserError(
            f"path '{path}': got no such folder, expected that of a prepared dataset or of a run, "
            "or a folder of them; correct the path"
        )
    for folder, names, files in os.walk(os.path.expanduser(path)):
        names[:] = sorted(name for name in names if not name.startswith("."))
        if not {*files}.isdisjoint(_MARKS):
            names.clear()
            yield pathlib.Path(folder)


def check_folder(folder: pathlib.Path) -> Iterator[Finding]:
    """Checks the files of one dataset or run; see `check`."""
    files = _files_in(folder)
    # The first problem of a file, or None if it is intact.
    verdicts: dict[pathlib.Path, str | None] = {}
    for path in files:
        if path.name == checksums.FILE_NAME:
            verdicts |= _by_checksums(path)
    is_dataset = any((folder / name).exists() for name in (_DATASET, "catalog.parquet"))
    unverified = []
    for path in files:
        if path in verdicts:
            continue
        verdict = _by_itself(path)
        if verdict is None:
            unverified.append(path)
        else:
            verdicts[path] = verdict
    problems = {path: found for path, found in sorted(verdicts.items()) if found}
    for path, found in problems.items():
        yield Finding("problem", str(path), found, _advice(path, folder, is_dataset))
    if unverified:
        names = [str(path.relative_to(folder)) for path in unverified]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        fix = _prepare_again(folder) if is_dataset else "files of an older version have none"
        found = f"no checksum of {', '.join(names[:_SHOWN])}{more}"
        yield Finding("note", str(folder), found, f"cannot be verified; {fix}")
    if not problems:
        size = sum(path.stat().st_size for path in files)
        found = f"{len(verdicts)} of {len(files)} files verified and intact, {size:,} bytes in all"
        yield Finding("ok", str(folder), found)


def _files_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """Every file beneath a folder but hidden ones, such as a lock, and those of wandb."""
    found = (path for path in folder.rglob("*") if path.is_file())
    ours = (path for path in found if path.relative_to(folder).parts[0] != "wandb")
    return sorted(path for path in ours if not path.name.startswith("."))


def _by_checksums(path: pathlib.Path) -> dict[pathlib.Path, str]:
    """What is wrong with a `checksums.json` and its files, empty for those that are intact."""
    folder = path.parent
    try:
        files = checksums.read(folder) or {}
    except (UserError, OSError) as error:
        return {path: _first_line(error)}
    found = {path: "", **{folder / name: "" for name in files}}
    for damaged, got, expected in checksums.damage(folder):
        found[damaged] = f"damaged: got {got}, expected {expected}"
    return found


def _by_itself(path: pathlib.Path) -> str | None:
    """What is wrong with a file, empty if nothing is; None if nothing in it can tell."""
    try:
        if path.suffix in (".json", ".gin"):
            intact = is_intact(path.read_bytes())
            return None if intact is None else "" if intact else "damaged: its checksum differs"
        if re.fullmatch(r"(tokens|trie)-[0-9a-f]+\.npy", path.name):
            return _array(path)
        if ".tfevents." in path.name or ".tfrecord-" in path.name:
            return _records(path)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except ImportError as error:
        return f"cannot be checked: {_first_line(error)}; run `recllm doctor` for the fix"
    return None


def _array(path: pathlib.Path) -> str:
    import numpy as np

    from recllm_tasks import array_file

    dtype = np.dtype(np.uint8 if path.name.startswith("tokens") else np.int32)
    return "" if array_file.read(path, dtype) is not None else "damaged: its checksum differs"


def _records(path: pathlib.Path) -> str:
    """Reads all records, each of which has checksums."""
    import tensorflow as tf

    count = 0
    try:
        for _ in tf.data.TFRecordDataset(str(path)):
            count += 1
    except tf.errors.OpError as error:
        reason = error.message.split("} ")[-1].split(" [Op:")[0]
        return f"damaged: {count:,} intact records and then '{reason}'"
    return ""


def _advice(path: pathlib.Path, folder: pathlib.Path, is_dataset: bool) -> str:
    """How to fix a damaged or missing file."""
    within = path.relative_to(folder).as_posix()
    if is_dataset:
        return "delete it: it is built again" if path.suffix == ".npy" else _prepare_again(folder)
    if within.startswith(("results.json", "results/", "per_user/")):
        return "restore it from a copy, or measure the run again"
    if within.startswith(("checkpoints/", "best/")):
        return "restore it from a copy, or delete that step's folder: the run then uses another one"
    if ".tfevents." in path.name:
        return "restore it from a copy; curves of the run are incomplete"
    return "restore it from a copy, or train again in another folder"


def _prepare_again(folder: pathlib.Path) -> str:
    # <data_dir>/rec_sequences/<name>/<version>
    name, data_dir = folder.absolute().parent.name, folder.absolute().parents[2]
    return (
        f"run `recllm prepare {name} --data_dir {data_dir} --overwrite` with the same files and "
        "options as before"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
