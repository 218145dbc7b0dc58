"""Recurrent networks: one product takes all inputs times the input's weights, the rest goes step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual, moving, primal_of
from fgbench.pushforward.rules import NoRuleError, rule
from fgbench.pushforward.rules.activations import relu, sigmoid, tanh
from fgbench.pushforward.rules.arithmetic import add, mul, sub
from fgbench.pushforward.rules.dropout import dropout
from fgbench.pushforward.rules.linear import linear
from fgbench.pushforward.rules.shapes import cat, stack

State = tuple[Any, ...]
Cell = Callable[[Context, Any, Callable[[Any], Any], State], State]
"""(the input's part of the gates [B, …], a function from a hidden state to its part, state) → next state."""


def _lstm(context: Context, given: Any, recurrent: Callable[[Any], Any], state: State) -> State:
    hidden, cell = state
    gates = add(context, given, recurrent(hidden))
    enter, keep, new, leave = map(Dual, gates.stack.chunk(4, -1))
    kept = mul(context, sigmoid(context, keep), cell)
    cell = add(context, kept, mul(context, sigmoid(context, enter), tanh(context, new)))
    cell.spare = False  # it is read below, and by the next step
    return mul(context, sigmoid(context, leave), tanh(context, cell)), cell


def _gru(context: Context, given: Any, recurrent: Callable[[Any], Any], state: State) -> State:
    (hidden,) = state
    of_input = moving(given, context.count).stack.chunk(3, -1)
    of_hidden = moving(recurrent(hidden), context.count).stack.chunk(3, -1)
    reset, keep = (sigmoid(context, Dual(a + b)) for a, b in zip(of_input[:2], of_hidden[:2], strict=True))
    gated = mul(context, reset, Dual(of_hidden[2]))
    new = tanh(context, Dual(of_input[2] + gated.stack))
    return (add(context, new, mul(context, keep, sub(context, hidden, new))),)


def _simple(function: Callable[..., Any]) -> Cell:
    def cell(context: Context, given: Any, recurrent: Callable[[Any], Any], state: State) -> State:
        return (function(context, add(context, given, recurrent(state[0]))),)

    return cell


PACKED = "{name} of a packed sequence has no rule: leave its sequences padded, and do not pack them."
CELLS: dict[str, Cell] = {"lstm": _lstm, "gru": _gru, "rnn_tanh": _simple(tanh), "rnn_relu": _simple(relu)}


def _recurrent(name: str) -> None:
    cell = CELLS[name]

    def along(
        context: Context,
        x: Any,
        initial: Any,
        weights: Any,
        has_biases: Any,
        num_layers: int,
        p: float = 0.0,
        train: bool = False,
        bidirectional: bool = False,
        batch_first: bool = False,
        *more: Any,
    ) -> Any:
        """[time, B, features], or with `batch_first` [B, time, features] → outputs alike, and last states."""
        if not isinstance(has_biases, bool):
            raise NotImplementedError(PACKED.format(name=name))
        if more or primal_of(x).dim() != 3:
            raise NoRuleError("no batch")
        directions = 1 + bidirectional
        each = len(weights) // (num_layers * directions)
        if each != 2 + 2 * has_biases:
            raise NoRuleError("projections")
        begins = initial if isinstance(initial, tuple | list) else (initial,)
        x, ends = _by_time(context.dual(x)) if batch_first else context.dual(x), []
        for layer in range(num_layers):
            found = []
            for turn in range(directions):
                place = layer * directions + turn
                own = weights[place * each : (place + 1) * each]
                state = tuple(_at(context.dual(begin), place) for begin in begins)
                steps, state = _pass(context, cell, x, own, state, backwards=turn == 1)
                found.append(steps)
                ends.append(state)
            x = found[0] if directions == 1 else cat(context, found, -1)
            if p and train and layer < num_layers - 1:
                x = dropout(context, x, p)
        last = tuple(stack(context, parts) for parts in zip(*ends, strict=True))
        return (_by_time(x) if batch_first else x), *last

    rule(name, raw=True)(along)


for _name in CELLS:
    _recurrent(_name)


def _pass(
    context: Context, cell: Cell, x: Any, weights: Any, state: State, *, backwards: bool
) -> tuple[Any, State]:
    """Run one layer in one direction; gives its hidden states [time, B, features] and its last state."""
    given, again = _products(context, x, *weights)
    times = range(primal_of(given).shape[0])
    found: list[Any] = []
    for time in reversed(times) if backwards else times:
        at = moving(_at(given, time), context.count)
        state = cell(context, at, again, state)
        for part in state:
            part.spare = False  # the next step reads it too
        found.append(state[0])
    return stack(context, found[::-1] if backwards else found), state


def _products(
    context: Context, x: Any, of_input: Any, of_hidden: Any, shift: Any = None, own_shift: Any = None
) -> tuple[Any, Callable[[Any], Any]]:
    """The input's part of the gates, and the function from a hidden state to its part."""
    given = (linear if _moves(context, x, of_input, shift) else _still_linear)(context, x, of_input, shift)
    recurrent = _moves(context, of_hidden, own_shift)

    def again(hidden: Any) -> Any:
        ruled = recurrent or isinstance(hidden, Dual)
        return (linear if ruled else _still_linear)(context, hidden, of_hidden, own_shift)

    return given, again


def _one_step(name: str) -> None:
    cell = CELLS[name]

    def along(context: Context, x: Any, state: Any, *weights: Any) -> Any:
        """[B, features] and the last state → the next state."""
        begins = state if isinstance(state, tuple | list) else (state,)
        given, again = _products(context, context.dual(x), *weights)
        ends = cell(context, moving(given, context.count), again, tuple(map(context.dual, begins)))
        return ends if name == "lstm" else ends[0]

    rule(f"{name}_cell", raw=True)(along)


for _name in CELLS:
    _one_step(_name)


def _still_linear(context: Context, x: Tensor, weight: Tensor, bias: Any) -> Tensor:
    return F.linear(x, weight, bias)


def _moves(context: Context, *given: Any) -> bool:
    return any(isinstance(x, Dual) or context.tangent(x) is not None for x in given)


def _at(x: Any, place: int) -> Any:
    return Dual(x.stack[:, place]) if isinstance(x, Dual) else x[place]


def _by_time(x: Any) -> Any:
    return Dual(x.stack.transpose(1, 2)) if isinstance(x, Dual) else x.transpose(0, 1)
