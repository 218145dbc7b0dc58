"""Where torchvision does not import, what needs it says so in a line."""

from __future__ import annotations

import sys

import pytest

from fgbench import architectures, datasets
from fgbench.errors import UsageError


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_an_architecture_names_another(name, monkeypatch):
    for module in ("resnet", "vision_transformer"):
        monkeypatch.setitem(sys.modules, f"torchvision.models.{module}", None)
    family = architectures.find(name)
    with pytest.raises(UsageError, match=f"{name} needs torchvision, .* --arch cnn") as caught:
        architectures.build(name, family.default_depth, 8, (1, 8, 8), 5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_dataset_names_another(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(UsageError, match=r"needs torchvision, .* --dataset digits"):
        datasets.load(name, tmp_path, 8)
