"""Memory in pages of 2 MiB for long work on a CPU.

XLA on a CPU returns the temporaries of each step to the system and asks for them again, gigabytes
in pages of 4 KiB: 12-14 % of a training step. The C library asks for huge pages where a variable
says so, which it reads only while a process starts.
"""

import os
import sys

_VARIABLE = "GLIBC_TUNABLES"


def ask_for_them() -> None:
    """Starts this process again, under its number, with huge pages; does nothing the second time.

    A variable that the user has set stays. Where there is no glibc, or its kernel has no huge
    pages, it has no effect; a program that came through standard input cannot be read again and
    goes on as it is. Call it before anything is read, written or imported at length.
    """
    if sys.platform != "linux" or _VARIABLE in os.environ or sys.argv[0] in ("", "-"):
        return
    os.environ[_VARIABLE] = "glibc.malloc.hugetlb=1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
