"""Checkpointing keeps less and computes the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fgbench import architectures, methods
from fgbench.errors import UsageError
from fgbench.measurement.memory import peak_of_step
from tests.builders import cross_entropy, flat, tiny_batch

LAYERS = 16


def peak(spec: str) -> int:
    def prepare():
        model = nn.Sequential(*(m for _ in range(LAYERS) for m in (nn.Linear(32, 32), nn.GELU())))
        step = methods.find(spec).prepare(model, lambda output, _: output.square().mean(), 0)
        x = torch.randn(2048, 32)
        return lambda: step((x, x), 1e-6)

    return peak_of_step(prepare, torch.device("cpu")).allocated


def test_it_keeps_segments_inputs_alone():
    """Of 2·16 activations a layer policy keeps about 16, and √16 segments about 4 and one segment's 8."""
    activation = 2048 * 32 * 4
    plain, layer, root = (
        peak(f"backprop{s}") for s in ("", ":checkpoint=true", ":checkpoint=true,segments=sqrt")
    )
    assert plain > 2 * LAYERS * activation
    assert LAYERS * activation < layer < (LAYERS + 8) * activation
    assert root < 0.85 * layer


@pytest.mark.parametrize("segments", ["layer", "sqrt"])
def test_weights_and_statistics_are_those_of_plain_backprop(segments):
    stepped = []
    for spec in ("backprop", f"backprop:checkpoint=true,segments={segments}"):
        torch.manual_seed(0)
        blocks = (nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5)) * 1
        model = nn.Sequential(
            nn.Flatten(), *blocks, nn.Linear(16, 8), nn.Dropout(0.2), nn.Linear(8, 3)
        ).double()
        step = methods.find(spec).prepare(model, cross_entropy, 0)
        torch.manual_seed(1)
        for _ in range(3):
            step(tiny_batch(), 0.1)
        stepped.append(flat([*model.parameters(), *model.buffers()]))
    assert torch.allclose(*stepped, rtol=1e-12)


def test_the_model_itself_stays_as_it_is():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    step = methods.find("backprop:checkpoint=true").prepare(model, cross_entropy, 0)
    step(tiny_batch(), 0.1)
    assert not any("forward" in vars(m) for m in model.modules())


def test_a_model_with_a_forward_of_its_own_is_cut_at_its_blocks():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
            self.head = nn.Linear(16, 3)

        def forward(self, x):
            x = x.flatten(1)
            for block in self.blocks:
                x = x + torch.tanh(block(x))
            return self.head(x)

    calls = []
    torch.manual_seed(0)
    model = Residual().double()
    model.blocks[1].register_forward_hook(lambda *_: calls.append(1))
    methods.find("backprop:checkpoint=true").prepare(model, cross_entropy, 0)(tiny_batch(), 0.1)
    assert len(calls) == 1  # the hook is outside of what is computed again
    with pytest.raises(UsageError, match=r"nn\.Sequential"):
        methods.find("backprop:checkpoint=true,segments=sqrt").prepare(model, cross_entropy, 0)


class Block(nn.Module):
    """A block that is made of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


class Deep(nn.Module):
    """A stack of blocks two modules below, as Hugging Face's models and torchvision's have it."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.encoder = nn.Module()
        blocks = [Block() for _ in range(8)]
        self.encoder.layers = kind(*blocks) if kind is nn.Sequential else kind(blocks)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        for block in self.encoder.layers:
            x = block(x)
        return self.head(x)


@pytest.mark.parametrize("kind", [nn.Sequential, nn.ModuleList])
def test_blocks_are_found_however_deep_they_stand(kind):
    def peak_of(spec: str) -> int:
        def prepare():
            step = methods.find(spec).prepare(Deep(kind), lambda output, _: output.square().mean(), 0)
            x = torch.randn(2048, 32)
            return lambda: step((x, x), 1e-6)

        return peak_of_step(prepare, torch.device("cpu")).allocated

    assert peak_of("backprop:checkpoint=true") < 0.6 * peak_of("backprop")


def test_hugging_faces_blocks_are_computed_again_and_the_step_is_the_same():
    pytest.importorskip("transformers")
    spec = "hf:GPT2LMHeadModel:n_layer=6,n_embd=32,n_head=2,resid_pdrop=0,embd_pdrop=0,attn_pdrop=0"
    x = torch.randint(30, (8, 64), generator=torch.Generator().manual_seed(0))
    peaks, stepped = [], []

    def loss(output, target):
        return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())

    for method in ("backprop", "backprop:checkpoint=true"):

        def prepare(method=method):
            torch.manual_seed(0)
            model = architectures.build(spec, 1, 1, (64,), 30).train()
            stepped.append(model)
            step = methods.find(method).prepare(model, loss, 0)
            return lambda: step((x, x), 0.1)

        peaks.append(peak_of_step(prepare, torch.device("cpu")).allocated)
    assert peaks[1] < 0.6 * peaks[0]
    one, other = (flat(list(model.parameters())) for model in stepped)
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)
