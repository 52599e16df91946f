"""The accelerator benchmark with tiny shapes, on one and on eight virtual devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "bench_accelerator.py"
TINY = (
    *("--shapes=compact", "--seconds=0.01", "--inputs=16", "--targets=8", "--max_rows=2"),
    *("--vocabulary=128", "--beams", "2", "3", "--batch", "2", "1", "--items", "30", "60"),
)


def _run(folder: Path, number: int, *options: str) -> tuple[dict, str]:
    """The JSON and the Markdown that a run leaves."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={number}"
    done = subprocess.run(
        [sys.executable, TOOL, *TINY, "--out", folder, *options],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    text = (folder / "accelerator.md").read_text()
    assert text.strip() in done.stdout
    return json.loads((folder / "accelerator.json").read_text()), text


def test_when_time_runs_out_what_was_measured_is_kept(tmp_path):
    found, text = _run(tmp_path, 1, "--minutes=0.05", "--shapes", "xl")
    assert found["number"] == 1
    first = found["measured"][0]
    assert first["name"] == "matrix product"
    assert first["flops"] == 2 * 1024**3
    assert found["unfinished"] in text
    assert len(found["measured"]) < 5


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 8])
def test_everything_is_measured(tmp_path, number):
    """Two minutes."""
    found, text = _run(tmp_path, number)
    assert found["number"] == number
    assert "unfinished" not in found
    assert not [row for row in found["measured"] if "failed" in row]
    names = [row["name"] for row in found["measured"]]
    assert names == [
        "matrix product",
        "trie step",
        "train compact",
        *["beam search compact"] * 2,
        "train compact, remat",
        "encoder compact",
        *["attention compact"] * 2,
        "input",
        "beam search compact",
        "trie step",
        *["beam search compact"] * 2,
    ]
    train, again = found["measured"][2], found["measured"][5]
    assert train["settings"] == f"{2 * number} rows, mesh {number}x1"
    assert train["number"] == 2 * number * 24
    assert again["flops"] > train["flops"] > 0, "remat computes its layers twice"
    for row in found["measured"]:
        assert row["seconds"] > 0
        assert f"| {row['name']} | {row['settings']} |" in text
