"""Compiled programs on disk: the next process reads them instead of compiling for seconds.

Every command uses them. A Python program asks for them with `recllm_tasks.use_compile_cache()`.

They lie in $XDG_CACHE_HOME/recllm_tasks/xla (by default ~/.cache/recllm_tasks/xla), in one folder
for each kind of processor: XLA compiles for the instructions of the processor that it runs on, and
a home folder may be shared by machines. JAX's own variables come first:
JAX_COMPILATION_CACHE_DIR names another folder, and JAX_ENABLE_COMPILATION_CACHE=false turns it off.

JAX reads and writes single files, so that processes can share the folder. It compiles what it
cannot read. A folder that cannot be written to is left alone.

Our choice: `Recommender` does not ask for them itself. JAX has one folder for a whole process and
takes the first one that it sees, so that programs of the caller would be kept in ours too, and a
folder that the caller names later would be ignored without a word.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import sys
import warnings

# What is oldest is removed beyond this.
MAX_BYTES = 2 << 30

_FOLDER = "JAX_COMPILATION_CACHE_DIR"
_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def use_compile_cache() -> None:
    """Keeps all programs that JAX compiles from now on in this process for the next one.

    They lie in ~/.cache/recllm_tasks/xla ($XDG_CACHE_HOME/recllm_tasks/xla). Call it before
    anything is computed. It changes nothing if JAX has another folder already, by its configuration
    or by $JAX_COMPILATION_CACHE_DIR, or if ours cannot be written to.
    """
    # A damaged entry, or a full disk, costs time and nothing else.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    jax = sys.modules.get("jax")
    if _FOLDER in os.environ or (jax and jax.config.jax_compilation_cache_dir):
        return
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home folder
        folder = default_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            remove_oldest(folder, MAX_BYTES)
            # JAX reads its variables when it is imported. It keeps what took a second or more;
            # small models have many quicker programs.
            os.environ[_FOLDER] = str(folder)
            seconds = os.environ.setdefault(_SECONDS, "0.1")
            if jax:
                jax.config.update("jax_compilation_cache_dir", str(folder))
                jax.config.update("jax_persistent_cache_min_compile_time_secs", float(seconds))


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
