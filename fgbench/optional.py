"""torchvision, of which some architectures and datasets take parts, and which may not import."""

from __future__ import annotations

import importlib
from typing import Any

from fgbench.errors import UsageError


def torchvision(module: str, needed_by: str, instead: str) -> Any:
    """The module `torchvision.<module>`.

    Raises:
        UsageError: it does not import here; the line says who needs it and what to use instead.
    """
    try:
        return importlib.import_module(f"torchvision.{module}")
    except Exception as error:  # a torchvision built for another torch fails in many ways
        raise UsageError(
            f"{needed_by} needs torchvision, which does not import here ({' '.join(str(error).split())}): "
            f"install the torchvision that matches torch, or use {instead}."
        ) from error
