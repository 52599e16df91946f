"""What commands share: their common options, the data folder, tasks, gin settings.

It is imported for every command, `doctor` included, so packages are imported inside functions.
"""

import argparse
import ast
import contextlib
import dataclasses
import importlib
import os
import sys
from collections.abc import Sequence

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


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the user says about custom files, for `reading_of`."""
    from recllm_tasks.data.formats import ORDERS, UNITS

    reading = parser.add_argument_group("how files are written")
    reading.add_argument(
        "--separator", help="between the fields of text: ';', tab, '|' …; by default found out"
    )
    reading.add_argument("--encoding", help="of text: utf-8 (default), cp1252, latin-1, utf-16 …")
    reading.add_argument(
        "--quoting",
        help="csv: fields may be in double quotes; none: quotes are text; by default csv, and none "
        "between tabs",
    )
    reading.add_argument(
        "--time_unit", help=f"of times that are numbers: {', '.join(UNITS)}; by default seconds"
    )
    reading.add_argument(
        "--time_format",
        metavar="PATTERN",
        help="of times, as in strptime: '%%d/%%m/%%Y' for 31/12/2020, '%%Y%%m%%d' for 20201231",
    )
    reading.add_argument(
        "--decimal", default=".", help="before the fraction of numbers: . (default) or ,"
    )
    reading.add_argument(
        "--unrated",
        default="",
        metavar="VALUE,…",
        help="ratings that mean that there is none, such as 0,-1,NaN",
    )
    reading.add_argument(
        "--order",
        default=ORDERS[0],
        help="of a user's interactions: time (default), or file for logs without times, whose "
        "lines are in order",
    )


def reading_of(args):
    """The `Reading` of `add_reading_arguments`."""
    from recllm_tasks.data.formats import Reading

    names = [field.name for field in dataclasses.fields(Reading)]
    return Reading(**{name: getattr(args, name) for name in names})


def number_or_text(text: str) -> float | str:
    """The number that an argument is, else the argument, such as 'validation'."""
    try:
        return float(text)
    except ValueError:
        return text


def add_run_argument(parser: argparse.ArgumentParser) -> None:
    """Adds the folder of a trained run, which `use_run` reads."""
    parser.add_argument(
        "run_folder",
        nargs="?",
        metavar="RUN",
        help="folder of a trained run; the same as --gin.MODEL_DIR=RUN",
    )


def use_run(args, gin_file: str) -> None:
    """Makes RUN the MODEL_DIR, and `gin_file` the settings if the user gave none.

    Raises `UserError` unless the folder is given once.
    """
    if args.run_folder is None and not args.gin_file and not has_model_dir(args):
        raise UserError(
            f"Folder of the run: got none, expected one that `recllm train` wrote; give it: "
            f"`{args.parser.prog} RUN`"
        )
    bind_model_dir(args, args.run_folder, "RUN")
    args.gin_file = args.gin_file or [gin_file]


def has_model_dir(args) -> bool:
    """Whether the command line sets MODEL_DIR."""
    return any(binding.startswith("MODEL_DIR = ") for binding in args.bindings)


def model_dir(args) -> str:
    """The last MODEL_DIR of the command line, which `has_model_dir`."""
    last = [text for text in args.bindings if text.startswith("MODEL_DIR = ")][-1]
    return ast.literal_eval(last.partition(" = ")[2])


def bind_model_dir(args, folder: str | None, argument: str) -> None:
    """Makes a folder the MODEL_DIR, if one is given.

    Raises `UserError`, which names the argument, if --gin.MODEL_DIR is given too.
    """
    if folder is None:
        return
    if has_model_dir(args):
        raise UserError(
            f"Folder of the run: got {argument} '{folder}' and --gin.MODEL_DIR, expected one of "
            "them; leave one out"
        )
    args.bindings.append(f"MODEL_DIR = {os.path.expanduser(folder)!r}")


def gin_bindings(arguments: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """`--gin.NAME=VALUE` arguments as gin bindings; anything else raises `UserError`.

    Args:
      arguments: those that the command's parser does not know.
      parser: of the command.
    """
    options = [option for action in parser._actions for option in action.option_strings]
    bindings = []
    for argument in arguments:
        name, equals, value = argument.removeprefix("--gin.").partition("=")
        if not argument.startswith("--gin.") or "--gin_file" not in options:
            raise UserError(_unknown(argument, options, parser.prog))
        if not equals or not name:
            raise UserError(
                f"Wrong setting '{argument}': got no value, expected --gin.NAME=VALUE; add one"
            )
        from recllm_tasks import gin_files

        bindings.append(f"{name} = {gin_files.as_gin(value)}")
    return bindings


def _unknown(argument: str, options: Sequence[str], command: str) -> str:
    """The message for an argument that a command does not have."""
    import difflib

    given = argument.partition("=")[0]
    like = {option.lower().replace("_", "-"): option for option in options}
    spelled = given.lower().replace("_", "-")
    nearest = difflib.get_close_matches(spelled, like, 1, cutoff=0.6)
    hint = f"perhaps {like[nearest[0]]}; " if nearest else ""
    return f"Unknown argument '{given}' of `{command}`; {hint}see `{command} --help`"


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
    import difflib

    from recllm_tasks.data.dataset_info import list_datasets
    from recllm_tasks.data.specs import SPECS
    from recllm_tasks.prompts.source import CatalogSource, data_dir

    source = CatalogSource(dataset)
    if dataset in SPECS or os.path.isdir(source.dataset_dir()):
        return source.info()
    prepared = list_datasets(data_dir())
    others = [name for name in SPECS if name not in prepared]
    expected = [f"a prepared one ({', '.join(prepared)})"] if prepared else []
    expected += [f"one to prepare by its name ({', '.join(others)})"] if others else []
    nearest = difflib.get_close_matches(dataset, [*prepared, *others], 1)
    hint = f"perhaps {nearest[0]}; " if nearest else ""
    raise UserError(
        f"Unknown dataset '{dataset}': got no such dataset in {data_dir()}, expected "
        f"{' or '.join(expected)}; {hint}or make it of your files: `recllm prepare {dataset} "
        f"--data_dir {data_dir()} --interactions FILE`"
    )


def configured(args, name: str, chosen: str = ""):
    """The function called `name` in gin, with the settings of `--gin_file` and `--gin.NAME=VALUE`.

    `chosen` are settings that are read before those. Raises `UserError` for wrong settings, as does
    calling it for those that gin notices only then.
    """
    import gin

    from recllm_tasks import gin_files

    gin_files.parse(args.gin_file, args.bindings, name, chosen)
    function = gin.get_configurable(name)

    def call(**kwargs):
        with gin_files.gin_errors(f"settings {', '.join(args.gin_file)}"):
            return function(**kwargs)

    return call


def macro(name: str) -> str:
    """The value of an upper-case setting."""
    import gin

    return gin.query_parameter(f"%{name}")
