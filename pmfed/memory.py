"""How a process treats its memory: what trains keeps what it freed, what passes models on lets go of them at once."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_MOST = 2**31 - 1  # what an int can say: two gigabytes
_SIZE = Path("/proc/self/statm")
_GROWN = 16 << 20  # bytes; Flower's pieces have five million
_LOOK = 0.02  # seconds; a piece takes about as long


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
    """Have Python look for circles whenever this process has grown by 16 MB, from now to its end.

    HTTP libraries leave requests and answers behind in circles, each with megabytes of a model. Python lets go of those once it
    has counted some hundred new objects, whatever their size: that was a whole model and more. Where the system does not say
    how large a process is (``/proc``), Python goes on counting.
    """
    if not _SIZE.exists():
        return
    gc.collect()
    gc.freeze()  # what was imported stays, and need not be looked at
    threading.Thread(target=_watch, name="let_go_early", daemon=True).start()


def _watch() -> None:
    least = _resident()
    while True:
        time.sleep(_LOOK)
        now = _resident()
        if now > least + _GROWN:
            gc.collect()
            least = _resident()
        else:
            least = min(least, now)


def _resident() -> int:
    """Return the bytes of this process that lie in memory."""
    return int(_SIZE.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
