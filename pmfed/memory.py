"""Keep memory that is freed: a training step then finds warm pages instead of asking the system for zeroed ones."""

from __future__ import annotations

import ctypes
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
