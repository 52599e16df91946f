"""Embeds the items' texts with a sentence-transformers model in a local folder.

Needs the package sentence-transformers. Nothing is downloaded, no code in the folder runs, and
weights are read only from safetensors, because other formats are pickles.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from recllm_tasks import quiet
from recllm_tasks.data.sources import SourceFile
from recllm_tasks.errors import UserError

_LIBRARY = "sentence_transformers"
_MODULES = "modules.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Texts between two progress updates; the library sorts them by length, to pad little.
_CHUNK = 1024
_CANNOT_LOAD = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    ImportError,
)


def check_model(folder: Path) -> SourceFile:
    """The folder, with a SHA-256 over its files and their names.

    Raises:
      UserError: the folder is not a complete model with safetensors, has modules from elsewhere
        than the library, or the library is missing.
    """
    if not importlib.util.find_spec(_LIBRARY):
        raise UserError(
            f"embeddings for '{folder}': got a folder, expected a .npy or .parquet file, or the "
            "package sentence-transformers to read a model; install it, or give no embeddings"
        )
    for module in _modules(folder):
        if not str(module["type"]).startswith(f"{_LIBRARY}."):
            got = f"a module of type '{module['type']}' in {_MODULES}"
            raise _wrong(
                folder, got, f"only types of {_LIBRARY}, because code in the folder is never run"
            )
        of_module = folder / str(module["path"])
        if not of_module.resolve().is_relative_to(folder.resolve()):
            raise _wrong(
                folder, f"the path '{module['path']}' in {_MODULES}", "one inside the folder"
            )
        files = list(of_module.glob("*")) if of_module.is_dir() else []
        if any(f.suffix in _PICKLES for f in files) and not list(of_module.glob("*.safetensors")):
            raise _wrong(folder, f"a pickle as the weights of '{of_module}'", "model.safetensors")
    digest = hashlib.sha256()
    try:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            with file.open("rb") as opened:
                of_file = hashlib.file_digest(opened, "sha256").hexdigest()
            digest.update(f"{file.relative_to(folder).as_posix()}\t{of_file}\n".encode())
    except OSError as error:
        raise _wrong(folder, error.strerror or str(error), "readable files") from error
    return SourceFile(folder, digest.hexdigest(), -1)


def embed_with_model(
    folder: Path, texts: Sequence[str], advance: Callable[[int], None]
) -> np.ndarray:
    """Embeds each text, on the device that the library chooses.

    The last bits may differ between devices and between numbers of cores.

    Args:
      folder: checked by `check_model`.
      texts: one per item.
      advance: called with the number of texts finished since the last call.

    Returns:
      float32 [N, D], rows of length 1.

    Raises:
      UserError: the model cannot be loaded.
    """
    quiet.keep_triton_out()
    with _quiet_and_offline():
        library = importlib.import_module(_LIBRARY)
        try:
            model = library.SentenceTransformer(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except (*_CANNOT_LOAD, SafetensorError) as error:
            words = str(error).strip() or type(error).__name__
            got = f"a model that cannot be loaded ({words.splitlines()[0]})"
            raise _wrong(folder, got, "a complete model of sentence-transformers") from error
        parts = []
        for start in range(0, len(texts), _CHUNK):
            chunk = list(texts[start : start + _CHUNK])
            parts.append(model.encode(chunk, normalize_embeddings=True, show_progress_bar=False))
            advance(len(chunk))
    return np.concatenate(parts).astype(np.float32)


def _modules(folder: Path) -> list[dict]:
    try:
        modules = json.loads((folder / _MODULES).read_text())
    except FileNotFoundError as error:
        got = f"no {_MODULES} in it"
        raise _wrong(folder, got, "a folder of a sentence-transformers model") from error
    except (ValueError, OSError) as error:
        raise _wrong(folder, f"an unreadable {_MODULES}", "JSON") from error
    fields = {"type", "path"}
    whole = isinstance(modules, list) and modules
    if not whole or not all(isinstance(m, dict) and fields <= set(m) for m in modules):
        raise _wrong(folder, f"an invalid {_MODULES}", "a list of modules with type and path")
    return modules


@contextlib.contextmanager
def _quiet_and_offline() -> Iterator[None]:
    """Keeps libraries off the network, hides their progress bars, stops tokenizers from forking."""
    wanted = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    logging = importlib.import_module("transformers.utils.logging")
    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if had_bars:
            logging.enable_progress_bar()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


def _wrong(folder: Path, got: str, expected: str) -> UserError:
    return UserError(
        f"embeddings for '{folder}': got {got}, expected {expected}; correct the folder, or give "
        "no embeddings"
    )
