"""The two ways to a program: both are the same step, and what a way cannot do is a row."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import nn

from fgbench.experiments import ways
from fgbench.methods import find


class Small(nn.Module):
    """Functions whose arguments ATen orders otherwise: an embedding with padding, batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(6, 4, padding_idx=0)
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.norm(self.words(x).mean(1))))


def batch():
    return torch.tensor([[1, 0, 2], [3, 4, 5], [0, 1, 5], [2, 2, 2]]), torch.tensor([0, 1, 2, 0])


def test_the_exported_graph_takes_the_same_steps():
    torch.manual_seed(0)
    model = Small().train()
    graph = ways.exported(model, batch()[0])
    for node in graph.graph.nodes:
        assert not isinstance(node.target, torch._ops.OpOverload), "each has torch's function"
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    after = []
    for one in (model, graph):
        one.load_state_dict(state)
        step = find(ways.SPEC).prepare(one, ways._loss, 3)
        for _ in range(3):
            step(batch(), 0.1)
        assert step.notes() == []
        after.append({name: tensor.clone() for name, tensor in one.state_dict().items()})
    assert after[0].keys() == after[1].keys()
    assert all(torch.allclose(tensor, after[1][name]) for name, tensor in after[0].items())


@pytest.mark.filterwarnings("ignore")
def test_what_a_way_cannot_do_is_a_row_with_the_reason(tmp_path, monkeypatch, capsys):
    cases = (ways.Case("small", Small, batch), ways.Case("loop", ways.Loop, ways._images(2)))
    monkeypatch.setattr(ways, "CASES", cases)
    monkeypatch.setattr(ways, "EXECUTIONS", ("eager",))
    threads = torch.get_num_threads()
    ways.main(["--out", str(tmp_path), "--rounds", "7"])
    torch.set_num_threads(threads)
    rows = pd.read_csv(tmp_path / "ways.csv").set_index(["model", "way"])
    assert (rows.loc["small", "seconds"] > 0).all()
    assert "asks for values" in rows.loc[("loop", ways.OWN), "reason"]
    assert rows.loc[("loop", ways.OWN), "seconds"] > 0
    assert "GuardOnDataDependent" in rows.loc[("loop", ways.EXPORTED), "reason"]
    assert pd.isna(rows.loc[("loop", ways.EXPORTED), "seconds"])
    assert "small, eager, torch.export" in capsys.readouterr().out
