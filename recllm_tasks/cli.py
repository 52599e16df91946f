"""The `recllm` command: dispatch, exit codes and interrupts.

Exit codes: 0 done, 1 a check found something, 2 an error that the user can fix (the message says
how), 130 stopped with Ctrl-C, 141 the reader of the output closed it, 143 stopped by SIGTERM after
the state was saved.
"""

import argparse
import difflib
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from recllm_tasks import __version__, compile_cache
from recllm_tasks.commands import huge_pages, interrupts, session
from recllm_tasks.errors import Terminated, UserError

# One module of `commands/` each, in the order of the help. It has SUMMARY, EPILOG,
# add_arguments(parser) and run(args), which returns the exit code.
COMMANDS = (
    "prepare",
    "show",
    "audit",
    "stats",
    "doctor",
    "train",
    "eval",
    "infer",
    "ensemble",
    "baselines",
    "recommend",
    "catalog",
    "serve",
    "export",
    "report",
    "convert",
)

_EPILOG = """\
`recllm COMMAND --help` explains a command.

environment:
  TFDS_DATA_DIR                  folder of prepared datasets, in place of --data_dir
  JAX_PLATFORMS=cpu              computes on the CPU, whatever accelerator there is
  JAX_COMPILATION_CACHE_DIR      folder of compiled programs; default ~/.cache/recllm_tasks/xla
  JAX_ENABLE_COMPILATION_CACHE   false keeps no compiled programs
  TF_CPP_MIN_LOG_LEVEL=0         brings back what TensorFlow and CUDA print
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    interrupts.install_handlers()
    try:
        given = sys.argv[1:] if argv is None else argv
        # Argparse would take a setting whose value has a space for a positional argument.
        settings = [argument for argument in given if argument.startswith("--gin.")]
        others = [argument for argument in given if not argument.startswith("--gin.")]
        args, rest = _parser(others).parse_known_args(others)
        if argv is None and args.command == "train":
            huge_pages.restart_with_huge_pages()
        args.bindings = session.gin_bindings([*rest, *settings], args.parser)
        if args.command != "doctor":  # It diagnoses imports that fail.
            compile_cache.use_compile_cache()
            _log_errors_only()
        with session.damage_reported():
            code = args.run(args)
            interrupts.reraise_pending()
            sys.stdout.flush()
            return code
    except UserError as error:
        # Gin appends its call stack to every message that passes through it.
        message = str(error).split("\n  In call to configurable")[0]
        sys.stderr.write(f"recllm: error: {message}\n")
        return 2
    except Terminated as end:
        sys.stderr.write(f"recllm: {end}\n")
        return end.code
    except BrokenPipeError:
        # Otherwise Python fails again on exit, when it flushes what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        what = f" for '{error.filename}'" if error.filename else ""
        sys.stderr.write(
            f"recllm: error: file{what}: got {error.strerror}, expected a path that can be read "
            "and written; check the path, its permissions and the free disk space\n"
        )
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nrecllm: stopped\n")
        sys.stdout.flush()
        sys.stderr.flush()
        # Exit at once: running threads of TensorFlow and JAX can crash Python's own shutdown.
        os._exit(130)


def _log_errors_only() -> None:
    """Leaves the log of absl, which Orbax and TFDS write to, to errors."""
    from absl import logging

    logging.set_verbosity(logging.ERROR)


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; see `{self.prog} --help`")


def _check_command(argv: Sequence[str]) -> None:
    """Raises UserError for a command that does not exist; it names the nearest."""
    name = argv[0] if argv else ""
    if not name or name.startswith("-") or name in COMMANDS:
        return
    nearest = difflib.get_close_matches(name.lower(), COMMANDS, 1, cutoff=0.5)
    expected = f"perhaps {nearest[0]}" if nearest else f"one of {', '.join(COMMANDS)}"
    raise UserError(f"Unknown command '{name}': expected {expected}; see `recllm --help`")


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    _check_command(argv)
    parser = _Parser(
        prog="recllm",
        description="Fine-tune, evaluate and use language models that recommend.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"recllm {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    # Only the named command is imported, so that `doctor` works where the others cannot start.
    named = [name for name in COMMANDS if name in argv[:1]]
    for name in named or COMMANDS:
        module = importlib.import_module(f"recllm_tasks.commands.{name}")
        command = subparsers.add_parser(
            name,
            help=module.SUMMARY,
            description=module.SUMMARY[0].upper() + module.SUMMARY[1:] + ".",
            epilog=module.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
