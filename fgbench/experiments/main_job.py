"""Repeat the default job, and store how long each took, how precise its ratios are and what it warns of."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from fgbench.report.doubts import doubts
from fgbench.store.experiment import command, store_experiment
from fgbench.store.run_folder import RunFolder, find_runs
from fgbench.summary.table import summarise

JOB = ("run", "--arch", "mlp", "--depth", "8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write `main_job.csv`, a row for each job, after every job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/main-job"))
    parser.add_argument("--times", type=int, default=10, help="How many jobs, one after the other.")
    parser.add_argument("options", nargs="*", help="Options of `fgbench run`, after --.")
    asked = parser.parse_args(arguments)
    facts = {"command": command(), "job": [*JOB, *asked.options]}
    rows: list[dict[str, Any]] = []
    for number in range(1, asked.times + 1):
        with tempfile.TemporaryDirectory() as folder:
            seconds = _run(Path(folder), asked.options)
            run = find_runs(Path(folder))[-1]
            rows.append({"job": number, "seconds": round(seconds, 1), **_judged(run)})
            environment = run.facts()["environment"]
        store_experiment(asked.out, "main_job", rows, {**facts, "environment": environment})
        print(", ".join(f"{name}: {value}" for name, value in rows[-1].items()), flush=True)


def _run(folder: Path, options: Sequence[str]) -> float:
    """The seconds of one job, from its command to its end."""
    job = [sys.executable, "-m", "fgbench", *JOB, *options, "--out", str(folder)]
    start = perf_counter()
    subprocess.run(job, check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - start


def _judged(run: RunFolder) -> dict[str, Any]:
    """What a reader would ask of a job; the half-width is that of its least precise ratio, as a share."""
    summary = summarise(run)
    others = summary[summary["method"] != summary["reference"]]
    half_widths = (others["ratio_high"] - others["ratio_low"]) / 2 / others["ratio"]
    return {
        "processes": int(others["processes"].max()),
        "half_width": round(float(half_widths.max()), 4),
        "diverged": int(run.read("jobs")["status"].eq("diverged").sum()),
        "warnings": " | ".join(doubts(summary, run.read("ratios"), run.read("samples"))),
    }


if __name__ == "__main__":
    main()
