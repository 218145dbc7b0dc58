"""Every rule against reverse mode in float64, on shapes and options drawn at random."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from fgbench import methods
from fgbench.pushforward import rules
from fgbench.pushforward.context import Context
from fgbench.pushforward.dual import Dual
from fgbench.pushforward.engine import Pushforward
from fgbench.pushforward.structures import Tangents
from fgbench.pushforward.tangents import Full
from tests.pushforward.checks import by_reverse_mode, check, derivatives, drawn, smooth

randomised = settings(max_examples=15, deadline=None, derandomize=True)
sizes, few = st.integers(1, 5), st.integers(1, 3)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ruled(model: nn.Module, x: Tensor, **more: object) -> None:
    """Right, and by rules alone."""
    pushforward = check(model, x, **more)
    assert [f for f in pushforward.fallbacks if not f.startswith("loss")] == []


class Apply(nn.Module):
    """A function of a layer's output and of the input."""

    def __init__(self, function, inner: nn.Module) -> None:
        super().__init__()
        self.function, self.inner = function, inner

    def forward(self, x):
        return self.function(self.inner(x), x)


@randomised
@given(batch=few, n=sizes, m=sizes, hidden=sizes, bias=st.booleans(), length=st.integers(0, 2), count=few)
def test_linear(batch, n, m, hidden, bias, length, count):
    shape = (batch, *[3] * length, n)
    ruled(nn.Linear(n, m, bias=bias), normal(*shape), count=count)
    ruled(nn.Sequential(nn.Linear(n, hidden, bias=bias), nn.Linear(hidden, m)), normal(*shape), count=count)


def test_a_bias_is_added_to_the_value_alone():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    for p in (model[0].bias, model[1].bias):
        nn.init.constant_(p, 100.0)
    ruled(model, normal(5, 3))


@randomised
@given(
    dims=st.sampled_from([1, 2, 2, 2, 3]),
    channels=st.sampled_from([1, 2, 4, 8]),
    out=st.sampled_from([2, 4]),
    kernel=few,
    stride=few,
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 1, 2]),
    bias=st.booleans(),
    mode=st.sampled_from(["zeros", "zeros", "circular", "reflect"]),
    count=few,
)
def test_convolution(dims, channels, out, kernel, stride, padding, dilation, groups, bias, mode, count):
    assume(channels % groups == 0 and padding < 5 and (mode != "reflect" or dims < 3))
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    layer = kind(channels, out, kernel, stride, padding, dilation, groups, bias, padding_mode=mode)
    x = normal(2, channels, *[6] * dims)
    ruled(layer, x, count=count)
    ruled(nn.Sequential(kind(channels, channels, 1), layer), x, count=count)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_convolution_with_padding_in_words(padding):
    model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 3, padding=padding))
    ruled(model, normal(2, 8, 5, 5))


@pytest.mark.parametrize("layout", ["channels last", "strided"])
def test_convolution_and_pooling_of_inputs_laid_out_otherwise(layout):
    x = normal(2, 8, 6, 6)
    x = (
        x.to(memory_format=torch.channels_last)
        if layout == "channels last"
        else x.repeat(1, 1, 1, 2)[..., ::2]
    )
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3))
    ruled(model, x)
    ruled(nn.Sequential(nn.Flatten(), nn.Linear(288, 3)), x)


@randomised
@given(words=st.integers(2, 6), features=sizes, padding=st.booleans(), length=sizes)
def test_embedding(words, features, padding, length):
    layer = nn.Embedding(words, features, padding_idx=0 if padding else None)
    index = torch.arange(2 * length).view(2, length) % words
    ruled(nn.Sequential(layer, nn.Linear(features, 2)), index)


@pytest.mark.parametrize("options", [{"mode": "sum"}, {}, {"padding_idx": 0}, {"include_last_offset": True}])
def test_bags_of_embeddings(options):
    torch.manual_seed(0)
    index = torch.tensor([[0, 3, 3], [1, 0, 4]])
    offsets = torch.tensor([0, 2, 6]) if "include_last_offset" in options else None

    def bags(table, x):
        return F.embedding_bag(index if offsets is None else index.flatten(), table, offsets, **options)

    if offsets is None:
        ruled(nn.Sequential(nn.EmbeddingBag(5, 4, **options), nn.Linear(4, 2)), index)
    ruled(Apply(bags, nn.Linear(4, 4)), normal(5, 4))


@pytest.mark.parametrize(
    "options", [{}, {"padding_idx": 3}, {"include_last_offset": True}, {"max_norm": 1.0}]
)
def test_the_largest_of_bags_of_embeddings(options):
    torch.manual_seed(0)
    offsets = torch.tensor([0, 2, 2, 4, 6])  # the second bag is empty
    index = torch.tensor([0, 3, 3, 3, 1, 4])

    def bags(table, x):
        return F.embedding_bag(index, table, offsets, mode="max", **options)

    if "include_last_offset" not in options:
        ruled(nn.Sequential(nn.EmbeddingBag(5, 4, mode="max", **options), nn.Linear(4, 2)), index.view(2, 3))
    if "max_norm" not in options:  # which writes into the table
        ruled(Apply(bags, nn.Linear(4, 4)), normal(5, 4))


def test_bags_of_weighed_embeddings():
    class Weighed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.bags = nn.Linear(3, 3), nn.EmbeddingBag(5, 4, mode="sum")

        def forward(self, x):
            return self.bags(torch.arange(6).view(2, 3) % 5, per_sample_weights=self.inner(x))

    ruled(Weighed(), normal(2, 3))


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr"])
@pytest.mark.parametrize("multiply", [torch.matmul, torch.sparse.mm])
def test_a_sparse_matrix_times_a_value(multiply, layout):
    """As of a graph neural network's neighbours."""
    near = getattr(torch.eye(4).roll(1, 0).double() + torch.eye(4), layout)()
    inner = Apply(lambda h, x: torch.tanh(multiply(near, h)), nn.Linear(3, 5))
    ruled(nn.Sequential(inner, nn.Linear(5, 2)), normal(4, 3))


ACTIVATIONS = [
    nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.GELU(approximate="tanh"), nn.SiLU(), nn.Tanh(),
    nn.Sigmoid(), nn.Softmax(dim=1), nn.Softmax(dim=-1), nn.LogSoftmax(dim=1), nn.Identity(), nn.Flatten(),
    nn.Flatten(0), nn.Flatten(2), nn.ELU(0.7), nn.ELU(inplace=True), nn.SELU(), nn.CELU(0.5), nn.Mish(),
    nn.Hardtanh(-0.2, 0.3), nn.Hardtanh(inplace=True), nn.ReLU6(), nn.ReLU6(inplace=True), nn.LogSigmoid(),
    nn.Softplus(2, 0.5), nn.Threshold(0.1, 0.2), nn.LeakyReLU(0.2, inplace=True), nn.GLU(), nn.GLU(0),
    nn.Hardswish(inplace=True), nn.PReLU(), nn.PReLU(5), nn.Softsign(), nn.Tanhshrink(), nn.Softmin(-1),
]  # fmt: skip


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=str)
def test_activation(layer):
    ruled(nn.Sequential(nn.Linear(3, 4), layer), normal(2, 5, 3))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("layer", ACTIVATIONS[:9], ids=str)
def test_activation_on_large_float32_tensors(layer, count):
    """oneDNN's kernels, which small or double tensors do not meet; against the rule in float64."""
    single = nn.Sequential(nn.Linear(8, 256), layer)
    double = copy.deepcopy(single).double()
    x = normal(4, 50, 8)
    found = derivatives(Pushforward(single, smooth), drawn(single, count, seed=3), (x.float(), x))
    tangents = drawn(single, count, seed=3)
    wide = Tangents({name: Full(t.full().double()) for name, t in tangents.by_name.items()})
    wanted = derivatives(Pushforward(double, smooth), wide, (x.double(), x))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "function",
    [
        F.relu, torch.relu, lambda h: h.relu(), F.gelu, F.silu, torch.tanh, F.sigmoid, lambda h: h.sigmoid(),
        lambda h: F.softmax(h, dim=-1), lambda h: F.log_softmax(h, 1), lambda h: h.softmax(-1),
    ],
)  # fmt: skip
def test_activation_as_a_function(function):
    ruled(Apply(lambda h, x: function(h), nn.Linear(3, 4)), normal(2, 5, 3))


@randomised
@given(
    kernel=st.integers(2, 3), stride=few, padding=st.integers(0, 1), ceil=st.booleans(), ties=st.booleans()
)
def test_max_pooling(kernel, stride, padding, ceil, ties):
    layers = [nn.Conv2d(2, 3, 1), nn.ReLU()] if ties else [nn.Conv2d(2, 3, 1)]
    model = nn.Sequential(*layers, nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil))
    ruled(model, normal(2, 2, 7, 5))


@pytest.mark.parametrize(
    "layer",
    [nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(2), nn.AdaptiveAvgPool2d((1, 3))],
    ids=str,
)
def test_average_pooling(layer):
    ruled(nn.Sequential(nn.Conv2d(2, 3, 1), layer), normal(2, 2, 6, 6))


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool1d(2),
        nn.AdaptiveMaxPool1d(3),
        nn.AdaptiveMaxPool2d((2, 3)),
        nn.MaxPool3d(2, 1),
        nn.AdaptiveMaxPool3d(2),
    ],
    ids=str,
)
def test_max_pooling_of_other_kinds(layer):
    dims = int(type(layer).__name__[-2])
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    ruled(nn.Sequential(convolution(2, 3, 1), layer), normal(2, 2, *[5] * dims))


@randomised
@given(
    dims=few,
    groups=st.sampled_from([1, 2]),
    channels=st.sampled_from([2, 4]),
    kernel=few,
    stride=few,
    padding=st.integers(0, 1),
    more=st.integers(0, 1),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    count=few,
)
def test_transposed_convolution(dims, groups, channels, kernel, stride, padding, more, dilation, bias, count):
    assume(more < max(stride, dilation) and dilation * (kernel - 1) >= padding)
    kind, plain = [
        (nn.ConvTranspose1d, nn.Conv1d),
        (nn.ConvTranspose2d, nn.Conv2d),
        (nn.ConvTranspose3d, nn.Conv3d),
    ][dims - 1]
    layer = kind(channels, 4, kernel, stride, padding, more, groups, bias, dilation)
    x = normal(2, channels, *[3] * dims)
    ruled(layer, x, count=count)
    ruled(nn.Sequential(plain(channels, channels, 1), layer), x, count=count)


@pytest.mark.parametrize("first", [False, True], ids=["after a layer", "on the input"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 3), (2, 4, 3, 2)], ids=str)
def test_group_norm(shape, affine, first):
    torch.manual_seed(0)
    norm = nn.GroupNorm(2, 4, affine=affine)
    for p in norm.parameters():
        nn.init.normal_(p)
    layers = [norm, nn.Linear(shape[-1], 2)] if first else [nn.Linear(shape[-1], shape[-1]), norm]
    ruled(nn.Sequential(*layers), normal(*shape))


@pytest.mark.parametrize("first", [False, True], ids=["after a layer", "on the input"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(training, running, affine, first):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3, affine=affine, track_running_stats=running)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    layers = [norm, nn.Conv2d(3, 2, 1)] if first else [nn.Conv2d(3, 3, 1), norm, nn.Tanh()]
    ruled(nn.Sequential(*layers).train(training), 3 + 2 * normal(4, 3, 2, 2))


@pytest.mark.parametrize("first", [False, True], ids=["after a layer", "on the input"])
@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_instance_norm(training, running, first):
    torch.manual_seed(0)
    norm = nn.InstanceNorm2d(3, affine=running, track_running_stats=running)
    for p in norm.parameters():
        nn.init.normal_(p)
    layers = [norm, nn.Conv2d(3, 2, 1)] if first else [nn.Conv2d(3, 3, 1), norm, nn.Tanh()]
    model = nn.Sequential(*layers).double().train(training)
    plain = copy.deepcopy(model)
    ruled(model, 3 + 2 * normal(4, 3, 2, 3), count=3, structures=("gaussian",))
    plain(3 + 2 * normal(4, 3, 2, 3))
    for moved, wanted in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(moved, wanted, rtol=1e-12), "once a step, however many tangents"


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("chunk", [0, 1])
def test_batch_norm_moves_its_statistics_as_the_module_does(momentum, chunk):
    def build():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=momentum)).double()

    model, plain = build(), build()
    pushforward = Pushforward(model, smooth)
    for seed in range(3):
        x = normal(5, 3, seed=seed)
        derivatives(pushforward, drawn(model, 3), (x, x), chunk)
        plain(x)
    for (name, moved), wanted in zip(model.named_buffers(), plain.buffers(), strict=True):
        assert torch.allclose(moved, wanted, rtol=1e-12), name


@pytest.mark.parametrize("shape", [(4,), (3, 4)])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("first", [False, True], ids=["after a layer", "on the input"])
def test_layer_norm(shape, affine, first):
    torch.manual_seed(0)
    norm = nn.LayerNorm(shape, elementwise_affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
    layers = [norm, nn.Linear(4, 2)] if first else [nn.Linear(4, 4), norm]
    ruled(nn.Sequential(*layers), normal(2, 3, 4))


@pytest.mark.parametrize("training", [True, False])
def test_dropout_drops_what_the_model_drops(training):
    model = nn.Sequential(nn.Linear(4, 30), nn.Dropout(0.5), nn.Linear(30, 3), nn.Dropout(0.2))
    ruled(model.train(training), normal(3, 4))
    ruled(Apply(lambda h, x: F.dropout(h, 0.5, training=True), nn.Linear(4, 9)), normal(3, 4))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", [None, "hidden", "added"])
@pytest.mark.parametrize("need_weights", [True, False])
def test_multi_head_attention(batch_first, mask, need_weights):
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=batch_first)
            future = torch.ones(3, 3, dtype=torch.bool).triu(1)
            masks = {None: None, "hidden": future, "added": future.double() * -2.0}
            self.register_buffer("mask", masks[mask])

        def forward(self, x):
            h = self.inner(x)
            out, weights = self.attention(h, h, h, need_weights=need_weights, attn_mask=self.mask)
            return (out, weights) if need_weights else out

    torch.manual_seed(0)
    ruled(Attend(), normal(3, 3, 4))


def test_an_encoder_in_eval_with_padding():
    class Encode(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            self.inner, self.encoder = nn.Linear(4, 4), nn.TransformerEncoder(layer, 2)

        def forward(self, x):
            padding = torch.arange(x.shape[1]).expand(x.shape[:2]) > 2
            return self.encoder(self.inner(x), src_key_padding_mask=padding)

    torch.manual_seed(0)
    ruled(Encode().eval(), normal(2, 4, 4))


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.3}])
def test_scaled_dot_product_attention(options):
    ruled(
        Apply(lambda h, x: F.scaled_dot_product_attention(h, x, h, **options), nn.Linear(4, 4)),
        normal(2, 3, 5, 4),
    )


@pytest.mark.parametrize(
    ("queries", "keys", "values"),
    [
        ((2, 2, 150, 4), (2, 2, 150, 4), (2, 2, 150, 3)),
        ((150, 4), (90, 4), (90, 4)),
        ((70, 4), (150, 4), (150, 4)),
    ],
    ids=["as many keys", "fewer keys", "more keys"],
)
def test_causal_attention_in_blocks(queries, keys, values):
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(3, n[-1]) for n in (queries, keys, values))
            self.register_buffer("one", normal(*queries[:-1], 3))
            self.register_buffer("other", normal(*keys[:-1], 3, seed=1))

        def forward(self, x):
            q, k, v = self.q(self.one + x), self.k(self.other), self.v(self.other)
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    torch.manual_seed(0)
    ruled(Attend(), normal(1))


@pytest.mark.parametrize("kind", ["hidden", "added", "hidden for each head"])
@pytest.mark.parametrize("dropped", [0.0, 0.5])
def test_a_query_that_may_see_no_key_attends_to_nothing(kind, dropped):
    """As the first tokens of a sentence that is padded on the left."""
    seen = torch.ones(3, 1, 5, 5, dtype=torch.bool).tril()
    seen[0, :, :, :2] = False
    if kind == "hidden for each head":
        seen = seen.expand(3, 2, 5, 5).clone()
        seen[1, 1, 3] = False
    mask = torch.zeros(seen.shape).double().masked_fill(~seen, -torch.inf) if kind == "added" else seen

    def attend(h, x):
        return F.scaled_dot_product_attention(h, h * 0.5, h + 1, attn_mask=mask, dropout_p=dropped)

    model = Apply(lambda h, x: attend(h.view(3, 5, 2, 4).transpose(1, 2), x), nn.Linear(8, 8))
    ruled(model, normal(3, 5, 8))


@pytest.mark.parametrize("still", ["nothing", "queries and keys", "values"])
@pytest.mark.parametrize("dropped", [0.0, 0.5])
def test_attention_with_a_bias_that_moves(still, dropped):
    """As those of T5 and Swin; some of its keys are hidden, and all of them from one query."""
    seen = torch.ones(5, 5, dtype=torch.bool).tril()
    seen[0] = False

    def attend(h, x):
        bias = (h[0] @ h[1].t()).masked_fill(~seen, -torch.inf)
        q, v = (x if still == "queries and keys" else h), (x if still == "values" else h)
        return F.scaled_dot_product_attention(q, 0.5 * q, v, attn_mask=bias, dropout_p=dropped)

    ruled(Apply(attend, nn.Linear(4, 4)), normal(2, 5, 4), count=3)


def test_attention_of_heads_that_share_keys_by_broadcasting():
    def attend(h, x):
        return F.scaled_dot_product_attention(h, x[:1, :1], h[:, :1] + 1)

    ruled(Apply(attend, nn.Linear(4, 4)), normal(2, 3, 5, 4))
    shared = Apply(lambda h, x: F.scaled_dot_product_attention(x[:1, :1], h, h), nn.Linear(4, 4))
    ruled(shared, normal(2, 3, 5, 4))


BYTES = torch.tensor([3, 0, 255, 7], dtype=torch.uint8)
FUNCTIONS = {
    "add": lambda h, x: h + x,
    "add a number": lambda h, x: 1.5 + h,
    "add in place": lambda h, x: operator_iadd(h, x),
    "add with alpha": lambda h, x: torch.add(x, h, alpha=2),
    "add broadcasting": lambda h, x: h + x[0],
    "broadcast to more dimensions": lambda h, x: h[0] + x,
    "subtract": lambda h, x: x - h,
    "subtract from itself": lambda h, x: h.sub(2 * h),
    "subtract bytes": lambda h, x: h - BYTES + torch.sub(h[:, :1], BYTES, alpha=2),
    "subtract bytes in place": lambda h, x: h.sub_(BYTES).add_(BYTES, alpha=-3),
    "subtract from bytes": lambda h, x: BYTES - h,
    "subtract products of bytes": lambda h, x: torch.addcmul(h, BYTES, BYTES, value=-1),
    "multiply": lambda h, x: h * x,
    "square": lambda h, x: h * h,
    "multiply results": lambda h, x: torch.tanh(2 * h) * torch.sigmoid(3 * h),
    "multiply a result": lambda h, x: h * torch.sin(h),
    "multiply a result by numpy's number": lambda h, x: torch.sin(h) * np.float32(1.5),
    "multiply results broadcasting": lambda h, x: torch.sin(h) * torch.cos(h[:, :1]),
    "add results": lambda h, x: torch.sin(h) + torch.cos(h),
    "add results with alpha": lambda h, x: torch.add(torch.sin(h), torch.cos(h), alpha=0.3),
    "subtract results": lambda h, x: torch.sin(h) - torch.cos(h),
    "subtract a result": lambda h, x: h - torch.cos(h),
    "add results broadcasting": lambda h, x: torch.sin(h) + torch.cos(h[:, :1]),
    "powers of results": lambda h, x: (2 * h).pow(3) + (3 * h) ** 2 + (2 + h.abs()) ** -0.5,
    "gate of a result": lambda h, x: F.silu(2 * h),
    "multiply in place": lambda h, x: h.mul_(x),
    "multiply broadcasting": lambda h, x: h[:, :1] * h[0],
    "divide": lambda h, x: h / (2 + x.abs()),
    "negate": lambda h, x: -h,
    "matmul": lambda h, x: h @ x.transpose(1, 2),
    "matmul from the left": lambda h, x: torch.matmul(x, h.transpose(1, 2)),
    "matmul with itself": lambda h, x: torch.bmm(h, h.transpose(1, 2)),
    "matmul with fewer dimensions": lambda h, x: torch.matmul(h, h[0].t()),
    "cat": lambda h, x: torch.cat([h, x], 1),
    "stack": lambda h, x: torch.stack([x, h], -1),
    "view": lambda h, x: h.view(h.shape[0], -1),
    "reshape": lambda h, x: h.reshape(h.size(0), 2, -1),
    "permute": lambda h, x: h.permute(2, 0, 1),
    "transpose all by an attribute": lambda h, x: h.T,
    "transpose": lambda h, x: torch.transpose(h, 0, 2),
    "slice": lambda h, x: h[:, 1:, ::2],
    "index by a tensor": lambda h, x: h[:, torch.tensor([1, 0, 1])],
    "new dimension": lambda h, x: h[:, None].unsqueeze(-1).squeeze(1),
    "chunk": lambda h, x: h.chunk(2, -1)[1],
    "split": lambda h, x: torch.split(h, 1, dim=1)[0],
    "unpack": lambda h, x: first_of_two(h),
    "expand": lambda h, x: h[:, :1].expand(-1, 3, -1),
    "choose by a condition": lambda h, x: h.where(x > 0, 2 * h),
    "choose by a condition from a number": lambda h, x: h.where(x > 0, 0.1),
    "choose by a condition from what stands still": lambda h, x: x.where(x > 0, h),
    "ask for gradients": lambda h, x: h.requires_grad_() * 2,
    "keep its gradient": lambda h, x: (h.retain_grad(), h * 2)[1],
    "hook its gradient": lambda h, x: (h.register_hook(print).remove(), h * 2)[1],
    "linear by name": lambda h, x: F.linear(input=h, weight=x[0]),
    "mean": lambda h, x: h.mean(1),
    "sum": lambda h, x: h.sum((1, 2), keepdim=True),
    "flatten": lambda h, x: torch.flatten(h, 1),
    "roll": lambda h, x: torch.roll(h, 1, 1),
    "contiguous clone": lambda h, x: h.transpose(1, 2).contiguous().clone(),
}  # fmt: skip


def as_wide_as_torch(model, x, loss=smooth, target=None, tolerance=1e-5):
    """Right as far as the model's dtypes allow, and in the dtype that torch gives the loss."""
    batch, tangents = (x, torch.zeros(len(x)) if target is None else target), drawn(model, 2, seed=3)
    found = derivatives(Pushforward(model, loss), tangents, batch)
    for one, other in zip(found, by_reverse_mode(model, loss, batch, tangents), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance, check_dtype=one.dim() == 0)


OF_ONE_NUMBER = {
    "cumsum": lambda h: h.cumsum(0),
    "sum": lambda h: h.sum(0),
    "softmax": lambda h: h.softmax(-1) * h,
    "log_softmax": lambda h: h.log_softmax(0) + h,
    "max": lambda h: h.max(0).values,
    "squeeze": lambda h: h.squeeze(0),
    "transpose": lambda h: h.transpose(0, -1),
    "movedim": lambda h: h.movedim(0, 0),
    "gather": lambda h: h.gather(0, torch.tensor(0)),
    "index_select": lambda h: h.index_select(0, torch.tensor([0])),
    "round a quotient": lambda h: h * (3.3 * h).div(2, rounding_mode="floor"),
    "round a quotient in place": lambda h: h * (3.3 * h).div_(2, rounding_mode="floor"),
}


class OneNumber(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.number = name, nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        return OF_ONE_NUMBER[self.name](torch.sin(self.number)) * x


@pytest.mark.parametrize("name", OF_ONE_NUMBER)
def test_a_single_number_has_a_first_and_a_last_dimension(name):
    check(OneNumber(name).double(), torch.randn(3, 2, dtype=torch.float64), count=2)


class Experts(nn.Module):
    """Weights [experts, out, in] as Hugging Face's, each for some of the rows, and one for none."""

    def __init__(self, trained: bool, moves: bool) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16).requires_grad_(moves)
        self.experts = nn.Parameter(torch.randn(3, 8, 16) / 4, requires_grad=trained)
        self.last = nn.Linear(8, 4)

    def forward(self, x):
        ends = torch.tensor([2, 2, len(x)], dtype=torch.int32)
        return self.last(torch._grouped_mm(torch.tanh(self.first(x)), self.experts.mT, offs=ends))


@pytest.mark.parametrize(("trained", "moves"), [(True, True), (True, False), (False, True)])
def test_groups_of_rows_have_matrices_of_their_own(trained, moves):
    """In float32, as PyTorch has no such products in float64."""
    torch.manual_seed(0)
    model = Experts(trained, moves)
    as_wide_as_torch(model, torch.randn(5, 16))
    engine = Pushforward(model, smooth)
    derivatives(engine, drawn(model, 2), (torch.randn(5, 16), torch.zeros(5)))
    assert not engine.fallbacks


SCALED = {
    "divide": lambda h, x, p: h / p,
    "divided": lambda h, x, p: p / (2 + h.abs()),
    "add": lambda h, x, p: h + p,
    "add what stands still": lambda h, x, p: x + p,
    "subtract": lambda h, x, p: h - p,
    "subtracted": lambda h, x, p: p - h,
    "multiply": lambda h, x, p: torch.tanh(h) * p * p.exp() * x,
    "maximum": lambda h, x, p: torch.maximum(h, p) + torch.minimum(p, h),
    "choose": lambda h, x, p: torch.where(h > 0, h, p),
}


@pytest.mark.parametrize("narrow", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SCALED)
def test_a_scalar_of_a_wider_dtype_gives_way(name, narrow):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(4, 4, dtype=narrow), nn.Linear(4, 2, dtype=narrow)
            self.scale = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

        def forward(self, x):
            out = SCALED[name](self.inner(x), x, self.scale)
            assert out.dtype == narrow
            return self.head(out)

    def loss(output, target):
        return output.float().square().mean()

    torch.manual_seed(0)
    tolerance = 1e-5 if narrow is torch.float32 else 0.05
    as_wide_as_torch(Scaled(), normal(3, 4).to(narrow), loss, tolerance=tolerance)


def operator_iadd(h, x):
    h += x
    return h


def first_of_two(h):
    a, b = h.chunk(2, dim=-1)
    return a * b


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_of_a_forward_of_its_own(name):
    ruled(Apply(FUNCTIONS[name], nn.Linear(4, 4)), normal(2, 2, 4))


@pytest.mark.parametrize(
    "function",
    [
        torch.lgamma,
        lambda h: (1 + h.abs()).pow(h),
        lambda h: h.prod(1),
        lambda h: torch.kron(h, h),
        lambda h: torch.fft.rfft(h).abs(),
        lambda h: h.lgamma_(),
        lambda h: (torch.complex(h, 2 * h).mH * (1 + 2j)).real,
        lambda h: (torch.complex(h, 2 * h)[0].H * (1 + 2j)).real,
        lambda h: F.linear(h, h[0, 0]),
    ],
)
def test_function_without_a_rule_falls_back_by_name(function):
    pushforward = check(Apply(lambda h, x: function(h), nn.Linear(4, 4)), normal(2, 3, 4), count=3)
    assert any(f.startswith("function") and f.endswith("torch.func.jvp") for f in pushforward.fallbacks)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "function",
    [
        torch.cdist,
        lambda h, x: F.grid_sample(x[None], h[None, ..., :2].tanh(), align_corners=False),
        lambda h, x: F.rrelu(h, training=True, inplace=True),
        lambda h, x: nn.utils.rnn.pack_padded_sequence(h, torch.tensor([3, 2]), True).data,
    ],
    ids=["cdist", "grid_sample", "rrelu in place", "pack"],
)
def test_what_has_no_forward_mode_runs_by_its_backward_pass(function, count):
    if not differentiable_twice(function):  # in PyTorch 2.11
        with pytest.raises(NotImplementedError, match="has no forward mode in PyTorch"):
            check(Apply(function, nn.Linear(4, 4)), normal(2, 3, 4), count=count)
        pytest.skip("this PyTorch cannot differentiate its backward pass")
    check(Apply(function, nn.Linear(4, 4)), normal(2, 3, 4), count=count)


LOSSES = {
    "multi_margin": lambda z, y: F.multi_margin_loss(z[0], y),
    "ctc": lambda z, y: F.ctc_loss(
        z.log_softmax(-1), 1 + y[:, None], torch.tensor([3, 2]), torch.ones(2).long()
    ),
}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_can_be_differentiated_once_alone(name, count):
    """Torch's for margins and for sequences: plain training needs no more."""
    torch.manual_seed(0)
    check(nn.Linear(4, 4), normal(3, 2, 4), loss=LOSSES[name], target=torch.tensor([0, 2]), count=count)


def differentiable_twice(function):
    x, h = normal(2, 3, 4), normal(2, 3, 4).requires_grad_()
    out = function(h * 1, x)
    slope = torch.ones_like(out).requires_grad_()
    (pulled,) = torch.autograd.grad(out, h, slope, create_graph=True)
    try:
        torch.autograd.grad(pulled.sum(), slope)
    except RuntimeError:
        return False
    return True


def test_results_keep_their_names_without_a_rule():
    check(Apply(lambda h, x: h.median(1).values + h.cummin(1).values[:, 0], nn.Linear(4, 4)), normal(2, 3, 4))


@pytest.mark.parametrize(
    ("layer", "function"),
    [
        (nn.Unfold((1, 2)), "im2col"),
        (Apply(lambda h, x: h[0], nn.LSTM(4, 3, proj_size=2)), "lstm"),
    ],
    ids=["Unfold", "LSTM that projects"],
)
def test_a_layer_without_a_rule_falls_back_by_name(layer, function):
    model = layer if isinstance(layer, Apply) else nn.Sequential(nn.Linear(4, 4), layer)
    assert check(model, normal(3, 2, 4)).fallbacks == [f"function {function}: torch.func.jvp"]


class Symmetric(nn.Module):
    """A weight that is computed from another."""

    def forward(self, weight):
        return weight.triu() + weight.triu(1).transpose(0, 1)


def test_hooks_and_parametrizations_are_not_passed_over():
    hooked = nn.Linear(3, 3)
    hooked.register_forward_hook(lambda module, inputs, output: 2 * output)
    check(nn.Sequential(nn.Linear(3, 3), hooked), normal(2, 3))
    symmetric = nn.Linear(3, 3)
    register_parametrization(symmetric, "weight", Symmetric())
    check(nn.Sequential(nn.Linear(3, 3), symmetric), normal(2, 3))

    class Doubled(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    check(nn.Sequential(nn.Linear(3, 3), Doubled(3, 3)), normal(2, 3))

    class Renamed(nn.Linear):
        """Nothing changed: the rule holds."""

    ruled(nn.Sequential(nn.Linear(3, 3), Renamed(3, 3)), normal(2, 3))


@pytest.mark.parametrize("frozen", ["", "g", "v"])
@pytest.mark.parametrize("dim", [0, 1, 2, -1, None])
def test_weight_norm(dim, frozen):
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 2), dim=dim)
    g, v = (p for name, p in layer.named_parameters() if "weight" in name)
    if frozen:
        (g if frozen == "g" else v).requires_grad_(False)
    ruled(nn.Sequential(nn.Conv1d(2, 2, 1), layer), normal(3, 2, 4))


class Tied(nn.Module):
    """A weight of two layers, and a layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.two(torch.tanh(self.one(torch.tanh(self.one(x)))))


def test_tied_weights_and_a_module_used_twice():
    ruled(Tied(), normal(3, 4))


@pytest.mark.parametrize("frozen", [["0.weight"], ["0.bias"], ["2.weight", "2.bias"], ["0.weight", "0.bias"]])
def test_frozen_parameters(frozen):
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    ruled(model, normal(3, 4))


def test_one_sample_one_tangent_and_more_tangents_than_parameters():
    for count in (1, 20):
        for batch in (1, 3):
            ruled(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)), normal(batch, 2), count=count)


class TestLosses:
    @pytest.mark.parametrize("loss", [F.cross_entropy, nn.CrossEntropyLoss()], ids=["function", "module"])
    @pytest.mark.parametrize("ignored", [False, True])
    def test_cross_entropy(self, loss, ignored):
        target = torch.tensor([0, -100 if ignored else 2, 1])
        assert check(nn.Linear(4, 3), normal(3, 4), loss=loss, target=target).fallbacks == []

    @pytest.mark.parametrize("loss", [F.mse_loss, nn.MSELoss()], ids=["function", "module"])
    def test_mean_squared_error(self, loss):
        pushforward = check(nn.Linear(4, 3), normal(5, 4), loss=loss, target=normal(5, 3, seed=1))
        assert pushforward.fallbacks == []

    @pytest.mark.parametrize("reduction", ["mean", "sum"])
    @pytest.mark.parametrize("smoothing", [0, 0.1])
    @pytest.mark.parametrize("ignored", [-100, 1])
    @pytest.mark.parametrize("weighted", [False, True])
    def test_cross_entropy_with_options(self, reduction, smoothing, ignored, weighted):
        weight = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) if weighted else None
        loss = nn.CrossEntropyLoss(weight, None, ignored, None, reduction, smoothing)
        target = torch.tensor([0, 2, 1, 2])
        assert check(nn.Linear(4, 3), normal(4, 4), loss=loss, target=target).fallbacks == []
        pixels, model = torch.arange(50).view(2, 5, 5) % 3, nn.Conv2d(2, 3, 1)
        assert check(model, normal(2, 2, 5, 5), loss=loss, target=pixels).fallbacks == []

    def test_losses_of_a_users_own_go_by_their_operations(self):
        def loss(output, target):
            return F.nll_loss(F.log_softmax(output, 1), target) + 0.1 * output.square().mean()

        target = torch.tensor([0, 2, 1])
        assert check(nn.Linear(4, 3), normal(3, 4), loss=loss, target=target).fallbacks == []

    def test_lines_of_classes_have_a_rule_and_targets_that_broadcast_fall_back(self):
        target = torch.zeros(2, 5, dtype=torch.long)
        model = nn.Conv1d(2, 3, 1)
        assert check(model, normal(2, 2, 5), loss=F.cross_entropy, target=target).fallbacks == []
        check(nn.Linear(4, 3), normal(5, 4), loss=F.mse_loss, target=normal(5, 1))

    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    @pytest.mark.parametrize(
        ("loss", "options"),
        [
            (F.mse_loss, {}),
            (F.l1_loss, {}),
            (F.smooth_l1_loss, {"beta": 0.3}),
            (F.smooth_l1_loss, {"beta": 0.0}),
            (F.huber_loss, {"delta": 0.3}),
            (F.huber_loss, {"weight": normal(4, 3).abs()}),
            (F.mse_loss, {"weight": normal(4, 3).abs()}),
            (F.binary_cross_entropy_with_logits, {}),
            (F.binary_cross_entropy_with_logits, {"weight": normal(3).abs(), "pos_weight": normal(3).abs()}),
            (F.cross_entropy, {}),
            (F.cross_entropy, {"label_smoothing": 0.2, "weight": normal(3).abs()}),
        ],
        ids=lambda part: getattr(part, "__name__", ",".join(part) if isinstance(part, dict) else str(part)),
    )
    def test_losses_entry_by_entry(self, loss, options, reduction):
        def reduced(output, target):
            return (loss(output, target, reduction=reduction, **options) * 1.5).sum()

        target = normal(4, 3, seed=1).softmax(1)
        pushforward = check(nn.Linear(4, 3), normal(4, 4), loss=reduced, target=target)
        assert pushforward.fallbacks == [] or ("weight" in options and loss in (F.mse_loss, F.huber_loss))

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    @pytest.mark.parametrize(
        "loss",
        [
            F.mse_loss,
            F.l1_loss,
            F.smooth_l1_loss,
            F.binary_cross_entropy_with_logits,
            F.cross_entropy,
        ],
    )
    def test_a_target_more_exact_than_the_output(self, loss, reduction):
        def reduced(output, target):
            return loss(output, target, reduction=reduction).mean()

        target = normal(5, 3, seed=1).softmax(1)
        try:
            reduced(torch.zeros(5, 3, requires_grad=True), target).backward()
        except RuntimeError as error:  # PyTorch 2.11 with mse_loss
            pytest.skip(str(error))
        as_wide_as_torch(nn.Linear(4, 3), normal(5, 4).float(), reduced, target)

    def test_a_target_that_moves(self):
        def loss(output, target):
            return F.cross_entropy(target, output.softmax(-1)) + F.cross_entropy(output, output.softmax(-1))

        check(nn.Linear(4, 3), normal(5, 4), loss=loss, target=normal(5, 3, seed=1))

    @pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "ignore_index": 1}], ids=str)
    def test_cross_entropy_row_by_row(self, options):
        weights = normal(4).abs()

        def weighed(output, target):
            return (weights * F.cross_entropy(output, target, reduction="none", **options)).mean()

        target = torch.tensor([0, 2, 1, 2])
        assert check(nn.Linear(4, 3), normal(4, 4), loss=weighed, target=target).fallbacks == []

    def test_derivatives_by_sample_add_up_and_are_each_samples_own(self):
        output = Dual(normal(3, 4, 3))
        for loss, target in ((F.cross_entropy, torch.tensor([0, 1, 2, -100])), (F.mse_loss, normal(4, 3))):
            found = rules.read_all()[loss](Context(2, {}), output, target)
            z = output.primal.clone().requires_grad_()
            (slope,) = torch.autograd.grad(loss(z, target), z)
            assert torch.allclose(found.by_row, (output.tangents * slope).sum(2), rtol=1e-12)


def test_every_function_that_the_engine_promises_has_a_rule():
    promised = [
        F.linear, F.conv2d, F.relu, F.gelu, F.silu, torch.tanh, torch.sigmoid, F.max_pool2d, F.avg_pool2d,
        F.adaptive_avg_pool2d, torch.flatten, F.batch_norm, F.layer_norm, F.rms_norm, F.dropout, F.embedding,
        F.scaled_dot_product_attention, torch.addmm, torch.einsum, F.cross_entropy, F.mse_loss,
    ]  # fmt: skip
    assert all(function in rules.read_all() for function in promised)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_norm_of_tiny_numbers_is_pytorchs_in_every_precision(dtype):
    """PyTorch computes narrower numbers as float32, whose smallest one is the norm's, and not theirs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.RMSNorm(8), nn.Linear(8, 4)).to(dtype)
    with torch.no_grad():
        model[0].weight.mul_(0.1)
        model[0].bias.mul_(0.1)
    batch = torch.randn(4, 8).to(dtype), torch.tensor([0, 3, 1, 1])
    with torch.no_grad():
        loss = F.cross_entropy(model(batch[0]), batch[1])
    value = methods.find("forward").prepare(model, F.cross_entropy, 0)(batch, 0.0)
    assert float(value) == pytest.approx(float(loss), rel=4 * torch.finfo(dtype).eps)
