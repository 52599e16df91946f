"""What installing the package gives: from a wheel, from the checkout, from the locks."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "launch" / "locks"
PYTHONS = ("3.11", "3.12", "3.13")
SITE_PACKAGES = sysconfig.get_paths()["purelib"]
# Imported where they are present, and not ours to install.
# T5X is not on PyPI; Apache Beam needs an older protobuf and pyarrow than all others.
NOT_REQUIRED = {"t5x", "airio", "jestimator", "apache_beam"}


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**kept, "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_checkout(to: Path) -> Path:
    """A copy without build outputs: the wheel must not depend on them, nor add to them."""
    leftovers = (".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")
    return Path(shutil.copytree(ROOT, to, ignore=shutil.ignore_patterns(*leftovers)))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    checkout = copy_checkout(folder / "checkout")
    build = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", *build, checkout, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    install = ("install", "--quiet", "--no-deps", "--no-index", "--target", folder)
    run(sys.executable, "-m", "pip", *install, wheel, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def description(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(path).decode())


def requirements(description, extra: str = "") -> dict[str, Requirement]:
    """The declared requirements of the package itself, or those that an extra adds."""
    declared = map(Requirement, description.get_all("Requires-Dist"))
    return {
        canonicalize_name(requirement.name): requirement
        for requirement in declared
        if (requirement.marker.evaluate({"extra": extra}) if requirement.marker else not extra)
    }


def locked(name: str) -> dict[str, Version]:
    """The pins of a lock file; anything else in it is an error."""
    pins = {}
    for line in (LOCKS / name).read_text().splitlines():
        if line.startswith("#"):
            continue
        pin = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9a-z.]*)", line)
        assert pin, f"{name}: got {line!r}, expected a pin such as numpy==2.4.6"
        pins[canonicalize_name(pin[1])] = Version(pin[2])
    return pins


def test_the_wheel_holds_the_package_and_its_gin_files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "recllm_tasks").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    gin_files = [
        f"recllm_tasks/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob("gin/**/*.gin")
    ]
    assert "recllm_tasks/gin/models/tiny.gin" in names
    (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
    assert {name for name in names if not name.startswith(f"{info}/")} == {*sources, *gin_files}
    assert f"{info}/licenses/LICENSE" in names


def test_the_wheel_describes_the_package(wheel, description):
    namespace = ast.parse((ROOT / "recllm_tasks" / "__init__.py").read_text())
    (version,) = (
        node.value.value
        for node in namespace.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"
    )
    assert description["Name"] == "recllm_tasks"
    assert description["Version"] == version
    assert description["Requires-Python"] == ">=3.11,<3.14"
    assert description["License"] == "Apache-2.0"
    assert metadata.version("recllm_tasks") == version, "run launch/install.sh again"
    with zipfile.ZipFile(wheel) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "recllm = recllm_tasks.cli:main" in archive.read(path).decode()


FIND_GIN_FILES = """
import sys
from pathlib import Path
import gin, recllm_tasks
from recllm_tasks.gin_files import gin_search_paths
print(Path(recllm_tasks.__file__).parent)
print(hasattr(gin, "configurable"))
for path in gin_search_paths():
    if path and (Path(path) / "models" / "tiny.gin").is_file():
        print(path)
"""


def test_an_installed_wheel_finds_its_gin_files_from_any_folder(installed, tmp_path):
    # -S: no .pth files of the environment, so that the checkout cannot be imported.
    search = os.pathsep.join([str(installed), SITE_PACKAGES])
    command = (sys.executable, "-S", "-W", "ignore", "-c", FIND_GIN_FILES)
    package, is_gin_config, *found = run(*command, cwd=tmp_path, PYTHONPATH=search).splitlines()
    assert Path(package) == installed / "recllm_tasks"
    assert is_gin_config == "True"
    assert found == [str(installed / "recllm_tasks" / "gin")]


def test_an_editable_install_finds_the_gin_files_of_the_checkout(tmp_path):
    checkout = copy_checkout(tmp_path / "checkout")
    # As pip does for `-e`, but into a separate folder.
    install = ("install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    site = tmp_path / "site"
    run(sys.executable, "-m", "pip", *install, "--target", site, "-e", checkout, cwd=tmp_path)
    command = f"import site; site.addsitedir({str(site)!r})\n{FIND_GIN_FILES}"
    search = os.pathsep.join([str(site), SITE_PACKAGES])
    # The checkout's folder `gin` is on the path before gin-config's, and has to lose.
    for cwd in (tmp_path, checkout):
        printed = run(
            *(sys.executable, "-S", "-W", "ignore", "-c", command),
            cwd=cwd,
            PYTHONPATH=search,
        )
        package, is_gin_config, *found = printed.splitlines()
        assert Path(package) == checkout / "recllm_tasks"
        assert is_gin_config == "True"
        assert found == [str(checkout / "gin")]


def test_every_import_is_a_declared_requirement(description):
    distributions = metadata.packages_distributions()
    declared = {
        name: requirement
        for extra in ("", "hub", "serve")
        for name, requirement in requirements(description, extra).items()
    }
    undeclared = set()
    # What runs in RecBole's environment: test_recboles_lock_is_what_recbole_works_with.
    elsewhere = ROOT / "recllm_tasks" / "baselines" / "recbole" / "process"
    for path in (ROOT / "recllm_tasks").rglob("*.py"):
        if path.is_relative_to(elsewhere):
            continue
        for module in imported_modules(path) - NOT_REQUIRED - {"recllm_tasks"}:
            # What is not installed goes by its own name.
            names = distributions.get(module, [module])
            providers = {canonicalize_name(name) for name in names}
            if module not in sys.stdlib_module_names and not providers & declared.keys():
                undeclared.add(f"{path.relative_to(ROOT)}: {module}, of {providers or 'nothing'}")
    assert undeclared == set()


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("python", PYTHONS)
def test_the_locks_pin_every_requirement_within_its_range(python, description):
    name = f"py{python.replace('.', '')}"
    runtime, tests = locked(f"{name}.txt"), locked(f"{name}-test.txt")
    assert not runtime.keys() & tests.keys()
    for requirement in requirements(description).values():
        assert requirement.specifier.contains(runtime[canonicalize_name(requirement.name)])
    for requirement in requirements(description, "test").values():
        # Some packages that runtime requirements bring are requirements of an extra too.
        assert requirement.specifier.contains(
            {**runtime, **tests}[canonicalize_name(requirement.name)]
        )


@pytest.mark.parametrize("device", ["cuda12", "cuda13", "tpu"])
def test_jax_for_a_device_has_the_range_of_jax(description, device):
    (added,) = requirements(description, device).values()
    assert (added.name, added.extras) == ("jax", {device})
    assert added.specifier == requirements(description)["jax"].specifier


def test_recboles_lock_is_what_recbole_works_with():
    pins = locked("py311-baselines.txt")
    assert pins["recbole"] == Version("1.2.1")
    for name, bound in {"setuptools": "81", "numpy": "2", "pandas": "2.2", "scipy": "1.12"}.items():
        assert pins[name] < Version(bound)
    assert {"torch", "pyarrow"} <= set(pins)


def test_lower_bounds_are_the_releases_that_were_tested(description):
    tested = locked("py311-lowest.txt")
    declared = {**requirements(description), **requirements(description, "hub")}
    for name, requirement in declared.items():
        (lower,) = (bound.version for bound in requirement.specifier if bound.operator == ">=")
        assert tested[name].release[: lower.count(".") + 1] == Version(lower).release, name
        assert requirement.specifier.contains(tested[name]), name


def test_extras_are_those_that_the_docs_name(description):
    extras = "cuda12 cuda13 docs hub serve test text tpu"
    assert sorted(description.get_all("Provides-Extra")) == extras.split()
    tested = requirements(description, "test")
    for extra in ("hub", "serve", "text"):
        for name, requirement in requirements(description, extra).items():
            assert requirement.specifier == tested[name].specifier, name


def test_the_locks_are_complete_for_this_python(description):
    """All requirements of pinned packages are pinned too, by the metadata of this environment."""
    name = f"py{sys.version_info.major}{sys.version_info.minor}"
    runtime = locked(f"{name}.txt")
    everything = {**runtime, **locked(f"{name}-test.txt")}
    assert missing_pins(requirements(description), runtime) == set()
    assert missing_pins(requirements(description, "test"), everything) == set()


def missing_pins(wanted: dict[str, Requirement], pins: dict[str, Version]) -> set[str]:
    missing, seen, queue = set(), set(), [(name, r.extras) for name, r in wanted.items()]
    while queue:
        name, extras = queue.pop()
        if (name, frozenset(extras)) in seen:
            continue
        seen.add((name, frozenset(extras)))
        if name not in pins:
            missing.add(name)
            continue
        # Only some builds of PyTorch bring them: see the head of the test locks.
        platform_libraries = ("nvidia-", "cuda-", "triton")
        for line in metadata.requires(name) or ():
            needed = Requirement(line)
            marks = [{"extra": extra} for extra in ("", *extras)]
            applies = needed.marker is None or any(map(needed.marker.evaluate, marks))
            if applies and not (name == "torch" and needed.name.startswith(platform_libraries)):
                queue.append((canonicalize_name(needed.name), needed.extras))
    return missing


IMPORT_EVERYTHING = """
import importlib, pkgutil, recllm_tasks
for module in pkgutil.walk_packages(recllm_tasks.__path__, "recllm_tasks."):
    # T5X's programs, RecBole's environment and the service import what is not required.
    elsewhere = "recllm_tasks.t5x_bridge.", "recllm_tasks.baselines.recbole.process."
    elsewhere = (*elsewhere, "recllm_tasks.serve.")
    if not module.name.startswith(elsewhere):
        importlib.import_module(module.name)
"""


@pytest.mark.slow
def test_the_lock_fills_an_empty_environment(tmp_path):
    """Takes one to two minutes and 3.3 GB, and needs PyPI."""
    checkout = copy_checkout(tmp_path / "checkout")
    run("launch/install.sh", cwd=checkout, PYTHON=sys.executable)
    python = checkout / ".venv" / "bin" / "python"
    assert "No broken requirements" in run(python, "-m", "pip", "check", cwd=tmp_path)
    run(python, "-W", "ignore", "-c", IMPORT_EVERYTHING, cwd=tmp_path)
    assert "prepare" in run(checkout / ".venv" / "bin" / "recllm", "--help", cwd=tmp_path)
    assert run("launch/install.sh", cwd=checkout) == "", "the second time nothing is to do"
