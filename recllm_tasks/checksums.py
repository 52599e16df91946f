"""Checksums of files that are written once: `checksums.json` in their folder.

    {"files": {"<name>": {"bytes": 12, "sha256": "<hex>"}, …}, "checksum": "sha256:<hex>"}

Names are relative to the folder, with slashes. Our choice: a file of its own rather than names with
hashes, so that the files stay what TFDS, Orbax and SentencePiece wrote. Only the standard library
is needed, because `recllm doctor` begins where imports fail.
"""

import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from recllm_tasks.errors import UserError
from recllm_tasks.files import is_intact, read_json, write_json

FILE_NAME = "checksums.json"


class Damage(NamedTuple):
    """A file that is not what it was when its checksum was written."""

    path: pathlib.Path
    got: str
    expected: str


def write(folder: str | os.PathLike, names: Iterable[str] | None = None) -> None:
    """Writes the checksums of the named files; None is every file beneath the folder.

    Raises:
      UserError: the folder cannot be written to.
      OSError: a file cannot be read, or the disk is full.
    """
    folder = pathlib.Path(folder)
    if names is None:
        beneath = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        names = (name for name in beneath if name != FILE_NAME)
    _write(folder, {name: _entry(folder / name) for name in names})


def expect(folder: str | os.PathLike, name: str, content: bytes) -> None:
    """Adds a file that is about to be written; does nothing in a folder without checksums."""
    files = read(folder)
    if files is not None:
        entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        _write(pathlib.Path(folder), {**files, name: entry})


def remove(folder: str | os.PathLike) -> None:
    """Removes the checksums, before their files are replaced."""
    (pathlib.Path(folder) / FILE_NAME).unlink(missing_ok=True)


def _write(folder: pathlib.Path, files: Mapping[str, Any]) -> None:
    write_json(folder / FILE_NAME, {"files": dict(sorted(files.items()))})


def _entry(path: pathlib.Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 (hex) of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def read(folder: str | os.PathLike) -> dict[str, dict[str, Any]] | None:
    """`bytes` and `sha256` by name; None if the folder has no checksums.

    Raises:
      UserError: `checksums.json` itself is damaged.
    """
    path = pathlib.Path(folder) / FILE_NAME
    content = read_json(path)
    if content is None:
        return None
    files = content.get("files") if isinstance(content, dict) else None
    if not is_intact(path.read_bytes()) or not _are_entries(files):
        raise UserError(
            f"Damaged file '{path}': got no checksums with a checksum of their own, expected what "
            "was written with the files beside it; restore it from a copy, or delete it: the files "
            "are then used unverified"
        )
    return files


def _are_entries(files: Any) -> bool:
    return isinstance(files, dict) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("bytes"), int)
        and isinstance(entry.get("sha256"), str)
        and not os.path.isabs(name)
        and ".." not in name.split("/")
        for name, entry in files.items()
    )


def damage(folder: str | os.PathLike, names: Iterable[str] | None = None) -> Iterator[Damage]:
    """Yields the files that are missing or changed, in the order of their names.

    Args:
      folder: a folder; without checksums nothing is yielded.
      names: verify only these, as far as they have checksums; None verifies all.

    Raises:
      UserError: `checksums.json` itself is damaged.
    """
    files = read(folder) or {}
    wanted = set(files if names is None else names)
    for name, entry in files.items():
        if name in wanted:
            path = pathlib.Path(folder) / name
            got = _difference(path, entry)
            if got:
                yield Damage(path, got, f"sha256 {entry['sha256'][:12]}… as in {FILE_NAME}")


def _difference(path: pathlib.Path, entry: Mapping[str, Any]) -> str:
    """How a file differs from its entry; empty if it does not."""
    try:
        size = path.stat().st_size
        if size != entry["bytes"]:
            return f"{size:,} bytes instead of {entry['bytes']:,}"
        found = sha256(path)
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return error.strerror or str(error)
    return "" if found == entry["sha256"] else f"sha256 {found[:12]}…"


def check(folder: str | os.PathLike, advice: str, names: Iterable[str] | None = None) -> None:
    """Raises UserError, with the advice, for the first file of `damage`."""
    for path, got, expected in damage(folder, names):
        raise UserError(f"Damaged file '{path}': got {got}, expected {expected}; {advice}")
