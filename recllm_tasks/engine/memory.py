"""Peak of this process' resident memory, as Linux counts it."""

import contextlib
import resource
import sys


def forget_peak() -> None:
    """From now on `peak_bytes` counts anew, where the system lets it (Linux)."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as f:
        f.write("5")


def peak_bytes() -> int:
    """The largest resident memory since `forget_peak`, or since the process began; libraries too.

    Memory of accelerators is not in it.
    """
    with contextlib.suppress(OSError), open("/proc/self/status") as f:
        for line in f:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
