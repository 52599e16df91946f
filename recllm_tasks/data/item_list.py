"""Files that list items, such as those in stock: a short id or raw id a line, in UTF-8.

Letters: N items of the catalog.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recllm_tasks.data.catalog import Catalog
from recllm_tasks.errors import UserError


class ListReader:
    """Reads lists of one catalog's items."""

    def __init__(self, catalog: Catalog):
        self._num_items = len(catalog)
        self._names = pa.array([*catalog.short_id, *catalog.item], pa.large_string())

    def listed(self, content: bytes, what: str) -> tuple[np.ndarray, Sequence[str]]:
        """Which items are listed, bool [N], and the lines that name none.

        Args:
          content: of the file; blank lines and blanks around a name do not count.
          what: the list, for errors.

        Raises:
          UserError: the content is not UTF-8.
        """
        try:
            whole = pa.scalar(content.decode("utf-8-sig"), pa.large_string())
        except UnicodeDecodeError as error:
            raise UserError(
                f"{what}: got byte 0x{error.object[error.start]:02x}, expected UTF-8 text; convert "
                "the file"
            ) from error
        lines = pc.split_pattern(whole, "\n").values  # pyright: ignore[reportAttributeAccessIssue]
        lines = pc.utf8_trim_whitespace(lines)  # pyright: ignore[reportAttributeAccessIssue]
        lines = lines.filter(pc.greater(pc.utf8_length(lines), 0))  # pyright: ignore
        place = pc.index_in(lines, self._names)  # pyright: ignore[reportAttributeAccessIssue]
        found = place.drop_null().to_numpy(zero_copy_only=False)
        listed_N = np.zeros(self._num_items, bool)
        listed_N[found % self._num_items] = True
        return listed_N, lines.filter(place.is_null()).to_pylist()


def allowed_items(catalog: Catalog, allow: str | None, deny: str | None) -> np.ndarray:
    """The items that two files allow, bool [N]: those in `allow` (None is all) not in `deny`.

    Raises:
      UserError: a file cannot be read, names an unknown item, or nothing is left.
    """
    reader, allowed_N = ListReader(catalog), np.ones(len(catalog), bool)
    for name, path in (("allow", allow), ("deny", deny)):
        if path is None:
            continue
        what = f"Items to {name} in '{path}'"
        try:
            content = Path(path).expanduser().read_bytes()
        except OSError as error:
            raise UserError(
                f"{what}: got {error.strerror}, expected a file with an id a line; correct it"
            ) from error
        listed_N, unknown = reader.listed(content, what)
        if unknown:
            raise UserError(
                f"{what}: got {len(unknown):,} lines that name no item, the first {unknown[0]!r}, "
                "expected short ids or raw ids of the catalog; remove them"
            )
        allowed_N &= listed_N if name == "allow" else ~listed_N
    if not allowed_N.any():
        raise UserError(
            f"Items to allow in '{allow}' and to deny in '{deny}': got none that is left, expected "
            "at least one; correct the files"
        )
    return allowed_N
