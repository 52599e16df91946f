"""The accelerator benchmark with tiny shapes, on one and on eight virtual devices."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recllm_tasks import files

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
    assert found["why"] == "time was up"
    assert f"Not finished: {found['unfinished']} (time was up)." in text
    assert len(found["measured"]) < 5


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_process_leaves_whole_files(tmp_path, number):
    """Also in the middle of a compilation, of which Python sees no signal."""
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, TOOL, *TINY, "--shapes", "base", "--out", tmp_path],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        while "train base" not in log.read_text() and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(number)
        start = time.monotonic()
        process.wait()
    assert time.monotonic() - start < 5
    content = (tmp_path / "accelerator.json").read_bytes()
    assert files.is_intact(content)
    found = json.loads(content)
    assert [row["name"] for row in found["measured"]] == ["matrix product", "trie step"]
    text = (tmp_path / "accelerator.md").read_text()
    assert "| trie step |" in text
    asked = number == signal.SIGTERM
    assert found.get("why") == ("SIGTERM" if asked else None)
    assert ("Not finished: train base (SIGTERM)." in text) == asked


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
