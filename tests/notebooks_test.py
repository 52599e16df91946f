"""The notebooks of docs/notebooks run from beginning to end, and are kept without output."""

import json
import os
import pathlib
import sys

import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[1] / "docs/notebooks").glob("*.ipynb"))


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["inside_a_task", "own_data"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_are_kept_without_output(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        assert not cell.get("outputs"), "clear the outputs before committing"
        assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_run(path, monkeypatch):
    needs = "needs `pip install nbclient ipykernel matplotlib` in this environment"
    nbclient = pytest.importorskip("nbclient", reason=needs)
    nbformat = pytest.importorskip("nbformat", reason=needs)
    for name in ("ipykernel", "matplotlib"):
        pytest.importorskip(name, reason=needs)
    monkeypatch.setenv("PATH", f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.delenv("XLA_FLAGS")  # the tests' own compile faster and run slower
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=1200, kernel_name="python3").execute()
    shown = json.dumps(notebook)
    assert "image/png" in shown
    assert "recllm: error" not in shown
    assert "Traceback" not in shown
