"""What `--quick` changes; every other default is on `Config`."""

from __future__ import annotations

# One process, one seed, a few seconds of everything.
QUICK = {
    "processes": 1,
    "seeds": 1,
    "max_measure_seconds": 10.0,
    "max_train_seconds": 1.0,
    "validation_size": 200,
}
