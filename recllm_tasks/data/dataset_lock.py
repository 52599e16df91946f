"""The lock that lets one process at a time prepare a dataset, and that process's scratch folder."""

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
def lock_dataset(data_dir: Path, name: str, say: Callable[[str], None]) -> Iterator[Path]:
    """Locks dataset `name` and yields a new scratch folder in `data_dir`; removes it at the end.

    Waits while another process prepares the same dataset. The lock is the operating system's
    (flock), so it ends with its process, even if that is killed. What killed processes left behind,
    for any dataset, is removed first.
    """
    _remove_leftovers(data_dir)
    wait = False
    while (lock := _acquire(data_dir, name, wait)) is None:
        say(f"{name}: waiting for another process that is preparing it in {data_dir}")
        wait = True
    try:
        yield Path(tempfile.mkdtemp(dir=data_dir, prefix=f"{_PREFIX}{name}."))
    finally:
        _release(lock, data_dir, name)


def replace_folder(scratch: Path, new: Path, target: Path) -> None:
    """Moves `new` to `target`; the old folder moves to `scratch`, and is restored on failure.

    No portable system call swaps two folders. A kill between the two moves leaves no `target`; the
    next run restores the old one.
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
    """The open lock file of `name`; None if another process holds it and `wait` is false."""
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
        # The previous owner removed the file, and a lock on a removed file protects nothing.
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
