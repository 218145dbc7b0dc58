"""Hugging Face's models, built from their configurations with random weights: `hf:CLASS:option=value,…`."""

from __future__ import annotations

import ast
from typing import Any

import torch
from torch import Tensor, nn

from fgbench.errors import UsageError

LEVELS = 256  # levels of brightness, each of which is a token


class OfImages(nn.Module):
    """Wraps a model of tokens so that it takes images: each number of an image becomes one of 256 tokens.

    The logits are taken after the last token, for the first `classes` entries of the vocabulary.
    """

    def __init__(self, model: nn.Module, classes: int) -> None:
        super().__init__()
        self.model, self.classes = model, classes

    def forward(self, images: Tensor) -> Tensor:
        """[batch, channels, height, width] → logits [batch, classes]."""
        tokens = (images.flatten(1) * (LEVELS / 8) + LEVELS / 2).clamp(0, LEVELS - 1).long()
        logits: Tensor = self.model(tokens).logits
        return logits[:, -1, : self.classes] if logits.dim() == 3 else logits


class OfText(nn.Module):
    """Wraps a language model so that its output is the logits alone."""

    def __init__(self, model: nn.Module, classes: int) -> None:
        super().__init__()
        self.model, self.classes = model, classes

    def forward(self, tokens: Tensor) -> Tensor:
        """[batch, context] → logits of each next token [batch, context, classes]."""
        logits: Tensor = self.model(tokens).logits
        return logits if logits.shape[-1] == self.classes else logits[..., : self.classes]


def build(spec: str, depth: int, width: int, in_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Build the model; its options decide its depth and width, and `--depth` and `--width` are ignored.

    Raises:
        UsageError: transformers is not installed, has no such class, or refuses an option.
    """
    name, _, given = spec.removeprefix("hf:").partition(":")
    try:
        import transformers
    except Exception as error:  # a transformers built for another torch fails in many ways
        raise UsageError(
            f"--arch {spec} needs Hugging Face's transformers: pip install 'fgbench[hf]'."
        ) from error
    kind: Any = getattr(transformers, name, None)
    configuration: Any = getattr(kind, "config_class", None)
    if configuration is None or not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise UsageError(f"--arch {spec}: transformers has no model class '{name}'.")
    options = _options(spec, given)
    tokens = int(torch.Size(in_shape).numel())
    known = configuration()
    asked: dict[str, Any] = {"vocab_size": max(LEVELS, classes), "num_labels": classes}
    asked |= {key: None for key in ("bos_token_id", "eos_token_id", "pad_token_id") if hasattr(known, key)}
    if hasattr(known, "use_cache"):
        asked["use_cache"] = False  # keys and values are kept for generating text, not for training
    for key in ("n_positions", "max_position_embeddings"):
        if hasattr(known, key):
            asked[key] = max(tokens, 2)
    strange = [key for key in options if not hasattr(known, key)]
    if strange:
        raise UsageError(f"--arch {spec}: {configuration.__name__} has no option '{strange[0]}'.")
    try:
        model = kind(configuration(**(asked | options)))
    except Exception as error:  # transformers' own checks raise many kinds
        raise UsageError(f"--arch {spec}: {' '.join(str(error).split())[:200]}") from error
    return OfText(model, classes) if len(in_shape) == 1 else OfImages(model, classes)


def _options(spec: str, given: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in filter(None, given.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise UsageError(f"--arch {spec}: '{part}' is not of the form option=value.")
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = {"true": True, "false": False}.get(value, value)
    return found
