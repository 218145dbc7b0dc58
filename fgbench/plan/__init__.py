"""The plan: what was asked for, expanded into matched groups."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from fgbench import architectures, datasets, methods
from fgbench.errors import ResultsError, UsageError
from fgbench.measurement.environment import conditions, usable_cores
from fgbench.specs.options import OR, canonical, split_spec
from fgbench.store.schema import OLDEST_READABLE
from fgbench.version import __version__

TF32 = "tf32"  # float32 tensors, matrix products and convolutions rounded to TF32
DTYPES = ("float32", "float64", "bfloat16", TF32)
BEST = methods.BEST  # each method in the execution mode that is fastest for it
TARGET_WORDS = ("auto", "backprop-best")
REFERENCE = "backprop"  # the method that a ratio is over, wherever it is among the methods


@dataclass(frozen=True)
class Config:
    """All that was asked for; the command line's options are its fields.

    Attributes, where the name does not say it: depths and width None mean the architecture's own;
    optimizer may be several with `|` between them, of which each method's search takes the best;
    learning_rate None means searched, lr_decay shrinks it by exp(-lr_decay · i) at step i; target_loss
    and target_accuracy hold several with commas; max_iterations and max_queries (evaluations of the
    model, as a method counts its steps) end a training job too; evaluate_every None means found from
    the methods' pace; precision is the wanted half-width of a ratio's interval as a
    share; max_measure_seconds is for one group's timing over all its processes; max_train_seconds is
    for one training job; isolated also times every method alone; shard is `i/n`, or empty for all groups.
    """

    archs: tuple[str, ...]
    depths: tuple[int, ...] | None
    width: int | None
    batch: int
    dataset: str
    validation_size: int
    data_dir: str
    methods: tuple[str, ...]
    seeds: int
    target_loss: str
    learning_rate: float | None
    max_train_seconds: float
    precision: float
    max_measure_seconds: float
    processes: int
    device: str
    dtype: str
    threads: int | None
    execution: str = "eager"
    optimizer: str = "sgd"
    time: bool = True
    train: bool = True
    isolated: bool = False
    shard: str = ""
    lr_decay: float = 0.0
    target_accuracy: str = ""
    max_iterations: int | None = None
    max_queries: int | None = None
    evaluate_every: int | None = None
    slowed: float = 0.0

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Config:
        """The config of a stored run: what its `run.json` holds under `config`.

        Raises:
            ResultsError: options that this version does not have, or lacks.
        """
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
        try:
            return cls(**values)
        except TypeError as error:
            raise ResultsError(f"run.json: its config is not this version's ({error}).") from error


@dataclass(frozen=True)
class Group:
    """A matched group: all that its jobs share. Only the method differs within it."""

    arch: str
    depth: int
    width: int
    batch: int
    dataset: str
    validation_size: int
    dtype: str
    device: str
    threads: int
    execution: str = "eager"
    optimizer: str = "sgd"

    @property
    def optimizers(self) -> tuple[str, ...]:
        """One for all methods, or those that each method's search takes one of."""
        return tuple(self.optimizer.split(OR))

    @property
    def conditions(self) -> methods.Conditions:
        """What every method of the group is prepared with, as long as it has nothing of its own."""
        return methods.Conditions(self.execution, self.optimizers[0])

    @property
    def name(self) -> str:
        """Short and unique within a run."""
        source, _, function = self.arch.rpartition(":")
        stem = Path(source).stem if source.endswith(".py") else source
        arch = f"{stem}.{function}" if source else self.arch
        return f"{arch}-d{self.depth}-w{self.width}-b{self.batch}"

    @property
    def sentence(self) -> str:
        """What it is, for titles and tables."""
        return (
            f"{self.arch}, depth {self.depth}, width {self.width}, batch {self.batch}, {self.dataset}, "
            f"{self.dtype}"
        )


@dataclass(frozen=True)
class Plan:
    """The config, resolved: specs in their shortest form, device and threads known.

    Attributes, where the name does not say it: data is a hash of the dataset's contents.
    """

    config: Config
    groups: tuple[Group, ...]
    data: str = ""

    @property
    def reference(self) -> str:
        """The method that every ratio is over: backprop, or the first where backprop is not among them."""
        names = self.config.methods
        return REFERENCE if REFERENCE in names else names[0]


def make_plan(config: Config) -> Plan:
    """Check everything that can be wrong before anything is measured or written.

    Every model of the grid is built once, so that a user's build function that fails does so here.

    Raises:
        UsageError: one line that says what is wrong and what would be right.
    """
    _check_numbers(config)
    from fgbench.methods.steps.optimizer import canonical_optimizer

    config = dataclasses.replace(
        config,
        methods=methods.canonical_specs(config.methods),
        dataset=canonical(split_spec(config.dataset)[0], datasets.find(config.dataset)),
        optimizer=canonical_optimizer(config.optimizer),
    )
    device = resolve_device(config.device)
    _check_device(config, device)
    threads = resolve_threads(config.threads)
    data = datasets.load_whole(config.dataset, Path(config.data_dir))
    if config.batch > len(data.train_x):
        raise UsageError(
            f"--batch {config.batch}: {config.dataset} has only {len(data.train_x)} training samples."
        )
    groups = tuple(
        dict.fromkeys(
            Group(
                arch,
                depth,
                config.width or architectures.find(arch).default_width,
                config.batch,
                config.dataset,
                config.validation_size,
                config.dtype,
                device,
                threads,
                config.execution,
                config.optimizer,
            )
            for arch, depth in _grid(config)
        )
    )
    by_name: dict[str, Group] = {}
    for group in groups:
        other = by_name.setdefault(group.name, group)
        if other != group:
            raise UsageError(
                f"--arch {other.arch} and {group.arch} would both be called {group.name}: "
                "rename one of the files, or run them apart."
            )
        architectures.build(group.arch, group.depth, group.width, data.in_shape, data.classes)
    return Plan(config, _shard(config.shard, groups), data.contents)


def _shard(shard: str, groups: tuple[Group, ...]) -> tuple[Group, ...]:
    """Every n-th group, so that each shard has deep and shallow ones."""
    if not shard:
        return groups
    index, _, count = shard.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise UsageError(f"--shard {shard}: must be i/n with i from 1 to n, as in 2/3.")
    own = groups[int(index) - 1 :: int(count)]
    if not own:
        raise UsageError(f"--shard {shard}: the grid has only {len(groups)} groups, none is left for it.")
    return own


def _check_device(config: Config, device: str) -> None:
    if config.execution != BEST:
        methods.check_execution("--exec", config.execution, device, more=(BEST,))
    if config.lr_decay and config.execution in ("cudagraph", BEST) and device.startswith("cuda"):
        raise UsageError("--lr-decay: a CUDA graph holds one learning rate; take --exec eager or compile.")
    if config.dtype == TF32 and not device.startswith("cuda"):
        raise UsageError("--dtype tf32: only a GPU rounds to TF32; on a CPU it is float32 or bfloat16.")


def contract(group: Group, environment: dict[str, Any], data: str = "") -> str:
    """The hash of all that must be equal for two results to be comparable, methods aside.

    Which of them differs stands beside it in a baseline and in `run.json`: whoever compares can say it.

    Args:
        group: of what.
        environment: as `describe_environment` gives it.
        data: hash of the dataset's contents.
    """
    parts = {
        "schema": OLDEST_READABLE,
        "fgbench": __version__,
        "group": dataclasses.asdict(group),
        "device": environment["device_name"],
        **conditions(environment),
        "data": data,
        "source": architectures.source_digest(group.arch),
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=6).hexdigest()


def resolve_device(asked: str) -> str:
    """`auto` is the GPU where there is one; anything else must exist.

    Raises:
        UsageError: a device that torch does not see.
    """
    import torch

    if asked == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    device = "cuda:0" if asked == "cuda" else asked
    if device not in here:
        raise UsageError(f"--device {asked}: not on this machine, torch sees {', '.join(here)}.")
    return device


def resolve_threads(asked: int | None) -> int:
    """The threads asked for, or torch's own number, as far as there are cores for them.

    Raises:
        UsageError: more than the cores that this process may use: they would only wait for each other.
    """
    import torch

    usable = usable_cores()
    if asked is None:
        return min(torch.get_num_threads(), usable)
    _at_least("--threads", asked, 1)
    if asked > usable:
        raise UsageError(f"--threads {asked}: must be at most {usable}, the cores that fgbench may use here.")
    return asked


def _grid(config: Config) -> list[tuple[str, int]]:
    cells: list[tuple[str, int]] = []
    for arch in config.archs:
        cells += product([arch], config.depths or (architectures.find(arch).default_depth,))
    return cells


def _check_numbers(config: Config) -> None:
    for depth in config.depths or ():
        _at_least("--depth", depth, 1)
    if config.width is not None:
        _at_least("--width", config.width, 1)
    _at_least("--batch", config.batch, 1)
    _at_least("--validation-size", config.validation_size, 1)
    _at_least("--seeds", config.seeds, 1)
    _at_least("--processes", config.processes, 1)
    _positive("--max-train-seconds", config.max_train_seconds)
    _positive("--max-measure-seconds", config.max_measure_seconds)
    _positive("--precision", config.precision)
    if config.learning_rate is not None:
        _positive("--lr", config.learning_rate)
    if OR in config.optimizer and (config.learning_rate is not None or not config.train):
        raise UsageError("--optimizer: several are chosen by the search: leave --lr and --time-only out.")
    if not 0 <= config.lr_decay < float("inf"):
        raise UsageError(f"--lr-decay {config.lr_decay:g}: must be 0 or a positive number.")
    for name in ("max_iterations", "max_queries", "evaluate_every"):
        if (limit := getattr(config, name)) is not None:
            _at_least(f"--{name.replace('_', '-')}", limit, 1)
    if config.dtype not in DTYPES:
        raise UsageError(f"--dtype {config.dtype}: must be one of {', '.join(DTYPES)}.")
    if not config.archs:
        raise UsageError("--arch: name at least one architecture.")
    if not config.methods:
        raise UsageError("--method: name at least one method.")
    if not config.time and not config.train:
        raise UsageError("--time-only and --train-only leave nothing to do together: give one of them.")
    words = f"a number or one of {', '.join(TARGET_WORDS)}"
    for asked in config.target_loss.split(","):
        if asked not in TARGET_WORDS:
            _positive("--target-loss", _number("--target-loss", asked, words))
    for asked in config.target_accuracy.split(",") if config.target_accuracy else ():
        if not 0 < _number("--target-accuracy", asked, "a number") <= 1:
            raise UsageError(f"--target-accuracy {asked}: must be above 0 and at most 1.")


def _number(name: str, asked: str, wanted: str) -> float:
    try:
        return float(asked)
    except ValueError:
        raise UsageError(f"{name} {asked}: must be {wanted}.") from None


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(f"{name} {value}: must be at least {least}.")


def _positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise UsageError(f"{name} {value:g}: must be a positive number.")
