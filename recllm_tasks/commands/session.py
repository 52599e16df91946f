"""What commands share: their common options, quiet logs, the data folder, tasks, gin settings.

It is imported for every command, `doctor` included, so packages are imported inside functions.
"""

import argparse
import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Sequence

from recllm_tasks.commands import compile_cache
from recllm_tasks.errors import UserError

GIN_HELP = """\
settings:
  --gin_file FILE (repeatable) reads settings; order matters: model, then run, then your own. Files
  are searched for in the current folder, then among ours (models/*.gin, runs/*.gin).
  --gin.NAME=VALUE overrides a setting; NAME is a macro (TRAIN_STEPS) or a parameter
  (mixtures.rate.rates). A setting that nothing in the run reads is an error.
"""


def add_data_arguments(parser: argparse.ArgumentParser, several_dirs: bool = False) -> None:
    """Adds --data_dir, repeatable with `several_dirs`, and --module."""
    parser.add_argument(
        "--data_dir",
        action="append" if several_dirs else "store",
        default=[] if several_dirs else None,
        help="folder of prepared datasets; default $TFDS_DATA_DIR, or ~/tensorflow_datasets"
        + ("; repeatable" if several_dirs else ""),
    )
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        help="Python module that registers custom tasks; repeatable",
    )


def add_gin_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --gin_file; --gin.NAME=VALUE is parsed by `gin_bindings`."""
    parser.add_argument(
        "--gin_file", action="append", default=[], metavar="FILE", help="settings; repeatable"
    )


def add_p5_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--p5_templates",
        metavar="FILE",
        help="P5's src/all_amazon_templates.py, parsed but never run: its templates make up the "
        "tasks <dataset>_p5",
    )


def number_or_text(text: str) -> float | str:
    """The number that an argument is, else the argument, such as 'validation'."""
    try:
        return float(text)
    except ValueError:
        return text


def gin_bindings(arguments: Sequence[str], allowed: bool) -> list[str]:
    """`--gin.NAME=VALUE` arguments as gin bindings; anything else raises `UserError`."""
    bindings = []
    for argument in arguments:
        name, equals, value = argument.removeprefix("--gin.").partition("=")
        if not argument.startswith("--gin.") or not allowed:
            raise UserError(f"Unknown argument '{argument}'; see `recllm --help`")
        if not equals or not name:
            raise UserError(
                f"Wrong setting '{argument}': got no value, expected --gin.NAME=VALUE; add one"
            )
        from recllm_tasks import gin_files

        bindings.append(f"{name} = {gin_files.as_gin(value)}")
    return bindings


@contextlib.contextmanager
def quiet_stderr():
    """Holds back what libraries write to standard error; prints it only if the block fails.

    No setting silences the startup messages of TensorFlow's C++ code.
    """
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


def import_quietly() -> None:
    """Imports what every command but `doctor` needs."""
    compile_cache.use_compile_cache()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    with quiet_stderr():
        importlib.import_module("seqio")
        logging = importlib.import_module("absl.logging")
    logging.set_verbosity(logging.ERROR)


def use_data_dir(args) -> str:
    """Makes `--data_dir` the data folder of all tasks; returns the folder in use."""
    import seqio

    from recllm_tasks.prompts import source

    if args.data_dir:
        seqio.set_tfds_data_dir_override(os.path.expanduser(args.data_dir))
    return source.data_dir()


@contextlib.contextmanager
def damage_reported():
    """If the block fails because a dataset is damaged, raises a `UserError` that names the file."""
    try:
        yield
    except (UserError, BrokenPipeError):
        raise
    except Exception:
        from recllm_tasks.data.damage import check_undamaged
        from recllm_tasks.prompts.source import data_dir, opened_folders

        for folder in opened_folders():
            if folder.is_relative_to(data_dir()):
                check_undamaged(folder)
        raise


def register_tasks(args) -> None:
    """Registers our tasks and mixtures, those of custom datasets, and those of `--module`.

    If the command has `--p5_templates`, that file's tasks are registered too.
    """
    custom = importlib.import_module("recllm_tasks.mixtures").register_stored()
    if getattr(args, "p5_templates", None):
        _register_p5(args.p5_templates, custom)
    sys.path.insert(0, os.getcwd())
    for module in args.module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module.split(".")[0]:
                raise
            raise UserError(
                f"Unknown module '{module}': got no such module here or on PYTHONPATH, expected a "
                "Python module that registers tasks; correct --module"
            ) from error


def _register_p5(path: str, custom_datasets: list[str]) -> None:
    from recllm_tasks import mixtures
    from recllm_tasks.data.specs import SPECS
    from recllm_tasks.progress import console
    from recllm_tasks.prompts import p5_file

    found = p5_file.read(path)
    console.print(f"P5's templates: {', '.join(found.templates)}", markup=False)
    for number, reason in found.left_out.items():
        console.print(f"left out {number}: {reason}", markup=False, highlight=False)
    for dataset in (*SPECS, *custom_datasets):
        mixtures.register_p5(dataset, found.templates)


def dataset_info(dataset: str):
    """The `DatasetInfo` of a prepared dataset; the error for an unknown name suggests others."""
    from recllm_tasks.data.specs import get_spec
    from recllm_tasks.prompts.source import CatalogSource

    source = CatalogSource(dataset)
    if not os.path.isdir(source.dataset_dir()):
        get_spec(dataset)
    return source.info()


def configured(args, name: str):
    """The function called `name` in gin, with the settings of `--gin_file` and `--gin.NAME=VALUE`.

    Raises `UserError` for wrong settings, as does calling it for those that gin notices only then.
    """
    import gin

    from recllm_tasks import gin_files

    gin_files.parse(args.gin_file, args.bindings, name)
    function = gin.get_configurable(name)

    def call(**kwargs):
        with gin_files.gin_errors(f"settings {', '.join(args.gin_file)}"):
            return function(**kwargs)

    return call


def macro(name: str) -> str:
    """The value of an upper-case setting."""
    import gin

    return gin.query_parameter(f"%{name}")
