"""What torch's overrides are not told of: users' own functions, and what is compiled."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import fgbench
from fgbench import methods
from fgbench.methods.steps.oracle import check_step
from fgbench.pushforward.engine import Pushforward
from tests.builders import only_here
from tests.pushforward.checks import check, drawn, steps_are_right
from tests.pushforward.test_course import SPECS, Of, batches


class Gelu(Function):
    """As of Hugging Face's Bloom: with a backward pass of its own, and no forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(1.702 * x)

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        share = torch.sigmoid(1.702 * x)
        return slope * (share + 1.702 * x * share * (1 - share))


class Straight(Function):
    """Passes slopes through a function that has none."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, slope):
        return slope


class Linear(Function):
    """A layer's product, of an input that may stand still, with a second result that is a number's."""

    @staticmethod
    def forward(ctx, x, weight, scale):
        ctx.save_for_backward(x, weight)
        ctx.scale = scale
        places = (x @ weight.t()).argmax(1)
        ctx.mark_non_differentiable(places)
        return scale * x @ weight.t(), places

    @staticmethod
    def backward(ctx, slope, _):
        x, weight = ctx.saved_tensors
        return ctx.scale * slope @ weight, ctx.scale * slope.t() @ x, None


class Square(Function):
    """With a forward mode."""

    @staticmethod
    def forward(x):
        return x.square()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_forward(*inputs)
        ctx.save_for_backward(*inputs)

    @staticmethod
    def jvp(ctx, tangent):
        (x,) = ctx.saved_tensors
        return 2 * x * tangent

    @staticmethod
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return 2 * x * slope


class Once(Function):
    """Its backward pass is not made of torch's functions."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        (x,) = ctx.saved_tensors
        return 2 * x * slope


class Doubled(Function):
    """In place."""

    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx, slope):
        return 2 * slope


def _doubled(model, h, x):
    own = h.clone()
    return Doubled.apply(own[:, :4]).sum() * own


OWN = {
    "in place": _doubled,
    "a backward pass": lambda model, h, x: Gelu.apply(h),
    "slopes passed through": lambda model, h, x: h + Straight.apply(h - 0.1),
    "a layer of what moves": lambda model, h, x: Linear.apply(h, model.other.weight, 2.0)[0],
    "a layer of the input": lambda model, h, x: h * Linear.apply(x, model.inner.weight, 2.0)[0],
    "a forward mode": lambda model, h, x: Square.apply(h),
    "checkpoints": lambda model, h, x: checkpoint(model.other, h, use_reentrant=False),
}


@pytest.mark.parametrize("spec", [*SPECS[:2], "forward:tangents=2"])
@pytest.mark.parametrize("name", OWN)
def test_a_users_own_function_loses_no_tangents(name, spec):
    torch.manual_seed(0)
    step = steps_are_right(spec, Of(OWN[name]).double(), given=batches(3))
    assert set(step.pushforward.settled.values()) == {""}


@pytest.mark.parametrize("name", ["a backward pass", "a forward mode"])
def test_nor_with_perturbed_activities(name):
    torch.manual_seed(0)
    step = steps_are_right(SPECS[2], Of(OWN[name]).double(), given=batches(3))
    assert any("Gelu: its backward pass" in n or "Square: torch.func.jvp" in n for n in step.notes())


@pytest.mark.parametrize("spec", SPECS)
def test_hooks_on_a_modules_gradients_are_left_out(spec):
    model = Of(lambda model, h, x: model.other(h)).double()
    model.inner.register_full_backward_hook(lambda module, slopes, given: None)
    model.other.register_full_backward_hook(lambda module, slopes, given: None)
    model.head.register_full_backward_pre_hook(lambda module, given: None)
    steps_are_right(spec, model, given=batches(3))


def _ensemble(model, h, x):
    """Members that share a bias."""
    weights = torch.stack([model.other.weight, model.other.weight.t() * 2])
    own = OrderedDict(weight=weights, bias=model.other.bias)
    shared = OrderedDict(weight=0, bias=None)

    def member(own, h):
        return torch.tanh(functional_call(model.other, own, (h,)))

    return torch.vmap(member, in_dims=(shared, None))(own, h).sum(0)


def _by_name(model, h, x):
    found = torch.vmap(lambda a, b: {"sum": a + b, "more": (a * b, a.sum())})(h[:, :4], b=h[0, 4:])
    return h * found["more"][1][:, None] + torch.cat([found["sum"], found["more"][0]], 1)


HELD = SimpleNamespace()


def _read_elsewhere(row):
    return row * HELD.x.sum()


def _with_what_changes(model, h, x):
    HELD.x = x
    return torch.vmap(_read_elsewhere)(h)


VMAPPED = {
    "an ensemble": _ensemble,
    "a function of each sample": lambda model, h, x: torch.vmap(lambda r: r.tanh() * r.sum())(h),
    "one in another": lambda model, h, x: torch.vmap(torch.vmap(lambda e: e * e))(h),
    "a computed weight": lambda model, h, x: torch.vmap(lambda w: x @ w)(2 * model.inner.weight).t(),
    "arguments and results by name": _by_name,
    "what changes elsewhere": _with_what_changes,
}


@pytest.mark.parametrize("spec", [*SPECS, "forward:layers=one"])
@pytest.mark.parametrize("name", VMAPPED)
def test_vmap_runs_as_a_function_without_a_rule(name, spec):
    torch.manual_seed(0)
    step = steps_are_right(spec, Of(VMAPPED[name]).double(), given=batches(4))
    assert any("function vmap: torch.func.jvp" in note for note in step.notes())
    assert set(step.pushforward.settled.values()) <= {"it runs a function of its own by torch.vmap"}


@pytest.mark.parametrize("randomness", ["same", "different"])
@pytest.mark.parametrize("count", [1, 2])
def test_vmap_drops_the_units_that_it_drops_in_reverse_mode(count, randomness):
    torch.manual_seed(0)
    dropped = torch.vmap(lambda row: F.dropout(row, 0.5), randomness=randomness)
    check(Of(lambda model, h, x: dropped(h)), batches(1)[0][0], count=count)


@torch.jit.script
def scripted(h: Tensor) -> Tensor:
    return torch.tanh(h) * 2


REFUSED = {
    "a backward pass of its own": (lambda model, h, x: Once.apply(h), "Once, a torch.autograd.Function"),
    "gradients of its own": (
        lambda model, h, x: torch.autograd.grad(h.tanh().sum(), h, create_graph=True)[0] * h,
        "gradients by reverse mode",
    ),
    "vmap of a weight that its function is not given": (
        lambda model, h, x: torch.func.vmap(lambda row: row @ model.other.weight)(h),
        "a function that the model runs by torch.vmap uses weights",
    ),
    "vmap of a value that its function is not given": (
        lambda model, h, x: torch.func.vmap(lambda w: h @ w, out_dims=1)(model.other.weight),
        "a function that the model runs by torch.vmap uses weights",
    ),
    "vmap of a layer": (
        lambda model, h, x: torch.func.vmap(model.inner)(x),
        "a function that the model runs by torch.vmap uses weights",
    ),
    "grad": (lambda model, h, x: torch.func.grad(lambda r: r.tanh().sum())(h), "would lose them"),
    "a script": (lambda model, h, x: scripted(h), "would lose them"),
    "nested tensors": (
        lambda model, h, x: (
            torch.nested.as_nested_tensor([h[:1], h[1:]], layout=torch.jagged)
            .to_padded_tensor(0.0)
            .flatten(0, 1)[: len(h)]
        ),
        "nested tensors have no tangents",
    ),
}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", REFUSED)
def test_what_would_lose_tangents_is_refused(name, spec):
    function, why = REFUSED[name]
    with pytest.raises(RuntimeError, match=why):
        check_step(methods.find(spec), Of(function).double(), F.cross_entropy, batches(1)[0], 0)


def test_a_scripted_model_is_refused():
    model = nn.Sequential(torch.jit.script(nn.Linear(6, 8)), nn.Linear(8, 3))
    with pytest.raises(NotImplementedError, match="0 was made by"):
        Pushforward(model, F.cross_entropy)
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    steps_are_right("forward", model.double(), given=batches(3))


@pytest.mark.parametrize("spec", SPECS)
def test_a_compiled_part_runs_as_its_own_python(spec):
    torch.manual_seed(0)
    part = torch.compile(nn.Linear(8, 8).double(), backend="eager")
    model = nn.Sequential(nn.Linear(6, 8), part, nn.Linear(8, 3)).double()
    step = steps_are_right(spec, model, given=batches(3))
    assert any("torch.compile" in note for note in step.notes())
    assert "force_eager" not in str(torch._dynamo.eval_frame._stance)


@pytest.mark.filterwarnings("ignore:fgbench.compare. measured in the calling process")
def test_a_compiled_model_is_compared():
    torch.manual_seed(0)
    model = torch.compile(nn.Linear(6, 3), backend="eager")
    batch = torch.randn(8, 6), torch.randint(3, (8,))
    found: pd.DataFrame = fgbench.compare(
        model, only_here(), batch, methods=["backprop", "forward"], max_measure_seconds=0.1
    )
    assert set(found["status"]) == {"ok"}


def test_what_runs_a_models_python_gives_functions_back_after_an_error():
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 3)

        def forward(self, x):
            raise ValueError

    model, before = Fails(), Function.__dict__["apply"]
    tangents = dict(zip(model.parameters(), drawn(model, 1).by_name.values(), strict=True))
    with pytest.raises(ValueError):
        Pushforward(model, F.cross_entropy)(batches(1)[0], tangents)
    assert Function.__dict__["apply"] is before
