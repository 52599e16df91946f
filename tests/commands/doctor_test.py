"""`recllm doctor`: what fits is said to fit, what does not is named with the remedy."""

import json

import pytest
from packaging.requirements import Requirement

from recllm_tasks import cli
from recllm_tasks.commands import checkup


@pytest.fixture
def without_t5x(monkeypatch):
    monkeypatch.delenv("T5X_DIR", raising=False)
    monkeypatch.setattr(checkup.imports, "find_t5x", lambda: None)


def test_this_environment_fits(without_t5x, capsys):
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "Python: 3.1",
        "jax: ",
        "devices: 1 x cpu",
        "T5X: not installed",
        "fits together",
    ):
        assert words in shown, shown
    assert "launch/locks/t5x.txt" in shown


def test_a_wrong_t5x_dir_is_to_be_mended(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("T5X_DIR", str(tmp_path))
    assert cli.main(["doctor", "--json"]) == 1
    (problem,) = (f for f in json.loads(capsys.readouterr().out) if f["kind"] == "problem")
    assert problem["what"] == "T5X"
    assert "expected a checkout" in problem["advice"]


def _problems(findings):
    return {f.what: (f.found, f.advice) for f in findings if f.kind == "problem"}


def test_packages_out_of_their_range_are_named():
    declared = [Requirement(text) for text in ("jax>=0.10.2,<0.13", "clu>=0.0.12", "rich>=15")]
    problems = _problems(checkup.ranges(declared, {"jax": "0.9.1", "rich": "15.0.0"}))
    assert set(problems) == {"jax", "clu"}
    assert problems["jax"][0] == "0.9.1"
    assert "expected <0.13,>=0.10.2; pip install 'jax<0.13,>=0.10.2'" in problems["jax"][1]
    assert problems["clu"][0] == "not installed"


def test_packages_of_different_releases_are_named():
    packages = {"jax": "0.10.2", "jaxlib": "0.10.2", "tensorflow": "2.21.0"}
    assert _problems(checkup.pairs({**packages, "tensorflow-text": "2.21.1"})) == {}
    problems = _problems(checkup.pairs({**packages, "tensorflow-text": "2.20.0"}))
    assert problems["tensorflow and tensorflow-text"][0] == "2.21.0 and 2.20.0"
    assert "jax and jaxlib" in _problems(checkup.pairs({**packages, "jaxlib": "0.10.1"}))


def test_another_commit_of_t5x_is_told(monkeypatch, tmp_path):
    found = checkup.imports.Found(str(tmp_path), True)
    monkeypatch.setattr(checkup.imports, "find_t5x", lambda: found)
    monkeypatch.setattr(checkup.imports, "missing_requirements", lambda: ["fiddle"])
    monkeypatch.setattr(checkup, "t5x_commit", lambda found: "f" * 40)
    first, second = checkup.t5x()
    assert first.kind == "note"
    assert "check that one out" in first.advice
    assert (second.kind, second.found) == ("problem", "missing: fiddle")
