"""Every method's step as a GPU would run it, without one: on tensors that have a device and no memory.

Nothing in a step may wait for the device or copy between it and the host. Checks that are made once, at
the first step, may. Reverse mode asks the driver for the device, and there is none: steps that have it
by right run on the CPU under the same eyes, and in all others it fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fgbench import methods
from fgbench.errors import UsageError
from fgbench.methods.steps import pushforward
from fgbench.methods.steps.pushforward import PushforwardStep
from fgbench.pushforward import engine, samples, structures
from fgbench.specs import registry
from tests.builders import loss_for
from tests.conformance.test_methods import PARTICULAR, UNSEEN, every_spec, small_batch, small_model

WAITS = (
    *("aten::_local_scalar_dense", "aten::nonzero", "aten::linalg_cholesky"),
    "aten::_linalg_check_errors",  # what linalg.cholesky and its like do after their kernel
    *("aten::bincount", "aten::masked_select", "aten::_unique2"),
)
COPIES = ("aten::copy_", "aten::_to_copy")
WITH_REVERSE = ("backprop", "dfa", "fdfa", "local-guess", "local-losses")  # within layers or blocks, or whole
MORE_THAN_LINEAR = (
    "cnn",
    "resnet",
    "transformer",
    "vit",
)  # layers whose own chain rule, of activity, is reverse mode's
SMALL = ("mlp", "logreg")
ONE_BLOCK = {"transformer": 1, "vit": 1}  # as many operations of every kind to wait as in two
HARDLY_ROOM = ("forward:tangents=3,structure=rank-one,combine=projection", "logreg")
GENERATOR = torch.Generator


class HostNumbers(TorchDispatchMode):
    """A number drawn on the host is there at once; on a tensor without memory any will do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name == WAITS[0] and args[0].device.type == "cpu":
            return 0
        return func(*args, **(kwargs or {}))


class NeverWaits(TorchDispatchMode):
    """Refuses what makes the host wait for the device, and copies between the two.

    With `everywhere` the CPU counts as a device that is waited for.
    """

    def __init__(self, *, everywhere: bool = False) -> None:
        super().__init__()
        self.everywhere = everywhere

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func._schema.name, kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        devices = {t.device.type for t in tensors}
        at_once = devices == {"cpu"} and not self.everywhere
        assert name not in WAITS or at_once, f"{name} waits for the device"
        masked = name == "aten::index" and any(t.dtype == torch.bool for t in tensors[1:])
        assert not masked, "a mask as an index waits for the device"
        if name in COPIES:
            devices.add(torch.device(kwargs.get("device") or tensors[0].device).type)
            assert len(devices) == 1, f"{name} copies between the device and the host"
        return func(*args, **kwargs)


@contextmanager
def fake_cuda(monkeypatch: pytest.MonkeyPatch, model: nn.Module, samples_meet: bool) -> Iterator[None]:
    """The model on a device that is not there; what is checked once holds."""
    mode = FakeTensorMode()  # imports much of torch, which is not to see what follows
    monkeypatch.setattr(torch, "Generator", lambda device=None: GENERATOR())
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device=None: torch.empty(0, device="cpu"))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device=None: None)
    apart = None if samples_meet else dict.fromkeys(range(999), samples.Layout())
    monkeypatch.setattr(engine.Pushforward, "layouts", lambda *_arguments: apart)
    monkeypatch.setattr(engine.Pushforward, "rows", lambda *_arguments: samples.Layout())
    with mode, HostNumbers():
        for module in model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(_there(parameter))
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = _there(buffer)
        yield


def _there(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")


def fake_batch(arch: str) -> methods.Batch:
    x, y = (_there(t) for t in small_batch(torch.float32, arch))
    return x, y


def has_reverse_mode(spec: str, arch: str) -> bool:
    """Whether reverse mode belongs into its step: a call of it anywhere else is a fault, and found."""
    through_layers = "structure=activity" in spec and arch in MORE_THAN_LINEAR
    return spec.split(":")[0] in WITH_REVERSE or through_layers or "at=block" in spec


def every_step() -> list[tuple[str, str]]:
    """Every spec on the small architectures; on others where their layers can tell it from another."""
    archs = registry.names("architectures")
    return [(s, arch) for s in every_spec() for arch in archs if arch in SMALL or not UNSEEN.search(s)]


@pytest.mark.parametrize(("spec", "arch"), every_step())
def test_a_step_never_waits_for_the_device(monkeypatch, spec, arch):
    if (spec, arch) == HARDLY_ROOM:
        pytest.skip("so few numbers that tangents may depend on each other: looked at, as it says")
    if "sampling=adaptive" in spec:
        pytest.skip("copies what it learns from without waiting, behind an event that only a GPU has")
    model = small_model(arch, torch.float32, ONE_BLOCK.get(arch))
    try:
        if has_reverse_mode(spec, arch):
            value = step_on_the_cpu(spec, model, arch)
        else:
            value = step_on_cuda(monkeypatch, spec, model, arch)
    except UsageError as error:
        if spec.startswith(PARTICULAR):
            pytest.skip(str(error))
        raise
    assert value.shape == ()


def step_on_cuda(monkeypatch: pytest.MonkeyPatch, spec: str, model: nn.Module, arch: str) -> Tensor:
    """The loss of a second step, nothing of which waited."""
    meet = any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    with fake_cuda(monkeypatch, model, meet):
        step = methods.find(spec).prepare(model, loss_for(arch), 0)
        step(fake_batch(arch), 0.1)
        with NeverWaits():
            value = step(fake_batch(arch), 0.1)
    assert value.device.type == "cuda"
    return value


def step_on_the_cpu(
    spec: str, model: nn.Module, arch: str = "mlp", loss: methods.Loss | None = None
) -> Tensor:
    """The same where copies between devices cannot be told."""
    step = methods.find(spec).prepare(model, loss or loss_for(arch), 0)
    step(small_batch(torch.float32, arch), 0.1)
    with NeverWaits(everywhere=True):
        return step(small_batch(torch.float32, arch), 0.1)


def test_an_embedding_that_counts_its_entries_does_not_wait(monkeypatch):
    model = nn.Sequential(nn.Embedding(9, 4, scale_grad_by_freq=True), nn.Flatten(), nn.Linear(12, 4))
    with fake_cuda(monkeypatch, model, samples_meet=False):
        batch = _there(torch.zeros(8, 3, dtype=torch.long)), _there(torch.zeros(8, dtype=torch.long))
        step = methods.find("forward").prepare(model, loss_for("mlp"), 0)
        step(batch, 0.1)
        with NeverWaits():
            step(batch, 0.1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda x: float(x.sum()), "_local_scalar_dense waits"),
        (lambda x: x.nonzero(), "nonzero waits"),
        (lambda x: x[x > 0], "mask"),
        (lambda x: torch.linalg.cholesky(x), "_linalg_check_errors waits"),
        (lambda x: x.cpu(), "copies between"),
        (lambda x: x.copy_(torch.empty(3, 3, device="cpu")), "copies between"),
    ],
)
def test_what_waits_or_copies_is_refused(wrong, said):
    with FakeTensorMode():
        x = torch.empty(3, 3, device="cuda")
        with NeverWaits(), pytest.raises(AssertionError, match=said):
            wrong(x)


def test_it_finds_the_cholesky_that_waited(monkeypatch):
    """The factor of orthonormal tangents and of a projection, as they once were."""
    monkeypatch.setattr(structures, "cholesky", torch.linalg.cholesky)
    with pytest.raises(AssertionError, match="_linalg_check_errors waits"):
        test_a_step_never_waits_for_the_device(monkeypatch, "forward:tangents=3,structure=orthonormal", "mlp")


@pytest.mark.parametrize("spec", ["backprop", "local-losses"])
def test_what_waits_on_the_way_back_is_refused_too(monkeypatch, spec):
    def loss(output: Tensor, target: Tensor) -> Tensor:
        if output.requires_grad:
            output.register_hook(lambda slope: slope * float(slope.sum()))
        return nn.functional.cross_entropy(output, target)

    with pytest.raises(AssertionError, match="_local_scalar_dense waits"):
        step_on_the_cpu(spec, small_model("mlp", torch.float32), loss=loss)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU reverse mode runs on such tensors")
def test_reverse_mode_where_none_belongs_is_found(monkeypatch):
    class WithReverse(PushforwardStep):
        def _update(self, learning_rate: float) -> None:
            with torch.enable_grad():
                torch.autograd.grad(self.parameters[0].sum(), self.parameters[0])

    monkeypatch.setattr(pushforward, "PushforwardStep", WithReverse)
    with pytest.raises(RuntimeError, match="hasPrimaryContext"):
        test_a_step_never_waits_for_the_device(monkeypatch, "forward", "mlp")
