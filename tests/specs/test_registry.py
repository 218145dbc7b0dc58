"""The registry: what is in the folder, what third parties bring, and what is not there."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from fgbench.errors import UsageError
from fgbench.specs import registry


@pytest.fixture
def third_party(monkeypatch):
    points = {
        "theirs": EntryPoint("theirs", "collections:OrderedDict", "fgbench.methods"),
        "broken": EntryPoint("broken", "no_such_package_at_all:thing", "fgbench.methods"),
    }
    monkeypatch.setattr(registry, "_entry_points", lambda kind: points if kind == "methods" else {})
    registry.find.cache_clear()
    yield
    registry.find.cache_clear()


def test_what_is_in_the_folder_is_registered():
    assert {"backprop", "forward"} <= set(registry.names("methods"))
    assert {"cnn", "logreg", "mlp", "resnet", "transformer", "vit"} <= set(registry.names("architectures"))
    assert {"cifar10", "digits", "fashion-mnist", "mnist", "pydoc", "synthetic", "text"} <= set(
        registry.names("datasets")
    )
    assert {"beale", "rosenbrock", "sphere", "styblinski-tang"} <= set(registry.names("functions"))


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_name_is_found(kind):
    assert all(registry.find(kind, name) is not None for name in registry.names(kind))


@pytest.mark.parametrize("kind", registry.KINDS)
def test_a_name_that_is_not_there_is_said_with_those_that_are(kind):
    with pytest.raises(UsageError) as caught:
        registry.find(kind, "nonsense")
    wanted = f"no {registry.KINDS[kind]} 'nonsense': choose from {', '.join(registry.names(kind))}."
    assert str(caught.value) == wanted


@pytest.mark.parametrize("name", ["", "../plan", "__init__", "fgbench", "Mlp", "mlp.py"])
def test_no_name_reaches_past_the_folder(name):
    with pytest.raises(UsageError):
        registry.find("architectures", name)


def test_an_entry_point_registers_a_third_partys_method(third_party):
    from collections import OrderedDict

    assert "theirs" in registry.names("methods")
    assert registry.find("methods", "theirs") is OrderedDict
    assert "theirs" not in registry.names("datasets")


def test_an_entry_point_that_does_not_import_is_one_line_that_names_it(third_party):
    with pytest.raises(
        UsageError, match=r"the method 'broken' of no_such_package_at_all:thing cannot be imported"
    ):
        registry.find("methods", "broken")
