"""The runner: runs all phases of a plan, group by group, and stores what they find."""

from __future__ import annotations

from fgbench.measurement.environment import usable_cores
from fgbench.measurement.lock import timing_lock
from fgbench.plan import Plan
from fgbench.running.client import started_ahead
from fgbench.running.group_run import GroupRun
from fgbench.running.phases import in_order
from fgbench.running.recovery import recover
from fgbench.running.watcher import Watcher
from fgbench.store.run_folder import RunFolder

MOST_AT_ONCE = 8  # workers that are started side by side; each takes about 300 MB


def run_plan(plan: Plan, folder: RunFolder, contracts: dict[str, str], watcher: Watcher) -> None:
    """Run every group of a plan into a folder.

    What an earlier try finished is not done again. On KeyboardInterrupt what was measured so far is
    summarised and the folder closed as `interrupted` before it is raised again.

    Raises:
        UsageError: another fgbench writes to the folder.
        ResultsError: it cannot be written to, or what it holds is damaged.
    """
    with folder.held(), started_ahead(min(usable_cores(), MOST_AT_ONCE)):
        folder.begin()
        done = recover(folder)
        status = "error"
        try:
            for group in plan.groups:
                # The lock is held for all phases, as another run beside any of them would disturb both.
                with timing_lock(group.device, watcher.note):
                    run = GroupRun(plan, group, contracts[group.name], folder, watcher, done)
                    for phase in in_order(plan.config):
                        if run.methods:  # as long as one has not failed
                            phase.run(run)
            status = "done"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            folder.finish(status)
