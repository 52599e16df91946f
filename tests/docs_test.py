"""README.md and docs/: links, commands as the parsers know them, and commands as they run."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from recllm_tasks import cli
from recllm_tasks.commands import session

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
# Made from the sources when the site is built.
GENERATED = {ROOT / "docs" / name for name in ("reference/commands.md", "reference/gin.md")}
# Their commands are run; those of guides are parsed.
RUN = [README, *sorted((ROOT / "docs/tutorials").glob("*.md"))]

_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)


def name_of(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: pathlib.Path) -> list[tuple[str, str, str]]:
    """(mark, kind, text) of every fenced block; mark is the comment on the line before, or ""."""
    found = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [(of["mark"] or "", of["kind"], of["text"]) for of in found]


def to_run(page: pathlib.Path) -> list[tuple[str, str, str]]:
    """Files to write and commands to run, in order."""
    chosen = []
    for mark, kind, text in blocks(page):
        if (kind == "bash" and not mark.startswith("not run: ")) or mark.startswith("file: "):
            chosen.append((mark, kind, text))
    return chosen


def commands(page: pathlib.Path) -> list[list[str]]:
    """Arguments of every `recllm …` in the page's blocks."""
    found = []
    for _, kind, text in blocks(page):
        if kind != "bash":
            continue
        for line in text.replace("\\\n", " ").splitlines():
            # Comments end the line; an ellipsis stands for arguments given above.
            words = [word for word in shlex.split(line, comments=True) if word != "…"]
            if words and words[0].endswith("recllm"):
                found.append(words[1:])
    return found


def anchors(page: pathlib.Path) -> set[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_front_page_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists() or there in GENERATED, target
        if anchor and there not in GENERATED:
            assert anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"(?<![\w/.])((?:launch|tools|tests|recllm_tasks)/[\w/.-]*\w)", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_what_the_parsers_know(page):
    for arguments in commands(page):
        others = [word for word in arguments if not word.startswith("--gin.")]
        settings = [word for word in arguments if word.startswith("--gin.")]
        args, rest = cli._parser(others).parse_known_args(others)
        session.gin_bindings([*rest, *settings], args.parser)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_that_are_not_run_say_why(page):
    for mark, kind, _ in blocks(page):
        if mark.startswith("not run") or (mark and kind == "bash"):
            assert re.fullmatch(r"not run: \S.{10,}", mark), mark


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in RUN if to_run(page)], ids=name_of)
def test_commands_run(page, tmp_path):
    """In one shell and one folder; README's in a folder that looks like the checkout."""
    environment = {**os.environ}
    environment.pop("XLA_FLAGS", None)  # the tests' own compile faster and run slower
    environment["PATH"] = f"{pathlib.Path(sys.executable).parent}:{environment['PATH']}"
    parts = to_run(page)
    if page == README:
        if not (ROOT / ".venv").exists():
            pytest.skip("needs .venv in the checkout: launch/install.sh")
        (tmp_path / "launch").mkdir()
        for path in [*ROOT.iterdir(), *(ROOT / "launch").iterdir()]:
            if path.name not in ("launch", "install.sh", "quickstart", "runs"):
                (tmp_path / path.relative_to(ROOT)).symlink_to(path)
        # .venv is that of the tests, and stays a link to the checkout.
        (tmp_path / "launch/install.sh").write_text("#!/bin/sh\n")
        (tmp_path / "launch/install.sh").chmod(0o755)
        log = [part for part in to_run(ROOT / "docs/tutorials/own_store.md") if part[0]]
        parts = [*log, ("", "bash", "python make_log.py\n"), *parts]
    script = ["set -exuo pipefail\n"]
    for mark, _, text in parts:
        if mark.startswith("file: "):
            (tmp_path / mark.removeprefix("file: ")).write_text(text)
        else:
            script.append(text)
    done = subprocess.run(
        ["bash", "-c", "".join(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=3000,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "Traceback" not in done.stderr
