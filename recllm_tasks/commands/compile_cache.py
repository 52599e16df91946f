"""Compiled programs on disk: the next process reads them instead of compiling for seconds.

They lie in $XDG_CACHE_HOME/recllm_tasks/xla (by default ~/.cache/recllm_tasks/xla), in one folder
for each kind of processor: XLA compiles for the instructions of the processor that it runs on, and
a home folder may be shared by machines. JAX's own variables come first:
JAX_COMPILATION_CACHE_DIR names another folder, and JAX_ENABLE_COMPILATION_CACHE=false turns it off.

JAX reads and writes single files, so that processes can share the folder. It compiles what it
cannot read. A folder that cannot be written to is left alone.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import warnings

# What is oldest is removed beyond this.
MAX_BYTES = 2 << 30

_FOLDER = "JAX_COMPILATION_CACHE_DIR"


def use_compile_cache() -> None:
    """Tells JAX, which must not be imported yet, where compiled programs lie."""
    # A damaged entry, or a full disk, costs time and nothing else.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if _FOLDER in os.environ:
        return
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home folder
        folder = default_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            remove_oldest(folder, MAX_BYTES)
            os.environ[_FOLDER] = str(folder)
            # JAX keeps what took a second or more; small models have many quicker programs.
            os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def default_folder() -> pathlib.Path:
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "recllm_tasks" / "xla" / _processor()


def _processor() -> str:
    """A name for the instructions that this machine has."""
    found = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as f:
        # Of the first core: x86 has "model name" and "flags", ARM "CPU part" and "Features".
        first = f.read().split("\n\n")[0].splitlines()
        names = ("model name", "flags", "CPU part", "Features")
        found += [line for line in first if line.startswith(names)]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:12]


def remove_oldest(folder: pathlib.Path, max_bytes: int) -> None:
    """Removes the files that were written first until the others fit; another process may too."""
    files = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            found = path.stat()
            files.append((found.st_mtime, found.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= max_bytes:
            return
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size
