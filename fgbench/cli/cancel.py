"""`fgbench cancel`: end the tasks of a run on a cluster."""

from __future__ import annotations

from fgbench.cli.cluster_options import Results


def cancel(
    results: Results,
) -> None:
    """End all tasks of a run on a cluster; what they finished stays, and --resume does the rest."""
    from fgbench.cluster.status import cancel as cancel_run
    from fgbench.cluster.status import clustered

    run, facts = clustered(results)
    count = cancel_run(run, facts)
    print(f"{run}: {count} tasks were ended; go on with: fgbench run --resume {run}")
