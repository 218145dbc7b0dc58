"""Every method's step as a GPU would run it, without one: on tensors that have a device and no memory.

Nothing in a step may wait for the device or copy between it and the host. Checks that are made once, at
the first step, may.
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

from fgbench import methods, registry
from fgbench.errors import UsageError
from fgbench.pushforward import engine, structures
from tests.builders import cross_entropy
from tests.conformance.test_methods import IN_SHAPE, PARTICULAR, every_spec, small_model

# The last is what linalg.cholesky and its like do after their kernel.
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::linalg_cholesky", "aten::_linalg_check_errors")
COPIES = ("aten::copy_", "aten::_to_copy")
LOCAL = ("local-guess", "local-losses")
HARDLY_ROOM = ("forward:tangents=3,structure=rank-one,combine=projection", "logreg")
NO_REVERSE = "reverse mode asks the driver for the device, and there is none"
GENERATOR = torch.Generator


class HostNumbers(TorchDispatchMode):
    """A number drawn on the host is there at once; on a tensor without memory any will do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name == WAITS[0] and args[0].device.type == "cpu":
            return 0
        return func(*args, **(kwargs or {}))


class NeverWaits(TorchDispatchMode):
    """Refuses what makes the host wait for the device, and copies between the two."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func._schema.name, kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        devices = {t.device.type for t in tensors}
        assert name not in WAITS or devices == {"cpu"}, f"{name} waits for the device"
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
    monkeypatch.setattr(engine, "_same", lambda one, other: True)
    monkeypatch.setattr(engine.Pushforward, "samples_meet", lambda *_arguments: samples_meet)
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


def fake_batch() -> methods.Batch:
    x = torch.empty(16, *IN_SHAPE, device="cuda")
    return x, torch.empty(16, dtype=torch.int64, device="cuda")


@pytest.mark.parametrize("arch", registry.names("architectures"))
@pytest.mark.parametrize("spec", every_spec())
def test_a_step_never_waits_for_the_device(monkeypatch, spec, arch):
    if spec.startswith(LOCAL):
        pytest.skip("its networks move from one device to another, which these tensors do not take")
    if (spec, arch) == HARDLY_ROOM:
        pytest.skip("so few numbers that tangents may depend on each other: looked at, as it says")
    model = small_model(arch, torch.float32)
    meet = any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    with fake_cuda(monkeypatch, model, meet):
        try:
            step = methods.find(spec).prepare(model, cross_entropy, 0)
            step(fake_batch(), 0.1)
            with NeverWaits():
                value = step(fake_batch(), 0.1)
        except UsageError as error:
            if spec.startswith(PARTICULAR):
                pytest.skip(str(error))
            raise
        except RuntimeError as error:
            if "hasPrimaryContext" in str(error):
                pytest.skip(NO_REVERSE)
            raise
    assert (value.device.type, value.shape) == ("cuda", ())


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
