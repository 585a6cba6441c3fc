"""How the C library keeps the memory that tensors on the CPU leave behind.

A step of training makes and frees tensors of some MiB each. glibc gives such blocks back to the system at once, and
every page of the next one then costs a fault: a third of a step's time on small networks. Told to keep them, it does.
"""

import ctypes
import functools
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # from malloc.h
_BLOCK = 32 << 20  # larger ones, such as pools and tables of scores, are given back as before; glibc allows no more
_KEPT = 1 << 30  # what is free at the end of the heap beyond this much is given back too
_CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")


@functools.cache
def keep_freed_memory() -> bool:
    """Lets the process keep freed memory for its lifetime; what is free at the end of its heap up to 1 GiB.

    Nothing is changed where the user has chosen by glibc's environment variables, or has loaded another allocator.

    Returns:
        Whether it was done: the C library must be glibc.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _CHOSEN):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _BLOCK)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
