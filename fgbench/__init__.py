"""fgbench: does training without backpropagation beat backpropagation, on this model and machine?"""

from typing import Any

from fgbench.version import __version__

__all__ = ["__version__", "compare", "load"]


def __getattr__(name: str) -> Any:
    # Lazy: `import fgbench` and `fgbench --help` must not wait for torch and pandas.
    if name in ("compare", "load"):
        from fgbench import api

        return getattr(api, name)
    raise AttributeError(f"module 'fgbench' has no attribute '{name}'")
