"""How the C library keeps the memory that tensors on the CPU leave behind.

A step of training makes and frees tensors of some MiB each. glibc gives such blocks back to the system at once, and
every page of the next one then costs a fault: a third of a step's time on small networks. Told to keep them, it does.
"""

import ctypes
import functools
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # from malloc.h
_BLOCK = 64 << 20  # larger ones, such as pools and tables of scores, are given back as before
_KEPT = 1 << 30  # what is freed beyond this much is given back too


@functools.cache
def keep_freed_memory() -> bool:
    """Lets the process keep up to 1 GiB of freed memory, once and for its lifetime; its peak is no higher for it.

    Returns:
        Whether the C library is one that can be told, glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _BLOCK)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
