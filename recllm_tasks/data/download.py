"""Published files: resumed and checked downloads over HTTP, and MovieLens 100k from a wheel."""

import hashlib
import http.client
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from recllm_tasks.data.specs import DatasetSpec
from recllm_tasks.errors import UserError
from recllm_tasks.progress import Work, work

# Seconds before each attempt; after so many attempts in a row without a byte, downloading fails.
PAUSES = (0, 1, 2, 4, 8)
_TIMEOUT = 30
_BLOCK = 2**18

WHEEL = "recbole==1.2.1"
WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_WHEEL_FOLDER = "recbole/dataset_example/ml-100k/"


def download_published(spec: DatasetSpec, folder: str | Path) -> Path:
    """Downloads the files of a published dataset that are not in `folder`; returns the folder.

    Raises `UserError` if the dataset has no addresses, or if `download` does.
    """
    if spec.custom_files or spec.in_wheel:
        raise UserError(
            f"download for '{spec.name}': got a dataset without addresses, expected one whose "
            "publisher offers its files; leave out --download"
        )
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"download for '{spec.name}': got {error.strerror or error}, expected a writable "
            f"folder {folder}; give another --raw_dir"
        ) from error
    for name, address, sha256 in (
        (spec.interactions_file, spec.interactions_address, spec.interactions_sha256),
        (spec.metadata_file, spec.metadata_address, spec.metadata_sha256),
    ):
        download(address, folder / name, sha256)
    return folder


def download(
    address: str,
    target: Path,
    sha256: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Downloads `address` to `target`, which appears only when complete; keeps an existing file.

    A partial download is kept in `target.part`. The next call resumes it if the server still has
    the same file (same ETag or date, kept in `target.part.tag`). The file is checked against
    `sha256` if given, else against the size that the server reported.

    Raises:
      UserError: the server does not answer, refuses, or sends another file than expected.
    """
    if target.is_file():
        return
    part = target.with_name(target.name + ".part")
    tag = target.with_name(target.name + ".part.tag")
    fruitless, error = 0, None
    while fruitless < len(PAUSES):
        sleep(PAUSES[fruitless])
        before = part.stat().st_size if part.exists() else 0
        try:
            total = _fetch(address, part, tag)
        except urllib.error.HTTPError as refusal:
            if refusal.code < 500 and refusal.code not in (408, 416, 429):
                raise _failure(address, f"the answer {refusal.code} {refusal.reason}") from refusal
            if refusal.code == 416:
                part.unlink(missing_ok=True)
            error = refusal
        except (OSError, http.client.HTTPException) as drop:
            if isinstance(drop, OSError) and drop.errno in _DISK_ERRORS:
                raise _failure(address, f"{drop.strerror} while writing {part}") from drop
            error = drop
        else:
            size = part.stat().st_size
            if total is None or size == total:
                break
            if size > total:
                part.unlink()
                raise _failure(address, f"{size:,} bytes instead of {total:,}")
            error = f"{size:,} of {total:,} bytes"
        after = part.stat().st_size if part.exists() else 0
        fruitless = 0 if after > before else fruitless + 1
    else:
        raise _failure(address, f"{error or 'no answer'}, {len(PAUSES)} times in a row")
    if sha256:
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            part.unlink()
            raise _failure(address, f"a file of SHA-256 {found} instead of {sha256}")
    os.replace(part, target)
    tag.unlink(missing_ok=True)


# No space, quota, read-only file system, permission.
_DISK_ERRORS = (28, 122, 30, 13)


def _failure(address: str, got: str) -> UserError:
    return UserError(
        f"download for '{address}': got {got}, expected the file; check the network and the disk, "
        "then run the same command again, which resumes the download, or download the file "
        "yourself and give its folder with --raw_dir"
    )


def _fetch(address: str, part: Path, tag: Path) -> int | None:
    """One attempt: appends to `part`; returns the size of the whole file, or None if unknown."""
    done = part.stat().st_size if part.exists() else 0
    known = tag.read_text() if tag.exists() else ""
    request = urllib.request.Request(address, headers={"Accept-Encoding": "identity"})
    if done and known:
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", known)
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        headers = answer.headers
        length = headers.get("Content-Length")
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
        resumed = answer.status == 206 and span is not None and int(span[1]) == done
        if answer.status == 206 and not resumed:
            raise http.client.HTTPException(f"the range {headers.get('Content-Range')}")
        # Weak tags do not guarantee equal bytes.
        strong = headers.get("ETag", "")
        strong = "" if strong.startswith("W/") else strong
        tag.write_text(strong or headers.get("Last-Modified", ""))
        done = done if resumed else 0
        total = int(span[2]) if span and resumed else int(length) if length else None
        name = part.name.removesuffix(".part")
        with part.open("ab" if resumed else "wb") as file, work(name, total or 0, done) as progress:
            _copy(answer, file, progress)
    return total


def _copy(answer: http.client.HTTPResponse, file, progress: Work) -> None:
    while block := answer.read1(_BLOCK):
        file.write(block)
        progress.advance(len(block))


def fetch_from_wheel(spec: DatasetSpec, data_dir: str | Path) -> Path:
    """Returns a folder with the two raw files of `spec`, downloaded if they are missing.

    pip downloads the wheel, its SHA-256 is checked, and only the two data files are extracted:
    nothing is installed, and none of its code runs.
    """
    target = Path(data_dir) / "downloads" / spec.name
    names = (spec.metadata_file, spec.interactions_file)
    if all((target / name).is_file() for name in names):
        return target
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target, prefix="fetch.") as scratch:
        wheel = _pip_download(spec, Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            for name in names:
                partial = Path(scratch) / name
                partial.write_bytes(archive.read(_WHEEL_FOLDER + name))
                os.replace(partial, target / name)
    return target


def _pip_download(spec: DatasetSpec, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--quiet", "--disable-pip-version-check", "--dest", str(folder), WHEEL]
    by_hand = (
        f"download {WHEEL} yourself (`pip download --no-deps {WHEEL}`), extract "
        f"{spec.interactions_file} and {spec.metadata_file} from its folder {_WHEEL_FOLDER}, and "
        "give their folder with --raw_dir"
    )
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if result.returncode or not wheels:
        lines = (result.stderr or result.stdout).strip().splitlines() or ["no message"]
        raise UserError(
            f"download for '{spec.name}': got '{lines[-1]}' from pip, expected {WHEEL} from "
            f"the package index; check the network, or {by_hand}"
        )
    sha256 = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if sha256 != WHEEL_SHA256:
        raise UserError(
            f"checksum for '{wheels[0].name}': got {sha256}, expected {WHEEL_SHA256}; make sure "
            f"that pip uses pypi.org and no other index, or {by_hand}"
        )
    return wheels[0]
