"""Raw files: finds them, checks that they are complete, and reads their lines."""

import codecs
import contextlib
import dataclasses
import glob
import gzip
import hashlib
import io
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from recllm_tasks.data.formats import COMPRESSIONS, extension
from recllm_tasks.data.specs import DatasetSpec
from recllm_tasks.errors import UserError

# Longer lines are errors. Our choice: Amazon's longest published lines are some 1 MB, and DuckDB
# holds a few of them at once.
MAX_LINE_BYTES = 16 * 2**20

_DOWNLOAD_AGAIN = "download the file again"
_BLOCK = 2**22


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A raw file that was read once from start to end.

    `lines` counts the non-blank lines; -1 for files without lines, such as Parquet. `old_mac` says
    that lines end with a carriage return alone. `content` is the file to read, another one than
    `path` where that is not UTF-8; `is_utf8_instead` says that it is, in place of the encoding that
    was given. See `as_utf8`.
    """

    path: Path
    sha256: str
    lines: int
    old_mac: bool = False
    copy: Path | None = None
    is_utf8_instead: bool = False

    @property
    def content(self) -> Path:
        return self.copy or self.path

    @property
    def compression(self) -> str:
        """The compression of the content under DuckDB's name."""
        return COMPRESSIONS.get(self.content.suffix, "uncompressed")


def find_sources(
    spec: DatasetSpec, raw_dir: str | Path | None
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Returns the paths of the interactions and of the metadata, each in reading order.

    A published dataset has two files in `raw_dir`; instead of `x.json.gz`, they may be `x.json` or
    `x.json.zst`. Custom files are read in the order given, the matches of a pattern such as
    `part-*.csv` in order of their names.
    """
    if spec.custom_files:
        return _expand(spec, spec.custom_files.interactions), _expand(spec, spec.custom_files.items)
    wanted = (
        f"{spec.interactions_file} (from {spec.interactions_address}) and "
        f"{spec.metadata_file} (from {spec.metadata_address})"
    )
    if raw_dir is None:
        raise UserError(
            f"no raw folder for '{spec.name}': got no raw_dir, expected a folder with {wanted}; "
            "download the two files and give their folder with --raw_dir, or give --download"
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
    if interactions is None or metadata is None:
        missing = [
            f"{name} (from {address})"
            for path, name, address in (
                (interactions, spec.interactions_file, spec.interactions_address),
                (metadata, spec.metadata_file, spec.metadata_address),
            )
            if path is None
        ]
        raise UserError(
            f"missing files for '{spec.name}': got a folder {raw_dir} without "
            f"{' and '.join(missing)}, expected both files directly in it; download them there"
        )
    return (interactions,), (metadata,)


def _expand(spec: DatasetSpec, patterns: Sequence[str]) -> tuple[Path, ...]:
    paths: list[Path] = []
    for pattern in patterns:
        path = Path(pattern).expanduser()
        found = [path] if path.is_file() else sorted(map(Path, glob.glob(str(path))))
        found = [path for path in found if path.is_file()]
        if not found:
            raise UserError(
                f"missing file for '{spec.name}': got no file {pattern}, expected a file, or a "
                "quoted pattern that matches files; correct the path"
            )
        paths += found
    return tuple(paths)


def _find(raw_dir: Path, name: str) -> Path | None:
    plain = name.removesuffix(".gz")
    for candidate in (raw_dir / name, raw_dir / plain, raw_dir / f"{plain}.zst"):
        if candidate.is_file():
            return candidate
    return None


def _open(path: Path) -> io.BufferedIOBase:
    if path.suffix == ".gz":
        return gzip.open(path)
    if path.suffix == ".zst":
        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"), _BLOCK)
    return path.open("rb")


class _Reading:
    """Turns errors while reading a file into a `UserError` that names the line."""

    def __init__(self, path: Path):
        self.path, self.line = path, 0

    def __enter__(self) -> "_Reading":
        return self

    def __exit__(self, kind, error, trace) -> None:
        packed = self.path.suffix in COMPRESSIONS
        # Arrow's decompression errors have no errno, those of the system do.
        broken = isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)) or (
            packed and isinstance(error, OSError) and error.errno is None
        )
        if broken:
            kind = {".gz": "gzip", ".zst": "zstd"}[self.path.suffix]
            cut = isinstance(error, EOFError) or "Truncated" in str(error)
            got = "a truncated file" if cut else f"bytes that are not a valid {kind} file"
            detail = "" if cut else f" ({error})"
            raise UserError(
                f"damaged file for '{self.path}': got {got}{detail} after line {self.line}, "
                f"expected a complete {kind} file; {_DOWNLOAD_AGAIN}"
            ) from error
        if isinstance(error, OSError):
            raise UserError(
                f"unreadable file for '{self.path}': got {error.strerror or error} after line "
                f"{self.line}, expected a readable file; check its permissions and the disk"
            ) from error


def open_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields (line number from 1, line without its line break) of a plain, `.gz` or `.zst` file.

    A line of more than `MAX_LINE_BYTES` is cut to one byte more than that. A byte order mark is
    dropped. Raises `UserError` for a file that is unreadable, damaged or truncated.
    """
    with _Reading(path) as reading, _open(path) as file:
        while raw := file.readline(MAX_LINE_BYTES + 1):
            reading.line += 1
            rest = raw
            while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE_BYTES + 1)
            if reading.line == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            yield reading.line, raw if len(raw) > MAX_LINE_BYTES else raw.rstrip(b"\r\n")


def check_source(path: Path, *, whole: bool = True) -> SourceFile:
    """Reads the file once: hashes it, checks that it is complete, and counts its lines.

    Without `whole`, it looks at the start alone; the hash is empty and the lines are not counted.

    Our choice: a separate pass, because DuckDB ignores gzip checksums and accepts truncated zstd
    files. It works on blocks of bytes, not line by line.
    """
    if not whole:
        with _Reading(path), _open(path) as file:
            start = file.read(_BLOCK)
        is_text = extension(path).lower() != ".parquet"
        return SourceFile(path, "", -1, is_text and b"\r" in start and b"\n" not in start)
    with _Reading(path), path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if extension(path).lower() == ".parquet":
        return SourceFile(path, sha256, -1)
    lines, old_mac = _measure(path)
    if not lines:
        raise UserError(
            f"empty file for '{path}': got no line, expected one record per line; {_DOWNLOAD_AGAIN}"
        )
    return SourceFile(path, sha256, lines, old_mac)


def _measure(path: Path) -> tuple[int, bool]:
    """The number of non-blank lines, and whether they end with carriage returns alone."""
    lines, open_line, newlines, returns = 0, b"", False, False
    with _Reading(path) as reading, _open(path) as file:
        while block := file.read(_BLOCK):
            whole, newline, rest = block.rpartition(b"\n")
            newlines |= bool(newline)
            returns = returns or (not newlines and b"\r" in block)
            if newline:
                lines += _count_lines(open_line + whole + newline)
                reading.line += whole.count(b"\n") + 1
                open_line = rest
            elif len(open_line) <= MAX_LINE_BYTES:
                open_line += block
            else:
                # The line is too long whatever follows; keep just enough to see that.
                open_line = open_line[: MAX_LINE_BYTES + 1]
    lines += bool(open_line.strip())
    return lines, returns and not newlines


@contextlib.contextmanager
def as_utf8(
    source: SourceFile, encoding: str, scratch: str | Path | None = None
) -> Iterator[SourceFile]:
    """The file with UTF-8 content and lines that end with a line feed.

    It is the file itself where it is so. Bytes that the encoding does not have stay as they are,
    and are no UTF-8. Raises `UserError` for a file in UTF-16 that is not called so.
    """
    encoding = codecs.lookup(encoding).name
    start = _first_bytes(source)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and "16" not in encoding:
        raise UserError(
            f"encoding of '{source.path}': got a file that starts as UTF-16 does, expected "
            f"{encoding}; give --encoding utf-16, or save the file as UTF-8"
        )
    is_utf8, is_ascii = encoding in ("utf-8", "ascii", "utf-8-sig"), True
    # A text of several bytes a character is never valid UTF-8 by chance.
    if not is_utf8 and len("é".encode(encoding, "replace")) == 1:
        is_utf8, is_ascii = _is_utf8(source.path)
    source = dataclasses.replace(source, is_utf8_instead=is_utf8 and not is_ascii)
    if is_utf8 and not source.old_mac:
        yield source
        return
    with tempfile.TemporaryDirectory(dir=scratch, prefix="utf8-") as folder:
        copy = Path(folder) / source.path.name.removesuffix(source.path.suffix)
        copy = copy.with_name(f"{copy.name}.utf8")
        _convert(source, "utf-8" if is_utf8 else encoding, copy)
        lines, _ = _measure(copy)
        yield dataclasses.replace(source, lines=lines, copy=copy)


def _first_bytes(source: SourceFile) -> bytes:
    with _Reading(source.path), _open(source.path) as file:
        return file.read(4)


def _is_utf8(path: Path) -> tuple[bool, bool]:
    """Whether a file is valid UTF-8, and whether it is ASCII."""
    decoder, is_ascii = codecs.getincrementaldecoder("utf-8")(), True
    try:
        with _Reading(path), _open(path) as file:
            while block := file.read(_BLOCK):
                is_ascii = is_ascii and block.isascii()
                decoder.decode(block)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False, False
    return True, is_ascii


def _convert(source: SourceFile, encoding: str, copy: Path) -> None:
    decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
    try:
        with (
            _Reading(source.path),
            _open(source.path) as file,
            copy.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out,
        ):
            while block := file.read(_BLOCK):
                text = decoder.decode(block)
                out.write(text.replace("\r", "\n") if source.old_mac else text)
            out.write(decoder.decode(b"", final=True))
    except UnicodeError as error:
        raise UserError(
            f"encoding of '{source.path}': got {str(error).splitlines()[0]}, expected {encoding} "
            "text; correct --encoding"
        ) from error


def _count_lines(block: bytes) -> int:
    """The number of non-blank lines in a block of complete lines."""
    if block[:1].isspace() or any(b"\n" + space in block for space in (b"\n", b"\r", b" ", b"\t")):
        return sum(1 for line in block.split(b"\n") if line.strip())
    return block.count(b"\n")


def shorten(value: object, width: int = 80) -> str:
    """`repr` of a value, cut to `width` characters."""
    text = repr(value[:width] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= width else text[: width - 1] + "…"
