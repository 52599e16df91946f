"""Gin settings: where the files are, and clear messages for what is wrong in them."""

import contextlib
import os
import pathlib
from collections.abc import Sequence

import gin

from recllm_tasks.errors import UserError


def gin_search_paths() -> list[str]:
    """Folders searched for gin files: the current one, ours, and the parent of ours.

    So `models/tiny.gin` and `gin/models/tiny.gin` are found from any folder, in a checkout and in
    an installed package.
    """
    package = pathlib.Path(__file__).resolve().parent
    installed, checkout = package / "gin", package.parent / "gin"
    ours = installed if installed.is_dir() else checkout
    return ["", str(ours), str(ours.parent)]


def parse(gin_files: Sequence[str], bindings: Sequence[str]) -> None:
    """Reads the files in order, then the bindings (`NAME=value`), and locks the settings.

    Raises:
      UserError: a file is missing, does not parse, or names what does not exist.
    """
    gin.clear_config()
    for path in gin_search_paths():
        gin.add_config_file_search_path(path)
    if not gin_files:
        raise UserError(
            "No settings: got no --gin_file, expected at least a model and a run; for instance "
            "--gin_file=models/tiny.gin --gin_file=runs/finetune.gin"
        )
    what = f"gin files {', '.join(gin_files)}"
    with gin_errors(what):
        try:
            gin.parse_config_files_and_bindings(
                [find(path) for path in gin_files],
                list(bindings),
                skip_unknown=False,
                finalize_config=True,
            )
        except OSError as error:
            raise UserError(
                f"Cannot read {what}: got {_first_lines(error)}, expected readable files in the "
                f"current folder or in {gin_search_paths()[1]}; correct the include, or --gin_file"
            ) from error


def find(gin_file: str) -> str:
    """The first file of that name in the search paths."""
    for folder in gin_search_paths():
        if os.path.isfile(os.path.join(folder, gin_file)):
            return os.path.join(folder, gin_file)
    ours = pathlib.Path(gin_search_paths()[1])
    known = sorted(str(path.relative_to(ours)) for path in ours.glob("**/*.gin"))
    raise UserError(
        f"No gin file '{gin_file}': looked in the current folder and {ours}, expected one of "
        f"{', '.join(known)}, or a file of your own; correct --gin_file"
    )


def as_gin(value: str) -> str:
    """A command-line value as gin reads it; plain text such as a path needs no quotes."""
    if value[:1] in "@%":
        return value
    try:
        gin.config.parse_value(value)
    except (SyntaxError, ValueError):
        return repr(value)
    return value


@contextlib.contextmanager
def gin_errors(what: str):
    """Turns gin's errors about wrong settings into `UserError`s."""
    try:
        yield
    except UserError:
        raise
    except (SyntaxError, ValueError, AttributeError, ImportError, RuntimeError, TypeError) as error:
        if not _raised_by_gin(error):
            raise
        raise UserError(f"Wrong setting in {what}: {_first_lines(error)}") from error


def _raised_by_gin(error: Exception) -> bool:
    """Whether gin itself raised the error; a bug of ours in a configured function did not."""
    trace, last = error.__traceback__, None
    while trace is not None:
        last, trace = trace.tb_frame.f_code.co_filename, trace.tb_next
    return "gin" in pathlib.Path(last or "").parts


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:4])
