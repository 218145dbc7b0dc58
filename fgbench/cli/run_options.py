"""The options of `fgbench run`, by their panel of `--help`; their defaults are on `Config`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from fgbench.cli.choices import ExecutionMode
from fgbench.cli.output_options import OUTPUT
from fgbench.cli.presets import QUICK
from fgbench.plan.config import Config, Dtype
from fgbench.plan.defaults import CPU, GPU
from fgbench.specs import registry

COMPARED = "What is compared"
PROBLEM = "Model and data"
MEASURING = "Measuring"
TRAINING = "Training"
SEARCH = "search"  # of --lr


class HelpLast(TyperCommand):
    """A command whose `--help` stands in its last panel, so that the first is what people need first."""

    def get_help_option(self, ctx: Any) -> Any:
        """As click's own, in a panel."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.rich_help_panel = OUTPUT  # type: ignore[attr-defined]
        return option


def _default(name: str) -> str:
    return f"(default: {getattr(Config, name):g}; --quick: {QUICK[name]:g})"


# ---- what is compared

Arch = Annotated[
    list[str],
    typer.Option(
        help="The architecture; or your own, path/to/file.py:build or package.module:build; or Hugging "
        "Face's, hf:GPT2LMHeadModel:n_layer=4. Repeatable.",
        autocompletion=lambda: registry.names("architectures"),
        rich_help_panel=COMPARED,
    ),
]
Depth = Annotated[
    list[int] | None,
    typer.Option(
        min=1,
        help="How many layers, as the architecture counts them. Repeatable. (default: the architecture's)",
        rich_help_panel=COMPARED,
    ),
]
Method = Annotated[
    list[str],
    typer.Option(
        help="The method of training, with options as in forward:structure=rademacher. Repeatable; replaces "
        "the default: backprop, forward as published, and the best forward method known, if it runs with "
        "--exec.",
        autocompletion=lambda: registry.names("methods"),
        rich_help_panel=COMPARED,
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        help="The dataset, with options as in synthetic:shape=3x32x32. (default: "
        f"{CPU.dataset}; on a GPU {GPU.dataset})",
        autocompletion=lambda: registry.names("datasets"),
        rich_help_panel=COMPARED,
    ),
]
Batch = Annotated[
    list[int] | None,
    typer.Option(
        min=1,
        help=f"How many samples a step is taken on. Repeatable. (default: {CPU.batch}; on a GPU {GPU.batch})",
        rich_help_panel=COMPARED,
    ),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        help="Take a first look: one process, one seed and a few seconds of everything.",
        rich_help_panel=COMPARED,
    ),
]

# ---- model and data

Width = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="How many units or channels a layer has. (default: the architecture's)",
        rich_help_panel=PROBLEM,
    ),
]
Precise = Annotated[
    Dtype,
    typer.Option(
        "--dtype",
        help="What is computed in. tf32 is for a GPU: float32, rounded in matrix products.",
        rich_help_panel=PROBLEM,
    ),
]
ValidationSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=f"The loss is evaluated on at most so many held-out samples. {_default('validation_size')}",
        rich_help_panel=PROBLEM,
    ),
]
DataDir = Annotated[
    str | None,
    typer.Option(
        help="The folder of downloaded data. (default: $FGBENCH_DATA, or ~/.cache/fgbench)",
        rich_help_panel=PROBLEM,
    ),
]

# ---- measuring

TimeOnly = Annotated[
    bool,
    typer.Option("--time-only", help="Measure time and memory, and do not train.", rich_help_panel=MEASURING),
]
Device = Annotated[
    str,
    typer.Option(
        help="auto (the GPU where there is one), cpu, cuda or cuda:N.",
        rich_help_panel=MEASURING,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="How many CPU threads a job has; no more than there are usable cores. (default: torch's "
        "own number, but a core is left to all else)",
        rich_help_panel=MEASURING,
    ),
]
Execution = Annotated[
    ExecutionMode | None,
    typer.Option(
        "--exec",
        "--execution",
        help="How a step is executed. compile is torch.compile, cudagraph a step captured whole on a GPU, "
        "and best the mode that is fastest, for each method and for the base. (default: "
        f"{CPU.execution}; on a GPU {GPU.execution})",
        rich_help_panel=MEASURING,
    ),
]
Processes = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=f"Time in at least so many fresh processes. {_default('processes')}",
        rich_help_panel=MEASURING,
    ),
]
MaxMeasureSeconds = Annotated[
    float | None,
    typer.Option(
        help="Time one matched group for at most so many seconds, without the start of processes. "
        + _default("max_measure_seconds"),
        rich_help_panel=MEASURING,
    ),
]
Precision = Annotated[
    float,
    typer.Option(
        help="Stop when the 95 % interval of every ratio is so narrow: half its width as a share of it.",
        rich_help_panel=MEASURING,
    ),
]
Isolated = Annotated[
    bool,
    typer.Option(
        "--isolated",
        help="Time every method alone as well, and say where its R differs then.",
        rich_help_panel=MEASURING,
    ),
]
MemoryBudget = Annotated[
    str,
    typer.Option(
        help="Give each method the fastest of its variants whose peak memory is at most this, as in 200MiB: "
        "micro-batches, checkpoints, updates in the backward pass, a few tangents at once. (default: none)",
        rich_help_panel=MEASURING,
    ),
]
Slowed = Annotated[
    str,
    typer.Option(
        help="Time each method once more, made slower by this share, as in 10%, to prove that it would be "
        "seen.",
        rich_help_panel=MEASURING,
    ),
]

# ---- training

TrainOnly = Annotated[
    bool, typer.Option("--train-only", help="Train, and measure no time.", rich_help_panel=TRAINING)
]
Seeds = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=f"Train every method so many times, each with a seed of its own. {_default('seeds')}",
        rich_help_panel=TRAINING,
    ),
]
TargetLoss = Annotated[
    str,
    typer.Option(
        help="The validation loss to reach, in nats, or several with commas: 50% is where backprop has made "
        "half of its way from its first loss, or chance, to its best; a number; auto, the lowest that every "
        "job reached; backprop-best.",
        rich_help_panel=TRAINING,
    ),
]
TargetAccuracy = Annotated[
    str,
    typer.Option(
        help="The validation accuracy to reach, as in 0.9, or several with commas. (default: none)",
        rich_help_panel=TRAINING,
    ),
]
LearningRate = Annotated[
    str,
    typer.Option(
        help="The learning rate of every method; or one for each in their order, with commas; or search, "
        "which finds each method its own, on a seed that is not trained with later.",
        rich_help_panel=TRAINING,
    ),
]
LrDecay = Annotated[
    str,
    typer.Option(
        help="How the learning rate decays: a number d, which multiplies it by exp(-d · i) at step i; "
        "step:every=1000,factor=0.1; or cosine:warmup=0, which ends at 0 with the last step. "
        "(default: it stays)",
        show_default=False,
        rich_help_panel=TRAINING,
    ),
]
Optimizer = Annotated[
    list[str],
    typer.Option(
        help="The optimiser of torch.optim for every method, as in adam or sgd:momentum=0.9,nesterov=true. "
        "Repeatable: each method's search then takes the best of them.",
        rich_help_panel=TRAINING,
    ),
]
MaxTrainSeconds = Annotated[
    float | None,
    typer.Option(
        help="Train one job for at most so many seconds, without evaluation. "
        + _default("max_train_seconds"),
        rich_help_panel=TRAINING,
    ),
]
MaxIterations = Annotated[
    int | None,
    typer.Option(
        min=1, help="Train one job for at most so many steps. (default: no limit)", rich_help_panel=TRAINING
    ),
]
MaxQueries = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Evaluate the model at most so often in one training job: backprop's step counts 3, a forward "
        "step 1 + k, spsa's and dfa's 2, fdfa's 3. (default: no limit)",
        rich_help_panel=TRAINING,
    ),
]
Patience = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="End one training job when its validation loss was not lower than before in so many epochs. "
        "(default: no such end)",
        rich_help_panel=TRAINING,
    ),
]
EvaluateEvery = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Evaluate at least once in so many steps; at the start evaluations are closer. (default: found "
        "from the methods' pace)",
        rich_help_panel=TRAINING,
    ),
]
