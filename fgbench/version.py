"""The version of fgbench, read by the build and by `fgbench --version`."""

__version__ = "0.1.0"
