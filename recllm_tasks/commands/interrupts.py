"""Ctrl-C that never gets lost."""

import signal
import sys
import threading

# Long enough for the callback to return.
_SECONDS = 0.05
_pressed = threading.Event()


def install_handlers() -> None:
    """Makes sure that Ctrl-C stops the command even where Python would drop it.

    During garbage collection and finalizers, for which JAX registers a callback, Python only prints
    an exception; the interrupt is then sent again. If library code swallows it, `reraise_pending`
    still raises it at the end. Handlers that somebody else installed are kept.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _remember)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _send_again


def reraise_pending() -> None:
    """Raises KeyboardInterrupt if Ctrl-C was pressed but the command finished anyway."""
    if _pressed.is_set():
        raise KeyboardInterrupt


def _remember(number, frame) -> None:
    _pressed.set()
    signal.default_int_handler(number, frame)


def _send_again(unraisable) -> None:
    main = threading.main_thread().ident
    if main is None or not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    timer = threading.Timer(_SECONDS, signal.pthread_kill, (main, signal.SIGINT))
    timer.daemon = True
    timer.start()
