"""How a process treats its memory: what trains keeps what it freed, what passes models on lets go of them at once."""

from __future__ import annotations

import ctypes
import gc
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_MOST = 2**31 - 1  # what an int can say: two gigabytes


def keep_freed() -> bool:
    """Tell glibc's allocator to keep freed blocks of up to two gigabytes, in this process and its forks.

    glibc maps every large block anew and gives it back when it is freed, so that each step of training touches all of
    its memory for the first time: up to twice the time. May be called at any time, before or after torch is imported.

    Returns
    -------
    bool
        Whether it is set now. False where the C library is another one, and where the environment decides already
        (``MALLOC_MMAP_THRESHOLD_``, ``MALLOC_TRIM_THRESHOLD_`` or ``GLIBC_TUNABLES``).
    """
    if any(os.environ.get(name) for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")):
        return False
    try:
        glibc = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError, AttributeError):  # macOS, musl, Windows
        glibc = None
    if not glibc or not glibc.startswith("glibc"):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _MOST)) and bool(mallopt(_M_TRIM_THRESHOLD, _MOST))


def let_go_early() -> None:
    """Have Python look for circles often, and quickly, in this process.

    HTTP libraries leave requests and answers behind in circles, each with megabytes of a model. Python lets go of those once it
    has counted some hundred new objects, whatever their size: that was a whole model and more.
    """
    gc.collect()
    gc.freeze()  # what was imported stays, and need not be looked at
    gc.set_threshold(50, 1, 1)
