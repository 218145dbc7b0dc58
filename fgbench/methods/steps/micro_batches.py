"""Micro-batches: parts of a batch, whose weighed losses and gradients add up to those of the batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fgbench.errors import UsageError
from fgbench.methods import Batch
from fgbench.specs.options import option


def accumulate_option() -> Any:
    """The option that says into how many parts a batch is cut."""
    return option(
        1,
        "how many micro-batches a batch is cut into, with a pass for each: for a mean loss the same step in "
        "less memory",
        minimum=1,
    )


def refuse_batch_statistics(model: nn.Module, accumulate: int) -> None:
    """Refuse micro-batches for a model whose output depends on a whole batch's statistics.

    Raises:
        UsageError: the model has such a layer, and there are several micro-batches.
    """
    for name, module in model.named_modules() if accumulate > 1 else ():
        if isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats):
            raise UsageError(
                f"accumulate={accumulate}: '{name}' normalises by the statistics of a whole batch, which "
                "micro-batches do not have: leave accumulate out."
            )


def micro_batches(batch: Batch, accumulate: int) -> Iterator[tuple[Batch, float, bool]]:
    """Each part of a batch, its share of the samples, and whether it is the last part.

    Raises:
        UsageError: there are fewer samples than parts.
    """
    samples = len(batch[0])
    if samples < accumulate:
        raise UsageError(f"accumulate={accumulate}: a batch has only {samples} samples.")
    pairs = zip(*(t.tensor_split(accumulate) for t in batch), strict=True)
    for number, (x, y) in enumerate(pairs, 1):
        yield (x, y), len(x) / samples, number == accumulate


def counts(samples: int) -> list[int]:
    """The powers of two, from 1 on, that a batch of so many samples can be cut into."""
    return [2**power for power in range(samples.bit_length())]
