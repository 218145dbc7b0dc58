"""What the engine costs besides the arithmetic: its step is timed against the same step written by hand.

    python -m fgbench.experiments.overhead --out results/overhead

The models are small, because there the time that Python takes between operations matters most. Steps have
plain SGD; the one written by hand has rank-one tangents of ±1 and runs eagerly. `overhead.csv` has two rows
for each model, method and execution mode: over the step by hand, and over the backprop step that is fastest
of all updates in all these modes. A ratio is the median over rounds of the ratio within a round, with its
order-statistic interval. `overhead.json` describes the machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from fgbench import architectures, methods
from fgbench.measurement.environment import describe_environment
from fgbench.measurement.statistics import median_interval
from fgbench.methods import Batch, Conditions
from fgbench.store.experiment import command, store_experiment

aten = torch.ops.aten
CASES = (("logreg", 1, 1), ("mlp", 1, 128), ("mlp", 2, 256))
EXECUTIONS = ("eager", "compile")
BATCH, CLASSES, SHAPE = 64, 10, (1, 28, 28)
BY_HAND, FASTEST = "the same by hand", "the fastest backprop"
ENGINES = ("forward:structure=rank-one", "forward")
BACKPROPS = tuple(f"backprop:update={update}" for update in ("fused", "foreach", "direct", "in-backward"))
LEARNING_RATE, WARM_UP, BLOCK = 1e-5, 20, 20


class ByHand:
    """A rank-one step written by hand, for linear layers with ReLU between them and cross-entropy."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
        sizes = [n for m in self.layers for n in (m.out_features, m.in_features, m.out_features)]
        self.signs = torch.empty(sum(sizes))
        pieces = iter(self.signs.split(sizes))
        self.tangents = [(next(pieces), next(pieces), next(pieces)) for _ in self.layers]
        self.one, self.generator = torch.ones(()), torch.Generator().manual_seed(0)

    @torch.no_grad()
    def __call__(self, batch: Batch, learning_rate: float) -> Tensor:
        """Take the step; gives the loss before the update."""
        x, y = batch
        self.signs.bernoulli_(0.5, generator=self.generator).mul_(2).sub_(1)
        z, moved = self._forward(x.flatten(1))
        log_p = torch.log_softmax(z, 1)
        value, total = aten.nll_loss_forward(log_p, y, None, 1, -100)
        slope = aten.nll_loss_backward(self.one, log_p, y, None, 1, -100, total)
        slope = aten._log_softmax_backward_data(slope, log_p, 1, log_p.dtype)
        scale = torch.dot(slope.view(-1), moved.reshape(-1)).mul_(-learning_rate)
        for layer, (left, right, shift) in zip(self.layers, self.tangents, strict=True):
            layer.weight.addcmul_((left * scale).unsqueeze(1), right)
            layer.bias.addcmul_(shift, scale)
        return value  # type: ignore[no-any-return]

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and their tangent; value and tangent go through a layer in one product."""
        first, samples = self.layers[0], len(x)
        left, right, shift = self.tangents[0]
        z = torch.addmm(first.bias, x, first.weight.t())
        moved = torch.addcmul(shift, torch.mv(x, right).unsqueeze(1), left)
        for layer, (left, right, shift) in zip(self.layers[1:], self.tangents[1:], strict=True):
            both = z.new_empty(2 * samples, z.shape[1])
            torch.clamp_min(z, 0, out=both[:samples])
            aten.threshold_backward.grad_input(moved, z, 0, grad_input=both[samples:])
            strength = torch.mv(both[:samples], right).unsqueeze(1)
            both = torch.mm(both, layer.weight.t())
            z, moved = both[:samples].add_(layer.bias), both[samples:].add_(shift).addcmul_(strength, left)
        return z, moved


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all cases, store the rows and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/overhead"))
    parser.add_argument("--rounds", type=int, default=100)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [row for case in CASES for row in _rows(case, asked.rounds)]
    facts = {"command": command(), "environment": describe_environment("cpu", 1)}
    store_experiment(asked.out, "overhead", rows, facts)
    for row in rows:
        print(
            "{case}: {method}, {execution}, over {over} ({which}): "
            "{ratio:.3f} [{ratio_low:.3f}, {ratio_high:.3f}]".format(**row)
        )


def _rows(case: tuple[str, int, int], rounds: int) -> Iterator[dict[str, Any]]:
    """The ratios of the engine's steps to the step by hand and to the fastest backprop."""
    seconds = _timed(case, rounds)
    backprops = [own for own in seconds if own[0] in BACKPROPS]
    fastest = min(backprops, key=lambda own: median(seconds[own]))
    for method, execution in seconds:
        if method not in ENGINES:
            continue
        for over, other in ((BY_HAND, (BY_HAND, "eager")), (FASTEST, fastest)):
            pairs = zip(seconds[method, execution], seconds[other], strict=True)
            middle = median_interval([own / others for own, others in pairs])
            yield {
                "case": "{}-d{}-w{}".format(*case),
                "method": method,
                "execution": execution,
                "over": over,
                "which": ", ".join(other),
                "seconds": median(seconds[method, execution]),
                "over_seconds": median(seconds[other]),
                "ratio": middle.value,
                "ratio_low": middle.low,
                "ratio_high": middle.high,
                "rounds": rounds,
            }


def _timed(case: tuple[str, int, int], rounds: int) -> dict[tuple[str, str], list[float]]:
    """Seconds by round of each step, by method and execution mode.

    Every round times all steps, every second round in reverse order.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, *SHAPE, generator=generator)
    batch = x, torch.randint(CLASSES, (BATCH,), generator=generator)
    steps: dict[tuple[str, str], Callable[..., Any]] = {(BY_HAND, "eager"): ByHand(_model(case))}
    for execution in EXECUTIONS:
        for spec in (*ENGINES, *BACKPROPS):
            steps[spec, execution] = methods.find(spec).prepare(
                _model(case), nn.functional.cross_entropy, 0, Conditions(execution)
            )
    for step in steps.values():
        for _ in range(WARM_UP):
            step(batch, LEARNING_RATE)
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        for name in list(steps) if number % 2 else reversed(steps):
            start = time.perf_counter()
            for _ in range(BLOCK):
                steps[name](batch, LEARNING_RATE)
            seconds[name].append((time.perf_counter() - start) / BLOCK)
    return seconds


def _model(case: tuple[str, int, int]) -> nn.Module:
    torch.manual_seed(0)
    return architectures.build(*case, SHAPE, CLASSES).train()


if __name__ == "__main__":
    main()
