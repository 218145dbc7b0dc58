"""Local losses: blocks, auxiliary networks, and what each block is trained by."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from fgbench import methods
from fgbench.errors import UsageError
from fgbench.methods import Conditions
from fgbench.methods.steps import oracle
from fgbench.methods.steps.auxiliary import Auxiliaries
from fgbench.methods.steps.blocks import FirstHalf, SecondHalf, cut
from tests.builders import cross_entropy, flat
from tests.methods.blockwise import (
    small_batch,
    small_convnet,
    small_mlp,
    small_resnet,
    trained_on_digits,
)

MODELS = {"mlp": small_mlp, "convnet": small_convnet, "resnet": small_resnet}


def prepared(spec: str, model: nn.Module, **conditions: str):
    return methods.prepare(methods.find(spec), model, cross_entropy, 0, Conditions(**conditions))


# ---- cutting


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_blocks_one_after_the_other_are_the_model(build, count):
    model = build()
    blocks = cut(model, count, "a method")
    assert len(blocks) <= count
    assert all(any(p.requires_grad for p in block.parameters()) for block in blocks)
    own = {id(p) for block in blocks for p in block.parameters()}
    assert own == {id(p) for p in model.parameters()}
    state = small_batch()[0]
    for block in blocks:
        state = block(state)
    assert torch.equal(state, model(small_batch()[0]))


def test_blocks_have_equally_many_layers_as_far_as_they_can():
    layers = [m for _ in range(7) for m in (nn.Linear(4, 4), nn.ReLU())]
    blocks = cut(nn.Sequential(nn.Flatten(), *layers), 3, "a method")
    assert [sum(isinstance(m, nn.Linear) for m in b.modules()) for b in blocks] == [2, 2, 3]


def test_images_stay_images_up_to_the_end_of_a_block():
    blocks = cut(small_convnet(), 3, "a method")
    assert blocks[1](blocks[0](small_batch()[0])).dim() == 4
    assert isinstance(blocks[0][-1], nn.ReLU)


def test_a_residual_network_is_cut_at_its_blocks_then_at_their_halves():
    assert [len(b) for b in cut(small_resnet(), 2, "a method")] == [4, 4]  # stem of 3, head of 3
    halves = cut(small_resnet(), 4, "a method")
    assert [type(m) for b in halves for m in b if isinstance(m, FirstHalf | SecondHalf)] == [
        FirstHalf,
        SecondHalf,
    ] * 2


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Linear(4, 3), "nn.Sequential"),
        (nn.Sequential(nn.BatchNorm1d(4)), "batch norm"),
        (nn.Sequential(*[nn.Linear(4, 4)] * 2), "share a parameter"),
    ],
)
def test_what_cannot_be_cut_says_so(model, said):
    with pytest.raises(UsageError, match=said):
        prepared("local-losses", model)


# ---- auxiliary networks


@pytest.mark.parametrize(
    ("kind", "blocks", "shape", "layers"),
    [
        ("cnn", 8, (64, 16, 16), [(32, 64, 1, 1), *[(32, 32, 3, 3)] * 3, (10, 128)]),
        ("cnn", 16, (64, 16, 16), [(16, 64, 1, 1), *[(16, 16, 3, 3)] * 3, (10, 64)]),
        ("mlp", 8, (64, 16, 16), [(1024, 256), (1024, 1024), (1024, 1024), (10, 1024)]),
        ("mlp", 16, (64, 4, 4), [(512, 256), (512, 512), (512, 512), (10, 512)]),
        ("linear", 8, (64, 16, 16), [(10, 256)]),
        ("mlp", 8, (1024,), [(64, 1024), (64, 64), (64, 64), (10, 64)]),
        ("linear", 8, (1024,), [(10, 1024)]),
    ],
)
def test_auxiliary_networks_are_the_papers(kind, blocks, shape, layers):
    made = Auxiliaries(kind, [shape], 10, blocks, torch.zeros(1), cross_entropy, None)
    weights = [tuple(m.weight.shape) for m in made.networks.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert weights == layers
    made.initialise(torch.Generator().manual_seed(0))
    assert made.networks[0](torch.randn(2, *shape)).shape == (2, 10)


def test_their_weights_are_pytorchs_in_size_and_draw_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    made = Auxiliaries("mlp", [(256, 4, 4)], 10, 8, torch.zeros(1), cross_entropy, None)
    made.initialise(torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)
    layer = made.networks[0][5]
    assert float(layer.weight.detach().std()) == pytest.approx(
        float(nn.Linear(1024, 1024).weight.detach().std()), rel=0.01
    )


def test_their_normalisations_begin_as_pytorchs():
    made = Auxiliaries("cnn", [(4, 8, 8)], 10, 8, torch.zeros(1), cross_entropy, None)
    made.initialise(torch.Generator().manual_seed(0))
    norms = [m for m in made.networks.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 3
    assert all(torch.equal(m.weight, torch.ones(32)) and not m.bias.any() for m in norms)


def test_a_look_at_the_state_changes_nothing():
    looked, left = small_mlp(), small_mlp()
    one, other = (prepared("local-losses", m) for m in (looked, left))
    for _ in range(3):
        one(small_batch(), 0.1)
        one.state()
        other(small_batch(), 0.1)
    assert torch.equal(flat(list(looked.parameters())), flat(list(left.parameters())))


def test_they_learn():
    """On a fixed batch, with the first block still, the first auxiliary loss falls."""
    model, (x, y) = small_mlp(), small_batch(12)
    model[1].requires_grad_(False)
    model[3].requires_grad_(False)
    step = prepared("local-losses:aux=mlp,blocks=2", model)
    step((x, y), 0.0)
    output = step.blocks[0].module(x).detach()
    losses = []
    for _ in range(60):
        losses.append(float(cross_entropy(step.auxiliaries["own"].networks[0](output), y).detach()))
        step((x, y), 0.1)
        output = step.blocks[0].module(x).detach()
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("spec", ["local-losses:aux=cnn", "local-losses:aux=cnn,blocks=2"])
def test_a_convolutional_one_wants_images(spec):
    with pytest.raises(UsageError, match="aux=cnn takes images, and block 1 gives features"):
        prepared(spec, small_mlp())(small_batch(), 0.1)


# ---- steps


@pytest.mark.parametrize("optimizer", ["sgd", "sgd:momentum=0.9,weight_decay=5e-4"])
@pytest.mark.parametrize("aux", ["linear", "mlp", "cnn"])
@pytest.mark.parametrize(
    "build", [small_mlp, small_convnet, lambda: small_convnet(True), small_resnet], ids=[*MODELS, "bn"]
)
def test_its_step_is_the_gradient_of_the_local_losses(build, aux, optimizer):
    if build is small_mlp and aux == "cnn":
        return
    method = methods.find(f"local-losses:aux={aux},blocks=4")
    model = build()
    oracle.check_step(method, model, cross_entropy, small_batch(), 3, Conditions(optimizer=optimizer))


def test_against_a_model_whose_blocks_are_detached_by_hand():
    """Two steps, auxiliary networks and all, of plain SGD written out."""
    model, (x, y) = small_convnet(), small_batch()
    step = prepared("local-losses:aux=mlp", model)
    step((x, y), 0.0)
    reference, networks = copy.deepcopy(model), copy.deepcopy(step.auxiliaries["own"].networks)
    parts = [reference[:3], reference[3:6], reference[6:]]
    for _ in range(2):
        step((x, y), 0.1)
        state, losses = x, []
        for part, network in zip(parts, networks, strict=False):
            state = part(state.detach())
            losses.append(cross_entropy(network(state), y))
        total = sum(losses) + cross_entropy(parts[-1](state.detach()), y)
        every = [*reference.parameters(), *networks.parameters()]
        with torch.no_grad():
            for parameter, gradient in zip(every, torch.autograd.grad(total, every), strict=True):
                parameter -= 0.1 * gradient
    step.state()  # the auxiliary networks' last update is due only then
    for mine, theirs in ((model, reference), (step.auxiliaries["own"].networks, networks)):
        assert torch.allclose(flat(list(mine.parameters())), flat(list(theirs.parameters())), rtol=1e-12)


@pytest.mark.parametrize("build", [lambda: small_convnet(True), small_resnet])
@pytest.mark.parametrize("spec", ["local-losses:blocks=4", "backprop"])
def test_running_statistics_move_once_a_step(build, spec):
    model, reference = build(), build()
    prepared(spec, model)(small_batch(), 0.0)
    reference(small_batch()[0])
    assert torch.allclose(flat(list(model.buffers())), flat(list(reference.buffers())), rtol=1e-12)


def test_a_single_block_is_backprop():
    one, other = small_mlp(), small_mlp()
    prepared("local-losses:blocks=1", one)(small_batch(), 0.1)
    prepared("backprop", other)(small_batch(), 0.1)
    assert torch.allclose(flat(list(one.parameters())), flat(list(other.parameters())), rtol=1e-12)


def test_fewer_blocks_than_asked_for_are_said():
    assert prepared("local-losses", small_mlp()).notes() == ["cut into 4 blocks, all that the model has"]
    assert prepared("local-losses:blocks=2", small_mlp()).notes() == []


def test_its_state_goes_through_a_file_of_tensors_and_plain_values():
    step = prepared("local-losses", small_mlp(), optimizer="adam")
    assert step.state() == {}
    step(small_batch(), 0.1)
    held = io.BytesIO()
    torch.save(step.state(), held)
    held.seek(0)
    fresh = prepared("local-losses", small_mlp(), optimizer="adam")
    fresh.load_state(torch.load(held, weights_only=True))
    mine, theirs = (flat(list(s.auxiliaries["own"].networks.parameters())) for s in (step, fresh))
    assert torch.equal(mine, theirs)


@pytest.mark.parametrize("execution", ["compile", "cudagraph"])
def test_other_execution_modes_are_refused(execution):
    with pytest.raises(UsageError, match="runs eagerly"):
        prepared("local-losses", small_mlp(), execution=execution)


def test_training_lowers_the_loss():
    _, _, _, losses = trained_on_digits("local-losses", 150, 0.1)
    assert losses[-1] < 0.3 * losses[0], losses[-1]


class WithASpare(nn.Module):
    """A block with parameters that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return x + torch.tanh(self.used(x))


BLOCKWISE = (
    "local-losses",
    "local-guess",
    *(f"local-guess:space={space}" for space in ("weight", "batch-tensor", "activation")),
)


@pytest.mark.parametrize("spec", BLOCKWISE)
@pytest.mark.parametrize("last", [False, True])
def test_parameters_that_nothing_uses_stay(spec, last):
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8), WithASpare(), nn.Linear(8, 4)]
    model = nn.Sequential(*(layers[:2] if last else layers)).double()
    batch = torch.randn(4, 8).double(), torch.tensor([0, 3, 1, 1])
    oracle.check_step(methods.find(spec), model, cross_entropy, batch, 1)


@pytest.mark.parametrize("spec", BLOCKWISE)
@pytest.mark.parametrize(("last", "shape"), [(nn.Flatten(0), ()), (nn.Unflatten(1, (1, 1, 1)), (1, 1, 1))])
def test_a_model_that_gives_one_number_or_an_image_is_refused_in_a_line(spec, last, shape):
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1), last).double()
    step = methods.find(spec).prepare(model, lambda output, target: (output - target).square().mean(), 0)
    with pytest.raises(UsageError, match="has to be a row of them: not a single number, and no image"):
        step.get_ready((torch.randn(4, 8).double(), torch.randn(4, *shape).double()))


@pytest.mark.parametrize("space", ["weight", "batch-weight", "batch-tensor", "activation"])
def test_random_guesses_have_no_auxiliary_networks_and_take_such_a_model(space):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0)).double()
    batch = torch.randn(4, 8).double(), torch.randn(4).double()
    method = methods.find(f"local-guess:guess=random,space={space}")
    oracle.check_step(method, model, lambda output, target: (output - target).square().mean(), batch, 1)
