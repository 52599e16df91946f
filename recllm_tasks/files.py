"""Files that are never half written: text, bytes and JSON."""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import threading
from collections.abc import Iterator, Mapping
from typing import IO, Any, TypeVar, cast

from recllm_tasks.errors import UserError

T = TypeVar("T")


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Opens a file that replaces `path` only when the block has succeeded; text is UTF-8.

    Raises:
      UserError: `path` cannot be written; raised before the block runs.
    """
    temporary = f"{os.fspath(path)}.{os.getpid()}.{threading.get_ident()}.tmp"
    try:
        with _open_new(path, temporary, mode) as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(temporary)


def _open_new(path: str | os.PathLike, temporary: str, mode: str) -> IO:
    try:
        if not os.path.basename(path) or os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return open(temporary, mode, encoding=None if "b" in mode else "utf-8")
    except OSError as error:
        raise UserError(
            f"Cannot write '{os.fspath(path)}': got {error.strerror}, expected a file name in an "
            "existing, writable folder; choose another one"
        ) from error


def write_json(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as f:
        json.dump(content, f, indent=2)
        f.write("\n")


def from_object(cls: type[T], content: Any) -> T:
    """An instance of a dataclass from the object that a JSON file holds.

    Our choice over `cls(**content)`: its TypeError can also be a bug of ours in the class.

    Raises:
      ValueError: `content` is no object, lacks a field or has an unknown one.
    """
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__} in place of an object")
    fields = {field.name: field for field in dataclasses.fields(cast(Any, cls)) if field.init}
    for name in content:
        if name not in fields:
            raise ValueError(f"an unknown '{name}'")
    for name, field in fields.items():
        defaults = (field.default, field.default_factory)
        if name not in content and all(default is dataclasses.MISSING for default in defaults):
            raise ValueError(f"no '{name}'")
    return cls(**content)


def read_json(path: str | os.PathLike) -> dict[str, Any] | None:
    """The content of a JSON file, or None if the file does not exist."""
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(
            f"Damaged file '{os.fspath(path)}': got {error}, expected JSON; restore it from a "
            "copy, or delete it"
        ) from error
