"""Check a config before anything is looked up or built; an error is one line that names the option."""

from __future__ import annotations

from fgbench.errors import UsageError
from fgbench.methods import BEST, check_execution, find
from fgbench.plan.config import DTYPES, TF32, Config
from fgbench.specs.options import OR
from fgbench.training.decay import decay_of
from fgbench.training.target import WORDS, share_asked

AMPERE = (8, 0)  # its compute capability
COUNTS = ("width", "validation_size", "seeds", "processes")
LIMITS = ("max_iterations", "max_queries", "evaluate_every", "patience", "memory_budget")
AMOUNTS = ("max_train_seconds", "max_measure_seconds", "precision")


def check_config(config: Config) -> None:
    """Check that every value is one that its option can have.

    Raises:
        UsageError: one line that says what is wrong and what would be right.
    """
    if not config.archs:
        raise UsageError("--arch: name at least one architecture.")
    if not config.methods:
        raise UsageError("--method: name at least one method.")
    if not config.time and not config.train:
        raise UsageError("--time-only and --train-only together leave nothing to do: give one of them.")
    _check_texts(config)
    _check_numbers(config)
    if config.dtype not in DTYPES:
        raise UsageError(f"--dtype {config.dtype}: must be one of {', '.join(DTYPES)}.")
    if OR in config.optimizer and (config.learning_rate is not None or not config.train):
        raise UsageError(
            "--optimizer: the learning-rate search chooses among several: leave --lr and --time-only out."
        )
    if config.memory_budget is not None and (config.execution == BEST or OR in config.optimizer):
        raise UsageError(
            "--memory-budget: variants are compared under one --exec and one --optimizer: give only one of "
            "each, and not --exec best."
        )
    _check_targets(config)


def check_device(config: Config, device: str) -> None:
    """Check a config against the device (torch's name) that it will run on.

    Raises:
        UsageError: the device or a method cannot do the execution mode, or the device not the dtype or the
            learning-rate decay.
    """
    if config.execution != BEST:
        check_execution("--exec", config.execution, device, more=(BEST,))
        for why in (find(spec).refuses(config.execution) for spec in config.methods):
            if why:
                raise UsageError(f"--exec {config.execution}: {why}")
    if config.lr_decay and config.execution in ("cudagraph", BEST) and device.startswith("cuda"):
        raise UsageError(
            "--lr-decay: a CUDA graph cannot change its learning rate; use --exec eager or compile."
        )
    if config.dtype == TF32 and not device.startswith("cuda"):
        raise UsageError("--dtype tf32: only a GPU rounds to TF32; use float32 or bfloat16 on a CPU.")
    if config.dtype == TF32 and _capability(device) < AMPERE:
        raise UsageError("--dtype tf32: this GPU has no TF32, which came with Ampere; use float32.")


def _capability(device: str) -> tuple[int, int]:
    """A GPU's compute capability; where there is none, as on a cluster's login node, one that can do all."""
    import torch

    return torch.cuda.get_device_capability(device) if torch.cuda.is_available() else AMPERE


def at_least(option: str, value: int, least: int) -> None:
    """Check a whole number.

    Raises:
        UsageError: the value is smaller than `least`.
    """
    if value < least:
        raise UsageError(f"{option} {value}: must be at least {least}.")


def _check_texts(config: Config) -> None:
    """Check that workers can be told every path, as they are told in UTF-8."""
    paths = {"--dataset": config.dataset, "--data-dir": config.data_dir, "--start": config.start}
    for option, text in (*(("--arch", arch) for arch in config.archs), *paths.items()):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{option} {text}: this is not UTF-8; give the file another name.") from None


def _check_numbers(config: Config) -> None:
    for depth in config.depths or ():
        at_least("--depth", depth, 1)
    for batch in config.batches:
        at_least("--batch", batch, 1)
    for name in (*COUNTS, *LIMITS):
        if (value := getattr(config, name)) is not None:
            at_least(_option(name), value, 1)
    for name in AMOUNTS:
        _positive(_option(name), getattr(config, name))
    rates = config.learning_rate
    if isinstance(rates, tuple) and len(rates) != len(config.methods):
        given = len(config.methods)
        raise UsageError(f"--lr: {len(rates)} rates for {given} methods: give one, or one for each method.")
    for rate in rates if isinstance(rates, tuple) else (rates,):
        if rate is not None:
            _positive("--lr", rate)
    endless = config.max_iterations is None and config.max_queries is None
    if decay_of(config.lr_decay).needs_an_end and endless:
        raise UsageError(
            f"--lr-decay {config.lr_decay}: ends with the last step; give --max-iterations or --max-queries."
        )


def _check_targets(config: Config) -> None:
    for asked in config.target_loss.split(","):
        if asked not in WORDS:
            _check_loss(asked)
    for asked in config.target_accuracy.split(",") if config.target_accuracy else ():
        if not 0 < _number("--target-accuracy", asked, "a number") <= 1:
            raise UsageError(f"--target-accuracy {asked}: must be above 0 and at most 1.")


def _check_loss(asked: str) -> None:
    words = f"a number, a share of backprop's way as in 50%, or one of {', '.join(WORDS)}"
    try:
        share = share_asked(asked)
    except ValueError:
        raise UsageError(f"--target-loss {asked}: must be {words}.") from None
    if share is None:
        _positive("--target-loss", _number("--target-loss", asked, words))
    elif not 0 < share <= 1:
        raise UsageError(f"--target-loss {asked}: a share must be above 0% and at most 100%.")


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _number(option: str, asked: str, wanted: str) -> float:
    try:
        return float(asked)
    except ValueError:
        raise UsageError(f"{option} {asked}: must be {wanted}.") from None


def _positive(option: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise UsageError(f"{option} {value:g}: must be a positive number.")
