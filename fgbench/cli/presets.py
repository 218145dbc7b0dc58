"""What a command takes where nothing is asked for."""

from __future__ import annotations

import os

# What --quick changes: one process, one seed, a few seconds of everything.
DEFAULTS = {
    "processes": 5,
    "seeds": 3,
    "max_measure_seconds": 45.0,
    "max_train_seconds": 6.0,
    "validation_size": 2000,
}
QUICK = {
    "processes": 1,
    "seeds": 1,
    "max_measure_seconds": 10.0,
    "max_train_seconds": 2.0,
    "validation_size": 200,
}


def default_data_dir() -> str:
    """Where downloaded data is kept: FGBENCH_DATA, or the user's cache folder."""
    return os.environ.get("FGBENCH_DATA") or "~/.cache/fgbench"
