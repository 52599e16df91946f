"""Named lists of items, such as what is in stock: an id a line, read again when a file changes."""

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.data.item_list import ListReader
from recllm_tasks.errors import UserError

# How often files are looked at. A list that has changed is in force after that and its reading.
_EVERY_SECONDS = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class ItemList:
    """A list, as last read.

    Attributes:
      listed_N: bool, by catalog row.
      unknown: lines that name no item of the catalog.
      version: another number for each reading.
      modified: of the file, in ns, and its size.
    """

    listed_N: np.ndarray
    unknown: int
    version: int
    modified: tuple[int, int]


class ItemLists:
    """The lists of a service. What is read once stays in force until a file can be read anew."""

    def __init__(
        self, files: Mapping[str, str], catalog: Catalog, say: Callable[[str], None] = print
    ):
        """Reads all lists.

        Args:
          files: by the list's name, UTF-8 with one short id or raw id a line.
          catalog: whose items are listed.
          say: called with a line for each reading, and for each that fails.

        Raises:
          UserError: a file cannot be read.
        """
        self._files, self._say = dict(files), say
        self._reader = ListReader(catalog)
        self._stopping = threading.Event()
        self.failures = 0
        self._failed: dict[str, tuple[int, int] | None] = {}
        self.lists = {name: self._read(name, path, 1) for name, path in self._files.items()}

    def watch(self) -> None:
        """Reads files that change, in a thread of its own, until `stop`."""
        threading.Thread(target=self._watch, name="item lists", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    def refresh(self) -> None:
        """Reads the files that have changed since they were read."""
        for name, path in self._files.items():
            old, now = self.lists[name], _modified(path)
            if now == old.modified or (name in self._failed and now == self._failed[name]):
                continue
            try:
                new = self._read(name, path, old.version + 1)
                self.lists = {**self.lists, name: new}
                self._failed.pop(name, None)
                self._say(f"list {name}: {new.listed_N.sum():,} items, {new.unknown:,} unknown")
            except UserError as error:
                self._failed[name] = now
                self.failures += 1
                self._say(f"{error}; the list as it was before stays in force")

    def _watch(self) -> None:
        while not self._stopping.wait(_EVERY_SECONDS):
            self.refresh()

    def _read(self, name: str, path: str, version: int) -> ItemList:
        try:
            modified = _modified(path)
            content = Path(path).read_bytes()
            if _modified(path) != modified:
                time.sleep(_EVERY_SECONDS)  # it is being written
                modified, content = _modified(path), Path(path).read_bytes()
        except OSError as error:
            raise UserError(
                f"List '{name}' in '{path}': got {error.strerror}, expected a file with an id a "
                "line; correct --list"
            ) from error
        if modified is None:
            raise UserError(
                f"List '{name}' in '{path}': got no file, expected one with an id a line; correct "
                "--list"
            )
        listed_N, unknown = self._reader.listed(content, f"List '{name}' in '{path}'")
        return ItemList(listed_N, len(unknown), version, modified)


def _modified(path: str) -> tuple[int, int] | None:
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size
