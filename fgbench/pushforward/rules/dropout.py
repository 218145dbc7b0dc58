"""Dropout: one mask for the value and its tangents, drawn as PyTorch draws it."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual
from fgbench.pushforward.rules import rule
from fgbench.pushforward.rules.activations import into


@rule("dropout")
def dropout(context: Context, x: Dual, p: float = 0.5, training: bool = True, inplace: bool = False) -> Dual:
    """Dropout: kept entries are scaled by 1 / (1 − p)."""
    if not training or p == 0:
        return x
    out = Dual(x.stack * F.dropout(torch.ones_like(x.primal), p, training=True))
    return into(x, out) if inplace else out


@rule("feature_dropout")
def feature_dropout(context: Context, x: Dual, p: float, train: bool) -> Dual:
    """Whole channels are dropped."""
    return Dual(x.stack * torch.feature_dropout(torch.ones_like(x.primal), p, train)) if train and p else x
