"""Which parameters are trained: all, some of the model's own, or low-rank ones that are added (LoRA)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from fgbench.errors import UsageError
from fgbench.specs.options import canonical, option, parse_options, split_spec

ALL = "all"  # of `--train`: every parameter
MODES = "all, head, bias, last:COUNT or lora:rank=8,targets=qkv+out"
EVERY = "all"  # of LoRA's targets: every linear layer but the last
BETWEEN = "+"  # separates LoRA's targets, as a comma already separates options


@dataclass(frozen=True)
class Lora:
    """Options of `--train lora`."""

    rank: int = option(8, "r: columns of the two factors", minimum=1)
    alpha: float = option(0.0, "the added product is scaled by alpha / rank; 0 for a scale of 1", minimum=0)
    targets: str = option(EVERY, "names of linear layers, with + between them; all: every one but the last")


class LoraLinear(nn.Module):
    """A frozen linear layer with a trained product of two thin ones added: W + s·B A (Hu et al. 2021).

    A is drawn as peft draws it and B is zero, so that the model's outputs are unchanged at first.
    """

    def __init__(self, layer: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        made = {"bias": False, "dtype": layer.weight.dtype, "device": layer.weight.device}
        self.layer, self.scale = layer, scale
        self.lower = nn.Linear(layer.in_features, rank, **made)  # type: ignore[arg-type]
        self.raise_ = nn.Linear(rank, layer.out_features, **made)  # type: ignore[arg-type]
        nn.init.kaiming_uniform_(self.lower.weight, a=math.sqrt(5))
        nn.init.zeros_(self.raise_.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        added = self.raise_(self.lower(x))
        return self.layer(x) + (added if self.scale == 1 else self.scale * added)


def canonical_trained(spec: str) -> str:
    """The spec in its shortest form.

    Raises:
        UsageError: it is not a valid value of `--train`.
    """
    name, options = split_spec(spec)
    if name == "lora":
        return canonical("lora", parse_options(Lora, "--train lora", options))
    if name == "last" and options.isdigit() and int(options) > 0:
        return f"last:{int(options)}"
    if name not in (ALL, "head", "bias") or options:
        raise UsageError(f"--train {spec}: must be one of {MODES}.")
    return name


def choose_trained(model: nn.Module, spec: str) -> None:
    """Freeze all parameters that are not trained, in place; `lora` first adds those that are.

    `head` trains the last linear layer, which is no longer tied to another; `bias` every parameter of that
    name; `last:2` the last two layers or blocks with weights of their own, and all that comes after them.

    Raises:
        UsageError: the model has no such parameters.
    """
    name, options = split_spec(spec)
    if name == ALL:
        return
    chosen: dict[str, Callable[[], list[nn.Parameter]]] = {
        "head": lambda: _head(model),
        "bias": lambda: [p for n, p in model.named_parameters() if n.rpartition(".")[2] == "bias"],
        "last": lambda: _last(model, int(options)),
        "lora": lambda: _lora(model, parse_options(Lora, "--train lora", options)),
    }
    learning = {id(p) for p in chosen[name]()}
    if not learning:
        raise UsageError(f"--train {spec}: the model has no parameter of that kind.")
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in learning)


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: m for name, m in model.named_modules() if type(m) is nn.Linear}


def _head(model: nn.Module) -> list[nn.Parameter]:
    linears = list(_linears(model).values())
    if not linears:
        return []
    head = linears[-1]
    shared = [
        m for m in model.modules() if m is not head and any(p is head.weight for p in m.parameters(False))
    ]
    if shared:
        head.weight = nn.Parameter(head.weight.detach().clone())
    return list(head.parameters())


def _last(model: nn.Module, count: int) -> list[nn.Parameter]:
    """Parameters of the last `count` blocks that hold a matrix of their own, and of all blocks after these.

    A matrix that an earlier block holds too (tied weights) is not a block's own.
    """
    blocks = _blocks(model)
    seen: set[int] = set()
    own: list[int] = []
    for place, block in enumerate(blocks):
        matrices = {id(p) for p in block.parameters() if p.dim() > 1}
        own += [place] if matrices - seen else []
        seen |= matrices
    if len(own) < count:
        raise UsageError(f"--train last:{count}: the model has {len(own)} layers with weights.")
    before = {id(p) for block in blocks[: own[-count]] for p in block.parameters()}
    return [p for block in blocks[own[-count] :] for p in block.parameters() if id(p) not in before]


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The model's children that have parameters; sequences and lists are replaced by their members."""
    found: list[nn.Module] = []
    for child in model.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            found += _blocks(child)
        elif any(True for _ in child.parameters()):
            found.append(child)
    return found


def _lora(model: nn.Module, options: Lora) -> list[nn.Parameter]:
    linears = _linears(model)
    wanted = options.targets.split(BETWEEN)
    if options.targets == EVERY:
        targets = list(linears)[:-1]
    else:
        targets = [name for name in linears if name.rpartition(".")[2] in wanted or name in wanted]
        strange = [w for w in wanted if not any(w in (name, name.rpartition(".")[2]) for name in linears)]
        if strange:
            known = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in linears))
            raise UsageError(f"--train lora: no linear layer is called '{strange[0]}': choose from {known}.")
    scale = options.alpha / options.rank if options.alpha else 1.0
    added: list[nn.Parameter] = []
    for name in targets:
        layer = LoraLinear(linears[name], options.rank, scale)
        model.set_submodule(name, layer)
        added += [*layer.lower.parameters(), *layer.raise_.parameters()]
    return added
