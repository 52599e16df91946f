"""Raw files: where they lie, whether they are whole, and their lines."""

import dataclasses
import gzip
import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

from recllm_tasks.data.specs import DatasetSpec
from recllm_tasks.errors import UserError

_FETCH_AGAIN = "fetch the file again"


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A raw file read once from end to end; `lines` counts the lines that are not blank."""

    path: Path
    sha256: str
    lines: int


def find_sources(spec: DatasetSpec, raw_dir: str | Path | None) -> tuple[Path, Path]:
    """Returns the paths of the interactions and of the metadata in `raw_dir`.

    A file `x.json.gz` may also lie there unpacked, as `x.json`; the packed one goes first.
    """
    wanted = (
        f"{spec.interactions_file} (from {spec.interactions_address}) and "
        f"{spec.metadata_file} (from {spec.metadata_address})"
    )
    if raw_dir is None:
        raise UserError(
            f"no raw folder for '{spec.name}': got no raw_dir, expected a folder with {wanted}; "
            "download the two files into a folder and give it with --raw_dir"
        )
    raw_dir = Path(raw_dir)
    if not raw_dir.is_dir():
        state = "a file" if raw_dir.exists() else "a folder that does not exist"
        raise UserError(
            f"raw_dir for '{spec.name}': got {state}, {raw_dir}, expected a folder with {wanted}; "
            "download the two files there"
        )
    interactions, metadata = (
        _find(raw_dir, name) for name in (spec.interactions_file, spec.metadata_file)
    )
    missing = [
        f"{name} (from {address})"
        for path, name, address in (
            (interactions, spec.interactions_file, spec.interactions_address),
            (metadata, spec.metadata_file, spec.metadata_address),
        )
        if path is None
    ]
    if missing:
        raise UserError(
            f"missing files for '{spec.name}': got a folder {raw_dir} without "
            f"{' and '.join(missing)}, expected both files directly in it; download them there"
        )
    return interactions, metadata


def _find(raw_dir: Path, name: str) -> Path | None:
    for candidate in (raw_dir / name, raw_dir / name.removesuffix(".gz")):
        if candidate.is_file():
            return candidate
    return None


def open_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields (line number from 1, line without its end) of a plain or `.gz` file.

    Raises `UserError` for a file that cannot be read, is no gzip file or is cut off.
    """
    line = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                yield line, raw.rstrip(b"\r\n")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        cut = isinstance(error, EOFError)
        got = "a file that is cut off" if cut else f"bytes that are no whole gzip file ({error})"
        raise UserError(
            f"damaged file for '{path}': got {got} after line {line}, expected a whole gzip file; "
            f"{_FETCH_AGAIN}"
        ) from error
    except OSError as error:
        raise UserError(
            f"unreadable file for '{path}': got {error.strerror or error} after line {line}, "
            "expected a file that can be read; check its permissions and the disk"
        ) from error


def check_source(path: Path) -> SourceFile:
    """Reads the file once: hashes it, makes sure that it is whole, and counts its lines.

    Our choice: a pass of its own, because DuckDB does not compare a gzip file's checksum.
    """
    lines = sum(1 for _, raw in open_lines(path) if raw.strip())
    if not lines:
        raise UserError(
            f"empty file for '{path}': got no line, expected one record a line; {_FETCH_AGAIN}"
        )
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return SourceFile(path, sha256, lines)


def shorten(value: object, width: int = 80) -> str:
    """`repr` of a value of unknown size, cut to `width` characters."""
    text = repr(value)
    return text if len(text) <= width else text[: width - 1] + "…"
