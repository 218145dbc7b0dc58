"""Noise on blocks' outputs: what is moved, what samples share, and which models can be cut."""

import pytest
import torch
from torch import nn

from fgbench import methods
from fgbench.errors import UsageError
from fgbench.methods import Conditions
from fgbench.methods.steps.activity import TOGETHER
from fgbench.methods.steps.oracle import check_step
from tests.builders import cross_entropy, flat, tiny_batch, updates


def net(*more: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), *more, nn.ReLU(), nn.Linear(12, 3)).double()


@pytest.mark.parametrize("noise", ["sample", "batch"])
def test_units_that_are_off_for_every_sample_are_not_moved(noise):
    model = net()
    with torch.no_grad():
        model[1].bias[:5] = -100
    moved = {}
    for at in ("layer", "block"):
        step = methods.find(f"forward:structure=activity,noise={noise},at={at}").prepare(
            model, cross_entropy, 0
        )
        (estimate,) = updates(step, tiny_batch(), 1)
        moved[at] = estimate[: 12 * 16].view(12, 16).any(1).tolist()
    assert moved == {"layer": [True] * 12, "block": [False] * 5 + [True] * 7}


def test_noise_of_more_tangents_than_numbers_gives_the_gradient_itself():
    model, batch = net(), tiny_batch()
    spec = "forward:tangents=15,structure=activity,entries=gaussian,at=block,combine=projection"
    (estimate,) = updates(methods.find(spec).prepare(model, cross_entropy, 1), batch, 1)
    value = cross_entropy(model(batch[0]), batch[1])
    wanted = flat(torch.autograd.grad(value, list(model.parameters())))
    assert float((estimate - wanted).norm() / wanted.norm()) < 1e-6


def test_samples_that_meet_behind_a_block_share_a_derivative_and_those_within_one_do_not():
    within, behind = (
        net(nn.BatchNorm1d(12)),
        nn.Sequential(*net(), nn.Linear(3, 3), nn.BatchNorm1d(3)).double(),
    )
    for model, together in ((within, False), (behind, True)):
        step = methods.find("forward:structure=activity,at=block").prepare(model, cross_entropy, 0)
        step(tiny_batch(), 0.0)
        assert step.derivatives.shape == (1, 1 if together else len(tiny_batch()[1]))
        assert (TOGETHER in step.notes()) == together
    shared = methods.find("forward:structure=activity,noise=batch,at=block")
    shared.prepare(within, cross_entropy, 0)(tiny_batch(), 0.0)
    with pytest.raises(UsageError, match="leave noise=batch out"):
        shared.prepare(behind, cross_entropy, 0)(tiny_batch(), 0.0)


def test_batches_of_another_size_have_noise_of_their_own():
    step = methods.find("forward:structure=activity,at=block").prepare(net(), cross_entropy, 0)
    x, y = tiny_batch()
    for size in (len(x), 2, len(x)):
        step((x[:size], y[:size]), 0.1)
        assert [len(noise[0]) for noise in step.drawn] == [size, size]


def test_a_first_batch_of_one_sample_does_not_make_later_ones_share_a_derivative():
    step = methods.find("forward:structure=activity,at=block").prepare(net(), cross_entropy, 0)
    x, y = tiny_batch()
    for size in (1, len(x)):
        step((x[:size], y[:size]), 0.1)
        assert step.derivatives.shape == (1, size)


def test_statistics_are_updated_once():
    model, other = net(nn.BatchNorm1d(12)), net(nn.BatchNorm1d(12))
    methods.find("forward:structure=activity,at=block").prepare(model, cross_entropy, 0)(tiny_batch(), 0.1)
    other(tiny_batch()[0])
    assert torch.allclose(model[2].running_mean, other[2].running_mean)
    assert int(model[2].num_batches_tracked) == 1


@pytest.mark.parametrize(
    ("model", "said"),
    [(nn.Linear(16, 3), "needs an nn.Sequential"), (nn.Sequential(nn.Flatten()), "needs a trained layer")],
    ids=["no sequence", "nothing trained"],
)
def test_a_model_that_cannot_be_cut_is_refused(model, said):
    with pytest.raises(UsageError, match=f"forward:at=block {said}"):
        methods.find("forward:structure=activity,at=block").prepare(model.double(), cross_entropy, 0)


class Named(nn.Linear):
    """A layer that gives its output by name, and takes it so."""

    def forward(self, x):
        return {"hidden": super().forward(x["hidden"] if isinstance(x, dict) else x)}


@pytest.mark.parametrize("spec", ["forward:structure=activity,at=block", "local-guess", "local-losses"])
def test_a_block_that_gives_no_tensor_is_refused_with_what_it_gives(spec):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), Named(12, 12), Named(12, 3)).double()
    step = methods.find(spec).prepare(model, cross_entropy, 0)
    with pytest.raises(UsageError, match=r"hands one tensor from block to block, but block 2 gives a dict"):
        step(tiny_batch(), 0.0)


class Counting(nn.Linear):
    """A layer that counts its passes, and whose output depends on their number."""

    count = 0

    def forward(self, x):
        self.count = self.count + 1
        return super().forward(x) * self.count


def test_both_passes_through_a_block_begin_with_the_same_state():
    torch.manual_seed(0)
    model = nn.Sequential(
        *net(),
        nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)),
        nn.ReLU(),
        Counting(3, 3),
    ).double()
    method = methods.find("forward:structure=activity,at=block")
    check_step(method, model, cross_entropy, tiny_batch(), 0)
    method.prepare(model, cross_entropy, 0)(tiny_batch(), 0.1)
    assert model[-1].count == 1


@pytest.mark.parametrize("spec", ["forward:structure=activity,at=block", "local-losses"])
def test_a_block_may_begin_by_overwriting_what_the_block_before_it_gave(spec):
    torch.manual_seed(0)
    overwriting = nn.Sequential(nn.Linear(16, 12), nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(12, 3))
    model = nn.Sequential(nn.Flatten(), overwriting).double()
    check_step(methods.find(spec), model, cross_entropy, tiny_batch(), 0)


@pytest.mark.parametrize("more", ["", "noise=batch,", "tangents=3,noise=batch,combine=projection,"])
def test_a_model_may_give_one_number_for_each_sample(more):
    model = nn.Sequential(*net(), nn.ReLU(), nn.Linear(3, 1), nn.Flatten(0)).double()
    method = methods.find(f"forward:{more}structure=activity,at=block")
    x, y = tiny_batch()
    check_step(method, model, nn.functional.mse_loss, (x, y.double()), 0)


def test_blocks_that_fold_samples_into_each_other_share_a_derivative():
    model = nn.Sequential(
        nn.Linear(4, 8),
        nn.Flatten(0, 1),
        nn.Linear(8, 8),
        nn.ReLU(),
        nn.Linear(8, 8),
        nn.Unflatten(0, (6, 4)),
        nn.Flatten(),
        nn.Linear(32, 3),
    ).double()
    x, y = tiny_batch()
    batch = x.view(6, 4, 4), y
    for more in ("", "tangents=3,combine=projection,"):
        method = methods.find(f"forward:{more}structure=activity,at=block")
        check_step(method, model, cross_entropy, batch, 0)
    step = method.prepare(model, cross_entropy, 0)
    step(batch, 0.1)
    assert TOGETHER in step.notes()
    with pytest.raises(UsageError, match="leave noise=batch out"):
        shared = methods.find("forward:structure=activity,noise=batch,at=block")
        shared.prepare(model, cross_entropy, 0)(batch, 0.1)


@pytest.mark.parametrize("k", [1, 3])
def test_derivatives_are_told_before_they_are_clipped(k):
    spec = f"forward:tangents={k},structure=activity,clip=1e-6,at=block"
    step = methods.find(spec).prepare(net(), cross_entropy, 0)
    step(tiny_batch(), 0.1)
    assert step.measured.shape == (k, 6)
    assert (step.measured.abs() > 1e-6).any()


def test_a_loss_with_other_rows_than_samples_is_said_to_have_one_derivative():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x, _ = tiny_batch()
    batch = x.view(6, 4, 4), torch.zeros(6, 4, dtype=torch.long)

    def loss(output, target):
        return cross_entropy(output.flatten(0, 1), target.flatten())

    step = methods.find("forward:structure=activity,at=block").prepare(model, loss, 0)
    step(batch, 0.1)
    assert step.derivatives.shape == (1, 1)
    assert TOGETHER in step.notes()


class Halves(nn.Module):
    """Two layers; what becomes of the second one is left to subclasses."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 12), nn.Linear(16, 12)

    def forward(self, x):
        return self.first(x)


class Pair(Halves):
    def forward(self, x):
        return self.first(x), self.second(x)


class Sum(nn.Linear):
    def forward(self, pair):
        return super().forward(pair[0] + pair[1])


def test_a_parameter_that_nothing_uses_stays():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), Halves(), nn.ReLU(), nn.Linear(12, 3)).double()
    check_step(methods.find("forward:structure=activity,at=block"), model, cross_entropy, tiny_batch(), 0)


def test_a_parameter_that_the_noise_cannot_reach_is_refused_by_name():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), Pair(), Sum(12, 3)).double()
    method = methods.find("forward:structure=activity,at=block")
    with pytest.raises(NotImplementedError, match=r"1\.second\.weight untrained"):
        check_step(method, model, cross_entropy, tiny_batch(), 0)


@pytest.mark.parametrize("optimizer", ["sgd", "sgd:momentum=0.9", "adam"])
def test_an_embedding_with_sparse_gradients_is_trained_by_any_optimiser(optimizer):
    torch.manual_seed(0)
    embedding = nn.Embedding(20, 4, sparse=True)
    model = nn.Sequential(embedding, nn.Flatten(), nn.Linear(24, 3)).double()
    batch = torch.arange(18).view(3, 6), torch.arange(3)
    method = methods.find("forward:structure=activity,at=block")
    check_step(method, model, cross_entropy, batch, 0, Conditions(optimizer=optimizer))
