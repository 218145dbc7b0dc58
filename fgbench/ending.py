"""The end of a process, which in Python takes seconds after torch was imported."""

import gc
import os
import sys


def end_quickly() -> None:
    """Leave the garbage to the system, rather than look for it in all of torch; for `atexit`.

    Triton would then write on standard error, in some thirty lines, what was left: there the process says
    nothing any more.
    """
    gc.freeze()
    if "triton" in sys.modules:
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
