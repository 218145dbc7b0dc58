"""Run a plan from the command line, here or on a cluster, with its progress on standard error."""

from __future__ import annotations

from fgbench.cli.progress import Display
from fgbench.plan import Plan
from fgbench.running.duration import expected_seconds
from fgbench.running.run import run_plan
from fgbench.store.run_folder import RunFolder


def measure(plan: Plan, folder: RunFolder, contracts: dict[str, str]) -> None:
    """Run a plan into its folder and show how far it is."""
    cluster = folder.facts().get("cluster")
    with Display(expected_seconds(plan)) as display:
        if cluster is None:
            run_plan(plan, folder, contracts, display)
        else:
            from fgbench.cluster.engines import engine_for
            from fgbench.cluster.run import run_on

            run_on(engine_for(cluster, folder.path), plan, folder, contracts, display)
