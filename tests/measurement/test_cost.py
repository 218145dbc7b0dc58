"""Counts of work against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fgbench import methods
from fgbench.measurement.cost import FORMULAS, Convolution, Work, count, mean_work

ROWS, INNER, COLUMNS = 3, 5, 7


@pytest.fixture
def factors():
    return torch.ones(ROWS, INNER), torch.ones(INNER, COLUMNS), torch.ones(ROWS, COLUMNS)


@pytest.mark.parametrize(
    "product",
    [
        lambda a, b, c: a @ b,
        lambda a, b, c: torch.addmm(c, a, b),
        lambda a, b, c: c.addmm_(a, b),
        lambda a, b, c: torch.mm(a, b, out=c),
        lambda a, b, c: torch.einsum("ij,jk->ik", a, b),
        lambda a, b, c: nn.functional.linear(a, b.t()),
    ],
)
def test_a_product_in_any_guise_is_two_flops_a_multiplication(factors, product):
    work = count(lambda: product(*factors))
    assert work.flops == 2 * ROWS * INNER * COLUMNS
    assert work.operations == 1


def test_a_tangent_that_is_missing_has_no_bytes(factors):
    """As of a model's input under `torch.func.jvp`; torch multiplies by it all the same."""
    a, b, c = factors
    work = count(lambda: torch.func.jvp(lambda b: torch.addmm(c, a, b), (b,), (b,)))
    assert work.flops == 3 * 2 * ROWS * INNER * COLUMNS
    assert work.bytes == 4 * (a.numel() + b.numel() + c.numel())


def test_products_over_a_batch():
    a, b, c = torch.ones(4, ROWS, INNER), torch.ones(4, INNER, COLUMNS), torch.ones(4, ROWS, COLUMNS)
    wanted = 4 * 2 * ROWS * INNER * COLUMNS
    for product in (lambda: a @ b, lambda: c.baddbmm_(a, b), lambda: torch.addbmm(c[0], a, b)):
        assert count(product).flops == wanted


def test_bytes_are_those_from_outside_read_once_and_written_once():
    x, y = torch.ones(100), torch.ones(100)

    def run() -> None:
        made = x + y  # reads both
        made = made * x  # x again, and what it made itself
        y.add_(made)  # y is written

    work = count(run)
    assert work.bytes == 3 * 400
    assert work.operations == 3


def test_a_view_is_no_operation_and_an_expanded_tensor_has_the_bytes_that_are_there():
    x = torch.ones(1, 8)
    work = count(lambda: x.expand(1000, 8).sum())
    assert (work.operations, work.bytes) == (1, 32)


def test_traffic_is_what_each_operation_reads_and_writes_itself():
    a, b, c = torch.ones(ROWS, INNER), torch.ones(INNER, COLUMNS), torch.ones(ROWS, COLUMNS)

    def run() -> None:
        made = a @ b  # a, b and what is made
        made.add_(c)  # made, c, and made again
        made.relu()  # made, and another
        c.normal_()  # written alone
        torch.mm(a, b, out=c)  # as the first

    work = count(run)
    sizes = 4 * ROWS * INNER, 4 * INNER * COLUMNS, 4 * ROWS * COLUMNS
    assert work.product_bytes == 2 * sum(sizes)
    assert work.other_bytes == (3 + 2 + 1) * sizes[2]
    assert work.random_numbers == ROWS * COLUMNS


def test_numbers_drawn_are_counted_however_they_are_drawn():
    into = torch.empty(10)
    work = count(lambda: (torch.randn(5), into.uniform_(), nn.functional.dropout(into, 0.5)))
    assert work.random_numbers == 5 + 10 + 10
    # The dropout of a GPU, which gives its mask too.
    assert count(lambda: torch.native_dropout(into, 0.5, True)).random_numbers == 10


def test_attention_without_dropout_draws_no_numbers():
    q = torch.zeros(1, 2, 4, 8)
    assert count(lambda: nn.functional.scaled_dot_product_attention(q, q, q)).random_numbers == 0
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    assert count(lambda: attention(q, q, q, dropout_p=0.0)).random_numbers == 0


BATCH, IN, WIDTH, OUT = 8, 36, 16, 4
FORWARD = 2 * BATCH * (IN * WIDTH + WIDTH * WIDTH + WIDTH * OUT)
FIRST = 2 * BATCH * IN * WIDTH  # the input's gradient and tangents are not needed
PARAMETERS = IN * WIDTH + WIDTH + WIDTH * WIDTH + WIDTH + WIDTH * OUT + OUT


@pytest.mark.parametrize(
    ("spec", "flops"),
    [
        ("backprop:update=direct", 3 * FORWARD - FIRST),
        # A product of the value and of each tangent with the weight, and of the value with each tangent
        # of the weight.
        ("forward", 3 * FORWARD - FIRST),
        # And in the update the tangents times their coefficients.
        ("forward:tangents=4", 9 * FORWARD - 4 * FIRST + 2 * 4 * PARAMETERS),
        ("spsa", 2 * FORWARD),
    ],
)
def test_a_step_of_an_mlp_is_what_is_counted_by_hand(spec, flops):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(IN, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, OUT),
    )
    batch = torch.randn(BATCH, 1, 6, 6), torch.randint(OUT, (BATCH,))
    step = methods.prepare(methods.find(spec), model, nn.functional.cross_entropy, 0)
    step(batch, 0.1)
    found = count(lambda: step(batch, 0.1)).flops
    # Derivatives along tangents are dot products of what the loss sees: a few FLOPs beside.
    assert flops <= found <= flops * 1.01


def test_a_step_of_one_layer_counts_what_follows_that_layer():
    """A product of every layer's value, and from the drawn layer on one of its tangent."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
    batch = torch.randn(64, 256), torch.randint(256, (64,))
    method = methods.find("forward:structure=rank-one,layers=one")
    step = methods.prepare(method, model, nn.functional.cross_entropy, 0)
    step.get_ready(batch)
    layer = 2 * 64 * 256 * 256
    found = sorted(count(lambda: step(batch, 0.1)).flops / layer for _ in range(2 * step.cycle))
    assert found[0] == pytest.approx(2, rel=0.03), "the last layer's tangent has factors"
    assert found[-1] == pytest.approx(3, rel=0.03)


def test_rank_one_tangents_need_two_products_a_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
    batch = torch.randn(64, 256), torch.randint(256, (64,))
    step = methods.prepare(methods.find("forward:structure=rank-one"), model, nn.functional.cross_entropy, 0)
    step(batch, 0.1)
    layer = 2 * 64 * 256 * 256
    # The first layer's input has no tangent: one product; the factors cost what vectors cost.
    assert 3 * layer <= count(lambda: step(batch, 0.1)).flops <= 3.1 * layer


def test_convolutions_are_kept_with_their_largest_batch():
    layer = nn.Conv2d(2, 3, 3, stride=2, padding=1)

    def run() -> None:
        for batch in (4, 8, 2):
            layer(torch.ones(batch, 2, 8, 8)).sum().backward()

    alike = Convolution((2, 8, 8), (3, 2, 3, 3), ((2, 2), (1, 1), (1, 1), False, (0, 0), 1))
    assert count(run).convolutions == {alike: 8}
    other = Convolution((2, 8), (3, 2, 3), ((1,), (0,), (1,), False, (0,), 1))
    works = [Work(1, 1, 1, frozenset(), {alike: 8, other: 1}), Work(3, 1, 1, frozenset(), {alike: 16})]
    assert mean_work(works).convolutions == {alike: 16, other: 1}


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_counted_by_its_products(causal):
    """A kernel of a CPU's own does it, which torch's counter passes over: two products, and five backward."""
    query, key, value = (torch.randn(2, 3, length, 8, requires_grad=True) for length in (5, 7, 7))
    product = 2 * 2 * 3 * 5 * 7 * 8

    def attend():
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal)

    out = attend()
    assert count(attend).flops == 2 * product
    assert count(lambda: out.sum().backward()).flops == 5 * product


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_network_is_counted_by_its_products_whatever_computes_it(kind):
    """A library's kernel for all steps is one operation, in which torch's own counter sees none."""
    time, batch, features, hidden = 5, 4, 8, 16
    model, x = kind(features, hidden, batch_first=True), torch.randn(batch, time, features)
    gates = len(model.weight_hh_l0)
    evaluation = 2 * time * batch * gates * (features + hidden)
    assert count(lambda: model(x)).flops == evaluation
    x.requires_grad_()
    # A product of the first hidden state's slope may be left out.
    assert count(lambda: model(x)[0].sum().backward()).flops == pytest.approx(3 * evaluation, rel=0.05)
    cudnn = FORMULAS[torch.ops.aten._cudnn_rnn], FORMULAS[torch.ops.aten._cudnn_rnn_backward]
    shapes = [tuple(weight.shape) for weight in model.parameters()]
    assert [formula(tuple(x.shape), shapes, 4) for formula in cudnn] == [evaluation, 2 * evaluation]
