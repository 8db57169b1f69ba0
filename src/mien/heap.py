"""Memory that a process has no more use for, given back to the system.

glibc gives each thread that allocates at the same time as others a heap (arena) of its own, and a
heap gives back only what is free at its end. What runs for hours with many threads, and with
bodies or pictures of all sizes, so keeps several times what it uses, and more with every hour.

Python frees what refers to itself in a circle only when many objects were made since, and the
pictures that hang on a few of them are not counted.
"""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from functools import cache
from typing import Final

EVERY: Final = 5.0
"""Seconds between two times that memory is given back."""

ARENAS: Final = 2
"""Heaps that all threads share, unless the environment says otherwise (``MALLOC_ARENA_MAX``)."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h


def _c_library() -> ctypes.CDLL | None:
    """glibc, or None where the C library is another one."""
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    known = hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt")
    return libc if known else None


@cache
def keep_large() -> None:
    """From now on keep what this process frees, for the next time it asks.

    A training asks for the same large tensors at every step. Given back each time, they come
    again as pages that the system clears first: a tenth of a step's time and more. Does nothing
    where the C library is not glibc.
    """
    if libc := _c_library():
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@cache
def keep_small() -> None:
    """From now on give back every few seconds what this process has freed.

    Further calls change nothing; nor does the first where the C library is another one.
    """
    libc = _c_library()
    if libc is None:
        return
    if "MALLOC_ARENA_MAX" not in os.environ:
        libc.mallopt(_M_ARENA_MAX, ARENAS)

    def trim() -> None:
        while True:
            time.sleep(EVERY)
            if gc.get_freeze_count():
                gc.collect()
            libc.malloc_trim(0)  # lets other threads run meanwhile

    threading.Thread(target=trim, name="mien-memory", daemon=True).start()


@cache
def settle() -> None:
    """Say that what is there now stays: from then on circles are freed with all else.

    To be called once, when models are loaded and nothing is worked on. What is there is left out
    of later collections, which take a fraction of a millisecond instead of 16 and more.
    """
    gc.collect()
    gc.freeze()
