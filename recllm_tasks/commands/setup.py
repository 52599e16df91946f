"""What commands do before their work: quiet logs, the data folder, tasks of the user's own."""

import contextlib
import importlib
import os
import sys
import tempfile

from recllm_tasks.errors import UserError


@contextlib.contextmanager
def quiet_stderr():
    """Keeps what libraries write to standard error, and shows it only if the block fails.

    TensorFlow's C++ side greets every process with lines that no setting turns off.
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
    """Imports what all commands need."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    with quiet_stderr():
        importlib.import_module("seqio")
        logging = importlib.import_module("absl.logging")
    logging.set_verbosity(logging.ERROR)


def use_data_dir(args) -> str:
    """Makes `--data_dir` the data folder of all tasks; returns the folder in force."""
    import seqio

    from recllm_tasks.prompts import source

    if args.data_dir:
        seqio.set_tfds_data_dir_override(os.path.expanduser(args.data_dir))
    return source.data_dir()


@contextlib.contextmanager
def damage_told():
    """If the block fails over a damaged dataset, says which file it is and what mends it."""
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
    """Registers our tasks and mixtures, those of one's own datasets, and those of `--module`.

    Where a command has `--p5_templates`, those of that file too.
    """
    own = importlib.import_module("recllm_tasks.mixtures").register_stored()
    if getattr(args, "p5_templates", None):
        _register_p5(args.p5_templates, own)
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


def _register_p5(path: str, own: list[str]) -> None:
    from recllm_tasks import mixtures
    from recllm_tasks.data.specs import SPECS
    from recllm_tasks.progress import console
    from recllm_tasks.prompts import p5_file

    found = p5_file.read(path)
    console.print(f"P5's templates: {', '.join(found.templates)}", markup=False)
    for number, reason in found.left_out.items():
        console.print(f"left out {number}: {reason}", markup=False, highlight=False)
    for dataset in (*SPECS, *own):
        mixtures.register_p5(dataset, found.templates)


def prepared(dataset: str):
    """The facts of a prepared dataset; of an unknown name, what it may have meant."""
    from recllm_tasks.data.specs import get_spec
    from recllm_tasks.prompts.source import CatalogSource

    source = CatalogSource(dataset)
    if not os.path.isdir(source.dataset_dir()):
        get_spec(dataset)
    return source.info()


def configured(args, name: str):
    """The function called `name` in gin, with the settings of `--gin_file` and `--gin.X=…`.

    What gin finds wrong when it is called is told as a UserError too.
    """
    import gin

    from recllm_tasks.engine import configuration

    configuration.parse(args.gin_file, args.bindings)
    try:
        function = gin.get_configurable(name)
    except ValueError as error:
        raise UserError(
            f"No run in the settings: got {', '.join(args.gin_file)}, expected one that sets "
            f"{name}, such as runs/finetune.gin, runs/eval.gin or runs/infer.gin; add it"
        ) from error

    def call(**kwargs):
        with configuration.gin_errors(f"settings {', '.join(args.gin_file)}"):
            return function(**kwargs)

    return call


def macro(name: str) -> str:
    """The value of an upper-case setting."""
    import gin

    return gin.query_parameter(f"%{name}")
