"""Makes `import t5x` work: finds a checkout, and stubs two packages that are hard to install.

T5X imports `airio` and `jestimator`, and uses neither for our purposes. `airio` is not on PyPI.
PyPI's `jestimator` imports a name that JAX has dropped. Installed packages are left alone.
"""

import enum
import importlib.util
import os
import sys
import types
from collections.abc import Sequence
from typing import NamedTuple

from recllm_tasks.errors import UserError

# The commit that launch/locks/t5x.txt installs and the bridge is tested with.
COMMIT = "cc342d419ec3e3e9c4bf1df33c82330cafdc1e16"

# The name in jax.experimental.pjit that JAX dropped and jestimator imports.
_DROPPED = "PartitionSpec"

# Packages that T5X imports and our own lock lacks.
REQUIRED = ("cached_property", "chex", "fiddle", "jaxtyping")

ADVICE = (
    "do `pip install --no-deps -r launch/locks/t5x.txt`, or set T5X_DIR to a checkout of "
    "github.com/google-research/t5x"
)


class Filled(enum.Enum):
    """How a package that T5X imports was made available."""

    INSTALLED = "installed"
    PATCHED = "installed; a name that JAX dropped was added for it"
    STUB = "not installed; replaced by a stub"


class Found(NamedTuple):
    """Where T5X is."""

    folder: str
    from_t5x_dir: bool


def find_t5x() -> Found | None:
    """The folder of T5X's package `t5x`: $T5X_DIR, else the installed one, or None.

    Raises:
      UserError: $T5X_DIR is set but is not a checkout of T5X.
    """
    folder = os.environ.get("T5X_DIR")
    if folder:
        folder = os.path.abspath(os.path.expanduser(folder))
        if not os.path.isfile(os.path.join(folder, "t5x", "train.py")):
            raise UserError(
                f"T5X_DIR: got '{folder}', expected a checkout of T5X, with t5x/train.py in it; "
                "correct it, or unset it"
            )
        return Found(folder, True)
    spec = _spec("t5x")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Found(os.path.dirname(next(iter(spec.submodule_search_locations))), False)


def missing_requirements() -> Sequence[str]:
    """Packages that T5X needs, that are not installed, and that we do not stub."""
    return [name for name in REQUIRED if _spec(name) is None]


def prepare() -> Found:
    """Makes `import t5x` work in this process.

    Raises:
      UserError: T5X, or a package that it needs, is not installed.
    """
    found = find_t5x()
    if found is None:
        raise UserError(f"T5X is not installed: got no module 't5x', expected one; {ADVICE}")
    missing = missing_requirements()
    if missing:
        raise UserError(
            f"T5X in '{found.folder}' cannot be imported: got no module {', '.join(missing)}; do "
            "`grep -v '^t5x @' launch/locks/t5x.txt | pip install --no-deps -r /dev/stdin`"
        )
    if found.from_t5x_dir and found.folder not in sys.path:
        sys.path.insert(0, found.folder)
    fill_airio()
    fill_jestimator()
    return found


def fill_airio() -> Filled:
    """If `airio` is missing, adds a stub with empty classes.

    T5X only checks `isinstance(x, airio.Task)` and the like, and then uses SeqIO.
    """
    if _spec("airio") is not None and not _is_stub("airio"):
        return Filled.INSTALLED
    core = _stub("airio.core")
    for name in ("DatasetProviderBase", "Task", "Mixture", "AirIODatasetIterator"):
        setattr(core, name, type(name, (), {}))
    return Filled.STUB


def fill_jestimator() -> Filled:
    """If `jestimator` is missing, adds a stub with the names that T5X registers but never uses.

    If it is installed, adds `jax.experimental.pjit.PartitionSpec`, which it imports.
    """
    import jax.experimental.pjit

    if _spec("jestimator") is not None and not _is_stub("jestimator"):
        if hasattr(jax.experimental.pjit, _DROPPED):
            return Filled.INSTALLED
        setattr(jax.experimental.pjit, _DROPPED, jax.sharding.PartitionSpec)
        return Filled.PATCHED
    amos, helper = _stub("jestimator.amos"), _stub("jestimator.amos_helper")
    vars(amos).update(ScaleByAmosState=NamedTuple("ScaleByAmosState", []), amos=_unavailable)
    vars(helper).update(state_partition_rule=_unavailable)
    return Filled.STUB


def _unavailable(*args, **kwargs):
    raise UserError("Optimizer 'amos' is not available: got no package jestimator; install it")


def _spec(name: str):
    """The module's spec, or None if it is not installed or is our stub."""
    if _is_stub(name):
        return None
    return importlib.util.find_spec(name)


def _is_stub(name: str) -> bool:
    return getattr(sys.modules.get(name), "_recllm_stub", False)


def _stub(name: str) -> types.ModuleType:
    """An empty module of that name, and its package, in `sys.modules`."""
    parent, _, child = name.rpartition(".")
    package = sys.modules.setdefault(parent, types.ModuleType(parent))
    module = sys.modules.setdefault(name, types.ModuleType(name))
    vars(module).update(_recllm_stub=True)
    vars(package).update({"_recllm_stub": True, "__path__": [], child: module})
    return module
