"""The scratch folder of a run, and the lock that lets one run at a time prepare a dataset."""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

_PREFIX, _LOCK = "recllm_scratch.", ".lock"
_REPLACED, _TARGET = "replaced", "target"


@contextlib.contextmanager
def open_scratch(data_dir: Path, name: str, say: Callable[[str], None]) -> Iterator[Path]:
    """A new empty folder in `data_dir`, in which this run alone prepares dataset `name`.

    Another run of the same dataset is waited for. The lock is the operating system's (flock), so
    it ends with its process however that ends; and what a killed run left behind, of this dataset
    or of another one, is removed here.
    """
    _remove_leftovers(data_dir)
    lock = _acquire(data_dir, name, wait=False)
    if lock is None:
        say(f"{name}: another run is preparing it in {data_dir}; waiting for that")
        lock = _acquire(data_dir, name, wait=True)
    try:
        yield Path(tempfile.mkdtemp(dir=data_dir, prefix=f"{_PREFIX}{name}."))
    finally:
        _release(lock, data_dir, name)


def replace_folder(scratch: Path, new: Path, target: Path) -> None:
    """Moves `new` to `target`; what was there goes with `scratch`, or comes back if that failed.

    No system call swaps two folders everywhere, so that a kill between the two moves leaves no
    `target`: the next run puts the old one back.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        (scratch / _TARGET).write_text(os.path.relpath(target, scratch.parent), encoding="utf-8")
        os.rename(target, scratch / _REPLACED)
    os.rename(new, target)


def _remove_leftovers(data_dir: Path) -> None:
    for path in data_dir.glob(f"{_PREFIX}*{_LOCK}"):
        name = path.name.removeprefix(_PREFIX).removesuffix(_LOCK)
        lock = _acquire(data_dir, name, wait=False)
        if lock is not None:
            _release(lock, data_dir, name)


def _acquire(data_dir: Path, name: str, wait: bool) -> int | None:
    """The open lock file of `name`; None if another process has it and it is not waited for."""
    path = data_dir / f"{_PREFIX}{name}{_LOCK}"
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(lock)
            return None
        except BaseException:
            os.close(lock)
            raise
        # Whoever had it before removed the file: a lock on a removed file locks nobody out.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        os.close(lock)


def _release(lock: int, data_dir: Path, name: str) -> None:
    own = re.compile(re.escape(f"{_PREFIX}{name}.") + r"[a-z0-9_]{8}")
    for folder in data_dir.iterdir():
        if own.fullmatch(folder.name):
            if (folder / _REPLACED).exists():
                target = data_dir / (folder / _TARGET).read_text(encoding="utf-8")
                if not target.exists():
                    os.rename(folder / _REPLACED, target)
            shutil.rmtree(folder, ignore_errors=True)
    (data_dir / f"{_PREFIX}{name}{_LOCK}").unlink()
    os.close(lock)
