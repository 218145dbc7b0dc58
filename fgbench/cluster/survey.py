"""The survey makes the plan on a node, as that machine's properties count, and not this one's."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from fgbench.cluster.answers import until_death
from fgbench.cluster.engines import ENDED, Engine, Local, Seen, Wave, engine_for, why_it_failed
from fgbench.cluster.node import PART, NodeTask
from fgbench.errors import UsageError
from fgbench.measurement.lock import timing_lock
from fgbench.plan import Config, Plan, make_plan
from fgbench.plan.machine import resolve_device
from fgbench.running import client
from fgbench.running.client import Order, WorkerDiedError, events_of
from fgbench.running.messages import Message, Refused, Report
from fgbench.running.start import environment_for
from fgbench.running.task import Task
from fgbench.running.watcher import Watcher

SECONDS = 60.0  # about what a survey takes
PAUSE = 0.2  # between two looks for the answer


@dataclass(frozen=True)
class SurveyRequest(Message):
    """The request of a survey."""

    config: Config


@dataclass(frozen=True)
class Surveyed(Message):
    """The plan as the node made it, and the node's environment."""

    plan: Plan
    environment: dict[str, Any]


class Survey(Task):
    """The worker's side: make the plan where it will be run."""

    request = SurveyRequest
    reports = (Surveyed,)

    def work(self, asked: SurveyRequest, report: Report) -> None:
        """Check and expand the config, and describe the machine.

        The plan names the node's device, as `auto` would be another one where the runner is.
        """
        plan = make_plan(asked.config)
        plan = replace(plan, config=replace(plan.config, device=plan.groups[0].device))
        report(Surveyed(plan, environment_for(plan)))


def survey(
    config: Config, cluster: Mapping[str, Any], out: Path, watcher: Watcher
) -> tuple[Plan, dict[str, Any]]:
    """The plan of a config and the environment, by a node.

    Args:
        config: what is asked for.
        cluster: as `run.json` holds it.
        out: a folder that the nodes share; it holds what the task leaves until it is read.
        watcher: is told what is waited for.

    Raises:
        UsageError: what a plan is refused for, a folder that cannot be written or that nodes do not share, or
            a scheduler that does not take the task.
    """
    engine, task = engine_for(cluster, out), Survey()
    with _undisturbed(engine, config, watcher):
        return _surveyed(engine, task, config, out, watcher)


def _undisturbed(engine: Engine, config: Config, watcher: Watcher) -> AbstractContextManager[None]:
    """Inside, nothing is timed here, as a task of an earlier runner might be, which a survey would slow down.

    A scheduler gives a survey a node of its own.
    """
    if not isinstance(engine, Local):
        return nullcontext()
    return timing_lock(resolve_device(config.device), watcher.note)


def _surveyed(
    engine: Engine, task: Survey, config: Config, out: Path, watcher: Watcher
) -> tuple[Plan, dict[str, Any]]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=out, prefix=".survey-")).absolute()
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written ({error.strerror}).") from error
    file = folder / "survey.jsonl"
    order = Order.of(task, SurveyRequest(config))
    jobs: list[str] = []
    try:
        wave = Wave("survey", folder / "jobs", SECONDS, shares=False, threads=config.threads or 1)
        jobs = engine.submit([NodeTask(file, (order,), worker=client.WORKER)], wave)
        _wait_for(file, engine, jobs[0], wave, watcher)
        jobs = []
        return _plan_in(file, task)
    finally:
        if jobs:
            _end(engine, jobs, watcher)
        shutil.rmtree(folder, ignore_errors=True)


def _end(engine: Engine, jobs: list[str], watcher: Watcher) -> None:
    """End a task that nobody waits for any more; if that fails, what ended the waiting is still told."""
    try:
        engine.cancel(jobs)
    except UsageError as error:
        watcher.note(str(error))


def _plan_in(file: Path, task: Survey) -> tuple[Plan, dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        try:
            for event in events_of(until_death(lines), task):
                if isinstance(event, Refused):
                    raise UsageError(event.message)
                if isinstance(event, Surveyed):
                    return event.plan, event.environment
        except WorkerDiedError as died:
            raise UsageError(f"a node cannot make the plan: {died}") from died
    raise UsageError("the node's task ended without a plan.")


def _wait_for(file: Path, engine: Engine, job: str, wave: Wave, watcher: Watcher) -> None:
    """Wait until the answer has come, or raise the reason why it never will."""
    told, asked_at, ended_at = "", float("-inf"), None
    while not file.exists():
        sleep(PAUSE)
        if monotonic() - asked_at < engine.seconds_between:
            continue
        asked_at = monotonic()
        found = engine.seen([job])
        seen = None if found is None else found.get(job, Seen(ENDED))
        if seen and seen.reason not in ("", told):
            told = seen.reason
            watcher.note(f"waiting for a node ({told}).")
        if seen is None or seen.state != ENDED:
            ended_at = None
            continue
        ended_at = ended_at or monotonic()
        patient = not seen.failed and monotonic() - ended_at < engine.patience
        if not patient and not file.exists():
            raise UsageError(_nothing_came(file, job, wave, seen))


def _nothing_came(file: Path, job: str, wave: Wave, seen: Seen) -> str:
    where = f" on {seen.node}" if seen.node else ""
    if seen.cancelled:
        return "the task that was to make the plan was cancelled."
    log = why_it_failed(wave.folder, job)
    if log or list(file.parent.glob(f"*{PART}*")):
        return f"the first task failed{where} ({seen.word or ENDED}): {log or 'without a word'}"
    return (
        f"--out {file.parents[1]}: the first task ended{where} ({seen.word or ENDED}) and left nothing "
        "there: the nodes do not share this folder; name one on a file system that they do."
    )
