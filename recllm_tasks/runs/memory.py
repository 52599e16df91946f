"""Peak of this process's resident memory, as Linux counts it."""

import contextlib
import resource
import sys


def reset_peak() -> None:
    """Restarts the count of `peak_bytes`, where the system allows it (Linux)."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as f:
        f.write("5")


def peak_bytes() -> int:
    """The largest resident memory since `reset_peak`, or since the process started.

    It includes libraries, and leaves out the memory of accelerators.
    """
    with contextlib.suppress(OSError), open("/proc/self/status") as f:
        for line in f:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
