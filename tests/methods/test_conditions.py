"""Optimisers and execution modes: the same step as under plain SGD and eagerly, for every method."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from fgbench import architectures, methods
from fgbench.errors import UsageError
from fgbench.methods import Conditions
from fgbench.methods.steps import oracle
from fgbench.methods.steps.optimizer import canonical_optimizer, make_optimizer, optimize
from tests.builders import cross_entropy, flat, tiny_batch, tiny_mlp

METHODS = [
    "backprop",
    "backprop:update=foreach",
    "backprop:update=in-backward",
    "backprop:checkpoint=true",
    "backprop:checkpoint=true,update=in-backward",
    "forward",
    "forward:engine=stock",
    "forward:structure=rank-one,tangents=3",
    "forward:structure=activity",
    "forward:tangents=3,combine=projection,store=seed",
    "spsa",
    "dfa",
    "fdfa",
    "local-losses",
    "local-guess",
    "local-guess:guess=rademacher,space=activation",
]
OPTIMIZERS = ["sgd:momentum=0.9,weight_decay=5e-4", "adam", "rmsprop:alpha=0.9", "adamw:amsgrad=true"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("spec", METHODS)
def test_first_update_is_the_optimisers_by_the_right_estimate(spec, optimizer):
    oracle.check_step(
        methods.find(spec), tiny_mlp(), cross_entropy, tiny_batch(), 1, Conditions(optimizer=optimizer)
    )


def test_an_optimiser_remembers_from_step_to_step():
    """Three steps of backprop with momentum, against torch.optim by hand."""
    model, reference = tiny_mlp(), tiny_mlp()
    step = methods.find("backprop").prepare(model, cross_entropy, 0, Conditions(optimizer="sgd:momentum=0.9"))
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        step(tiny_batch(), 0.1)
        optimizer.zero_grad()
        cross_entropy(reference(tiny_batch()[0]), tiny_batch()[1]).backward()
        optimizer.step()
    assert torch.allclose(flat(list(model.parameters())), flat(list(reference.parameters())), rtol=1e-12)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("sdg", "torch.optim has"),
        ("sgd:speed=1", "no option 'speed'"),
        ("sgd:lr=1", "no option 'lr'"),
        ("sgd:momentum=fast", "not a value"),
        ("sgd:momentum=-1", "momentum"),
        ("lbfgs", "torch.optim has"),
    ],
)
def test_bad_optimiser_is_one_line(spec, said):
    with pytest.raises(UsageError, match=said):
        canonical_optimizer(spec)


def test_optimiser_is_found_whatever_its_case():
    assert canonical_optimizer("AdamW:amsgrad=true") == "adamw:amsgrad=true"
    made = make_optimizer(Conditions(optimizer="Adam"), [torch.zeros(1, requires_grad=True)])
    assert isinstance(made, torch.optim.Adam)


@pytest.mark.parametrize("kernel", ["fused", "foreach"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_an_optimiser_moves_every_entry(dtype, kernel):
    """PyTorch 2.11's fused SGD leaves entries of 16 bits out on a CPU."""
    parameter = torch.ones(100, dtype=dtype, requires_grad=True)
    parameter.grad = torch.ones_like(parameter)
    optimize(make_optimizer(Conditions(optimizer="sgd"), [parameter], kernel), 0.25)
    assert (parameter == 0.75).all()


def test_a_fused_kernel_that_fails_at_its_step_is_not_taken(monkeypatch):
    """As that of PyTorch 2.11's Adagrad does on a GPU."""

    class Failing(torch.optim.Adagrad):
        def step(self, closure=None):
            if self.defaults["fused"]:
                raise RuntimeError("fused=True requires other devices")
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "Failing", Failing, raising=False)
    parameter = torch.ones(3, requires_grad=True)
    assert not make_optimizer(Conditions(optimizer="failing"), [parameter]).defaults["fused"]


@pytest.mark.parametrize(
    "spec",
    [
        "backprop",
        "backprop:update=direct",
        "backprop:update=in-backward",
        "forward:structure=rank-one,tangents=2",
        "forward:structure=rademacher",
        "forward:engine=stock",
        "spsa",
    ],
)
def test_compiled_step_is_what_reverse_mode_says(spec):
    torch.manual_seed(0)
    model = architectures.build("cnn", 1, 8, (1, 8, 8), 3).double().train()
    model.insert(1, nn.BatchNorm2d(8).double())
    batch = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.arange(6) % 3
    oracle.check_step(methods.find(spec), model, cross_entropy, batch, 1, Conditions("compile"))


def test_a_compiled_step_through_attention_is_what_reverse_mode_says():
    """Queries of heads that lie side by side in memory, as in GPT-2."""

    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(4, 12), nn.Linear(4, 3)

        def forward(self, x):
            parts = self.inner(x).split(4, dim=2)
            q, k, v = (part.view(2, 6, 2, 2).transpose(1, 2) for part in parts)
            k = torch.cat([k.new_empty(0), k], -2)  # as a cache begins
            h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.head(h.transpose(1, 2).reshape(2, 6, 4)).mean(1)

    torch.manual_seed(0)
    batch = torch.randn(2, 6, 4, dtype=torch.float64), torch.tensor([0, 2])
    method = methods.find("forward:structure=rank-one")
    oracle.check_step(method, Attend().double(), cross_entropy, batch, 1, Conditions("compile"))


def test_a_compiled_step_that_differs_is_refused(monkeypatch):
    """As when an inductor-compiled function loses a tangent silently."""

    def losing(graph, inputs):
        def run(*tensors):
            result = graph(*tensors)
            return result if result is None else (result[0], result[1] * 0)

        return run

    monkeypatch.setattr(torch._inductor, "compile", losing)
    with pytest.raises(oracle.WrongStepError, match="not timed"):
        oracle.check_step(
            methods.find("forward"), tiny_mlp(), cross_entropy, tiny_batch(), 1, Conditions("compile")
        )


def steps_of(execution, batches):
    """Weights and statistics after rank-one steps; of five, which a compiler might take for constants."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    step = methods.find("forward:structure=rank-one").prepare(model, cross_entropy, 0, Conditions(execution))
    for batch in batches:
        step(batch, 0.1)
    return flat([*model.parameters(), *model.buffers()])


def test_compiled_steps_move_weights_and_statistics_as_eager_ones_do():
    batches = [tiny_batch()] * 3
    assert torch.allclose(steps_of("eager", batches), steps_of("compile", batches), rtol=1e-9)


@pytest.mark.parametrize("execution", ["eager", "compile"])
def test_a_batch_that_lies_otherwise_in_memory_has_a_program_of_its_own(execution, monkeypatch):
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, inputs: graph)
    x, y = tiny_batch()
    turned = x.transpose(0, -1).contiguous().transpose(0, -1)
    assert turned.equal(x)
    assert turned.stride() != x.stride()
    found = steps_of(execution, [(x, y), (x, y), (turned, y), (x, y)])
    assert torch.allclose(found, steps_of("eager", [(x, y)] * 4), rtol=1e-9)


@pytest.mark.parametrize(
    "spec",
    [
        "forward:store=seed",
        "forward:structure=activity",
        "backprop:checkpoint=true",
        "local-losses",
        "local-guess",
        "dfa",
        "fdfa",
    ],
)
def test_what_cannot_be_compiled_says_so(spec):
    with pytest.raises(UsageError, match="runs eagerly"):
        methods.prepare(methods.find(spec), tiny_mlp(), cross_entropy, 0, Conditions("compile"))


@pytest.mark.parametrize("spec", METHODS)
def test_parts_one_after_the_other_are_the_step(spec):
    whole, parted = tiny_mlp(), tiny_mlp()
    one, other = (methods.find(spec).prepare(m, cross_entropy, 3) for m in (whole, parted))
    for _ in range(2):
        value = one(tiny_batch(), 0.1)
        for part in other.parts(tiny_batch(), 0.1).values():
            part()
        assert torch.equal(value, other.value)
    assert torch.equal(flat(list(whole.parameters())), flat(list(parted.parameters())))
