"""Gin settings: where the files are, and clear messages for what is wrong in them."""

import contextlib
import difflib
import inspect
import logging
import operator
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gin
from gin import config_parser

from recllm_tasks.errors import UserError

# Of each engine; T5X's have the prefix t5x_.
RUNS = ("finetune", "eval", "infer")

# Settings of earlier versions, and what replaces them.
_RENAMED = {
    "random_targets": "targets.targets.of, such as {'retrieval': 'random'}",
    "exclude_history": "SEEN, 'leave_out' in place of True and 'keep' in place of False",
}


def gin_search_paths() -> list[str]:
    """Folders searched for gin files: the current one, ours, and the parent of ours.

    So `models/tiny.gin` and `gin/models/tiny.gin` are found from any folder, in a checkout and in
    an installed package.
    """
    package = pathlib.Path(__file__).resolve().parent
    installed, checkout = package / "gin", package.parent / "gin"
    ours = installed if installed.is_dir() else checkout
    return ["", str(ours), str(ours.parent)]


def parse(gin_files: Sequence[str], bindings: Sequence[str], root: str, chosen: str = "") -> None:
    """Reads the files in order, then the bindings (`NAME = value`), and locks the settings.

    Args:
      gin_files: as the user gave them.
      bindings: of the command line.
      root: the function that the command calls, such as `training.train`.
      chosen: text of settings that were chosen for the user; it is read before the files.

    Raises:
      UserError: a file is missing, does not parse, or names what does not exist; or as `check`.
    """
    gin.clear_config()
    for path in gin_search_paths():
        gin.add_config_file_search_path(path)
    if not gin_files and not chosen:
        raise UserError(
            "No settings: got neither a dataset nor a --gin_file, expected a dataset, for which "
            "settings are chosen (`recllm train DATASET --out RUN`), or at least a model and a "
            "run, such as --gin_file=models/tiny.gin --gin_file=runs/finetune.gin"
        )
    what = f"gin files {', '.join(gin_files)}" if gin_files else "settings of the command line"
    with gin_errors(what), _no_log():
        try:
            gin.parse_config(chosen, skip_unknown=False)
            gin.parse_config_files_and_bindings(
                [find(path) for path in gin_files],
                list(bindings),
                skip_unknown=False,
                finalize_config=False,
            )
        except OSError as error:
            raise UserError(
                f"Cannot read {what}: got {_first_lines(error)}, expected readable files in the "
                f"current folder or in {gin_search_paths()[1]}; correct the include, or --gin_file"
            ) from error
        check(gin_files, bindings, root)
        gin.finalize()


def find(gin_file: str) -> str:
    """The first file of that name in the search paths."""
    path = _path_of(gin_file)
    if path is None:
        known = ", ".join(str(path.relative_to(_ours())) for path in _our_files())
        raise UserError(
            f"No gin file '{gin_file}': looked in the current folder and {_ours()}, expected one "
            f"of {known}, or a file of your own; correct --gin_file"
        )
    return path


def _path_of(gin_file: str) -> str | None:
    paths = (os.path.join(folder, gin_file) for folder in gin_search_paths())
    return next((path for path in paths if os.path.isfile(path)), None)


def _ours() -> pathlib.Path:
    return pathlib.Path(gin_search_paths()[1])


def _our_files(under: str = ".") -> list[pathlib.Path]:
    return sorted((_ours() / under).glob("**/*.gin"))


def values_in(gin_file: str) -> dict[str, str]:
    """The settings of a file, and of those that it includes, by name, as gin writes values."""
    values: dict[str, str] = {}
    with open(find(gin_file), encoding="utf-8") as f, gin_errors(f"gin file {gin_file}"):
        for statement in config_parser.ConfigParser(f, _Texts()):
            if isinstance(statement, config_parser.IncludeStatement):
                values |= values_in(statement.filename)
            elif isinstance(statement, config_parser.BindingStatement):
                name = _binding(statement, None, "", True).name
                values[name] = str(statement.value)
    return values


def as_gin(value: str) -> str:
    """A command-line value as gin reads it; plain text such as a path needs no quotes."""
    if value[:1] in "@%":
        return value
    try:
        gin.config.parse_value(value)
    except (SyntaxError, ValueError):
        return repr(value)
    return value


def check(
    gin_files: Sequence[str], bindings: Sequence[str], root: str, shared: bool = False
) -> None:
    """Checks settings that gin has parsed and not yet locked: all that is read has a value, and
    all that the user set is read.

    A run reads what `root` refers to, directly or not, and what refers to it reads. It may also
    read any configurable that Python code can call by its name, such as `mixtures.rate`; one that
    gin registers without replacing it in its module is only read where a setting refers to it.
    Model and mixture files may hold macros for other runs. So a macro in the user's file is
    refused only if no setting refers to it and none of our files has it; on the command line, it
    must be read by this run.

    Args:
      gin_files: as the user gave them.
      bindings: of the command line, `NAME = value`.
      root: the function that will be called.
      shared: whether the command line also serves other programs: macros of our files are accepted
        if this run does not read them.

    Raises:
      UserError: no file configures `root`, a macro has no value, or nothing reads a setting.
    """
    config = gin.config._CONFIG  # what gin hands to its own checks (gin.register_finalize_hook)
    if not any(_ends_with(selector, root) for _, selector in config):
        function = root.removeprefix("__main__.")
        runs = [f"runs/{'t5x_' * (function != root)}{run}.gin" for run in RUNS]
        raise UserError(
            f"No run in the settings: got {', '.join(gin_files)}, expected one that configures "
            f"{function}, one of {', '.join(runs)}; add it after the model file"
        )
    given = [*_given_in_files(gin_files), *_given_on_command_line(bindings)]
    read = _read(config, root)
    _check_values(config, given, read)
    _check_read(config, given, read, shared)


class _Binding(NamedTuple):
    """A setting as written in a file or on the command line."""

    file: str | None  # the --gin_file that has it or includes it; None: the command line
    line: str  # for messages
    by_user: bool  # not in a file of ours, or in one that ours include
    scope: str
    selector: str  # a macro's name
    parameter: str  # empty: a macro
    required: bool  # asks for a value

    @property
    def name(self) -> str:
        scope = f"{self.scope}/" if self.scope else ""
        return f"{scope}{self.selector}" + (f".{self.parameter}" if self.parameter else "")

    @property
    def where(self) -> str:
        return f"{self.name}{self.line}" if self.file else f"--gin.{self.name}"


class _Texts(config_parser.ParserDelegate):
    """References as they are written."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        return f"@{scoped_configurable_name}"

    def macro(self, macro_name):
        return f"%{macro_name}"


def _given_in_files(gin_files: Sequence[str]) -> Iterator[_Binding]:
    for gin_file in gin_files:
        path = _path_of(gin_file)  # a file of T5X's is not found
        if path is not None:
            yield from _given_in(path, gin_file)


def _given_in(path: str, gin_file: str, by_user: bool = True) -> Iterator[_Binding]:
    by_user = by_user and not pathlib.Path(path).resolve().is_relative_to(_ours().resolve())
    with open(path, encoding="utf-8") as f:
        for statement in config_parser.ConfigParser(f, _Texts()):
            if isinstance(statement, config_parser.IncludeStatement):
                included = _path_of(statement.filename)
                if included is not None:
                    yield from _given_in(included, gin_file, by_user)
            elif isinstance(statement, config_parser.BindingStatement):
                where = f" in '{path}', line {statement.location.line_num}"
                yield _binding(statement, gin_file, where, by_user)


def _given_on_command_line(bindings: Sequence[str]) -> Iterator[_Binding]:
    for statement in config_parser.ConfigParser("\n".join(bindings), _Texts()):
        yield _binding(statement, None, "", True)


def _binding(statement: Any, file: str | None, line: str, by_user: bool) -> _Binding:
    scope, selector, parameter, value, _ = statement
    return _Binding(file, line, by_user, scope, selector, parameter, value == "%gin.REQUIRED")


def _ends_with(selector: str, name: str) -> bool:
    return f".{selector}".endswith(f".{name}")


def _read(config: Mapping, root: str) -> set[str]:
    """Selectors, and macros as `%NAME`, that a run reads or may read."""
    bound: dict[str, list[Any]] = {}
    for (scope, selector), values in config.items():
        bound.setdefault(f"%{scope}" if selector == "gin.macro" else selector, []).append(values)
    waiting = [
        selector
        for selector in bound
        if selector[0] != "%" and (_ends_with(selector, root) or _callable_by_code(selector))
    ]
    found = set(waiting)
    while waiting:
        new = _referred_to(bound.get(waiting.pop(), [])) - found
        found |= new
        waiting += new
    return found


def _referred_to(values: Any) -> set[str]:
    """Selectors, and macros as `%NAME`, of the references in values."""
    return {
        f"%{'/'.join(reference.scopes)}"
        if reference.configurable.selector == "gin.macro"
        else reference.configurable.selector
        for reference in gin.config.iterate_references(values)
    }


def _callable_by_code(selector: str) -> bool:
    """Whether code that names a configurable gets gin's version of it (`@gin.configurable`)."""
    configured = gin.get_configurable(selector)
    originals = inspect.getmro(configured) if inspect.isclass(configured) else ()
    originals = (*originals[1:], getattr(configured, "__wrapped__", None))
    try:
        module = sys.modules[configured.__module__]
        return operator.attrgetter(configured.__qualname__)(module) not in originals
    except (KeyError, AttributeError):
        return True


def _check_values(config: Mapping, given: Sequence[_Binding], read: set[str]) -> None:
    """Raises UserError for macros without a value; it says for each what to do."""
    bound = {scope: values for (scope, selector), values in config.items() if _is_macro(selector)}
    named = {name[1:] for name in _referred_to(config) if name[0] == "%"}
    missing = sorted(
        name
        for name in named | set(bound)
        if name not in bound or repr(bound[name]["value"]) == "%gin.REQUIRED"
    )
    if not missing:
        return
    of_models = _macros_of(_our_files("models"))
    remedies = dict.fromkeys(_remedy(name, given, read, of_models) for name in missing)
    raise UserError(
        f"Setting{'s' * (len(missing) > 1)} {', '.join(missing)}: got no value, expected one; "
        + "; ".join(remedies)
    )


def _is_macro(selector: str) -> bool:
    return selector == "gin.macro"


# What stands for a value in messages.
_VALUES = {
    "MODEL_DIR": "FOLDER (of the run)",
    "MIXTURE_OR_TASK_NAME": "TASK (`recllm show` lists tasks and mixtures)",
    "DATASET": "DATASET (a prepared one, such as toys)",
    "EVAL_OUTPUT_DIR": "FOLDER (for the results)",
    "INFER_OUTPUT_DIR": "FOLDER (for the recommendations)",
}


def _remedy(name: str, given: Sequence[_Binding], read: set[str], of_models: set[str]) -> str:
    here = [binding for binding in given if binding.name == name]
    if f"%{name}" not in read:
        file = f"--gin_file={here[-1].file}" if here else "that --gin_file"
        return f"leave out {file}: it asks for {name}, which this run does not read"
    earlier = [binding.file for binding in here if not binding.required]
    if earlier:
        return f"give --gin_file={here[-1].file} before --gin_file={earlier[-1]}"
    if name in of_models and not any(binding.name == "MODEL_NAME" for binding in given):
        return "give a model file first, such as --gin_file=models/tiny.gin"
    return f"give --gin.{name}={_VALUES.get(name, 'VALUE')}"


def _macros_of(files: Sequence[pathlib.Path]) -> set[str]:
    """Macros that files give a value or ask for."""
    return {
        binding.name
        for path in files
        for binding in _given_in(str(path), str(path))
        if not binding.parameter
    }


def _check_read(config: Mapping, given: Sequence[_Binding], read: set[str], shared: bool) -> None:
    """Raises UserError for a setting of the user's that nothing reads."""
    named = _referred_to(config)
    ours = {*_macros_of(_our_files()), *_VALUES}
    scopes = {
        scope
        for reference in gin.config.iterate_references(config)
        if not _is_macro(reference.configurable.selector)
        for scope in reference.scopes
    }

    def is_read(binding: _Binding) -> bool:
        if binding.file is not None:
            return bool(binding.parameter) or f"%{binding.name}" in named or binding.name in ours
        if not binding.parameter:
            return f"%{binding.name}" in read or (shared and binding.name in ours)
        selector = gin.config.ParsedBindingKey.parse(binding.name).complete_selector
        if binding.scope and not scopes.issuperset(binding.scope.split("/")):
            return _callable_by_code(selector)
        return selector in read or _callable_by_code(selector)

    for binding in given:
        if binding.by_user and not is_read(binding):
            raise UserError(
                f"Setting {binding.where}: got a name that nothing in this run reads, expected "
                f"{_expected(binding, config, read)}; correct it, or leave it out"
            )


def _expected(binding: _Binding, config: Mapping, read: set[str]) -> str:
    """The most similar settings of the same kind that the run reads; all macros if none is."""
    renamed = _RENAMED.get(binding.name.rpartition("/")[2].lower())
    if renamed and not binding.parameter:
        return renamed
    known = {name[1:] for name in read if name[0] == "%"}
    if binding.parameter:
        known = {
            f"{'.'.join(selector.split('.')[-2:])}.{parameter}"
            for (_, selector), values in config.items()
            if selector in read
            for parameter in values
        }
    similar = {name.lower(): name for name in sorted(known)}
    name = binding.name.rpartition("/")[2].lower()
    cutoff = 0.0 if binding.parameter else 0.6
    nearest = difflib.get_close_matches(name, similar, 1, cutoff=cutoff)
    if nearest:
        return f"one that it reads, perhaps {similar[nearest[0]]}"
    return f"one of {', '.join(similar.values())}"


@contextlib.contextmanager
def _no_log():
    """No log while gin looks for an included file: each folder that lacks it would be an error."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


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
        hints = [f"; {old} is now {new}" for old, new in _RENAMED.items() if old in str(error)]
        text = f"Wrong setting in {what}: {_first_lines(error)}{''.join(hints)}"
        raise UserError(text) from error


def _raised_by_gin(error: Exception) -> bool:
    """Whether gin itself raised the error; a bug of ours in a configured function did not."""
    trace, last = error.__traceback__, ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<frozen importlib"):  # an import in a gin file that fails
            last = file
        trace = trace.tb_next
    return pathlib.Path(last).is_relative_to(pathlib.Path(gin.__file__).parent)


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:4])
