"""Measure a sweep of 10 000 units with scripted tasks: `python -m tests.cluster.measure [GROUPS]`.

It prints how long the runner takes for a unit (asking for it, submitting it and collecting its rows, without
the scripted task's own time), how long its status takes, and how the memory grows.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from fgbench.cluster import run as cluster_run
from fgbench.cluster.engines import Wave
from fgbench.cluster.node import NodeTask
from fgbench.cluster.run import run_on, units_of
from fgbench.cluster.status import status_of
from fgbench.plan import Plan
from tests.builders import Recorder, config, run_folder, tiny_group
from tests.cluster.engine import Scripted

GROUPS = 667  # of 15 units each
CONFIG = config(methods=("backprop", "forward"), processes=5, seeds=5, learning_rate=None, execution="best")


class Timed(Scripted):
    """Counts the seconds that scripted tasks take."""

    seconds = 0.0

    def submit(self, tasks: Sequence[NodeTask], wave: Wave) -> list[str]:
        start = perf_counter()
        try:
            return super().submit(tasks, wave)
        finally:
            self.seconds += perf_counter() - start


def main() -> None:
    warnings.filterwarnings("ignore", "Precision loss")  # scripted seconds are all alike
    cluster_run.PAUSE = 0.0
    sweep(1)  # imports, and memory that is taken once
    before = _megabytes()
    units, seconds, status = sweep(int(sys.argv[1]) if len(sys.argv) > 1 else GROUPS)
    print(f"{units} units: {1000 * seconds / units:.2f} ms a unit, status in {status:.2f} s")
    print(f"memory: {before:.0f} MB before, {_megabytes():.0f} MB at the most")


def sweep(groups: int) -> tuple[int, float, float]:
    """The number of units, the seconds of the runner, and those of asking for the status."""
    plan = Plan(CONFIG, tuple(tiny_group(depth=depth + 1) for depth in range(groups)))
    facts = {"on": "slurm", "name": "measured", "units": units_of(plan)}
    with tempfile.TemporaryDirectory() as root:
        methods = {"methods": list(CONFIG.methods)}
        folder = run_folder(Path(root), plan.groups, config=methods, cluster=facts)
        engine = Timed()
        start = perf_counter()
        run_on(engine, plan, folder, {group.name: "c0" for group in plan.groups}, Recorder())
        seconds = perf_counter() - start - engine.seconds
        start = perf_counter()
        status_of(folder.path, folder.facts())
        return sum(len(names) for _, names in engine.waves), seconds, perf_counter() - start


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
