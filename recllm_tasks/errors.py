"""The exception for errors that the user can fix, and the checks of settings that raise it."""

import math
import numbers
from typing import Any


class UserError(Exception):
    """An error that the user can fix; the command line prints it and exits with code 2.

    The message reads `<what> for '<which>': got X, expected Y; do Z`.
    """


def check_text(name: str, value: object) -> None:
    """Raises `UserError` unless the setting is a non-empty string."""
    if not isinstance(value, str) or not value:
        raise UserError(f"{name}: got {value!r}, expected a non-empty string; correct it")


def check_switch(name: str, value: object) -> None:
    """Raises `UserError` unless the setting is True or False."""
    if not isinstance(value, bool):
        raise UserError(f"{name}: got {value!r}, expected True or False; correct it")


def check_whole(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raises `UserError` unless the setting is a whole number in [least, most]."""
    if not _is_a(numbers.Integral, value) or value < least or (most is not None and value > most):
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise UserError(f"{name}: got {value!r}, expected a whole number {span}; correct it")


def check_number(name: str, value: Any, least: float, below: float = math.inf) -> None:
    """Raises `UserError` unless the setting is a number in [least, below)."""
    if not _is_a(numbers.Real, value) or not least <= value < below:
        span = f"of at least {least:g}" if below == math.inf else f"in [{least:g}, {below:g})"
        raise UserError(f"{name}: got {value!r}, expected a number {span}; correct it")


def _is_a(kind: type, value: object) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


class Terminated(SystemExit):
    """A signal ended the command, in order; `code` is the exit code, 128 + the signal's number."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code: int = code
