"""What `recllm doctor` looks at: Python, packages against their ranges, devices, T5X."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.version import Version

from recllm_tasks import __version__
from recllm_tasks.errors import UserError
from recllm_tasks.t5x_bridge import imports

PYTHONS = ((3, 11), (3, 12))

# Named one by one, because they fail in words that are about anything but a version.
_SHOWN = ("jax", "flax", "tensorflow", "tensorflow-text", "seqio", "gin-config")

# Packages that are built for one release of another.
_SAME_RELEASE = (("jax", "jaxlib", 3), ("tensorflow", "tensorflow-text", 2))

_REINSTALL = "make a fresh environment: rm -rf .venv && launch/install.sh"


class Finding(NamedTuple):
    """One line: `kind` is ok, note or problem; a problem's `advice` says what to do."""

    kind: str
    what: str
    found: str
    advice: str = ""


def checkup() -> Iterator[Finding]:
    yield _python()
    packages = installed_versions()
    yield from ranges(declared_requirements(), packages)
    yield from pairs(packages)
    yield from _importable()
    yield _devices()
    yield from t5x()


def _python() -> Finding:
    found = f"{sys.version.split()[0]} at {sys.executable}"
    if sys.version_info[:2] in PYTHONS:
        return Finding("ok", "Python", found)
    return Finding(
        "problem", "Python", found, f"expected 3.11 or 3.12, which are tested; {_REINSTALL}"
    )


def declared_requirements() -> list[Requirement]:
    """What recllm_tasks asks for, extras left out."""
    declared = map(Requirement, metadata.requires("recllm_tasks") or ())
    return [r for r in declared if r.marker is None or r.marker.evaluate({"extra": ""})]


def installed_versions() -> dict[str, str]:
    """Version by name, lower case with dashes."""
    return {
        _canonical(distribution.metadata["Name"]): distribution.version
        for distribution in metadata.distributions()
        if distribution.metadata["Name"]
    }


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def ranges(declared: list[Requirement], packages: Mapping[str, str]) -> Iterator[Finding]:
    """A line for each package that is shown, or not there, or out of range; one for the rest."""
    yield Finding("ok", "recllm_tasks", __version__)
    fitting = 0
    for requirement in declared:
        name = requirement.name
        version = packages.get(_canonical(name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            expected = f"expected {requirement.specifier}"
            found = "not installed" if version is None else version
            advice = f"{expected}; pip install '{name}{requirement.specifier}', or {_REINSTALL}"
            yield Finding("problem", name, found, advice)
        elif name in _SHOWN:
            yield Finding("ok", name, f"{version}, in {requirement.specifier}")
        else:
            fitting += 1
    yield Finding("ok", "other packages", f"{fitting} within their ranges")


def pairs(packages: Mapping[str, str]) -> Iterator[Finding]:
    """A problem for each pair of packages whose releases differ."""
    for first, second, parts in _SAME_RELEASE:
        versions = [packages.get(name) for name in (first, second)]
        if None in versions:
            continue
        releases = {Version(version).release[:parts] for version in versions}
        if len(releases) > 1:
            advice = f"expected one release of both; pip install '{second}~={versions[0]}'"
            yield Finding("problem", f"{first} and {second}", " and ".join(versions), advice)


def _importable() -> Iterator[Finding]:
    for module in ("tensorflow", "seqio"):
        error = _failure(lambda module=module: importlib.import_module(module))
        if error:
            yield Finding("problem", module, f"cannot be imported: {error}", _REINSTALL)


def _failure(action: Callable[[], object]) -> str:
    """What went wrong, in one line; empty if nothing did. Libraries raise whatever they like."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return ""


def _devices() -> Finding:
    found = []

    def look():
        import jax

        found.extend(jax.devices())

    error = _failure(look)
    if error:
        return Finding(
            "problem",
            "devices",
            f"JAX finds none: {error}",
            "for a TPU: pip install 'jax[tpu]', and end what else uses it; for a GPU: "
            "pip install 'jax[cuda13]'; for the CPU: export JAX_PLATFORMS=cpu",
        )
    kinds = [f"{device.platform} ({device.device_kind})" for device in found]
    counted = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    return Finding("ok", "devices", counted)


def t5x() -> Iterator[Finding]:
    """T5X, which is optional, and what it imports."""
    try:
        found = imports.find_t5x()
    except UserError as error:
        yield Finding("problem", "T5X", "T5X_DIR names no checkout", str(error))
        return
    if found is None:
        yield Finding("note", "T5X", "not installed; only runs/t5x_*.gin need it", imports.ADVICE)
        return
    origin = "T5X_DIR" if found.from_t5x_dir else "an installed package"
    commit = t5x_commit(found)
    kind, advice = "ok", ""
    if commit is None:
        kind, advice = "note", f"its commit is unknown; tested with {imports.COMMIT[:12]}"
    elif commit != imports.COMMIT:
        kind, advice = "note", f"tested with {imports.COMMIT[:12]}; check that one out"
    where = f"{(commit or 'of unknown commit')[:17]} in {found.folder}, from {origin}"
    yield Finding(kind, "T5X", where, advice)
    missing = imports.missing_requirements()
    if missing:
        advice = "pip install --no-deps -r launch/locks/t5x.txt"
        yield Finding("problem", "T5X's packages", f"missing: {', '.join(missing)}", advice)
        return
    error = _failure(_import_t5x)
    if error:
        advice = f"use the commit that is tested: {imports.ADVICE}"
        yield Finding("problem", "T5X", f"cannot be imported: {error}", advice)
        return
    for name, fill in (("airio", imports.fill_airio), ("jestimator", imports.fill_jestimator)):
        yield Finding("ok", name, fill().value)


def _import_t5x() -> None:
    imports.prepare()
    importlib.import_module("recllm_tasks.t5x_bridge.model")


def t5x_commit(found: imports.Found) -> str | None:
    """The commit of T5X, as pip or git noted it, or None."""
    if not found.from_t5x_dir:
        installed = list(metadata.distributions(name="t5x"))
        note = (installed and installed[0].read_text("direct_url.json")) or ""
        match = re.search(r'"commit_id": *"([0-9a-f]{40})"', note)
        return match and match[1]
    if not os.path.exists(os.path.join(found.folder, ".git")):
        return None
    git = ["git", "-C", found.folder, "rev-parse", "HEAD"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
