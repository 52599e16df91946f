"""A release: workflows, citation, changelog and images agree with the package."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from recllm_tasks import __version__

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
PYTHONS = ["3.11", "3.12", "3.13"]


def read(path: Path) -> dict:
    # YAML 1.1 reads the key `on` as true.
    return {
        "on" if key is True else key: value for key, value in yaml.safe_load(path.open()).items()
    }


@pytest.mark.parametrize("path", sorted(GITHUB.glob("workflows/*.yml")), ids=lambda path: path.stem)
def test_workflows_have_jobs_whose_steps_exist(path):
    workflow = read(path)
    assert workflow["on"]
    assert workflow["permissions"] == {"contents": "read"}, "jobs ask for more"
    for job in workflow["jobs"].values():
        assert set(job.get("needs", "").split()) <= set(workflow["jobs"])
        assert job["steps"]
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            if "uses" in step:
                assert re.fullmatch(r"[\w.-]+/[\w.-]+@(v\d+|release/v\d+)", step["uses"])
            for word in shlex.split(step.get("run", ""), comments=True):
                if re.match(r"\.?(launch|\.ci|tests)/[\w./-]+$", word) and "$" not in word:
                    assert (ROOT / word).exists(), word


def test_the_tests_run_on_every_python_that_has_a_lock():
    job = read(GITHUB / "workflows/tests.yml")["jobs"]["tests"]
    assert job["strategy"]["matrix"]["python"] == PYTHONS
    locks = {path.stem for path in (ROOT / "launch/locks").glob("py???-test.txt")}
    assert locks == {f"py{python.replace('.', '')}-test" for python in PYTHONS}
    assert ".ci/run" in [step.get("run") for step in job["steps"]]


def test_only_the_last_job_of_a_release_may_publish():
    workflow = read(GITHUB / "workflows/release.yml")
    assert workflow["on"] == {"push": {"tags": ["v*"]}}
    publishing = {name for name, job in workflow["jobs"].items() if "permissions" in job}
    assert publishing == {"publish"}
    publish = workflow["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}, "no token is stored anywhere"
    assert publish["environment"] == "pypi"
    assert publish["needs"] == "build"


def test_the_check_of_the_tag_finds_the_version():
    (check,) = (
        step["run"]
        for step in read(GITHUB / "workflows/release.yml")["jobs"]["build"]["steps"]
        if step.get("name") == "The tag is the version"
    )
    assert "recllm_tasks/__init__.py" in check
    expression = re.search(r"s/\^(.*?)\$/", check)[1].replace(r"\(", "(").replace(r"\)", ")")
    text = (ROOT / "recllm_tasks/__init__.py").read_text()
    assert re.search(f"^{expression}$", text, re.M)[1] == __version__


def test_issue_templates_ask_for_something():
    for name in ("bug", "idea"):
        template = read(GITHUB / f"ISSUE_TEMPLATE/{name}.yml")
        assert template["name"]
        assert template["description"]
        ids = [field["id"] for field in template["body"]]
        assert len(ids) == len(set(ids))
        assert all(field["attributes"]["label"] for field in template["body"])


def test_versions_agree():
    citation = read(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == __version__
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["references"][0]["authors"][0]["family-names"] == "Cao"
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert heading[1] == __version__


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_images_copy_what_is_there_and_run_without_privileges(name):
    text = (ROOT / "launch" / name).read_text()
    assert "Never built by the tests" in text
    (base,) = re.findall(r"^FROM (\S+)$", text, re.M)
    assert re.fullmatch(r"python:3\.1[123]-slim-\w+", base)
    assert re.search(r"^USER \d+$", text, re.M)
    sources = [shlex.split(line)[1] for line in text.splitlines() if line.startswith("COPY ")]
    assert all((ROOT / source).exists() for source in sources)
    kept = re.findall(r"^!(.+)$", (ROOT / f"launch/{name}.dockerignore").read_text(), re.M)
    assert all((ROOT / path).exists() for path in kept)
    needed = {"README.md", "LICENSE", "setup.py", "pyproject.toml", "recllm_tasks", "gin"}
    assert needed <= set(kept)


def test_contributing_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`((?:launch|tests|docs|recllm_tasks|\.github|\.ci)/[\w./-]+)`", text)
    assert named
    missing = [name for name in named if not (ROOT / name).exists()]
    assert missing == []
