"""Micro-batches: a batch in parts, whose mean losses and slopes, weighed, are those of the whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fgbench.errors import UsageError
from fgbench.methods import Batch
from fgbench.specs.options import option


def accumulate_option() -> Any:
    """Into how many parts a batch is cut."""
    return option(
        1,
        "micro-batches that a batch is cut into, a pass for each: the same step of a mean loss, less memory",
        minimum=1,
    )


def refuse_batch_statistics(model: nn.Module, accumulate: int) -> None:
    """A model that looks at a whole batch is another function of its parts.

    Raises:
        UsageError: it does, and there are several.
    """
    for name, module in model.named_modules() if accumulate > 1 else ():
        if isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats):
            raise UsageError(
                f"accumulate={accumulate}: '{name}' normalises by the statistics of a batch, which "
                "micro-batches do not have: leave accumulate out."
            )


def micro_batches(batch: Batch, accumulate: int) -> Iterator[tuple[Batch, float, bool]]:
    """Each part, the share of the samples that it has, and whether it is the last.

    Raises:
        UsageError: fewer samples than parts.
    """
    samples = len(batch[0])
    if samples < accumulate:
        raise UsageError(f"accumulate={accumulate}: a batch has only {samples} samples.")
    pairs = zip(*(t.tensor_split(accumulate) for t in batch), strict=True)
    for number, (x, y) in enumerate(pairs, 1):
        yield (x, y), len(x) / samples, number == accumulate


def counts(samples: int) -> list[int]:
    """The powers of two that so many samples can be cut into, from 1 on."""
    return [2**power for power in range(samples.bit_length())]
