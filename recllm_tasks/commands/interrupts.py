"""Ctrl-C that is not lost."""

import signal
import sys
import threading

# Long enough for the callback to be over.
_SECONDS = 0.05
_pressed = threading.Event()


def keep_interrupts() -> None:
    """Sends an interrupt again where Python can only print and forget it.

    It does so while it finalises an object or collects garbage, for which JAX registers a callback;
    a command would then go on as if nobody had pressed Ctrl-C. Somebody else's hook stays. What a
    library's code swallows without a word is still known at the end, see `raise_lost`.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _note)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _send_again


def raise_lost() -> None:
    """Raises KeyboardInterrupt if Ctrl-C was pressed, though the command has come to its end."""
    if _pressed.is_set():
        raise KeyboardInterrupt


def _note(number, frame) -> None:
    _pressed.set()
    signal.default_int_handler(number, frame)


def _send_again(unraisable) -> None:
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    main = threading.main_thread().ident
    again = threading.Timer(_SECONDS, signal.pthread_kill, (main, signal.SIGINT))
    again.daemon = True
    again.start()
