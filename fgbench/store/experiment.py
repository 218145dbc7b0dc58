"""Store an experiment on fgbench itself: a CSV of its observations and a JSON file of its findings."""

from __future__ import annotations

import csv
import io
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fgbench.errors import UsageError
from fgbench.store.csv_table import replace_text


def command() -> str:
    """The command that started this experiment, to be given again on any machine."""
    return shlex.join(["python", "-m", f"fgbench.experiments.{Path(sys.argv[0]).stem}", *sys.argv[1:]])


def store_experiment(
    folder: Path, name: str, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> None:
    """Write `<name>.csv`, a row for each observation, and `<name>.json`.

    Args:
        folder: made where it is not there.
        name: of both files.
        rows: at least one; the first one's keys are the columns.
        facts: of the machine and what was found.

    Raises:
        UsageError: the folder cannot be written.
    """
    lines = io.StringIO()
    writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / f"{name}.csv", lines.getvalue())
        replace_text(folder / f"{name}.json", json.dumps(facts, indent=2) + "\n")
    except OSError as error:
        raise UsageError(f"--out {folder}: cannot be written ({error.strerror}).") from error
