"""Published files over HTTP: resumed where they stopped, checked before they get their names."""

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from recllm_tasks.data.specs import DatasetSpec
from recllm_tasks.errors import UserError
from recllm_tasks.progress import Work, work

# Attempts in a row that bring no byte, and the seconds before each of them.
PAUSES = (0, 1, 2, 4, 8)
_TIMEOUT = 30
_BLOCK = 2**18


def download_published(spec: DatasetSpec, folder: str | Path) -> Path:
    """Fetches the files of a published dataset that are not in `folder`; returns the folder.

    Raises `UserError` if that dataset has no addresses, or as `download` does.
    """
    if spec.own_files or spec.in_wheel:
        raise UserError(
            f"download for '{spec.name}': got a dataset without addresses, expected one of those "
            "whose files their publisher offers; leave out --download"
        )
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"download for '{spec.name}': got {error.strerror or error}, expected a folder "
            f"{folder} that can be written; give another --raw_dir"
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
    """Fetches `address` to `target`, which is either whole or not there; a file there stays.

    What came so far lies in `target.part`, from which the next call goes on, if the server has the
    same file still (its ETag or date, kept in `target.part.tag`). The whole is compared with
    `sha256` where it is known, else with the size that the server gave.

    Raises:
      UserError: the server does not answer, refuses, or sends something else than was expected.
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
        "then give the same command again, which goes on where it stopped, or fetch the file by "
        "hand and give its folder with --raw_dir"
    )


def _fetch(address: str, part: Path, tag: Path) -> int | None:
    """One attempt: appends to `part`; returns the size of the whole, None where unknown."""
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
        # Weak tags do not promise the same bytes.
        strong = headers.get("ETag", "")
        strong = "" if strong.startswith("W/") else strong
        tag.write_text(strong or headers.get("Last-Modified", ""))
        done = done if resumed else 0
        total = int(span[2]) if resumed else int(length) if length else None
        name = part.name.removesuffix(".part")
        with part.open("ab" if resumed else "wb") as file, work(name, total or 0, done) as progress:
            _copy(answer, file, progress)
    return total


def _copy(answer: http.client.HTTPResponse, file, progress: Work) -> None:
    while block := answer.read1(_BLOCK):
        file.write(block)
        progress.advance(len(block))
