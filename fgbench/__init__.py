"""fgbench: does training without backpropagation beat backpropagation, on this model and machine?"""

from fgbench.version import __version__

__all__ = ["__version__"]
