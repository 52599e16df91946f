"""Small raw files for the tests of the data layer, and where the real ones lie."""

import gzip
import json
import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of the published Amazon files; skips where they are absent."""
    default = Path(__file__).parents[2].parent / "shared"
    folder = Path(os.environ.get("RECLLM_SHARED", default)) / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the Amazon files in {folder} (set RECLLM_SHARED)")
    return folder


@pytest.fixture
def write_lines():
    """write_lines(path, records): JSON lines (dict) or raw lines (str), gzipped if so named."""

    def write(path: Path, records) -> Path:
        lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
        raw = "".join(line + "\n" for line in lines).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)
        return path

    return write


@pytest.fixture
def gift_interactions() -> list[dict]:
    """8 users, 9 items, three a day; each user leaves out one item: 8 x 8 interactions."""
    return [
        {
            "reviewerID": f"U{user}",
            "asin": f"A{item}",
            "unixReviewTime": 86_400 * ((item + user) % 9 // 3),
            "overall": float(1 + (user + item) % 5),
        }
        for item in range(9)
        for user in range(8)
        if item != user
    ]


@pytest.fixture
def gift_metadata() -> list[dict]:
    return [{"asin": f"A{item}", "title": f"Card  {item}"} for item in range(9)]


@pytest.fixture
def raw_dir(tmp_path, write_lines, gift_interactions, gift_metadata) -> Path:
    """A folder with a tiny but complete `gift_cards`."""
    write_lines(tmp_path / "raw" / "Gift_Cards_5.json.gz", gift_interactions)
    write_lines(tmp_path / "raw" / "meta_Gift_Cards.json.gz", gift_metadata)
    return tmp_path / "raw"
