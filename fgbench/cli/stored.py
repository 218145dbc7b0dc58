"""Runs that begin from stored ones: `--like` another, or `--resume` of one that was cut off or gets seeds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgbench.cli.cluster import cluster_resumed, planned
from fgbench.cli.presets import QUICK
from fgbench.errors import UsageError

if TYPE_CHECKING:
    from fgbench.plan import Config, Plan
    from fgbench.store.run_folder import RunFolder

LISTED = 5  # so many runs are named where one is to be chosen
# Fields of the config that an option of another name sets.
FIELDS = {
    "arch": ("archs",),
    "depth": ("depths",),
    "method": ("methods",),
    "lr": ("learning_rate",),
    "train": ("trained",),
    "time_only": ("time", "train"),
    "train_only": ("time", "train"),
    "quick": tuple(QUICK),
}


def like(path: Path, asked: Config, given: set[str]) -> Config:
    """The config of a stored run, with the options that the command line gives in place of its own.

    Args:
        path: of the run.
        asked: the command line's own config.
        given: names of the options in it that were given.

    Raises:
        UsageError: several runs are there.
        ResultsError: no run, or one of options that this version does not have.
    """
    import dataclasses

    from fgbench.plan import Config

    facts = the_run("--like", path).facts()
    stored = Config.from_facts(facts["config"])
    widths = {group["width"] for group in facts["groups"]}
    if stored.width is None and len(widths) == 1:  # the architecture's default may have changed since
        stored = dataclasses.replace(stored, width=widths.pop())
    fields = {field for option in given for field in FIELDS.get(option, (option,))}
    known = {field.name for field in dataclasses.fields(Config)}
    return dataclasses.replace(stored, **{field: getattr(asked, field) for field in fields & known})


def the_run(option: str, path: Path) -> RunFolder:
    """The run that an option names by its folder, or by one that holds it alone.

    Raises:
        UsageError: several runs are there.
        ResultsError: no run.
    """
    from fgbench.store.run_folder import RUN_FILE, RunFolder, find_runs

    if (path / RUN_FILE).exists():
        return RunFolder.open(path)
    found = find_runs(path)
    if len(found) > 1:
        names = ", ".join(str(run.path) for run in reversed(found[-LISTED:]))
        more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
        raise UsageError(f"{option} {path}: it holds {len(found)} runs, name one: {names}{more}.")
    return found[0]


def note_what_differs(path: Path, contracts: dict[str, str]) -> None:
    """Say which groups of the stored run are not measured as they were."""
    facts = the_run("--like", path).facts()
    stored = {group["name"]: group["contract"] for group in facts["groups"]}
    other = [name for name, contract in contracts.items() if contract != stored.get(name)]
    if other:
        print(
            f"fgbench: --like {path}: {', '.join(other)} differs from what was measured, in an option, the "
            "device, the libraries, the cores, the data, the model's code or fgbench itself.",
            file=sys.stderr,
        )


def begun(path: Path) -> tuple[RunFolder, Config]:
    """A run that was cut off and its config, if this fgbench can go on with it.

    Args:
        path: of the run, or of a folder that holds it alone.

    Raises:
        UsageError: several runs are there, or an older fgbench began it.
        ResultsError: no run.
    """
    from fgbench.plan import Config
    from fgbench.store.schema import SCHEMA_VERSION
    from fgbench.version import __version__

    folder = the_run("--resume", path)
    path = folder.path
    facts = folder.facts()
    if facts["schema_version"] != SCHEMA_VERSION:
        raise UsageError(f"--resume {path}: an older fgbench began it; start a new run with --like {path}.")
    if facts["fgbench_version"] != __version__:
        raise UsageError(
            f"--resume {path}: fgbench {facts['fgbench_version']} began it, and this is {__version__}; go on "
            f"with that version, or start a new run with --like {path}."
        )
    return folder, Config.from_facts(facts["config"])


def with_more_seeds(folder: RunFolder, config: Config, seeds: int) -> Config:
    """A stored run's config with more seeds than it had.

    Raises:
        UsageError: they are not more, or the run trains nothing.
    """
    import dataclasses

    path = folder.path
    if not config.train:
        raise UsageError(f"--seeds: {path} was made with --time-only and trains nothing: leave it out.")
    if seeds <= config.seeds:
        raise UsageError(
            f"--seeds {seeds}: {path} has {config.seeds} already; give more to add to them, or leave it out."
        )
    return dataclasses.replace(config, seeds=seeds)


def resumed(
    folder: RunFolder, config: Config, slurm: Sequence[str] = ()
) -> tuple[Plan, dict[str, str], dict[str, Any] | None]:
    """The plan, contracts and cluster of a run that was cut off, if nothing that matters has changed.

    For a run on a cluster a task is sent there, which looks at a node.

    Args:
        folder: of the run.
        config: of the run.
        slurm: options of sbatch that are to be others than at its beginning, as a time limit.

    Raises:
        UsageError: an option is not valid, or something that decides on figures is another now.
    """
    from fgbench.plan import make_plan
    from fgbench.running.start import contracts_of, what_changed

    environment, facts = None, folder.facts()
    cluster = cluster_resumed(facts.get("cluster"), slurm)
    if cluster is None:
        plan = make_plan(config)
    else:
        now = {**cluster}  # the jobs keep the name that they were submitted with
        plan, environment = planned(config, now, folder.path.parent)
        cluster = {**cluster, "units": now["units"]}
    if changed := what_changed(facts, plan, environment):
        raise UsageError(
            f"--resume {folder.path}: it would not be the same run any more ({changed}); start a new run "
            f"with --like {folder.path}."
        )
    return plan, contracts_of(plan, environment), cluster
