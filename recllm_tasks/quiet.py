"""Quiet libraries: TensorFlow, absl, XLA and CUDA say nothing when they start.

Importing recllm_tasks calls `silence`, so that this holds for every command, tool and Python
program that imports it before TensorFlow. What is held back is shown if the import fails. Errors
are exceptions, and these are always shown. Triton is loaded first, because it could not be later.
"""

import contextlib
import importlib.abc
import importlib.util
import os
import sys
import tempfile

# What C++ code reads when it is loaded. A variable that the user set is kept, and brings messages
# back.
_ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",  # of TensorFlow, XLA and CUDA: fatal errors only
    "GRPC_VERBOSITY": "ERROR",
}
# Its C++ code writes to standard error before it reads any variable.
_LOUD = "tensorflow"


def silence() -> None:
    """Silences what variables can silence, and the import of TensorFlow."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    is_set = any(isinstance(finder, _Finder) for finder in sys.meta_path)
    if not is_set and _LOUD not in sys.modules:
        sys.meta_path.insert(0, _Finder())


@contextlib.contextmanager
def held_stderr():
    """Holds back what is written to standard error; prints it only if the block fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(terminal, 2)
            kept.seek(0)
            sys.stderr.write(kept.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _load_triton() -> None:
    """Loads Triton, which torch brings on Linux, before TensorFlow.

    Loaded after it, Triton finds TensorFlow's LLVM in place of its own, and the process dies:
    github.com/tensorflow/tensorflow/issues/124205.
    """
    with contextlib.suppress(Exception):
        importlib.import_module("triton")


def keep_triton_out() -> None:
    """Before torch is imported: where TensorFlow is there already, torch finds no Triton."""
    if _LOUD in sys.modules:
        sys.modules.setdefault("triton", None)  # pyright: ignore[reportArgumentType]


class _Finder(importlib.abc.MetaPathFinder):
    """Finds `_LOUD` once, as Python does, with a loader that holds back what the import writes."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != _LOUD:
            return None
        sys.meta_path.remove(self)
        _load_triton()
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Another loader, with what it writes to standard error held back."""

    def __init__(self, loader):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        # The module keeps its own loader, which packages ask for their resources.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with held_stderr():
            self._loader.exec_module(module)
