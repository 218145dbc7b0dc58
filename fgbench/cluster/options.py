"""The user's options of sbatch, from files and from the command line."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fgbench.errors import UsageError

SETUP = "setup"  # this key of a file lists the shell lines that each task begins with
OURS = {
    "array": "units are its tasks",
    "chdir": "tasks run where fgbench was started",
    "comment": "it names the wave",
    "error": "it is in the run's folder",
    "job-name": "jobs are found by it",
    "output": "it is in the run's folder",
    "wrap": "tasks are fgbench's",
}


def defaults_file() -> Path:
    """`~/.config/fgbench/slurm.toml`, or where XDG_CONFIG_HOME says."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "fgbench" / "slurm.toml"


def slurm_options(file: Path | None, given: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The options of sbatch, and the lines that a task begins with; the command line overrides files.

    Args:
        file: of --slurm-file.
        given: `key=value` each, of --slurm.

    Raises:
        UsageError: a file that is not there or no TOML, a key that is no option or fgbench's own.
    """
    found: dict[str, Any] = {}
    if defaults_file().exists():
        found |= _read(defaults_file())
    if file is not None:
        found |= _read(file)
    setup = found.pop(SETUP, [])
    if not isinstance(setup, list) or not all(isinstance(line, str) for line in setup):
        raise UsageError(f"--slurm-file: the key {SETUP} must be a list of lines.")
    return found | given_options(given), setup


def given_options(pairs: Sequence[str]) -> dict[str, Any]:
    """The options that `--slurm` gives, `key=value` each.

    Raises:
        UsageError: one is not, or a key is no option or fgbench's own.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not value:
            raise UsageError(f"--slurm {pair}: must be key=value, as in partition=gpu.")
        found[_name("--slurm", key.strip())] = value.strip()
    return found


def _name(source: str, key: str) -> str:
    """The name of an option, as sbatch has it; `source` is what gives it."""
    name = key.replace("_", "-")
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise UsageError(f"{source} {name}: this is not the name of an option of sbatch, as partition is.")
    if name in OURS:
        raise UsageError(f"{source} {name}: fgbench sets this option itself: {OURS[name]}.")
    return name


def _read(file: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--slurm-file {file}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise UsageError(f"--slurm-file {file}: is not TOML ({error}).") from error
    for key, value in found.items():
        if key != SETUP and not isinstance(value, str | int | float | bool):
            raise UsageError(f"--slurm-file {file}: {key} must be one value.")
    return {_name(f"--slurm-file {file}:", key): value for key, value in found.items()}
