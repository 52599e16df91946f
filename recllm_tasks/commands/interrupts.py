"""Ctrl-C that is not lost."""

import signal
import sys
import threading

# Long enough for the callback to be over.
_SECONDS = 0.05


def keep_interrupts() -> None:
    """Sends an interrupt again where Python can only print and forget it.

    It does so while it finalises an object or collects garbage, for which JAX registers a callback;
    a command would then go on as if nobody had pressed Ctrl-C. Somebody else's hook stays.
    """
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _send_again


def _send_again(unraisable) -> None:
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    main = threading.main_thread().ident
    again = threading.Timer(_SECONDS, signal.pthread_kill, (main, signal.SIGINT))
    again.daemon = True
    again.start()
