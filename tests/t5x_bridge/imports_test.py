"""Finding T5X and filling in what it imports; none of it needs T5X."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recllm_tasks.errors import UserError
from recllm_tasks.t5x_bridge import imports

ROOT = Path(__file__).resolve().parents[2]


def _absent(monkeypatch, *names):
    """Makes packages look as if they were not installed."""
    real = imports.importlib.util.find_spec
    monkeypatch.setattr(
        imports.importlib.util, "find_spec", lambda name: None if name in names else real(name)
    )


def _checkout(folder: Path) -> Path:
    (folder / "t5x").mkdir(parents=True)
    (folder / "t5x" / "train.py").write_text("")
    return folder


def test_without_t5x_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.delenv("T5X_DIR", raising=False)
    _absent(monkeypatch, "t5x")
    assert imports.find_t5x() is None
    with pytest.raises(UserError, match=r"pip install --no-deps -r launch/locks/t5x.txt.* T5X_DIR"):
        imports.prepare()


def test_a_folder_that_is_no_checkout_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("T5X_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"T5X_DIR: got .* expected a checkout"):
        imports.find_t5x()


def test_a_checkout_is_found_before_an_installed_package(monkeypatch, tmp_path):
    folder = _checkout(tmp_path / "t5x_checkout")
    monkeypatch.setenv("T5X_DIR", str(folder))
    assert imports.find_t5x() == (str(folder), True)


def test_what_t5x_needs_from_pypi_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("T5X_DIR", str(_checkout(tmp_path / "t5x_checkout")))
    _absent(monkeypatch, "fiddle", "chex")
    with pytest.raises(UserError, match=r"no module .*chex, fiddle.*; do `grep .* \| pip install"):
        imports.prepare()


FILL = """
import sys
from recllm_tasks.t5x_bridge import imports
for _ in range(2):
    print(imports.fill_airio().name, imports.fill_jestimator().name)
import airio.core as airio
from jestimator import amos, amos_helper
print(isinstance(0, airio.Task), isinstance(0, airio.AirIODatasetIterator))
print(amos.ScaleByAmosState.__module__, callable(amos_helper.state_partition_rule))
import jax.experimental.pjit
print(hasattr(jax.experimental.pjit, "PartitionSpec"))
"""


def _fill(*packages: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", FILL],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, packages))},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_absent_packages_are_filled_in_and_present_ones_left_alone(tmp_path):
    first, again, airio, jestimator, pjit = _fill()
    assert first == again == "STUB STUB"
    assert airio == "False False"
    assert jestimator == "recllm_tasks.t5x_bridge.imports True"
    assert pjit == "False"

    for name in ("airio", "jestimator"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "airio" / "core.py").write_text("class Task: ...\nclass AirIODatasetIterator: ...")
    # As the package of PyPI does.
    text = "from jax.experimental.pjit import PartitionSpec\nScaleByAmosState = PartitionSpec"
    (tmp_path / "jestimator" / "amos.py").write_text(text)
    (tmp_path / "jestimator" / "amos_helper.py").write_text("state_partition_rule = None")
    first, again, airio, jestimator, pjit = _fill(tmp_path)
    assert (first, again) == ("INSTALLED PATCHED", "INSTALLED INSTALLED")
    assert airio == "False False"
    assert jestimator.endswith(" False"), "its own"
    assert pjit == "True"


def test_the_lock_names_the_commit_that_is_tested():
    lines = (ROOT / "launch" / "locks" / "t5x.txt").read_text().splitlines()
    wanted = [line for line in lines if not line.startswith("#")]
    (t5x,) = (line for line in wanted if line.startswith("t5x"))
    assert t5x == f"t5x @ git+https://github.com/google-research/t5x@{imports.COMMIT}"
    pinned = {line.split("==")[0].replace("-", "_") for line in wanted if line != t5x}
    assert set(imports.REQUIRED) <= pinned
    for python in ("py311.txt", "py312.txt", "py313.txt"):
        runtime = (ROOT / "launch" / "locks" / python).read_text()
        for name in pinned:
            assert f"\n{name.replace('_', '-')}==" not in runtime, f"{name} is in {python} too"
