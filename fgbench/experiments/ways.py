"""Compare two ways to a forward-mode program: a model's own Python, recorded, and the graph of torch.export.

    python -m fgbench.experiments.ways --out results/ways

Both ways end at the same table of rules. The engine runs a model's own Python, meets each function of torch
that it calls, and keeps what ran as straight-line code. The other way asks `torch.export` for a graph, writes
torch's functions in place of its ATen operations, and lets the engine run that. `ways.csv` has a row for each
model, execution mode and way: the seconds of a step, their ratio to those of the engine's own way within a
round, the seconds until the program was ready (eagerly), the number of functions in it, those that ran
without a rule, and the reason where the way does not work. `ways.json` describes the machine and counts the
lines of both.
"""

from __future__ import annotations

import argparse
import dis
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from fgbench import architectures, methods
from fgbench.experiments import transformers
from fgbench.measurement.environment import describe_environment
from fgbench.measurement.statistics import median_interval
from fgbench.methods import Batch, Conditions
from fgbench.pushforward import course, program
from fgbench.pushforward.engine import Pushforward
from fgbench.pushforward.rules import of_names, read_all
from fgbench.store.experiment import command, store_experiment

SPEC = "forward:structure=rank-one"
OWN, EXPORTED = "own Python", "torch.export"
EXECUTIONS = ("eager", "compile")
CLASSES, SHAPE, LEARNING_RATE, WARM_UP = 10, (1, 28, 28), 1e-5, 4


@dataclass(frozen=True)
class Case:
    """A model and a batch."""

    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[], Batch]


class Logits(nn.Module):
    """A model of Hugging Face's as a function from tokens to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        """[B, length] → [B, length, tokens]."""
        return self.model(x).logits


class Loop(nn.Module):
    """A layer that is repeated until its output is small, as often as the values ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(784, 784), nn.Linear(784, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 1, 28, 28] → [B, classes]."""
        h = x.flatten(1)
        while h.abs().mean() > 0.1:
            h = torch.tanh(self.layer(h)) / 2
        return self.head(h)  # type: ignore[no-any-return]


def _images(samples: int) -> Callable[[], Batch]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, *SHAPE, generator=generator)
    return lambda: (x, torch.arange(samples) % CLASSES)


def _ours(arch: str, depth: int, width: int) -> Callable[[], nn.Module]:
    return lambda: architectures.build(arch, depth, width, SHAPE, CLASSES)


CASES = (
    Case("mlp depth 8", _ours("mlp", 8, 1024), _images(64)),
    Case("cnn depth 4", _ours("cnn", 4, 64), _images(16)),
    Case("resnet18", _ours("resnet", 18, 16), _images(16)),
    Case("vit depth 4", _ours("vit", 4, 128), _images(16)),
    Case("GPT-2", lambda: Logits(transformers.gpt2()), transformers.CASES[0].batch),
    Case("loop on values", Loop, _images(16)),
)


def exported(model: nn.Module, x: Tensor) -> nn.Module:
    """The graph that torch.export gives of a model, in torch's own functions.

    Raises:
        Exception: of many kinds, where the model cannot be exported.
    """
    graph = torch.export.export(model, (x,), strict=False).module()
    assert isinstance(graph, torch.fx.GraphModule)
    for node in graph.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            name = node.target._schema.name.partition("::")[2]
            node.target = _torchs(name) or node.target
            node.kwargs = {key: value for key, value in node.kwargs.items() if key != "layout"}
            if name == "_assert_tensor_metadata":  # a check of what was known when exporting
                graph.graph.erase_node(node)
            elif name == "embedding":  # ATen's order differs from that of torch's function
                weight, index, *rest = node.args
                node.target = F.embedding
                node.args = (index, weight, rest[0] if rest and rest[0] != -1 else None)
            elif name == "batch_norm":
                value, weight, bias, mean, variance, *rest = node.args
                node.target = F.batch_norm
                node.args = (value, mean, variance, weight, bias, *rest[:3])
    graph.recompile()
    return graph


def _torchs(name: str) -> Any:
    """The function of torch of that name which has a rule, or any."""
    found = of_names(name)
    return next((f for f in found if f in read_all()), found[0] if found else None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all cases, store the rows and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/ways"))
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--case", action="append", choices=[c.name for c in CASES], help="all by default")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    facts = {
        "command": command(),
        "environment": describe_environment("cpu", 1),
        "lines": {
            OWN: sum(len(inspect.getsource(module).splitlines()) for module in (course, program)),
            EXPORTED: sum(len(inspect.getsource(f).splitlines()) for f in (exported, _torchs)),
        },
    }
    rows: list[dict[str, Any]] = []
    for case in CASES:
        if case.name not in (asked.case or [case.name]):
            continue
        for execution in EXECUTIONS:
            for row in _rows(case, execution, asked.rounds):
                rows.append(row)
                print("{model}, {execution}, {way}: {seconds} s, {ratio} {reason}".format(**row))
        store_experiment(asked.out, "ways", rows, facts)


def _rows(case: Case, execution: str, rounds: int) -> Iterator[dict[str, Any]]:
    batch = case.batch()
    steps: dict[str, Any] = {}
    facts: dict[str, dict[str, Any]] = {}
    for way in (OWN, EXPORTED):
        torch.manual_seed(0)
        model = case.build().train()
        start = time.perf_counter()
        try:
            model = exported(model, batch[0]) if way == EXPORTED else model
            step: Any = methods.find(SPEC).prepare(model, _loss, 0, Conditions(execution))
            for _ in range(WARM_UP):
                step(batch, LEARNING_RATE)
        except Exception as error:  # torch.export refuses models in many ways
            facts[way] = {"reason": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
            continue
        steps[way] = step
        facts[way] = _program(step.pushforward)
        if execution == "eager":  # compiled, the second way finds the first one's kernels in a cache
            facts[way]["ready_seconds"] = time.perf_counter() - start
    seconds = _timed(steps, batch, rounds)
    for way, known in facts.items():
        row: dict[str, Any] = {
            "model": case.name,
            "execution": execution,
            "way": way,
            "seconds": None,
            "ratio": None,
        }
        row |= {"ratio_low": None, "ratio_high": None, "ready_seconds": None, "functions": None}
        row |= {"without_rule": "", "reason": "", **known}
        if way in seconds:
            pairs = zip(seconds[way], seconds[OWN], strict=True)
            middle = median_interval([own / over for own, over in pairs])
            row |= {"seconds": sorted(seconds[way])[rounds // 2], "ratio": middle.value}
            row |= {"ratio_low": middle.low, "ratio_high": middle.high}
        yield row


def _loss(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), target.flatten())


def _program(engine: Pushforward) -> dict[str, Any]:
    """What a step's engine made of its model: how many calls, what has no rule, why there is no program."""
    (made,) = engine.programs.values()
    calls = None
    if callable(made):
        calls = sum(i.opname.startswith("CALL") for i in dis.get_instructions(made))
    without = "; ".join(engine.fallbacks)
    return {"functions": calls, "without_rule": without, "reason": made if isinstance(made, str) else ""}


def _timed(steps: dict[str, Any], batch: Batch, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way's step by round; every round times all, every second round in reverse order."""
    seconds: dict[str, list[float]] = {way: [] for way in steps}
    for number in range(rounds):
        for way in list(steps) if number % 2 else reversed(steps):
            start = time.perf_counter()
            steps[way](batch, LEARNING_RATE)
            seconds[way].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
