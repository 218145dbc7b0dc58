"""Engines run tasks: on Slurm, or on this machine one by one; both use submitit."""

from __future__ import annotations

import io
import math
import os
import re
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from fgbench.cluster.node import NodeTask
from fgbench.errors import UsageError

QUEUED, RUNNING, ENDED = "queued", "running", "ended"
WAITING_WORDS = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT")
RUNNING_WORDS = ("RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED")
NEVER_STARTS = "launch failed"  # Slurm holds a task for this reason, and will never start it
LIMITS = ("submit limit", "submitjob", "temporarily", "policy")  # words of sbatch if there is no room
SILENT = ("unable to contact slurm controller", "socket timed out")  # words of sbatch without an answer
NO_ANSWER = (OSError, subprocess.SubprocessError)  # a program of Slurm fails, or cannot even be started
OWN_GPU = ("gres", "gpus", "gpus-per-node", "gpus-per-task")


class NoAnswerError(UsageError):
    """The scheduler does not answer now."""


class NoRoomError(Exception):
    """The scheduler takes no more tasks for now."""


@dataclass(frozen=True)
class Wave:
    """The properties that tasks which are submitted together have in common.

    Attributes:
        name: the name of the wave.
        folder: the folder in which submitit keeps its files.
        seconds: how long the longest task should take.
        shares: whether other jobs may run on the node of a task.
        threads: how many CPU threads a task needs.
        without: the nodes that the tasks must not run on.
    """

    name: str
    folder: Path
    seconds: float
    shares: bool
    threads: int
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What a scheduler knows of a task: `queued`, `running` or `ended`, the node, and why, in its words."""

    state: str
    node: str = ""
    word: str = ""
    wave: str = ""

    @property
    def reason(self) -> str:
        """Why it does not run yet; empty where the scheduler does not say."""
        return self.word if self.state == QUEUED and self.word != "None" else ""

    @property
    def failed(self) -> bool:
        """Whether the scheduler says so; of one that ended otherwise, its file may come late."""
        return self.state == ENDED and self.word not in ("", "COMPLETED")

    @property
    def held(self) -> bool:
        """Whether it will never start, and is in the queue all the same."""
        return self.state == ENDED and self.word.startswith(WAITING_WORDS)

    @property
    def out_of_time(self) -> bool:
        """Whether it was ended at its time limit."""
        return self.word.startswith("TIMEOUT")

    @property
    def cancelled(self) -> bool:
        """Whether somebody cancelled it."""
        return self.word.startswith("CANCELLED")


class Engine(ABC):
    """A place that runs tasks: Slurm or this machine.

    Attributes:
        at_once: how many tasks it takes in one submission.
        open_at_most: how many tasks may be under way at a time; None for any number.
        seconds_between: how long to wait before asking for the state of the tasks again.
        patience: seconds after the end of a task by which its file must be there.
    """

    at_once: int
    open_at_most: ClassVar[int | None] = None
    seconds_between: ClassVar[float]
    patience: ClassVar[float]

    @abstractmethod
    def submit(self, tasks: Sequence[NodeTask], wave: Wave) -> list[str]:
        """Hand tasks over; gives their jobs.

        Raises:
            NoRoomError: not so many, now.
            NoAnswerError: it does not answer now. If it took them all the same, they find no work and fail.
            UsageError: the scheduler does not take them, in its own words.
        """

    @abstractmethod
    def seen(self, jobs: Sequence[str]) -> dict[str, Seen] | None:
        """What is known of jobs, and of all others of the run; None where the scheduler does not answer."""

    @abstractmethod
    def cancel(self, jobs: Sequence[str]) -> None:
        """End these jobs, and with Slurm all others of the run.

        Raises:
            UsageError: the scheduler does not answer, so that they may go on.
        """

    def drop(self, job: str) -> None:  # noqa: B027 - most have no queue
        """Take a job, or all tasks of an array, out of the queue."""


def engine_for(cluster: Mapping[str, Any], folder: Path) -> Engine:
    """The engine of a run.

    Args:
        cluster: what its `run.json` holds under this key.
        folder: the folder that its tasks write to.

    Raises:
        UsageError: it is not installed here.
        NoAnswerError: it does not answer.
    """
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UsageError(
            f"--on {cluster['on']} needs submitit, which is not installed: pip install 'fgbench[slurm]'."
        ) from None
    if cluster["on"] == "slurm":
        return Slurm(cluster["name"], cluster["options"], cluster["setup"])
    return Local(folder)


def why_it_failed(folder: Path, job: str) -> str:
    """The last line that a task wrote on standard error; empty where there is none."""
    from submitit.core.utils import JobPaths

    with suppress(OSError):
        lines = JobPaths(folder, job).stderr.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


# ---- Slurm


@dataclass
class Slurm(Engine):
    """Slurm's array jobs, all under one name.

    Attributes:
        name: the name that all jobs of the run have.
        options: the options for sbatch, by their long names.
        setup: shell commands that every task runs first.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    setup: Sequence[str] = ()
    seconds_between: ClassVar[float] = 10.0
    patience: ClassVar[float] = 90.0  # a shared file system may show a new file a minute late

    def __post_init__(self) -> None:
        if shutil.which("sbatch") is None:
            raise UsageError(
                "--on slurm: there is no sbatch on this machine; run it where jobs are submitted to Slurm."
            )
        self.at_once = self._largest_array()

    def _largest_array(self) -> int:
        try:
            said = _output("scontrol", "show", "config")
        except NO_ANSWER as error:
            raise NoAnswerError(f"--on slurm: Slurm does not answer ({_line_of(error)}).") from error
        found = re.search(r"MaxArraySize\s*=\s*(\d+)", said)
        return max(1, int(found.group(1)) - 1) if found else 1000

    def submit(self, tasks: Sequence[NodeTask], wave: Wave) -> list[str]:
        """Submit tasks as one array; they run without srun, on all CPUs that the job has."""
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError

        executor = SlurmExecutor(wave.folder)
        options = {"comment": wave.name, **self._where(wave), **self.options}
        exclude = ",".join(filter(None, (str(self.options.get("exclude", "")), *wave.without)))
        executor.update_parameters(
            job_name=self.name,
            time=math.ceil(3 * wave.seconds / 60) + 10,
            array_parallelism=len(tasks),
            use_srun=False,
            setup=list(self.setup) or None,
            additional_parameters=options | ({"exclude": exclude} if exclude else {}),
        )
        try:
            with redirect_stderr(io.StringIO()):  # submitit shows it too
                return [job.job_id for job in executor.submit_array(list(tasks))]
        except FailedJobError as error:
            said = _last_line(str(error))
            if any(word in said.lower() for word in LIMITS):
                raise NoRoomError(said) from error
            if any(word in said.lower() for word in SILENT):
                raise NoAnswerError(f"--on slurm: Slurm does not answer ({said}).") from error
            raise UsageError(f"--on slurm: sbatch does not take the tasks: {said}.") from error

    def _where(self, wave: Wave) -> dict[str, Any]:
        """Ask for an exclusive node, unless the task may share its node or has a GPU of its own."""
        if wave.shares:
            return {"cpus-per-task": wave.threads}
        return {} if any(name in self.options for name in OWN_GPU) else {"exclusive": True}

    def seen(self, jobs: Sequence[str]) -> dict[str, Seen] | None:
        """Ask with a single squeue for the whole run."""
        form = "%i|%T|%N|%k|%r"
        try:
            said = _output("squeue", "--me", f"--name={self.name}", "-t", "all", "-r", "-h", "-o", form)
        except NO_ANSWER:
            return None
        return {line.split("|")[0]: _seen(line) for line in said.splitlines() if line.count("|") >= 4}

    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel all jobs that bear the run's name."""
        command = ("scancel", "--me", f"--name={self.name}")
        try:
            _output(*command)
        except NO_ANSWER as error:
            raise UsageError(
                f"tasks may go on, as Slurm does not end them ({_line_of(error)}): try again later, or with "
                f"{' '.join(command)}"
            ) from error

    def drop(self, job: str) -> None:
        """Cancel this job or array alone; if that fails, it waits for a user's own scancel."""
        with suppress(*NO_ANSWER):
            _output("scancel", job)


def _seen(line: str) -> Seen:
    _, word, node, wave, reason = line.split("|", 4)
    if word in RUNNING_WORDS:
        return Seen(RUNNING, node, word, wave)
    if word in WAITING_WORDS and NEVER_STARTS not in reason.lower():
        return Seen(QUEUED, node, reason, wave)
    return Seen(ENDED, node, word if reason in ("None", "") else f"{word}, {reason}", wave)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def _line_of(error: Exception) -> str:
    said = getattr(error, "stderr", None) or str(error)
    return _last_line(said.decode(errors="replace") if isinstance(said, bytes) else said)  # after a time-out


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "it gives no reason"


# ---- this machine


@dataclass
class Local(Engine):
    """This machine, with one task after the other, as two at once would disturb each other.

    Attributes:
        folder: the folder that tasks write to, by which an earlier runner's are known.
        mine: the tasks of this runner.
    """

    folder: Path
    at_once: int = 1
    open_at_most: ClassVar[int | None] = 1
    seconds_between: ClassVar[float] = 0.1
    patience: ClassVar[float] = 1.0
    mine: dict[str, Any] = field(default_factory=dict)

    def submit(self, tasks: Sequence[NodeTask], wave: Wave) -> list[str]:
        """Start each task as a process of its own, which goes on when this one ends."""
        from submitit import LocalExecutor

        executor = LocalExecutor(wave.folder)
        executor.update_parameters(timeout_min=60 * 24 * 365)
        jobs = [executor.submit(task) for task in tasks]
        self.mine |= {job.job_id: job for job in jobs}
        return [job.job_id for job in jobs]

    def seen(self, jobs: Sequence[str]) -> dict[str, Seen] | None:
        """As of `Engine`, from the processes on this machine."""
        here = os.uname().nodename
        return {job: Seen(RUNNING if self._runs(job) else ENDED, here) for job in jobs}

    def _runs(self, job: str) -> bool:
        if job in self.mine:
            return not self.mine[job].done()
        return self._is_task(int(job))

    def cancel(self, jobs: Sequence[str]) -> None:
        """End the jobs that are still running."""
        for job in map(int, jobs):
            if self._is_task(job):
                with suppress(OSError):
                    os.kill(job, signal.SIGTERM)

    def _is_task(self, process: int) -> bool:
        """Whether a process is a task of this run, as the numbers of processes are used again."""
        with suppress(OSError, ValueError):  # there is none, or its command has fewer words
            words = os.fsdecode(Path(f"/proc/{process}/cmdline").read_bytes()).split("\0")
            *_, module, folder, _ = words
            own = self.folder.resolve()
            return module == "submitit.local._local" and Path(folder).resolve().is_relative_to(own)
        return False
