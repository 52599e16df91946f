"""The `recllm` command: dispatch, exit codes and interrupts.

Exit codes: 0 done, 1 a check found something, 2 an error that the user can fix (the message says
how), 130 stopped with Ctrl-C, 141 the reader of the output closed it, 143 stopped by SIGTERM after
the state was saved.
"""

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence

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
    "serve",
    "export",
    "report",
    "convert",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    interrupts.install_handlers()
    try:
        args, rest = _parser(sys.argv[1:] if argv is None else argv).parse_known_args(argv)
        if argv is None and args.command == "train":
            huge_pages.restart_with_huge_pages()
        args.bindings = session.gin_bindings(rest, allowed="gin_file" in args)
        if args.command != "doctor":  # It diagnoses imports that fail.
            session.import_quietly()
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


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; see `{self.prog} --help`")


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="recllm",
        description="Fine-tune, evaluate and use language models that recommend.",
        epilog="`recllm COMMAND --help` explains a command.",
        allow_abbrev=False,
    )
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
        command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
