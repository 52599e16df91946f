"""`recllm doctor`: what is installed, whether it fits together, and how to fix what does not.

Its job begins where imports fail, so this module and all that it needs import only the standard
library at the top.
"""

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from recllm_tasks import __version__, quiet
from recllm_tasks.commands import file_checks, session
from recllm_tasks.commands.file_checks import Finding
from recllm_tasks.errors import UserError
from recllm_tasks.t5x_bridge import imports

if TYPE_CHECKING:
    from packaging.requirements import Requirement

SUMMARY = "check the installation, or the files of datasets and runs, and say how to fix them"
EPILOG = """\
Without PATH it checks Python, the installed packages against the ranges that recllm_tasks requires,
the devices that JAX finds, and T5X, which is optional. Of an accelerator it says its memory, its
published peak, and which batch of each FLAN-T5 should fit: an estimate, for bfloat16 and Adafactor.

With PATH it reads every file of the datasets and runs there and compares it with its checksum. It
names each file that is damaged or missing, and those that have no checksum.

exit code: 0 everything that is needed fits together, or no file is damaged; 1 something needs
fixing; the line says how.

examples:
  recllm doctor
  recllm doctor ~/recllm_data ~/runs/toys_ut
"""

PYTHONS = ((3, 11), (3, 12), (3, 13))

# Shown by name, because a wrong version of these causes errors that never mention versions.
_SHOWN = ("jax", "flax", "tensorflow", "tensorflow-text", "seqio", "gin-config")

# Pairs of packages that must come from the same release, and how many numbers make one.
_SAME_RELEASE = (("jax", "jaxlib", 3), ("tensorflow", "tensorflow-text", 2))

# A package comes after those that it imports, so that the first failure is the cause.
_IMPORTED = ("packaging", "numpy", "rich", "gin", "jax", "flax", "tensorflow", "seqio")

# The package that provides a module, if its name differs.
_DISTRIBUTION = {"gin": "gin-config"}

_REINSTALL = "make a fresh environment: rm -rf .venv && launch/install.sh"
_MARKS = {"ok": ("ok    ", "32"), "note": ("note  ", "2"), "problem": ("FAIL  ", "1;31")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        nargs="*",
        metavar="PATH",
        help="a data folder, a prepared dataset's folder, a run's folder, or a folder of runs",
    )
    parser.add_argument("--json", action="store_true", help="findings as JSON")
    session.add_data_arguments(parser)


def run(args) -> int:
    with quiet.held_stderr():
        findings = list(file_checks.check(args.path) if args.path else checkup())
    problems = [finding for finding in findings if finding.kind == "problem"]
    if args.json:
        sys.stdout.write(json.dumps([finding._asdict() for finding in findings], indent=2) + "\n")
        return 1 if problems else 0
    for finding in findings:
        sys.stdout.write(f"{_mark(finding.kind)}{finding.what}: {finding.found}\n")
        if finding.advice:
            sys.stdout.write(f"      {finding.advice}\n")
    fine = "no file is damaged" if args.path else "everything that is needed fits together"
    sys.stdout.write(f"{len(problems)} to fix\n" if problems else f"{fine}\n")
    return 1 if problems else 0


def _mark(kind: str) -> str:
    text, colour = _MARKS[kind]
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
    return text if plain else f"\033[{colour}m{text}\033[0m"


def checkup() -> Iterator[Finding]:
    yield _python()
    broken = {finding.what: finding for finding in unimportable(_IMPORTED)}
    wrong_versions = set()
    for finding in versions() if "packaging" not in broken else ():
        if finding.kind == "problem":
            wrong_versions.add(finding.what)
        yield finding
    for module, finding in broken.items():
        if _DISTRIBUTION.get(module, module) not in wrong_versions:
            yield finding
    if not broken.keys() & {"numpy", "jax"}:
        yield from devices()
    if not broken:
        yield from t5x()


def _python() -> Finding:
    found = f"{sys.version.split()[0]} at {sys.executable}"
    if sys.version_info[:2] in PYTHONS:
        return Finding("ok", "Python", found)
    return Finding(
        "problem", "Python", found, f"expected 3.11, 3.12 or 3.13, which are tested; {_REINSTALL}"
    )


def unimportable(modules: Sequence[str]) -> Iterator[Finding]:
    """A problem for each module that is missing or fails on import."""
    for module in modules:
        error = _failure(lambda module=module: importlib.import_module(module))
        if error:
            yield Finding("problem", module, f"cannot be imported: {error}", _REINSTALL)
            if module == "numpy":
                return  # most others need it; jaxlib, tried twice without it, ends the process


def _failure(action: Callable[[], object]) -> str:
    """The error of an action in one line; empty if it succeeds."""
    try:
        action()
    except Exception as error:  # A broken library may raise anything.
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    return ""


def versions() -> Iterator[Finding]:
    """Installed versions against the required ones; needs the package `packaging`."""
    from packaging.requirements import Requirement

    try:
        declared = list(map(Requirement, metadata.requires("recllm_tasks") or ()))
    except metadata.PackageNotFoundError:
        yield Finding("problem", "recllm_tasks", "not installed", "run launch/install.sh")
        return
    # Extras are left out.
    declared = [r for r in declared if r.marker is None or r.marker.evaluate({"extra": ""})]
    packages = installed_versions()
    yield Finding("ok", "recllm_tasks", __version__)
    yield from ranges(declared, packages)
    yield from pairs(packages)


def installed_versions() -> dict[str, str]:
    """Versions by name, in lower case with dashes."""
    return {
        _canonical(distribution.metadata["Name"]): distribution.version
        for distribution in metadata.distributions()
        if distribution.metadata["Name"]
    }


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def ranges(declared: "Sequence[Requirement]", packages: Mapping[str, str]) -> Iterator[Finding]:
    """A line for each package that is shown, missing or out of range; one for all others."""
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
    from packaging.version import Version

    for first, second, parts in _SAME_RELEASE:
        found = [packages[name] for name in (first, second) if name in packages]
        if len({Version(version).release[:parts] for version in found}) > 1:
            advice = f"expected one release of both; pip install '{second}~={found[0]}'"
            yield Finding("problem", f"{first} and {second}", " and ".join(found), advice)


def devices() -> Iterator[Finding]:
    """The devices that JAX finds, their memory and peak, and what can be trained there."""
    found: list[Any] = []

    def look():
        import jax

        found.extend(jax.devices())

    error = _failure(look)
    if error:
        yield Finding(
            "problem",
            "devices",
            f"JAX finds none: {error}",
            "for a TPU: launch/install.sh tpu, and stop other programs that use it; for a GPU: "
            "launch/install.sh cuda13; for the CPU: export JAX_PLATFORMS=cpu",
        )
        return
    kinds = [f"{device.platform} ({device.device_kind})" for device in found]
    counted = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    yield Finding("ok", "devices", counted)
    if found[0].platform == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
        yield Finding("ok", "memory", f"{memory:.0f} GB, {cores} cores; peak unknown")
        yield from _unused_accelerator()
        yield Finding(
            "note",
            "training",
            "JAX uses the CPU, where a FLAN-T5 takes days",
            "`recllm train DATASET --out RUN` chooses a compact model",
        )
        return
    yield from accelerator(found[0].device_kind, len(found), found[0].memory_stats() or {})


def _unused_accelerator() -> Iterator[Finding]:
    """A note where a GPU is in this machine and JAX has no package for it."""
    if os.path.exists("/proc/driver/nvidia/version") and not os.environ.get("JAX_PLATFORMS"):
        advice = "launch/install.sh cuda13 installs JAX for it"
        yield Finding("note", "GPU", "this machine has an NVIDIA GPU, JAX uses the CPU", advice)


def accelerator(kind: str, number: int, stats: Mapping[str, int]) -> Iterator[Finding]:
    """What `number` devices of a kind hold; `stats` is JAX's memory_stats of one."""
    from recllm_tasks.engine import capacity

    chip = capacity.chip_of(kind)
    memory = stats.get("bytes_limit", chip.memory * 1e9 if chip else 0)
    peak = "peak unknown"
    if chip:
        peak = f"{chip.peak:,.0f} TFLOP/s in bfloat16 ({chip.source})"
    if not memory:
        yield Finding("note", "memory", f"unknown for {kind}; {peak}")
        return
    whole, advice = "", ""
    if chip and memory < 0.9 * chip.memory * 1e9:
        whole = f" of {chip.memory:.0f}"
        advice = "JAX takes no more; XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 gives it more of a GPU"
    yield Finding("ok", "memory", f"{memory / 1e9:.0f}{whole} GB of each device; {peak}", advice)
    models: list[tuple[str, Any]] = []
    error = _failure(lambda: models.extend(_models()))
    if error:
        yield Finding("note", "training", f"models unknown: {error}")
    for name, config in models:
        yield Finding("ok", f"training {name}", _fitting(config, memory, number))


def _fitting(config: Any, memory: float, number: int) -> str:
    """The largest batch, over all devices, without remat and with it."""
    from recllm_tasks.engine import capacity

    length = {"inputs": 1024, "targets": 256}
    for shared in (1, 2, 4, 8):
        if number % shared:
            break
        parts: dict[int, str] = {}
        for remat in (False, True):
            rows = capacity.largest_batch(
                config, memory, **length, remat=remat, model_parallel=shared
            )
            if rows:
                total = rows * number // shared
                parts.setdefault(total, f"{total} rows{' with remat' if remat else ''}")
        if parts:
            together = f", MODEL_PARALLEL={shared}" if shared > 1 else ""
            rows = " or ".join(parts.values())
            return f"up to {rows} of 1,024 + 256 tokens a step (estimate){together}"
    return "does not fit"


def _models() -> Iterator[tuple[str, Any]]:
    """The published models and their sizes, from their gin files."""
    import gin

    from recllm_tasks import gin_files
    from recllm_tasks.models import network

    for name in ("flan_t5_small", "flan_t5_base", "flan_t5_large", "flan_t5_xl"):
        gin.clear_config()
        path = gin_files.find(f"models/{name}.gin")
        gin.parse_config_files_and_bindings([path], ["DROPOUT_RATE = 0.1"], finalize_config=False)
        yield name, gin.get_configurable(network.T5Config)()
    gin.clear_config()


def t5x() -> Iterator[Finding]:
    """T5X, which is optional, and what it imports."""
    try:
        found = imports.find_t5x()
    except UserError as error:
        yield Finding("problem", "T5X", "T5X_DIR is not a checkout of T5X", str(error))
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
        kind, advice = "note", f"tested with {imports.COMMIT[:12]}; check out that commit"
    where = f"{(commit or 'of unknown commit')[:17]} in {found.folder}, from {origin}"
    yield Finding(kind, "T5X", where, advice)
    missing = imports.missing_requirements()
    if missing:
        advice = "pip install --no-deps -r launch/locks/t5x.txt"
        yield Finding("problem", "T5X's packages", f"missing: {', '.join(missing)}", advice)
        return
    error = _failure(_import_t5x)
    if error:
        advice = f"use the tested commit: {imports.ADVICE}"
        yield Finding("problem", "T5X", f"cannot be imported: {error}", advice)
        return
    for name, fill in (("airio", imports.fill_airio), ("jestimator", imports.fill_jestimator)):
        yield Finding("ok", name, fill().value)


def _import_t5x() -> None:
    imports.prepare()
    importlib.import_module("recllm_tasks.t5x_bridge.model")


def t5x_commit(found: imports.Found) -> str | None:
    """The commit of T5X that pip or git recorded, or None."""
    if not found.from_t5x_dir:
        installed = list(metadata.distributions(name="t5x"))
        record = installed[0].read_text("direct_url.json") if installed else None
        match = re.search(r'"commit_id": *"([0-9a-f]{40})"', record or "")
        return match and match[1]
    if not os.path.exists(os.path.join(found.folder, ".git")):
        return None
    git = ["git", "-C", found.folder, "rev-parse", "HEAD"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
