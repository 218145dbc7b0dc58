"""glibc's malloc, told to keep freed pages: no timed step then pays for fresh page faults."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h
NEVER_TRIM = 2**31 - 1


def keep_freed_pages() -> bool:
    """Let malloc serve every tensor from its own heap and never give pages back.

    PyTorch's CPU allocator calls malloc for every tensor; by default a tensor above a threshold is
    mapped afresh and its pages are faulted in again in every step, a cost that hits the method with
    the most temporaries, backprop. A practitioner avoids it with jemalloc or tcmalloc. The threshold
    can be raised to 32 MiB alone, less than a large layer's gradient: mapping is switched off instead.
    Gives whether it took effect (glibc only).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER_TRIM))
