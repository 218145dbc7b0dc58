"""The plan: a config, checked and expanded into matched groups."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from fgbench import architectures, datasets, methods
from fgbench.errors import UsageError
from fgbench.plan.checks import check_config, check_device
from fgbench.plan.config import REFERENCE, Config
from fgbench.plan.defaults import settled
from fgbench.plan.group import Group
from fgbench.plan.machine import resolve_device, resolve_threads
from fgbench.plan.model import model_of
from fgbench.specs.options import canonical, split_spec


@dataclass(frozen=True)
class Plan:
    """A config with its groups, after specs are in their shortest form and device and threads are known.

    Attributes, where the name does not say it: data is a hash of the dataset's contents; chance the loss of
    one who gives all its classes the same probability; weights is one of those that `--start` gives.
    """

    config: Config
    groups: tuple[Group, ...]
    data: str = ""
    chance: float = math.inf
    weights: str = ""

    @property
    def reference(self) -> str:
        """The method that ratios are over: backprop, or the first method if backprop is not among them."""
        names = self.config.methods
        return REFERENCE if REFERENCE in names else names[0]


def make_plan(config: Config) -> Plan:
    """Check everything that can be wrong, before anything is measured or written.

    Every model of the grid is built once, so that a user's build function that fails does so here.

    Raises:
        UsageError: one line that says what is wrong and what would be right.
    """
    check_config(config)
    device = resolve_device(config.device)
    config = _canonical(settled(config, device))
    check_device(config, device)
    threads = resolve_threads(config.threads)
    data = datasets.load_whole(config.dataset, Path(config.data_dir))
    if (most := max(config.batches)) > len(data.train_x):
        raise UsageError(f"--batch {most}: {config.dataset} has only {len(data.train_x)} training samples.")
    groups = groups_of(config, device, threads)
    _check_names(groups)
    weights = [model_of(group, data.in_shape, data.classes)[1] for group in groups]
    shard = _shard(config.shard, groups)
    return Plan(config, shard, data.contents, math.log(data.classes), weights[0])


def _canonical(config: Config) -> Config:
    """The config with every spec in its shortest form."""
    from fgbench.methods.steps.optimizer import canonical_optimizer
    from fgbench.training.trained import canonical_trained

    return dataclasses.replace(
        config,
        methods=methods.canonical_specs(config.methods),
        dataset=canonical(split_spec(config.dataset)[0], datasets.find(config.dataset)),
        optimizer=canonical_optimizer(config.optimizer),
        trained=canonical_trained(config.trained),
    )


def groups_of(config: Config, device: str, threads: int) -> tuple[Group, ...]:
    """A group for each architecture, depth and batch, for all shards together and without duplicates.

    Raises:
        UsageError: no such architecture.
    """
    config = settled(config, device)
    families = [(arch, architectures.find(arch)) for arch in config.archs]
    groups = (
        Group(
            arch,
            depth,
            config.width or family.width_on(device),
            batch,
            config.dataset,
            config.validation_size,
            config.dtype,
            device,
            threads,
            config.execution,
            config.optimizer,
            config.start,
            config.trained,
            config.memory_budget,
        )
        for arch, family in families
        for depth in config.depths or (family.default_depth,)
        for batch in config.batches
    )
    return tuple(dict.fromkeys(groups))


def _check_names(groups: tuple[Group, ...]) -> None:
    by_name: dict[str, Group] = {}
    for group in groups:
        other = by_name.setdefault(group.name, group)
        if other != group:
            raise UsageError(
                f"--arch {other.arch} and {group.arch} would both be called {group.name}: "
                "rename one of the files, or run them apart."
            )


def _shard(shard: str, groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """The groups of a shard: every n-th one, so that each shard has deep and shallow ones."""
    if not shard:
        return groups
    index, _, count = shard.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise UsageError(f"--shard {shard}: must be i/n with i from 1 to n, as in 2/3.")
    own = groups[int(index) - 1 :: int(count)]
    if not own:
        raise UsageError(
            f"--shard {shard}: there are only {len(groups)} groups, so that none is left for it."
        )
    return own
