"""A user's model as the methods take one: a tensor in, and a loss of what comes out.

Hugging Face's models take several tensors by name, and give a dataclass with logits and, where they were
given labels, with a loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fgbench.errors import UsageError
from fgbench.methods import Batch, Loss
from fgbench.pushforward.context import buffers_kept, draws_again

LABELS = "labels"


@dataclass(frozen=True)
class Field:
    """One of the tensors that a model takes, in a row of numbers a sample.

    Attributes:
        name: by which the model takes it.
        shape: of one sample.
        dtype: as it was given.
    """

    name: str
    shape: torch.Size
    dtype: torch.dtype


class ByName(nn.Module):
    """A model that takes its tensors by name, as one of a single tensor, which holds them side by side."""

    def __init__(self, model: nn.Module, fields: Sequence[Field], options: Mapping[str, Any]) -> None:
        super().__init__()
        self.model, self.fields, self.options = model, list(fields), dict(options)

    def forward(self, x: Tensor) -> Any:
        """What the model gives for [samples, numbers]; floats stay of the precision that x is of."""
        given: dict[str, Tensor] = {}
        parts = x.split([field.shape.numel() for field in self.fields], 1)
        for field, part in zip(self.fields, parts, strict=True):
            tensor = part.reshape(len(x), *field.shape)
            given[field.name] = tensor if field.dtype.is_floating_point else tensor.to(field.dtype)
        return self.model(**given, **self.options)


class ItsOwnLoss:
    """The loss that a model finds by itself, of the labels that it was given."""

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        """[], of the model's output."""
        return _part(output, "loss")


@dataclass(frozen=True)
class OfLogits:
    """A loss of logits, of an output that has them among others; one by one, where it is of `tokens`."""

    loss: Loss
    tokens: bool

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        """[], of the model's output and the target."""
        logits = _part(output, "logits")
        if self.tokens:
            return self.loss(logits.flatten(0, -2), target.flatten())
        return self.loss(logits, target)


def adapted(model: nn.Module, loss: Loss | None, batch: Any) -> tuple[nn.Module, Loss, Batch]:
    """The same model, loss and batch as the methods take them.

    Args:
        model: of a tensor, or of several by name.
        loss: (output, target) → []; None for the model's own.
        batch: (input, target), the input a tensor or tensors by name; or all by name, `labels` among them.

    Raises:
        UsageError: no labels, tensors that are not of the same samples, or a loss that does not go with the
            model's output.
    """
    inputs, target = _inputs(batch, loss is None)
    if isinstance(inputs, Tensor):
        x = inputs
    else:
        fields, options, x = _packed(inputs)
        model = ByName(model, fields, options)
    if loss is None:
        loss = ItsOwnLoss()
    batch = x, target
    try:
        with torch.no_grad(), draws_again(x.device), buffers_kept(model):
            output = model(x)
            return model, _fitting(loss, output, target), batch
    except UsageError:
        raise
    except Exception as error:
        if isinstance(inputs, Tensor):
            return model, loss, batch  # each method says what is wrong
        raise UsageError(f"compare: the model does not take this batch, {_line(error)}") from error


def _inputs(batch: Any, labels_too: bool) -> tuple[Tensor | dict[str, Any], Tensor]:
    """What the model is given, and the target."""
    if not isinstance(batch, Mapping):
        inputs, target = batch
        if not isinstance(inputs, Mapping):
            if labels_too:
                raise UsageError("compare: a model's own loss needs a batch by name, 'labels' among it.")
            return inputs, target
        given = {**inputs, LABELS: target}
    else:
        given = dict(batch)
    if not isinstance(given.get(LABELS), Tensor):
        raise UsageError("compare: the batch has no 'labels', which are the target.")
    target = given[LABELS]
    return {key: v for key, v in given.items() if v is not None and (labels_too or key != LABELS)}, target


def _packed(inputs: Mapping[str, Any]) -> tuple[list[Field], dict[str, Any], Tensor]:
    """Tensors side by side, [samples, numbers], and what is none."""
    tensors = {name: t for name, t in inputs.items() if isinstance(t, Tensor)}
    if not tensors:
        raise UsageError("compare: the batch has no tensors for the model.")
    sizes = {name: t.shape[0] if t.dim() else 0 for name, t in tensors.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise UsageError(f"compare: every tensor of the batch begins with its samples, and here are {told}.")
    floats = [t.dtype for t in tensors.values() if t.is_floating_point()]
    common = floats[0] if floats else torch.int64
    for name, tensor in tensors.items():
        if floats and not tensor.is_floating_point() and tensor.abs().max() > _exact(common):
            raise UsageError(f"compare: {name} has numbers too large to stand beside floats.")
    fields = [Field(name, t.shape[1:], t.dtype) for name, t in tensors.items()]
    options = {name: value for name, value in inputs.items() if name not in tensors}
    return fields, options, torch.cat([t.reshape(len(t), -1).to(common) for t in tensors.values()], 1)


def _exact(dtype: torch.dtype) -> int:
    return int(2 / torch.finfo(dtype).eps)


def _fitting(loss: Loss, output: Any, target: Tensor) -> Loss:
    """The loss, or that of the logits where it does not take the whole output."""
    if isinstance(output, Tensor) or isinstance(loss, ItsOwnLoss):
        loss(output, target)
        return loss
    tokens = target.dim() > 1 and _part(output, "logits").shape[:-1] == target.shape
    of_logits = [OfLogits(loss, tokens), OfLogits(loss, False)]
    torchs = getattr(loss, "__module__", "").startswith("torch.nn")
    tried: list[Loss] = [*of_logits] if torchs else [loss, *of_logits[::-1]]
    said: list[str] = []
    for one in tried:
        try:
            found = one(output, target)
        except Exception as error:  # whatever a user's loss does with what it does not expect
            said.append(_line(error))
            continue
        if isinstance(found, Tensor) and found.dim() == 0:
            return one
        said.append("it gives no scalar")
    raise UsageError(f"compare: the loss takes neither the model's output nor its logits, {said[-1]}")


def _part(output: Any, name: str) -> Tensor:
    """The loss or the logits of an output: by name, or a tuple's first; a tensor itself."""
    if isinstance(output, Tensor):
        return output
    found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
    if found is None and type(output) in (tuple, list):
        found = output[0]
    if not isinstance(found, Tensor):
        raise UsageError(f"compare: the model's output, a {type(output).__name__}, has no {name}.")
    return found


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
