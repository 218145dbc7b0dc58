"""Scripted workers: what a runner is told, without anything being measured.

Scripts speak in dictionaries; what they say goes through JSON and comes out as the runner gets it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from fgbench.running.client import WorkerDiedError
from fgbench.running.messages import MalformedMessageError, Message, decode, to_json
from fgbench.running.task import Task

Events = Iterator[dict[str, Any]]
BUILT = {"event": "Built", "parameters": 9, "weights_hash": "w", "batches_hash": "b"}
SECONDS = {"base": 1.0, "backprop": 4.0, "forward": 6.0}


def event(name: str, **facts: Any) -> dict[str, Any]:
    return {"event": name, **facts}


def read(task: Task, happened: dict[str, Any]) -> Message:
    """The event as the runner reads it."""
    facts = {key: value for key, value in happened.items() if key != "event"}
    try:
        return decode(json.dumps({"kind": happened["event"], "facts": facts}), task.events)
    except MalformedMessageError as error:
        raise WorkerDiedError("error", str(error)) from error


def round_of(
    request: dict[str, Any],
    number: int,
    warm_up: bool = False,
    factor: float = 1.0,
    arms: Sequence[str] = (),
) -> dict[str, Any]:
    named = arms or ["base", *request["methods"], "aa"]
    return event(
        "Samples",
        samples=[
            {
                **arm_of(arm, request),
                "round": number,
                "position": position,
                "warm_up": warm_up,
                "steps": 2,
                "seconds": SECONDS.get(arm, 4.0) * (factor if arm == "forward" else 1.0),
                "device_seconds": None,
            }
            for position, arm in enumerate(named)
        ],
    )


def arm_of(name: str, request: dict[str, Any]) -> dict[str, str]:
    """Role and method of `base`, `aa`, `slowed METHOD` or `METHOD`."""
    role, _, slowed = name.partition(" ")
    if request["phase"] == "alone":
        return {"role": "alone", "method": name}
    if name == "aa":
        return {"role": "aa", "method": request["reference"]}
    return (
        {"role": role, "method": slowed or name}
        if slowed or name == "base"
        else {"role": "method", "method": name}
    )


def point(method: str, iteration: int, loss: float) -> dict[str, Any]:
    return event(
        "Evaluated",
        method=method,
        iteration=iteration,
        train_seconds=0.01 * iteration,
        evaluation_seconds=0.0,
        train_loss=loss,
        validation_loss=loss,
        validation_accuracy=0.5,
    )


def tuned(method: str, optimizer: str, rate: float, *others: float) -> dict[str, Any]:
    """A search's choice, of its whole runs at this rate and at others."""
    scored = [
        {
            "optimizer": optimizer,
            "learning_rate": tried,
            "chosen": tried == rate,
            "targets_reached": int(tried == rate),
            "target_seconds": 0.5 if tried == rate else None,
        }
        for tried in (rate, *others)
    ]
    facts = {"optimizer": optimizer, "learning_rate": rate, "chosen_by": "time to loss 1"}
    return event("Tuned", method=method, scored=scored, **facts)


def estimated(method: str, **changes: Any) -> dict[str, Any]:
    """What a method's estimates are worth: backprop's all, any other's a little."""
    exact = method == "backprop"
    from fgbench.running.phases.quality import Estimated  # with torch, which many workers do without

    facts = dict.fromkeys((field.name for field in fields(Estimated)), None) | {
        "method": method,
        "layer": "all",
        "draws": 8,
        "cosine": 1.0 if exact else 0.1,
        "second_moment": 1.0 if exact else 100.0,
        "second_moment_large": 2.0 if exact else 200.0,
        "along_large": 1.0,
        "unbiased": True,
        "status": "ok",
    }
    return event("Estimated", **(facts | changes))


class Script:
    """Stands for `work`: a worker for each phase, of which a test replaces one."""

    def __init__(self, **replaced: Callable[[dict[str, Any]], Events]) -> None:
        self.phases = {
            "modes": self.modes,
            "budget": self.budget,
            "time": self.time,
            "alone": self.alone,
            "load": self.load,
            "cost": self.cost,
            "memory": self.memory,
            "tune": self.tune,
            "train": self.train,
            "quality": self.quality,
        }
        self.phases |= replaced
        self.requests: list[dict[str, Any]] = []

    def __call__(self, task: Task, request: Message) -> Iterator[Message]:
        asked = {"phase": getattr(task, "name", ""), **json.loads(to_json(request))}
        self.requests.append(asked)
        for happened in self.tell(asked):
            yield read(task, happened)

    def tell(self, request: dict[str, Any]) -> Events:
        yield dict(BUILT)
        yield from self.phases[request["phase"]](request)

    def time(self, request: dict[str, Any]) -> Events:
        yield round_of(request, 0, warm_up=True, factor=30.0)
        yield event("Rounds", rounds=6)
        for number in range(6):
            yield round_of(request, number)

    def modes(self, request: dict[str, Any]) -> Events:
        """The base is fastest compiled, every method eagerly, backprop by one addition."""
        if not request["best"]:
            for update, seconds in (("fused", 2.0), ("direct", 1.0)):
                facts = {"execution": request["group"]["execution"], "optimizer": "sgd", "seconds": seconds}
                yield event("Mode", method="backprop", update=update, **facts)
            return
        for method in ("base", *request["methods"]):
            for mode, seconds in (("eager", 2.0), ("compile", 1.0 if method == "base" else 3.0)):
                facts = {"optimizer": "sgd", "update": "direct" if method == "backprop" else ""}
                yield event("Mode", method=method, execution=mode, seconds=seconds, **facts)

    def alone(self, request: dict[str, Any]) -> Events:
        yield event("Rounds", rounds=6)
        for number in range(6):
            yield round_of(request, number, arms=[request["alone"]])

    def load(self, request: dict[str, Any]) -> Events:
        for method in request["methods"]:
            joules = 3.0 * SECONDS.get(method, 4.0) if request["seconds"] >= 5 else None
            yield event("Loaded", method=method, steps=9, seconds=1.0, busy_seconds=0.5, joules=joules)

    def cost(self, request: dict[str, Any]) -> Events:
        """A floor of half of what is timed."""
        for method in ("base", *request["methods"]):
            rates = {"flops_per_second": 200.0, "bytes_per_second": 20.0, "random_per_second": 4.0}
            rates |= {"product_bytes": 8, "other_bytes": 4, "random_numbers": 2, "launch_seconds": 0.1}
            floor = SECONDS.get(method, 4.0) / 2
            yield event(
                "Counted", method=method, flops=100, bytes=10, operations=3, **rates, floor_seconds=floor
            )

    def budget(self, request: dict[str, Any]) -> Events:
        """Two ways for each method; those of forward need twice the memory."""
        for method in request["methods"]:
            for count, r in ((1, 3.0), (2, 4.0)):
                peak = (2000 if method == "forward" else 1000) // count
                variant = f"{method}:accumulate={count}" if count > 1 else method
                facts = {"peak_bytes": peak, "beyond_bytes": peak - 100, "seconds": r, "r": r}
                yield event("Variant", method=method, variant=variant, **facts)

    def memory(self, request: dict[str, Any]) -> Events:
        for method in ("base", *request["methods"]):
            yield event("PeakFound", method=method, kind="peak_allocated", bytes=1000)

    def tune(self, request: dict[str, Any]) -> Events:
        yield event("GridFound", every=10, first=1, queries=dict.fromkeys(request["methods"], 2))
        for method in request["methods"] if request["goal"] else ():
            for rate, full in ((0.1, False), (0.1, True), (0.0316, True)):
                yield event(
                    "Trial",
                    method=method,
                    seed=request["seed"],
                    optimizer="sgd",
                    learning_rate=rate,
                    full=full,
                    train_seconds=0.1,
                    iterations=10,
                    validation_loss=1.0,
                    status="ok",
                )
            yield tuned(method, "sgd", 0.0316, 0.1)

    def train(self, request: dict[str, Any]) -> Events:
        for number, loss in enumerate((3.0, 1.0, 1.0, 1.0)):
            for method in request["learning_rates"]:
                yield point(method, 10 * number, loss)

    def quality(self, request: dict[str, Any]) -> Events:
        for method in request["methods"]:
            yield estimated(method, weights="start", iteration=0)
            yield estimated(method, weights=request["reference"], iteration=30)

    def of_phase(self, phase: str) -> list[dict[str, Any]]:
        return [request for request in self.requests if request["phase"] == phase]
