"""Find the runs that measure exactly the rows of a baseline again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from fgbench.plan import Config
from fgbench.regression.entry import Entry

# Entries have to share these to be measured in one run; their depths may differ.
SHARED = (
    *("arch", "dataset", "width", "batch", "optimizer", "reference", "dtype", "threads", "execution"),
    *("trained", "start", "memory_budget", "validation_size"),
)


def configs_of(entries: Iterable[Entry], like: Config) -> list[Config]:
    """A config for each run that is needed, with the entries' own options and with timing alone.

    Args:
        entries: the baseline's entries.
        like: gives everything else, such as processes, seconds, precision and device.
    """
    methods: dict[tuple[object, ...], dict[int, set[str]]] = {}  # of a ratio on two machines, one
    for entry in entries:
        shared = tuple(getattr(entry, name) for name in SHARED)
        methods.setdefault(shared, {}).setdefault(entry.depth, set()).add(entry.method)
    runs: dict[tuple[Any, ...], list[int]] = {}
    for shared, by_depth in methods.items():
        for depth, own in by_depth.items():
            runs.setdefault((*shared, *sorted(own)), []).append(depth)
    return [_config(key, depths, like) for key, depths in runs.items()]


def _config(key: tuple[Any, ...], depths: list[int], like: Config) -> Config:
    shared: dict[str, Any] = dict(zip(SHARED, key, strict=False))
    whole = {name: int(shared[name] or 0) for name in ("threads", "memory_budget", "validation_size")}
    return dataclasses.replace(
        like,
        archs=(shared["arch"],),
        depths=tuple(depths),
        width=shared["width"],
        batch=shared["batch"],
        dataset=shared["dataset"],
        optimizer=shared["optimizer"],
        dtype=shared["dtype"],
        execution=shared["execution"],
        trained=shared["trained"],
        start=shared["start"],
        memory_budget=whole["memory_budget"] or None,
        validation_size=whole["validation_size"] or like.validation_size,
        threads=whole["threads"] or None,
        methods=(shared["reference"], *key[len(SHARED) :]),
        time=True,
        train=False,
    )
