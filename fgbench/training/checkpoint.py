"""Files of weights to begin from: written by `fgbench pretrain`, or any state dict of the same model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fgbench.errors import UsageError

WEIGHTS = "weights"  # the key of a file's tensors; other keys say how the weights were made


def save(model: nn.Module, path: Path, facts: Mapping[str, Any]) -> str:
    """Write a model's weights and some facts about them; gives the hash of the weights.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({WEIGHTS: model.state_dict(), **facts}, path)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{path}: cannot be written ({' '.join(str(error).split())}).") from error
    return weights_digest(model.state_dict())


def load_into(model: nn.Module, path: str) -> str:
    """Put the weights of a file into a model of the same architecture; gives their hash.

    Raises:
        UsageError: there is no such file, it holds no weights, or it holds those of another model.
    """
    weights = _read(path)
    own = model.state_dict()
    for name in own | weights:
        if name not in weights or name not in own:
            raise UsageError(f"--start {path}: {'the file' if name in own else 'the model'} has no '{name}'.")
        if weights[name].shape != own[name].shape:
            shapes = tuple(weights[name].shape), tuple(own[name].shape)
            raise UsageError(
                f"--start {path}: '{name}' is {shapes[0]} in the file and {shapes[1]} in the model: take the "
                "depth, width and context that it was trained with."
            )
    model.load_state_dict(weights)
    return weights_digest(weights)


def _read(path: str) -> dict[str, Tensor]:
    try:
        held = torch.load(Path(path).expanduser(), map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(f"--start {path}: cannot be read ({error.strerror}).") from error
    except Exception as error:  # whatever unpickling raises
        raise UsageError(f"--start {path}: this is not a file that torch.load can read.") from error
    weights = held.get(WEIGHTS, held) if isinstance(held, dict) else None
    if not weights or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise UsageError(f"--start {path}: the file holds no weights.")
    return dict(weights)


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """A hash of tensors and their names."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in weights.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
