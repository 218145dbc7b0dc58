"""`fgbench status`: show the state of a run on a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fgbench.cli.cluster_options import Results

if TYPE_CHECKING:
    from fgbench.cluster.status import Status

SHOWN = 8  # at most so many failures are shown one by one
SECONDS_BETWEEN = 5.0


def status(
    results: Results,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every few seconds, until the end.")
    ] = False,
) -> None:
    """Show how much of a run on a cluster is done, running, queued and failed, why, and the time left."""
    from time import sleep

    from fgbench.cluster.status import clustered, status_of

    while True:
        found = status_of(*clustered(results))
        print(_text(found), flush=True)
        if not watch or found.state != "running":
            return
        sleep(SECONDS_BETWEEN)


def _text(status: Status) -> str:
    counts = ", ".join(f"{count} {word}" for word, count in status.units.items() if count)
    lines = [f"{status.run}: {status.state}; {counts or 'no task was handed out'}"]
    if status.nodes:
        lines.append("running on " + ", ".join(f"{node} ({count})" for node, count in status.nodes.items()))
    if status.reasons:
        lines.append("queued for " + ", ".join(f"{why} ({count})" for why, count in status.reasons.items()))
    if status.state != "done" and status.seconds_left is not None:
        lines.append(
            f"at most about {status.seconds_left / 60:.0f} min left, if as many tasks run at once as now"
        )
    if status.state == "killed":
        lines.append(
            f"its runner is gone, and tasks go on: fgbench run --resume {status.run} takes them over"
        )
    failures = list(status.failures.items())
    lines += [f"{unit}: {why}" for unit, why in failures[:SHOWN]]
    if len(failures) > SHOWN:
        lines.append(f"and {len(failures) - SHOWN} more")
    return "\n".join(lines)
