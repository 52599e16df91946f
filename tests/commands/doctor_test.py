"""`recllm doctor`: it reports what fits, and names what does not with the remedy."""

import json
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

from recllm_tasks import cli
from recllm_tasks.commands import doctor


@pytest.fixture
def without_t5x(monkeypatch):
    monkeypatch.delenv("T5X_DIR", raising=False)
    monkeypatch.setattr(doctor.imports, "find_t5x", lambda: None)


def test_this_environment_fits(without_t5x, capsys):
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "Python: 3.1",
        "jax: ",
        "devices: 1 x cpu",
        "memory: ",
        "T5X: not installed",
        "fits together",
    ):
        assert words in shown, shown
    assert "launch/locks/t5x.txt" in shown


def test_a_wrong_t5x_dir_is_reported(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("T5X_DIR", str(tmp_path))
    assert cli.main(["doctor", "--json"]) == 1
    (problem,) = (f for f in json.loads(capsys.readouterr().out) if f["kind"] == "problem")
    assert problem["what"] == "T5X"
    assert "expected a checkout" in problem["advice"]


# Runs `recllm doctor` where importing a package fails, in one of three ways.
WITHOUT_A_PACKAGE = """
import importlib.abc, importlib.metadata, sys
blocked, how = sys.argv.pop(1), sys.argv.pop(1)

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] != blocked:
            return None
        if how == "broken":
            raise RuntimeError(f"{name} is broken")
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
if how == "uninstalled":
    found = importlib.metadata.distributions
    importlib.metadata.distributions = lambda **options: (
        d for d in found(**options)
        if d.metadata["Name"].lower().removesuffix("-config") != blocked
    )
from recllm_tasks.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("how", ["missing", pytest.param("broken", marks=pytest.mark.slow)])
@pytest.mark.parametrize("package", ["gin", "numpy", "jax", "tensorflow", "rich", "packaging"])
def test_a_package_that_cannot_be_imported_is_reported(package, how):
    problems = _doctor_without(package, how)
    found = problems[package]
    assert found["found"].startswith("cannot be imported: ")
    assert package in found["found"]
    assert "launch/install.sh" in found["advice"]
    # The cause comes before the packages that fail because of it.
    assert next(iter(problems)) == package


@pytest.mark.parametrize(
    ("package", "name"), [("gin", "gin-config"), ("rich", "rich"), ("jax", "jax")]
)
def test_a_package_that_is_not_installed_is_reported(package, name):
    found = _doctor_without(package, "uninstalled")[name]
    assert found["found"] == "not installed"
    assert f"pip install '{name}" in found["advice"]


def _doctor_without(package, how):
    """Problems by name, in order; also checks that people get the same report."""
    command = [sys.executable, "-c", WITHOUT_A_PACKAGE, package, how, "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    problems = [f for f in json.loads(done.stdout) if f["kind"] == "problem"]
    return {problem["what"]: problem for problem in problems}


def test_the_report_for_people_needs_no_package():
    command = [sys.executable, "-c", WITHOUT_A_PACKAGE, "rich", "missing", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "FAIL  rich: cannot be imported: ModuleNotFoundError: No module named 'rich'" in (
        done.stdout
    )
    assert done.stdout.endswith(" to fix\n")


@pytest.mark.usefixtures("clean_gin")
def test_an_accelerators_memory_peak_and_batches_are_named(monkeypatch):
    found = {
        f.what: f.found for f in doctor.accelerator("NVIDIA L4", 4, {"bytes_limit": 17 * 10**9})
    }
    peak = "121 TFLOP/s in bfloat16 (NVIDIA's data sheet of the L4)"
    assert found["memory"] == f"17 of 24 GB of each device; {peak}"
    assert found["training flan_t5_small"].startswith(
        "up to 128 rows or 256 rows with remat of 1,024"
    )
    assert "(estimate)" in found["training flan_t5_base"]
    assert found["training flan_t5_xl"].endswith(", MODEL_PARALLEL=2")
    (alone,) = (
        f.found for f in doctor.accelerator("NVIDIA L4", 1, {}) if f.what == "training flan_t5_xl"
    )
    assert alone == "does not fit"
    (unknown,) = doctor.accelerator("Another 9000", 1, {})
    assert (unknown.kind, unknown.found) == ("note", "unknown for Another 9000; peak unknown")
    monkeypatch.setitem(sys.modules, "gin", None)  # not installed
    sized = [f.found for f in doctor.accelerator("Tesla T4", 1, {"bytes_limit": 11 * 10**9})]
    assert sized[0] == "11 GB of each device; peak unknown"
    assert len(sized) == 2
    assert sized[1].startswith("models unknown: ModuleNotFoundError")


def _problems(findings):
    return {f.what: (f.found, f.advice) for f in findings if f.kind == "problem"}


def test_packages_out_of_their_range_are_named():
    declared = [Requirement(text) for text in ("jax>=0.10.2,<0.13", "clu>=0.0.12", "rich>=15")]
    problems = _problems(doctor.ranges(declared, {"jax": "0.9.1", "rich": "15.0.0"}))
    assert set(problems) == {"jax", "clu"}
    assert problems["jax"][0] == "0.9.1"
    assert "expected <0.13,>=0.10.2; pip install 'jax<0.13,>=0.10.2'" in problems["jax"][1]
    assert problems["clu"][0] == "not installed"


def test_packages_of_different_releases_are_named():
    packages = {"jax": "0.10.2", "jaxlib": "0.10.2", "tensorflow": "2.21.0"}
    assert _problems(doctor.pairs({**packages, "tensorflow-text": "2.21.1"})) == {}
    problems = _problems(doctor.pairs({**packages, "tensorflow-text": "2.20.0"}))
    assert problems["tensorflow and tensorflow-text"][0] == "2.21.0 and 2.20.0"
    assert "jax and jaxlib" in _problems(doctor.pairs({**packages, "jaxlib": "0.10.1"}))


def test_another_commit_of_t5x_is_reported(monkeypatch, tmp_path):
    found = doctor.imports.Found(str(tmp_path), True)
    monkeypatch.setattr(doctor.imports, "find_t5x", lambda: found)
    monkeypatch.setattr(doctor.imports, "missing_requirements", lambda: ["fiddle"])
    monkeypatch.setattr(doctor, "t5x_commit", lambda found: "f" * 40)
    first, second = doctor.t5x()
    assert first.kind == "note"
    assert "check out that commit" in first.advice
    assert (second.kind, second.found) == ("problem", "missing: fiddle")
