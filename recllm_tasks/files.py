"""Files that are never half written, JSON with a checksum, folders that one process holds."""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import IO, Any, TypeVar, cast

from recllm_tasks.errors import UserError

# The file that `locked` holds.
LOCK = ".lock"

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


# How a file ends that holds the SHA-256 of all that is before: JSON with its last field, other text
# with its last line.
_JSON_END = '  "checksum": "sha256:{}"\n}}\n'
_TEXT_END = "# checksum: sha256:{}\n"


@contextlib.contextmanager
def locked(folder: str | os.PathLike, purpose: str) -> Iterator[None]:
    """Holds an existing folder for this process while the block runs.

    The lock is the operating system's (flock): it ends with its process, even if that is killed.

    Args:
      folder: gets a file `LOCK`, which stays.
      purpose: what the process does there, for the message.

    Raises:
      UserError: another process holds it, or the folder cannot be written to.
    """
    path = pathlib.Path(folder) / LOCK
    try:
        lock = open(path, "a+")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise UserError(
            f"Cannot write '{path}': got {error.strerror}, expected a writable folder; choose "
            "another one"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(
                f"'{folder}' is in use: got a {purpose} of {lock.read() or 'another process'}, "
                "expected one at a time; wait for it, stop it, or choose another folder"
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


def write_json(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Writes an object, and as its last field a `checksum`, which every reader verifies."""
    _write_sealed(path, json.dumps({**content, "checksum": ""}, indent=2), _JSON_END)


def write_settings(path: str | os.PathLike, text: str) -> None:
    """Writes text in which # starts a comment, and as its last line a comment with a checksum."""
    _write_sealed(path, text if text.endswith("\n") else f"{text}\n", _TEXT_END)


def _write_sealed(path: str | os.PathLike, text: str, end: str) -> None:
    body = text.removesuffix('  "checksum": ""\n}').encode()
    with atomic_write(path, "wb") as f:
        f.write(_sealed(body, end))


def _sealed(body: bytes, end: str) -> bytes:
    return body + end.format(hashlib.sha256(body).hexdigest()).encode()


def is_intact(content: bytes) -> bool | None:
    """Whether a file's content fits the checksum at its end; None if it has none.

    No change of a single byte makes it None.
    """
    length = len(_JSON_END.format("0" * 64))
    if not any(word in content[-length:] for word in (b"checksum", b"sha256:")):
        return None
    ends = (_JSON_END, _TEXT_END)
    return any(content == _sealed(content[: -len(e.format("0" * 64))], e) for e in ends)


def parse_json(content: bytes, **options: Any) -> Any:
    """What `json.loads` makes of a file's content, without its checksum.

    Raises:
      ValueError: it is not JSON, or does not fit its checksum.
    """
    if is_intact(content) is False:
        raise ValueError(
            "content that does not fit its checksum (after an intended change, delete the field "
            "'checksum')"
        )
    found = json.loads(content.decode("utf-8"), **options)
    if isinstance(found, dict):
        found.pop("checksum", None)
    return found


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
        return parse_json(pathlib.Path(path).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(
            f"Damaged file '{os.fspath(path)}': got {error}, expected JSON; restore it from a "
            "copy, or delete it"
        ) from error
