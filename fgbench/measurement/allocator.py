"""Set up glibc's malloc to keep freed pages, so that no timed step pays for fresh page faults."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
NEVER_TRIM = 2**31 - 1


def keep_freed_pages() -> bool:
    """Let malloc serve every tensor from its own heap and never give pages back to the system.

    PyTorch's CPU allocator calls malloc for every tensor. By default a tensor above a threshold is mapped
    afresh, so that its pages are faulted in again in every step; this costs most for the method with the
    most temporaries, backprop, and practitioners avoid it with jemalloc or tcmalloc. The threshold cannot
    be raised above 32 MiB, less than a large layer's gradient, so that mapping is switched off instead.

    Returns:
        Whether it took effect; it does with glibc alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER_TRIM))
