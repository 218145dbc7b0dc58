"""The README's "Adding to it": each row is one new file, and nothing else has to be edited.

A toy of every row is written into folders that are looked through beside the package's own.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from fgbench import architectures, charts, datasets, functions, methods
from fgbench.methods.steps.oracle import check_step
from fgbench.plan import Config
from fgbench.pushforward import rules
from fgbench.pushforward.course import body_of
from fgbench.pushforward.engine import Pushforward
from fgbench.pushforward.structures import Drawer
from fgbench.reproduction import loading
from fgbench.running import phases
from fgbench.specs import registry
from tests.reproduction.test_loading import FILE
from tests.running.test_phase import TOY

README = Path(__file__).parent.parent / "README.md"
CACHED = (registry._files, registry.find, charts.names, phases.phases, rules.read_all, body_of)

TOYS = {
    "methods/toy.py": """
from dataclasses import dataclass
from fgbench.methods.backprop import Backprop

@dataclass(frozen=True)
class Toy(Backprop):
    pass

method = Toy
""",
    "pushforward/rules/toy.py": """
from fgbench.pushforward.dual import Dual
from fgbench.pushforward.rules import rule

@rule("deg2rad")
def deg2rad(context, x):
    return Dual(x.stack.deg2rad())
""",
    "architectures/toy.py": """
import torch
from fgbench.architectures import Architecture

class InRadians(torch.nn.Module):
    def forward(self, x):
        return torch.deg2rad(x)

def build(depth, width, in_shape, classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(in_shape[-1], classes), InRadians())

architecture = Architecture(build, 1, 1, summary="a toy")
""",
    "datasets/toy.py": """
from dataclasses import dataclass
import torch
from fgbench.datasets import Dataset, Source

@dataclass(frozen=True)
class Toy(Source):
    summary = "a toy"

    def load(self, data_dir):
        x, y = torch.randn(8, 1, 1, 3), torch.arange(8) % 2
        return Dataset(x, y, x, y, classes=2)

dataset = Toy
""",
    "functions/toy.py": """
import torch
from fgbench.functions import Function

function = Function(lambda x: x.sum(), torch.zeros, lambda n: 0.0, torch.zeros, 1, "Σ x", "nobody")
""",
    "running/phases/toy.py": TOY,
    "charts/toy.py": """
from fgbench.charts import Chart

chart = Chart(lambda comparison: "nothing to draw")
""",
    "suites/toy2024.toml": FILE,
}


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Files of the package, and the toys, as if they were in one folder."""
    monkeypatch.setattr(rules, "RULES", dict(rules.read_all()))
    for name, text in TOYS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for package in (methods, rules, architectures, datasets, functions, phases, charts):
        folder = tmp_path / package.__name__.removeprefix("fgbench.").replace(".", "/")
        for file in Path(package.__file__).parent.glob("*.py"):
            (folder / file.name).touch()  # found here, and imported from where it is
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        monkeypatch.setattr(package, "__file__", str(folder / "__init__.py"))
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "specs/registry.py"))
    monkeypatch.setattr(loading, "FOLDER", tmp_path / "suites")
    for found in (*CACHED, loading.names):
        found.cache_clear()
    yield
    monkeypatch.undo()
    for name in [name for name in sys.modules if name.startswith("fgbench.") and name.endswith(".toy")]:
        del sys.modules[name]
    for found in (*CACHED, loading.names):
        found.cache_clear()


def test_a_toy_of_every_row_is_found_by_its_file_alone(toys):
    data = datasets.load("toy", Path(), 8)
    model = architectures.build("toy", 1, 1, data.in_shape, data.classes)
    batch, loss = (data.train_x, data.train_y), torch.nn.functional.cross_entropy
    check_step(methods.find("toy"), model, loss, batch, seed=0)
    engine, named = Pushforward(model, loss), dict(model.named_parameters())
    drawn = Drawer(named, 1, "gaussian", 0).draw().by_name
    engine(batch, {named[name]: tangent for name, tangent in drawn.items()})
    assert engine.fallbacks == []
    assert functions.find("toy").summary == "Σ x"
    assert "toy" in [phase.name for phase in phases.in_order(Config())]
    assert "toy" in charts.names()
    assert charts.find("toy").draw(None) == "nothing to draw"
    assert loading.load("toy2024").title == "A paper"


def test_nothing_of_them_is_left():
    assert "toy" not in {*registry.names("methods"), *charts.names(), *(p.name for p in phases.phases())}
    assert torch.deg2rad not in rules.read_all()


def test_there_is_a_toy_for_every_row():
    table = README.read_text().partition("## Adding to it")[2].partition("## ")[0]
    rows = re.findall(r"^\| [^|]+ \| `fgbench/([^`]+)/NAME\.(?:py|toml)`", table, re.MULTILINE)
    assert len(rows) == len(TOYS)
    assert {str(Path(name).parent) for name in TOYS} == set(rows)
