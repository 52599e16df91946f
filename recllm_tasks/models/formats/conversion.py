"""Conversion between formats, one parameter at a time.

The target is written as `<name>.incomplete` and gets its name when it is complete.
"""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np

from recllm_tasks import checksums, progress
from recllm_tasks.errors import UserError
from recllm_tasks.models.formats import hugging_face_folder, run_folder, t5x, t5x_legacy
from recllm_tasks.models.formats.checkpoint import Source, Target
from recllm_tasks.models.formats.parameters import shapes_of

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
_READERS = {"hf": hugging_face_folder, "t5x": t5x, "recllm": run_folder}
_WRITERS = {**_READERS, "t5x_legacy": t5x_legacy}
SOURCES, FORMATS = tuple(_READERS), tuple(_WRITERS)

_VOCABULARIES = {"hf": hugging_face_folder.VOCABULARY, "recllm": run_folder.VOCABULARY}

# A file in every converted folder: the source and the options.
NOTE = "conversion.json"
# A model card, for people to edit; it has no checksum.
CARD = "README.md"


def open_source(format: str, path: str | os.PathLike) -> Source:
    """The checkpoint in a folder; the formats' modules document what each accepts.

    Raises:
      UserError: it does not exist, is incomplete, or is not a T5.
    """
    return _READERS[format].open_folder(_existing(path))


def open_any(path: str | os.PathLike) -> Source:
    """The checkpoint in a folder, in any format of `SOURCES`.

    Raises:
      UserError: as `open_source`, or the folder has no format's files.
    """
    folder = _existing(path)
    for reader in _READERS.values():
        if reader.is_one(folder):
            return reader.open_folder(folder)
    raise UserError(
        f"No checkpoint in '{path}': got no files of one, expected a folder of Hugging Face "
        "(config.json), T5X (checkpoint_<step>) or recllm (run.json); correct the path"
    )


def _existing(path: str | os.PathLike) -> pathlib.Path:
    folder = pathlib.Path(path).expanduser().resolve()
    if not folder.is_dir():
        raise UserError(
            f"No checkpoint at '{path}': got no such folder, expected one on this machine's disks; "
            "correct the path, or copy it first (gcloud storage cp -r gs://… .)"
        )
    return folder


def convert(
    source: Source,
    format: str,
    destination: str | os.PathLike,
    *,
    dtype: str = "float32",
    step: int | None = None,
    overwrite: bool = False,
    beside: Callable[[pathlib.Path], None] | None = None,
) -> Source:
    """Writes a checkpoint in another format; returns it as read from there.

    Args:
      source: the result of `open_source`.
      format: one of `FORMATS`; `t5x_legacy` is read as `t5x`.
      destination: the folder to create; the formats' modules document its files.
      dtype: the dtype on disk, one of `DTYPES`.
      step: None is the source's, or 0 if it has none.
      overwrite: replaces the result of an earlier conversion.
      beside: writes more files into the folder that it is called with.

    Raises:
      UserError: the destination already exists, or the disk is full.
    """
    folder = pathlib.Path(os.path.abspath(os.path.expanduser(destination)))
    _check_free(folder, source, overwrite)
    shapes = shapes_of(source.config)
    numbers = sum(int(np.prod(shape)) for shape in shapes.values())
    _check_room(folder, numbers * DTYPES[dtype].itemsize)
    step = (source.step or 0) if step is None else step
    with _appearing(folder) as made, progress.work(f"convert to {format}", numbers) as work:
        target = Target(made, source.config, DTYPES[dtype], step)
        with _WRITERS[format].writer(target) as write:
            for path, shape in shapes.items():
                write(path, source.read(path).astype(target.dtype, copy=False))
                work.advance(int(np.prod(shape)), path)
        if source.vocabulary and format in _VOCABULARIES:
            shutil.copyfile(source.vocabulary, made / _VOCABULARIES[format])
        if beside is not None:
            beside(made)
        note = {"source": last_parts(source.where), "step": step, "dtype": dtype}
        (made / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
        names = [p.relative_to(made).as_posix() for p in made.rglob("*") if p.is_file()]
        checksums.write(made, (name for name in names if name != CARD))
    return open_source("t5x" if format == "t5x_legacy" else format, folder)


def last_parts(path: str) -> str:
    """The end of an absolute path: enough to recognise it, without a home folder's name.

    Converted folders are published. Other texts, such as hf://google/flan-t5-base, stay.
    """
    return "/".join(pathlib.PurePath(path).parts[-3:]) if os.path.isabs(path) else path


def _check_free(folder: pathlib.Path, source: Source, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not overwrite:
        raise UserError(
            f"Destination '{folder}': got a folder or file that already exists, expected a new "
            "name; give another one, or --overwrite"
        )
    if not (folder / NOTE).is_file() or pathlib.Path(source.where).is_relative_to(folder.resolve()):
        raise UserError(
            f"--overwrite for '{folder}': got the source itself, or a folder that no conversion "
            f"wrote, expected a folder with {NOTE}; delete it yourself, or give another name"
        )


def _check_room(folder: pathlib.Path, num_bytes: int) -> None:
    there = next(parent for parent in folder.parents if parent.is_dir())
    free = shutil.disk_usage(there).free
    if free < num_bytes:
        raise UserError(
            f"Disk space for '{folder}': got {free / 1e9:.1f} GB, expected "
            f"{num_bytes / 1e9:.1f} GB; free some space, or give a folder on another disk"
        )


@contextlib.contextmanager
def _appearing(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder that gets its name when the block ends, and is deleted if the block fails."""
    made = folder.with_name(f"{folder.name}.incomplete")
    if made.exists():  # left by a killed process
        shutil.rmtree(made)
    made.mkdir(parents=True)
    try:
        yield made
        for path in made.rglob("*"):
            if path.is_file():
                with open(path, "rb") as f:
                    os.fsync(f.fileno())
        replaced = folder.with_name(f"{folder.name}.replaced")
        if folder.exists():
            os.replace(folder, replaced)
        os.replace(made, folder)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(made, ignore_errors=True)
