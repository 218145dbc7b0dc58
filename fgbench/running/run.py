"""The runner: takes a plan group by group through its phases, each in fresh processes, and stores all."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fgbench import methods
from fgbench.measurement.load import WINDOW_SECONDS
from fgbench.measurement.lock import timing_lock
from fgbench.measurement.statistics import two_stage_size
from fgbench.plan import BEST, Plan
from fgbench.running.estimate import (
    EVALUATION_SHARE,
    LOAD_SHARE,
    STARTUP_SECONDS,
    choosing_processes,
    choosing_seconds,
    load_seconds,
)
from fgbench.running.group_run import GroupJobs
from fgbench.running.recovery import ENDED_EARLY, leaves_out, records, recover
from fgbench.running.watcher import Watcher
from fgbench.store.run_folder import RunFolder
from fgbench.summary.live import LiveRatios
from fgbench.summary.modes import choices, marked
from fgbench.summary.ratios import (
    AA_ROLE,
    ALONE_ROLE,
    BASE_ROLE,
    METHOD_ROLE,
    SLOWED_ROLE,
    log_ratio_medians,
    ratios,
)
from fgbench.summary.targets import target_rows, targets_of
from fgbench.training.loop import STRETCH
from fgbench.training.search import TYPICAL_RUNS

FIRST_SEED = 1  # of the measured runs; the search has a seed of its own
SEARCH_SEED = 0
PILOT_SHARE = 0.6  # of the timing budget, for the processes that are decided on beforehand
GRID_COLUMNS = ("evaluate_every", "evaluate_first")


def run_plan(plan: Plan, folder: RunFolder, contracts: dict[str, str], watcher: Watcher) -> None:
    """Run every group of a plan into a folder.

    What an earlier try finished is not done again. On KeyboardInterrupt what was measured so far is
    summarised and the folder closed as `interrupted` before it is raised again.

    Raises:
        UsageError: another fgbench writes to the folder.
        ResultsError: it cannot be written to, or what it holds is damaged.
    """
    with folder.held():
        folder.begin()
        done = recover(folder)
        status = "error"
        try:
            for group in plan.groups:
                # All phases: each would be measured wrong, or measure another's wrong, beside another.
                with timing_lock(group.device, watcher.note):
                    GroupRun(plan, group, contracts[group.name], folder, watcher, done).run()
            status = "done"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            folder.finish(status)


class GroupRun(GroupJobs):
    """One matched group on its way through timing, memory, tuning and training."""

    def run(self) -> None:
        """All phases that were asked for; a failing one is rows, and the next goes on without it."""
        if self.plan.config.execution == BEST or self._updates_to_find():
            self._modes()
        # What a step is has to be known before it is timed.
        tuned = self._tune() if self.plan.config.train and len(self.group.optimizers) > 1 else None
        if self.plan.config.time:
            self._time()
            self._alone()
            self._load()
            self._store_ratios()
            self._memory()
        if self.plan.config.train:
            grid, rates = tuned or self._tune()
            if grid is not None:
                self._train(grid, rates)

    # ---- execution modes and updates

    def _updates_to_find(self) -> bool:
        """Whether a method leaves open how it updates."""
        own = [replace(self.group.conditions, optimizer=o) for o in self.group.optimizers]
        return any(methods.find(m).updates(conditions) for m in self.methods for conditions in own)

    def _modes(self) -> None:
        """Find the fastest execution mode, of the base too, and the fastest update, over fresh processes."""
        if not self._finished("modes"):
            with self._jobs("modes", self.methods, seed=SEARCH_SEED) as jobs:
                processes = choosing_processes(self.plan.config)
                for number in range(processes):
                    self._modes_in_process(jobs, number, processes)
                rows = list(records(marked(self._rows("modes"))))
                self.folder.replace_group("modes", self.group.name, rows)
        for choice in choices(self._rows("modes")):
            if self.plan.config.execution == BEST:
                self.executions[choice.method] = choice.execution
            if choice.update:
                self.updates.setdefault(choice.method, {})[choice.optimizer] = choice.update
                self.watcher.note(f"{self.group.name}, {choice.method}: {choice.sentence}.")

    def _modes_in_process(self, jobs: dict[str, dict[str, Any]], number: int, processes: int) -> None:
        best = self.plan.config.execution == BEST
        seconds = choosing_seconds(self.plan.config) / processes
        text = "execution modes" if best else "ways to update"
        self.watcher.phase(
            self.group, f"{text}, process {number + 1} of {processes}", seconds + STARTUP_SECONDS
        )
        for event in self._work("modes", jobs, SEARCH_SEED, seconds=seconds, best=best, number=number):
            if event.pop("event") == "mode":
                self.folder.append("modes", {"group": self.group.name, "process": number, **event})

    # ---- timing

    def _time(self) -> None:
        config = self.plan.config
        pilot, total = config.processes, config.processes
        self.live = LiveRatios(self.plan.reference)
        seconds = config.max_measure_seconds * (PILOT_SHARE if pilot > 1 else 1.0) / pilot
        affordable = max(pilot, int(config.max_measure_seconds / seconds)) if pilot > 1 else 1
        process, self.stopped = 0, "quick" if pilot == 1 else "time"
        try:
            while process < total and self._time_in_process(process, total, seconds):
                process += 1
                if process == pilot > 1:
                    wanted = self._processes_wanted(pilot)
                    total = min(wanted, affordable)
                    self.stopped = "precision" if wanted <= affordable else "time"
        except KeyboardInterrupt:
            self.stopped = "interrupted"
            raise
        finally:
            self._store_ratios()

    def _time_in_process(self, process: int, total: int, seconds: float) -> bool:
        """Time one process's rounds; whether any method came through."""
        if self._finished("time", process):
            jobs_of_it = self._rows("jobs").query("phase == 'time' and process == @process")
            return bool((jobs_of_it["status"] == "ok").any())
        text = f"timing, process {process + 1} of {total}"
        self.watcher.phase(self.group, text, seconds + STARTUP_SECONDS)
        with self._jobs("time", self.methods, seed=SEARCH_SEED, process=process) as jobs:
            request = {"process": process, "seconds": seconds, "reference": self.plan.reference}
            request["slowed"] = self.plan.config.slowed
            rounds = seen = 0
            for event in self._work("time", jobs, SEARCH_SEED, **request):
                if event["event"] == "rounds":
                    rounds = event["rounds"]
                if event["event"] == "samples" and rounds:
                    seen += 1
                    self.live.add(event["samples"])
                    self.watcher.progress(seen / rounds, f"{text}, round {seen} of {rounds} {self.live}")
                if event["event"] == "parts":
                    rows = ({"group": self.group.name, "process": process, **p} for p in event["parts"])
                    self.folder.append("parts", *rows)
                if event["event"] == "samples":
                    self.folder.append("samples", *(self._sample_row(process, s) for s in event["samples"]))
        return any(job["status"] == "ok" for job in jobs.values())

    def _alone(self) -> None:
        """Every method, and the base, one after the other: each in fresh processes of its own."""
        config = self.plan.config
        seconds = config.max_measure_seconds / config.processes / (1 + len(self.methods))
        for process in range(config.processes if config.isolated else 0):
            if self._finished("alone", process):
                continue
            text = f"timing alone, process {process + 1} of {config.processes}"
            with self._jobs("alone", self.methods, seed=SEARCH_SEED, process=process) as jobs:
                arms = [BASE_ROLE, *jobs]
                random.Random(process).shuffle(arms)
                for arm in arms:
                    self.watcher.phase(self.group, f"{text}, {arm}", seconds + STARTUP_SECONDS)
                    request = {"alone": arm, "process": process, "seconds": seconds}
                    for event in self._work("alone", jobs, SEARCH_SEED, **request):
                        if event["event"] == "samples":
                            rows = (self._sample_row(process, s, ALONE_ROLE) for s in event["samples"])
                            self.folder.append("samples", *rows)

    def _sample_row(self, process: int, sample: dict[str, Any], role: str = "") -> dict[str, Any]:
        arm = sample.pop("arm")
        if arm.startswith(f"{SLOWED_ROLE} "):
            role, _, arm = arm.partition(" ")
        role = role or (arm if arm in (BASE_ROLE, AA_ROLE) else METHOD_ROLE)
        method = self.plan.reference if arm == AA_ROLE else arm
        return {"group": self.group.name, "method": method, "role": role, "process": process, **sample}

    def _processes_wanted(self, pilot: int) -> int:
        """By Stein's second stage: from the pilot's spread alone, for the least precise ratio."""
        samples = self._rows("samples").query("process < @pilot")  # a resumed run may hold more
        measured = samples[~samples["warm_up"].astype(bool) & (samples["role"] == METHOD_ROLE)]
        wide = measured.pivot_table(index=["process", "round"], columns="method", values="seconds")
        reference = self.plan.reference
        if reference not in wide:
            return pilot
        others = [m for m in wide.columns if m != reference]
        medians = [list(log_ratio_medians(wide[m], wide[reference])) for m in others]
        wanted = [two_stage_size(m, self.plan.config.precision) for m in medians if len(m) > 1]
        return max([pilot, *wanted])

    def _store_ratios(self) -> None:
        facts = {"group": self.group.name, "reference": self.plan.reference, "stopped": self.stopped}
        load = self._rows("load")
        joules = dict(zip(load["method"], load["joules"], strict=True))
        found = ratios(self._rows("samples"), self.plan.reference, self.plan.config.processes, joules)
        self.folder.replace_group("ratios", self.group.name, [{**facts, **ratio.row()} for ratio in found])

    # ---- load

    def _load(self) -> None:
        """What a step of each method costs a GPU beside time; its share of the budget is on top of that."""
        if not self.group.device.startswith("cuda") or self._finished("load"):
            return
        specs, config = self.methods, self.plan.config
        seconds = load_seconds(config, len(specs))
        if seconds < WINDOW_SECONDS:
            self.watcher.note(
                f"{self.group.name}: energy is not read: it takes a window of {WINDOW_SECONDS:g} s a method; "
                f"--max-measure-seconds {len(specs) * WINDOW_SECONDS / LOAD_SHARE:g} has room for them."
            )
        self.watcher.phase(self.group, "load of the GPU", len(specs) * seconds + STARTUP_SECONDS)
        with self._jobs("load", specs, seed=SEARCH_SEED) as jobs:
            for event in self._work("load", jobs, SEARCH_SEED, seconds=seconds):
                if event.pop("event") == "load":
                    self.folder.append("load", {"group": self.group.name, **event})

    # ---- memory

    def _memory(self) -> None:
        if self._finished("memory"):
            return
        self.watcher.phase(self.group, "peak memory", STARTUP_SECONDS)
        with self._jobs("memory", self.methods, seed=SEARCH_SEED) as jobs:
            for event in self._work("memory", jobs, SEARCH_SEED):
                if event["event"] == "memory":
                    del event["event"]
                    self.folder.append("memory", {"group": self.group.name, **event})

    # ---- training

    def _tune(self) -> tuple[tuple[int, int] | None, dict[str, float]]:
        """The grid's `every` and `first`, and a learning rate for each method that can be trained."""
        config = self.plan.config
        if self._finished("tune"):
            return self._tuned_before()
        given = config.learning_rate
        grid: tuple[int, int] | None = None
        rates, spent = {} if given is None else dict.fromkeys(self.methods, given), 0.0
        a_method = TYPICAL_RUNS * config.max_train_seconds * len(self.group.optimizers)
        searching = a_method * len(self.methods) if given is None else 0.0
        text = "learning-rate search" if given is None else "pacing"
        self.watcher.phase(self.group, text, searching + STARTUP_SECONDS)
        with self._jobs("tune", self.methods, seed=SEARCH_SEED) as jobs:
            goal = {
                "losses": config.target_loss,
                "accuracies": config.target_accuracy,
                "reference": self.plan.reference,
            }
            request = {
                "protocol": self._protocol(config.evaluate_every, STRETCH),
                "goal": goal if given is None else None,
            }
            for event in self._work("tune", jobs, SEARCH_SEED, **request):
                match event.pop("event"):
                    case "grid":
                        grid = event["every"], event["first"]
                        for spec, job in jobs.items():
                            job |= {"learning_rate": given, "queries": event["queries"].get(spec)}
                            job |= dict(zip(GRID_COLUMNS, grid, strict=True))
                    case "trial":
                        self.folder.append("search", {"group": self.group.name, **event})
                        spent += event["train_seconds"]
                        self._show_trial(event, min(spent / searching, 1.0))
                    case "tuned":
                        method, rate = event["method"], event["learning_rate"]
                        rates[method], self.optimizers[method] = rate, event["optimizer"]
                        jobs[method] |= {"learning_rate": rate, "optimizer": event["optimizer"]}
                        self._mark_chosen(event)
        if _died(jobs):  # a resume tries again: what is there may be the methods' that came first
            return None, {}
        return grid, {method: rate for method, rate in rates.items() if method not in self.left_out}

    def _tuned_before(self) -> tuple[tuple[int, int] | None, dict[str, float]]:
        """What an earlier try's tuning found."""
        jobs = self._rows("jobs")
        jobs = jobs[(jobs["phase"] == "tune") & jobs["learning_rate"].notna()]
        if jobs.empty:
            return None, {}
        rates = dict(zip(jobs["method"], jobs["learning_rate"], strict=True))
        self.optimizers = dict(zip(jobs["method"], jobs["optimizer"], strict=True))
        every, first = (int(jobs[column].iloc[0]) for column in GRID_COLUMNS)
        return (every, first), {m: r for m, r in rates.items() if m not in self.left_out}

    def _show_trial(self, trial: dict[str, Any], share: float) -> None:
        text = (
            f"learning-rate search, {trial['method']}: "
            f"{trial['learning_rate']:g} gives loss {trial['validation_loss']:.3g}"
        )
        self.watcher.progress(share, text)

    def _mark_chosen(self, tuned: dict[str, Any]) -> None:
        """What a method's whole runs were worth, and which of them is taken, into the search's rows."""
        found = list(records(self._rows("search")))
        scored = {(run["optimizer"], run["learning_rate"]): run for run in tuned["scored"]}
        for row in found:
            if row["method"] != tuned["method"]:
                continue
            run = scored.get((row["optimizer"], row["learning_rate"])) if row["full"] else None
            row["chosen"] = run is not None and run["chosen"]
            if run:
                row |= {name: run[name] for name in ("targets_reached", "target_seconds")}
            if row["chosen"]:
                row["chosen_by"] = tuned["chosen_by"]
        self.folder.replace_group("search", self.group.name, found)

    def _train(self, grid: tuple[int, int], rates: dict[str, float]) -> None:
        seeds = range(FIRST_SEED, FIRST_SEED + self.plan.config.seeds) if rates else ()
        try:
            for seed in seeds:
                self._train_seed(seed, grid, rates)
        finally:
            self._store_targets()

    def _train_seed(self, seed: int, grid: tuple[int, int], rates: dict[str, float]) -> None:
        if self._finished("train", seed):
            return
        seconds = self.plan.config.max_train_seconds
        text = f"training, seed {seed - FIRST_SEED + 1} of {self.plan.config.seeds}"
        self.watcher.phase(self.group, text, len(rates) * seconds * (1 + EVALUATION_SHARE) + STARTUP_SECONDS)
        spent = dict.fromkeys(rates, 0.0)
        with self._jobs("train", list(rates), seed=seed, rates=rates) as jobs:
            for spec, job in jobs.items():
                job |= {"queries": methods.find(spec).queries, **dict(zip(GRID_COLUMNS, grid, strict=True))}
            checkpoint = self.folder.checkpoint(f"{self.group.name}-{seed}")
            request = {
                "protocol": self._protocol(*grid),
                "learning_rates": rates,
                "checkpoint": str(checkpoint.absolute()),
            }
            for event in self._work("train", jobs, seed, **request):
                if event.pop("event") != "point":
                    continue
                row = {"job": jobs[event["method"]]["job"], "group": self.group.name, "seed": seed, **event}
                self.folder.append("curves", row)
                spent[event["method"]] = min(event["train_seconds"], seconds)
                self.watcher.progress(
                    sum(spent.values()) / (seconds * len(spent)),
                    f"{text}, {event['method']}: validation loss {event['validation_loss']:.3g}",
                )
        if _died(jobs):  # a resume goes on from it
            return
        checkpoint.unlink(missing_ok=True)
        with suppress(OSError):  # it holds others
            checkpoint.parent.rmdir()

    def _protocol(self, every: int | None, first: int) -> dict[str, Any]:
        """What a worker's `Protocol` is made of."""
        config = self.plan.config
        budget = {
            "seconds": config.max_train_seconds,
            "iterations": config.max_iterations,
            "queries": config.max_queries,
        }
        return {"budget": budget, "decay": config.lr_decay, "every": every, "first": first}

    def _store_targets(self) -> None:
        curves, config = self._rows("curves"), self.plan.config
        # A run that an error ended says nothing of the time to a target: it is in jobs.csv, and nowhere else.
        jobs = self._rows("jobs")
        curves = curves[~curves["job"].isin(jobs["job"][leaves_out(jobs)])]
        if curves.empty:
            return
        targets = targets_of(curves, config.target_loss, config.target_accuracy, self.plan.reference)
        if not targets:
            self.watcher.note(f"{self.group.name}: no target: no run held a validation loss below its start.")
            return
        rows = target_rows(curves, jobs, targets)
        self.folder.replace_group("targets", self.group.name, rows)


def _died(jobs: dict[str, dict[str, Any]]) -> bool:
    """Whether the worker of a phase's jobs ended before it was done."""
    return any(job.get("detail", "").startswith(ENDED_EARLY) for job in jobs.values())
