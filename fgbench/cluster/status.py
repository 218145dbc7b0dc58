"""Where a run on a cluster stands, from its ledger and one look at the scheduler, within a second."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fgbench.cluster.engines import ENDED, QUEUED, RUNNING, NoAnswerError, Seen, engine_for
from fgbench.cluster.ledger import AGAIN, CANCELLED, DONE, FAILED, OPEN, Ledger, Record
from fgbench.errors import ResultsError, UsageError
from fgbench.store.schema import LOCK_FILE

TO_COME = "to come"  # not handed out yet, as it waits for earlier units
KILLED = "killed"  # the state of a run whose runner is gone and could not say so
UNKNOWN = "handed out (the scheduler does not answer)"
WORDS = (DONE, RUNNING, QUEUED, UNKNOWN, TO_COME, ENDED, CANCELLED, FAILED)


@dataclass(frozen=True)
class Status:
    """The state of a run.

    Attributes:
        run: the folder of the run.
        state: the state of the run as its run.json gives it: `running`, `done`, `interrupted`, …; `killed`
            where that says `running` and its runner is gone.
        units: how many units are in each state; the states are named in words.
        failures: by unit, why it failed; units that failed once and are tried again are among them.
        nodes: by node, how many tasks run on it.
        reasons: by the scheduler's reason, how many tasks wait in its queue.
        seconds_left: the time left at the pace of the tasks that run now; None where no task runs.
    """

    run: Path
    state: str
    units: dict[str, int]
    failures: dict[str, str]
    nodes: dict[str, int]
    reasons: dict[str, int]
    seconds_left: float | None


def clustered(path: Path) -> tuple[Path, dict[str, Any]]:
    """A run on a cluster, and what its run.json holds: the one at `path`, or the newest below it.

    Raises:
        ResultsError: there is no run.
        UsageError: it was run on one machine.
    """
    files = [path / "run.json"] if (path / "run.json").exists() else sorted(path.glob("*/run.json"))
    if not files:
        raise ResultsError(f"{path}: holds no run (no run.json).")
    found = [(file.parent, _facts(file)) for file in files]
    ours = [(run, facts) for run, facts in found if "cluster" in facts]
    if not ours:
        raise UsageError(f"{path}: this run was not made with --on; `fgbench report` shows its results.")
    return ours[-1]


def status_of(run: Path, facts: Mapping[str, Any]) -> Status:
    """Find the state of a run.

    Raises:
        UsageError: its scheduler is not installed here.
    """
    ledger = Ledger(run.absolute())
    standing = ledger.standing()
    units = standing.units
    there = {file.stem for file in ledger.units.glob("*.jsonl")}
    seen = _seen(run, facts, units)
    words: dict[str, str] = {}
    nodes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for name, record in units.items():
        own = Seen(UNKNOWN) if seen is None else seen.get(record.job, Seen(ENDED))
        words[name] = _word(record, name in there, own.state)
        nodes[own.node] += words[name] == RUNNING
        reasons[own.reason] += words[name] == QUEUED
    counts = Counter(words.values())
    planned = _planned(facts)
    counts[TO_COME] = max(0, sum(count for count, _ in planned) - len(units))
    if facts["status"] == "done":  # a group may need fewer than was expected
        counts[TO_COME] = 0
    done = sum(record.seconds for name, record in units.items() if words[name] == DONE)
    left = max(0.0, sum(count * seconds for count, seconds in planned) - done)
    return Status(
        run,
        KILLED if facts["status"] == RUNNING and _is_gone(run, standing.host) else facts["status"],
        {word: counts[word] for word in WORDS},
        {n: r.why for n, r in units.items() if r.state in (AGAIN, FAILED, CANCELLED)},
        {node: count for node, count in sorted(nodes.items()) if node and count},
        {reason: count for reason, count in reasons.most_common() if reason and count},
        left / counts[RUNNING] if counts[RUNNING] else None,
    )


def _is_gone(run: Path, host: str) -> bool:
    """Whether the runner has ended; known on its own machine alone, as not all file systems share locks."""
    if host != socket.gethostname():
        return False
    try:
        with FileLock(run / LOCK_FILE, timeout=0):  # the runner may have ended in order since facts were read
            return bool(_facts(run / "run.json")["status"] == RUNNING)
    except (OSError, Timeout):
        return False


def _facts(file: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(f"{file}: cannot be read ({error}).") from error
    return facts


def _planned(facts: Mapping[str, Any]) -> list[tuple[int, float]]:
    """How many units of each phase there will be, and the seconds of one."""
    groups = len(facts["groups"])
    return [(groups * count, seconds) for count, seconds in facts["cluster"]["units"].values()]


def _seen(run: Path, facts: Mapping[str, Any], units: Mapping[str, Record]) -> dict[str, Seen] | None:
    """What is known of jobs that are under way; None where the scheduler does not answer."""
    open_jobs = [record.job for record in units.values() if record.state == OPEN]
    if not open_jobs or facts["status"] == "done":
        return {}
    try:
        return engine_for(facts["cluster"], run).seen(open_jobs)
    except NoAnswerError:
        return None


def _word(record: Record, there: bool, state: str) -> str:
    """A unit's state in words: what the ledger says, unless the folder or the scheduler knows more."""
    if record.state == AGAIN:
        return QUEUED
    if record.state != OPEN:
        return record.state
    return DONE if there else state


def cancel(run: Path, facts: Mapping[str, Any]) -> int:
    """End all tasks of a run, and its runner; gives how many were under way.

    Raises:
        UsageError: the scheduler is not here or does not answer, or the folder cannot be written.
    """
    ledger = Ledger(run.absolute())
    try:
        ledger.stop.touch()
    except OSError as error:
        raise UsageError(f"{ledger.stop}: cannot be written ({error.strerror}).") from error
    units = ledger.standing().units
    jobs = [
        record.job
        for name, record in units.items()
        if record.state == OPEN and not ledger.file(name).exists()
    ]
    engine_for(facts["cluster"], run).cancel(jobs)
    return len(jobs)
