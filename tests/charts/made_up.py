"""Made-up runs: tables with figures that a test knows, written as a run writes them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fgbench.plan import Group
from fgbench.store.run_folder import RunFolder
from tests.builders import run_folder

METHODS = ("backprop", "forward", "forward:structure=rank-one")
SEEDS = (1, 2, 3)
TARGET = 1.0
EVALUATIONS = 20
STEPS_BETWEEN = 10
STEP_SECONDS = dict(zip(METHODS, (0.010, 0.022, 0.006), strict=True))
DECAY = dict(zip(METHODS, (0.02, 0.006, 0.008), strict=True))  # of the loss, per step
DIVERGED = (METHODS[1], 3)  # the run whose loss is no longer finite, halfway
CENSORED = (METHODS[2], 2)  # the run that never reaches the target


def group(depth: int = 8, **changes: Any) -> Group:
    plain = Group("mlp", depth, 512, 64, "digits", 2000, "float32", "cpu", 2)
    return dataclasses.replace(plain, **changes)


def run(
    root: Path,
    groups: Sequence[Group],
    *,
    timed: bool = True,
    trained: bool = True,
    methods: Sequence[str] = METHODS,
    targets: Sequence[float] = (TARGET,),
    **facts: Any,
) -> RunFolder:
    """A run of these groups under `root`."""
    folder = run_folder(root, groups, config={"methods": list(methods)}, **facts)
    for each in groups:
        if timed:
            folder.append("ratios", *ratio_rows(each, methods))
            folder.append("memory", *memory_rows(each, methods))
            folder.append("cost", *(cost_row(each, method) for method in ("base", *methods)))
            folder.append("parts", *(row for method in methods for row in part_rows(each, method)))
        if trained:
            folder.append("quality", *quality_rows(each, methods))
            runs = [(method, seed) for method in methods for seed in SEEDS]
            folder.append("jobs", *(job_row(each, *one) for one in runs))
            folder.append("curves", *(row for one in runs for row in curve_rows(each, *one)))
            folder.append("targets", *(target_row(each, *one, target) for one in runs for target in targets))
            folder.append("search", *(row for method in methods for row in search_rows(each, method)))
    return folder


def r(method: str, depth: int) -> float:
    return {METHODS[0]: 3.0, METHODS[1]: 6.0 + depth / 20, METHODS[2]: 1.8 + depth / 50}[method]


def part_rows(group: Group, method: str) -> list[dict[str, Any]]:
    """Half of a step forward, a quarter in each other part; 2 % more than the whole."""
    names = ("forward", "backward", "update") if method == METHODS[0] else ("draw", "forward", "update")
    seconds = {n: STEP_SECONDS[method] * (0.51 if n == "forward" else 0.255) for n in names}
    rows = {**seconds, "whole": STEP_SECONDS[method]}
    return [
        {"group": group.name, "method": method, "process": process, "part": part, "seconds": s}
        for process in (0, 1)
        for part, s in rows.items()
    ]


def ratio(method: str, depth: int) -> float:
    return r(method, depth) / r(METHODS[0], depth)


def joules(method: str, depth: int) -> float:
    return r(method, depth) * 0.05


FLOOR = {"base": 0.5, METHODS[0]: 1.5, METHODS[1]: 1.5, METHODS[2]: 1.0}  # in the unit of R
FLOPS = {name: 2 * floor * 1e6 for name, floor in FLOOR.items()}
PEAK, BANDWIDTH = 4e9, 1e9


def cost_row(group: Group, method: str) -> dict[str, Any]:
    return {
        "group": group.name,
        "method": method,
        "flops": int(FLOPS[method]),
        "bytes": 100_000,
        "operations": 10,
        "flops_per_second": PEAK,
        "bytes_per_second": BANDWIDTH,
        "floor_seconds": FLOOR[method] / 100,
    }


LAYERS = ("1", "3", "5")
MOMENT = dict(zip(METHODS, (1.0, 900.0, 400.0), strict=True))


def cosine(method: str, place: int) -> float:
    """At a place along training, or of a layer."""
    return 1.0 if method == METHODS[0] else 0.1 / (1 + place) / (2 if method == METHODS[1] else 1)


def quality_rows(group: Group, methods: Sequence[str]) -> Iterator[dict[str, Any]]:
    """At the start, twice at the reference's weights, and once at each other method's own."""
    at = [(m, w, i) for w, i in (("start", 0), (METHODS[0], 100), (METHODS[0], 200)) for m in methods]
    at += [(method, method, 50) for method in methods if method != METHODS[0]]
    for method, weights, iteration in at:
        plain = {"group": group.name, "method": method, "weights": weights, "iteration": iteration}
        moments = {"second_moment": MOMENT[method], "second_moment_large": MOMENT[method]}
        plain |= {"draws": 8, "cosine_error": 0.001, "unbiased": True, "status": "ok", **moments}
        yield {**plain, "layer": "all", "cosine": cosine(method, iteration // 100), "along_large": 1.0}
        for place, layer in enumerate(LAYERS):
            yield {**plain, "layer": layer, "cosine": cosine(method, place)}


KINDS = {"parameters": 0.3, "gradients_and_tangents": 0.3, "activations_and_temporaries": 0.4}


def peak_bytes(method: str, depth: int) -> int:
    return parameter_bytes(depth) + {METHODS[0]: 2, METHODS[1]: 3, METHODS[2]: 1}[method] * depth * 2**20


def parameter_bytes(depth: int) -> int:
    return (depth + 1) * 2**20


def ratio_rows(group: Group, methods: Sequence[str]) -> Iterator[dict[str, Any]]:
    for method in methods:
        own, over = r(method, group.depth), ratio(method, group.depth)
        yield {
            "group": group.name,
            "method": method,
            "role": "method",
            "reference": METHODS[0],
            "seconds": own / 100,
            "r": own,
            "r_low": own * 0.95,
            "r_high": own * 1.05,
            "ratio": over,
            "ratio_low": over * 0.9,
            "ratio_high": over * 1.1,
            "processes": 5,
            "rounds": 40,
            "stopped": "precision",
            "joules": joules(method, group.depth),
        }


def memory_rows(group: Group, methods: Sequence[str]) -> Iterator[dict[str, Any]]:
    yield {"group": group.name, "method": "base", "kind": "parameters", "bytes": parameter_bytes(group.depth)}
    for method in methods:
        peak = peak_bytes(method, group.depth)
        yield {"group": group.name, "method": method, "kind": "peak_allocated", "bytes": peak}
        for kind, share in KINDS.items():
            own = {"kind": f"peak_{kind}", "bytes": round(share * peak)}
            yield {"group": group.name, "method": method, **own}


def job_row(group: Group, method: str, seed: int) -> dict[str, Any]:
    status = "diverged" if (method, seed) == DIVERGED else "ok"
    return {**_job(group, method, seed), "phase": "train", "learning_rate": 0.01, "status": status}


def loss(method: str, seed: int, evaluation: int) -> float:
    if (method, seed) == DIVERGED and evaluation > EVALUATIONS // 2:
        return math.nan
    floor = 1.2 if (method, seed) == CENSORED else 0.1
    return floor + (2.4 - floor) * math.exp(-DECAY[method] * STEPS_BETWEEN * evaluation * (1 + seed / 10))


def curve_rows(group: Group, method: str, seed: int) -> Iterator[dict[str, Any]]:
    for evaluation in range(EVALUATIONS + 1):
        value = loss(method, seed, evaluation)
        yield {
            **_job(group, method, seed),
            "iteration": evaluation * STEPS_BETWEEN,
            "train_seconds": seconds(method, evaluation),
            "validation_loss": value,
        }
        if math.isnan(value):
            return


RATES = (1e-3, 1e-2, 1e-1)
CHOSEN = dict(zip(METHODS, (1e-2, 1e-3, 1e-2), strict=True))


def search_rows(group: Group, method: str) -> Iterator[dict[str, Any]]:
    """A short trial of each rate, of which the largest diverges, and a whole run of the chosen one."""
    rates = [(rate, False) for rate in RATES] + [(CHOSEN[method], True)]
    for rate, full in rates:
        row = search_row(group, method, rate)
        yield {**row, "full": full, "validation_loss": row["validation_loss"] - full, "chosen": full}


def search_row(group: Group, method: str, rate: float) -> dict[str, Any]:
    """A short trial of a rate."""
    return {
        "group": group.name,
        "method": method,
        "seed": 0,
        "learning_rate": rate,
        "full": False,
        "train_seconds": 1.0,
        "iterations": 10,
        "validation_loss": _lost(rate),
        "status": "ok",
        "chosen": False,
    }


def _lost(rate: float) -> float:
    return math.inf if rate == RATES[-1] else 1.5


def target_row(group: Group, method: str, seed: int, target: float = TARGET) -> dict[str, Any]:
    losses = [loss(method, seed, evaluation) for evaluation in range(EVALUATIONS + 1)]
    hit = next((i for i, value in enumerate(losses) if value <= target), None)
    diverged = (method, seed) == DIVERGED
    ended, ending = (EVALUATIONS // 2 + 1, "diverged") if diverged else (EVALUATIONS, "censored")
    at = ended if hit is None else hit
    return {
        **_job(group, method, seed),
        "target_loss": target,
        "outcome": ending if hit is None else "reached",
        "seconds": seconds(method, at),
        "iterations": at * STEPS_BETWEEN,
    }


def seconds(method: str, evaluation: int) -> float:
    return STEP_SECONDS[method] * STEPS_BETWEEN * evaluation


def _job(group: Group, method: str, seed: int) -> dict[str, Any]:
    job = f"{group.name}/{method}/train/{seed}"
    return {"job": job, "group": group.name, "method": method, "seed": seed}
