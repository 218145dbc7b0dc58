"""The engine's own cost: the step written by hand is the same step."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from fgbench import architectures
from fgbench.experiments.overhead import BY_HAND, ENGINES, FASTEST, ByHand, main


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_step_by_hand_is_a_rank_one_step(depth):
    torch.manual_seed(0)
    model = (
        architectures.build("mlp", depth, 8, (1, 3, 3), 4)
        if depth
        else architectures.build("logreg", 1, 1, (1, 3, 3), 4)
    )
    x, y = torch.randn(5, 1, 3, 3), torch.tensor([0, 3, 1, 1, 2])
    value = F.cross_entropy(model(x), y)
    gradients = torch.autograd.grad(value, list(model.parameters()))
    before = [p.detach().clone() for p in model.parameters()]
    step = ByHand(model)
    assert torch.allclose(step((x, y), 0.5), value)
    tangents = []
    for left, right, shift in step.tangents:
        assert set(left.tolist()) <= {-1.0, 1.0}
        tangents += [torch.outer(left, right), shift]
    along = sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))
    for parameter, old, tangent in zip(model.parameters(), before, tangents, strict=True):
        assert torch.allclose(parameter, old - 0.5 * along * tangent, atol=1e-5)


def test_a_row_for_each_model_and_other_step(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fgbench.experiments.overhead.CASES", (("logreg", 1, 1),))
    monkeypatch.setattr("fgbench.experiments.overhead.EXECUTIONS", ("eager",))
    monkeypatch.setattr("fgbench.experiments.overhead.BLOCK", 1)
    threads = torch.get_num_threads()
    main(["--out", str(tmp_path), "--rounds", "7"])
    torch.set_num_threads(threads)
    rows = pd.read_csv(tmp_path / "overhead.csv")
    assert set(rows["method"]) == set(ENGINES)
    assert set(rows["over"]) == {BY_HAND, FASTEST}
    assert len(rows) == 4
    assert rows["which"][rows["over"] == FASTEST].str.startswith("backprop:update=").all()
    assert (rows["ratio_low"] <= rows["ratio"]).all()
    assert (rows["seconds"] > 0).all()
    assert "over the fastest backprop (backprop:update=" in capsys.readouterr().out
