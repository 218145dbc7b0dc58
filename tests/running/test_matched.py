"""The matched group: one seed, the same weights and batches wherever it is built."""

from __future__ import annotations

import dataclasses
import gc
import subprocess
import sys
import weakref
from copy import deepcopy

import pytest
import torch
from torch import nn

from fgbench import methods
from fgbench.running import arms
from fgbench.running.matched import weights_hash
from tests.builders import cross_entropy, tiny_matched


def test_a_seed_gives_the_same_weights_and_batches_another_seed_others():
    one, same, other = tiny_matched(1).facts(), tiny_matched(1).facts(), tiny_matched(2).facts()
    assert one == same
    assert one.weights_hash != other.weights_hash
    assert one.batches_hash != other.batches_hash
    assert one.parameters == 36 * 16 + 16 + 16 * 4 + 4


def test_a_copy_has_the_initial_weights_and_training_it_leaves_the_original():
    matched = tiny_matched()
    before = weights_hash(matched.model)
    copy = matched.copy_of_model()
    assert weights_hash(copy) == before
    with torch.no_grad():
        next(copy.parameters()).zero_()
    assert weights_hash(matched.model) == before != weights_hash(copy)


def test_on_a_gpu_steps_that_were_dropped_are_freed_before_a_copy_is_made(monkeypatch):
    """They refer to themselves; a search would otherwise fill its memory with them."""
    on_gpu = dataclasses.replace(tiny_matched(), model=nn.Linear(2, 2))
    spec, rates = "forward:structure=rank-one", (1e-3, 1e-2)
    made: list[weakref.ref[nn.Module]] = []
    alive: list[int] = []

    def noted(model):
        alive.append(sum(ref() is not None for ref in made))
        copied = deepcopy(model)
        made.append(weakref.ref(copied))
        return copied

    gc.collect()
    monkeypatch.setattr(arms.copy, "deepcopy", noted)
    monkeypatch.setattr(nn.Parameter, "is_cuda", True)
    for rate in rates:
        step = methods.find(spec).prepare(on_gpu.copy_of_model(), cross_entropy, 0)
        step((torch.randn(3, 2), torch.arange(3) % 2), rate)
        del step
    assert alive == [0, 0]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_model_and_data_have_the_groups_dtype(dtype):
    matched = tiny_matched(dtype=dtype)
    wanted = getattr(torch, dtype)
    assert {p.dtype for p in matched.model.parameters()} == {wanted}
    assert matched.data.train_x.dtype == matched.data.validation_x.dtype == wanted
    assert matched.data.train_y.dtype == torch.int64
    assert matched.model.training
    assert matched.facts().weights_hash


def test_hash_sees_names_values_and_buffers_of_any_shape_and_dtype():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).to(torch.bfloat16)
    before = weights_hash(model)
    model[1].num_batches_tracked += 1
    moved = weights_hash(model)
    model[0].weight.data[0, 0] += 1
    assert len({before, moved, weights_hash(model)}) == 3
    named = nn.ModuleDict({"a": nn.Linear(2, 2)})
    renamed = nn.ModuleDict({"b": named["a"]})
    assert weights_hash(named) != weights_hash(renamed)


def test_batches_are_those_of_the_training_loop():
    matched = tiny_matched()
    (_, second) = matched.batches(2)
    assert torch.equal(second[0], matched.data.train_x[matched.order.indices(1)])


def test_the_device_is_set_before_anything_is_made(monkeypatch):
    """Events, streams and graphs belong to the current device, which is the first until it is set."""
    happened: list[str] = []

    def made(*_arguments):
        happened.append("made")
        raise InterruptedError

    monkeypatch.setattr(torch.cuda, "set_device", lambda device: happened.append(str(device)))
    for maker in ("fgbench.datasets.load", "fgbench.architectures.build", "torch.manual_seed"):
        monkeypatch.setattr(maker, made)
    with pytest.raises(InterruptedError):
        tiny_matched(device="cuda:1")
    assert happened == ["cuda:1", "made"]


PRECISIONS = """
import torch
from fgbench.running.matched import float32_precision
for precision in ("ieee", "tf32", "ieee"):
    float32_precision(precision)
    print(
        torch.get_float32_matmul_precision(),
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.fp32_precision == "tf32",
        torch.backends.cudnn.conv.fp32_precision == "tf32",
    )
"""


def test_every_getter_of_float32_precision_answers_and_says_the_same():
    """torch raises in some of them where its two ways to set it were mixed; a process of its own, as it is
    never undone."""
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", PRECISIONS],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    exact, rounded = "highest" + 4 * " False", "high" + 4 * " True"
    assert done.stdout.splitlines() == [exact, rounded, exact]
