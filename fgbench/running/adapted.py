"""Adapt a user's model to what the methods expect: it takes one tensor, and a loss takes its output.

Hugging Face's models take several tensors by name. They return a dataclass with the logits and, if they were
given labels, a loss.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fgbench.architectures import refuse_without_values
from fgbench.errors import UsageError, in_one_line
from fgbench.methods import Batch, Loss, trainable
from fgbench.pushforward.context import OF_TORCH, attributes_kept, buffers_kept, draws_again, state_kept

LABELS = "labels"
STATE = (
    "compare: the loss has {what}, which all methods would share: make it a part of the model, whose forward "
    "takes 'labels' and returns {{'loss': …}}, and give a batch by name and no loss."
)


@dataclass(frozen=True)
class Field:
    """One of the tensors that a model takes, which is flattened to a row of numbers for each sample.

    Attributes:
        name: the name of the model's argument.
        shape: the shape of one sample.
        dtype: the dtype that the tensor was given in.
    """

    name: str
    shape: torch.Size
    dtype: torch.dtype


class ByName(nn.Module):
    """Wraps a model that takes tensors by name, so that it takes one tensor that holds them side by side."""

    def __init__(self, model: nn.Module, fields: Sequence[Field], options: Mapping[str, Any]) -> None:
        super().__init__()
        self.model, self.fields, self.options = model, list(fields), dict(options)

    def forward(self, x: Tensor) -> Any:
        """The model's output for x, [samples, numbers]; floating-point tensors keep the precision of x."""
        given: dict[str, Tensor] = {}
        parts = x.split([field.shape.numel() for field in self.fields], 1)
        for field, part in zip(self.fields, parts, strict=True):
            tensor = part.reshape(len(x), *field.shape)
            tensor = tensor if field.dtype.is_floating_point else tensor.to(field.dtype)
            given[field.name] = tensor.contiguous()  # a model may view it in another shape, as T5 does
        return self.model(**given, **self.options)


class ItsOwnLoss:
    """The loss that a model computes itself from the labels that it was given."""

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        """The loss, [], which the model's output contains."""
        return _part(output, "loss")


@dataclass(frozen=True)
class OfLogits:
    """Applies a loss of logits to an output that contains them; if `tokens`, to each token's logits."""

    loss: Loss
    tokens: bool

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        """The loss, [], from the model's output and the target."""
        logits = _part(output, "logits")
        if self.tokens:
            return self.loss(logits.flatten(0, -2), target.flatten())
        return self.loss(logits, target)


def adapted(model: nn.Module, loss: Loss | None, batch: Any) -> tuple[nn.Module, Loss, Batch]:
    """The same model, loss and batch in the form that the methods expect.

    Args:
        model: takes one tensor, or several by name.
        loss: (output, target) → []; None for the model's own.
        batch: (input, target), where the input is a tensor or tensors by name; or all tensors by name,
            including `labels`.

    Raises:
        UsageError: the batch is no pair, there are no labels, the tensors differ in their number of samples,
            a parameter has no values, the loss does not take the model's output, or it learns, remembers or
            takes parameters besides.
    """
    inputs, target = _inputs(batch, loss is None)
    refuse_without_values("compare", model)
    model = _without_history(model)
    if isinstance(inputs, Tensor):
        x = inputs
    else:
        fields, options, x = _packed(inputs)
        model = ByName(model, fields, options)
    if loss is None:
        loss = ItsOwnLoss()
    batch = x, target
    try:
        with torch.no_grad(), draws_again(x.device), state_kept(model), _no_state(loss):
            output = model(x)
            loss = _fitting(loss, output, target)
            _no_other_way(loss, output, target)
            return model, loss, batch
    except UsageError:
        raise
    except Exception as error:
        if isinstance(inputs, Tensor):
            return model, loss, batch  # each method says what is wrong
        raise UsageError(f"compare: the model does not take this batch, {in_one_line(error)}") from error


def _without_history(model: nn.Module) -> nn.Module:
    """The model; a copy if it holds what an earlier pass computed, as a loss of its own: that is detached.

    PyTorch refuses to copy it with its history.
    """
    names = OF_TORCH - {"_buffers"}
    values = [value for m in model.modules() for name, value in vars(m).items() if name not in names]
    computed = [t for t in tree_leaves(values) if isinstance(t, Tensor) and t.grad_fn is not None]
    return copy.deepcopy(model, {id(t): t.detach().clone() for t in computed}) if computed else model


def _inputs(batch: Any, labels_too: bool) -> tuple[Tensor | dict[str, Any], Tensor]:
    """What the model is given, and the target."""
    if not isinstance(batch, Mapping):
        if (
            not isinstance(batch, tuple | list)
            or len(batch) != 2
            or not isinstance(batch[0], Tensor | Mapping)
        ):
            raise UsageError("batch: must be a pair of inputs and targets, or tensors by name.")
        inputs, target = batch
        if not isinstance(inputs, Mapping):
            if labels_too:
                raise UsageError("compare: a model's own loss needs a batch by name with 'labels'.")
            return inputs, target
        given = {**inputs, LABELS: target}
    else:
        given = dict(batch)
    if not isinstance(given.get(LABELS), Tensor):
        raise UsageError("compare: the batch has no 'labels', which serve as the target.")
    target = given[LABELS]
    return {key: v for key, v in given.items() if v is not None and (labels_too or key != LABELS)}, target


def _packed(inputs: Mapping[str, Any]) -> tuple[list[Field], dict[str, Any], Tensor]:
    """The fields, the inputs that are no tensors, and the tensors side by side, [samples, numbers]."""
    tensors = {name: t for name, t in inputs.items() if isinstance(t, Tensor)}
    if not tensors:
        raise UsageError("compare: the batch has no tensors for the model.")
    sizes = {name: t.shape[0] if t.dim() else 0 for name, t in tensors.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise UsageError(
            "compare: the first dimension of every tensor of the batch must be the number of samples, "
            f"but these differ: {told}."
        )
    floats = [t.dtype for t in tensors.values() if t.is_floating_point()]
    common = floats[0] if floats else torch.int64
    for name, tensor in tensors.items():
        if floats and not tensor.is_floating_point() and tensor.abs().max() > _exact(common):
            raise UsageError(f"compare: {name} has numbers too large to be stored exactly as {common}.")
    fields = [Field(name, t.shape[1:], t.dtype) for name, t in tensors.items()]
    options = {name: value for name, value in inputs.items() if name not in tensors}
    return fields, options, torch.cat([t.reshape(len(t), -1).to(common) for t in tensors.values()], 1)


def _exact(dtype: torch.dtype) -> int:
    return int(2 / torch.finfo(dtype).eps)


def _fitting(loss: Loss, output: Any, target: Tensor) -> Loss:
    """The loss as it is, or applied to the logits if it does not take the whole output."""
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
            said.append(in_one_line(error))
            continue
        if isinstance(found, Tensor) and found.dim() == 0:
            return one
        said.append("it does not return a scalar")
    raise UsageError(f"compare: the loss takes neither the model's output nor its logits, {said[-1]}")


@contextmanager
def _no_state(loss: Loss) -> Iterator[None]:
    """Refuse a loss that learns, or that remembers what it is given inside: methods would share its state."""
    owner: Any = loss
    holder = nn.Module()  # keeps what an object of any class remembers, as it does for a model
    holder.loss = getattr(owner, "__self__", owner)
    if learned := [name.removeprefix("loss.") for name in trainable(holder)]:
        raise UsageError(STATE.format(what=f"parameters to train, as {learned[0]}"))
    buffers = [(name, buffer, buffer._version) for name, buffer in holder.named_buffers()]
    with buffers_kept(holder), attributes_kept(holder) as changed:
        yield
        own = dict(holder.named_buffers())
        moved = [name for name, b, version in buffers if own.get(name) is not b or b._version != version]
    if moved := [name.removeprefix("loss.") for name in (*moved, *changed)]:
        raise UsageError(STATE.format(what=f"state that each call changes, as {moved[0]}"))


def _no_other_way(loss: Loss, output: Any, target: Tensor) -> None:
    """Refuse a loss of parameters that it does not get in the output, as a penalty on the caller's weights.

    The methods train copies of the model, which such a loss does not reach: it would be another one for them.
    """
    if any(isinstance(part, Tensor) and part.requires_grad for part in tree_leaves(output)):
        return  # the output holds a parameter itself
    with torch.enable_grad():
        value = loss(output, target)
    if value.requires_grad:
        raise UsageError(STATE.format(what="parameters to train that it does not get in the model's output"))


def _part(output: Any, name: str) -> Tensor:
    """The loss or the logits: the output itself, its entry of that name, or the first entry of a tuple."""
    if isinstance(output, Tensor):
        return output
    found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
    if found is None and type(output) in (tuple, list):
        found = output[0]
    if not isinstance(found, Tensor):
        raise UsageError(f"compare: the model's output, a {type(output).__name__}, has no {name}.")
    return found
