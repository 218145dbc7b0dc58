"""Weights to begin from: written, read, and refused in a line where they are another model's."""

from __future__ import annotations

import pytest
import torch

from fgbench import architectures
from fgbench.errors import UsageError
from fgbench.training.checkpoint import load_into, save


def transformer(width: int = 8, context: int = 5, seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return architectures.build("transformer", 2, width, (context,), 11)


def test_a_model_begins_from_what_another_saved(tmp_path):
    one, other = transformer(), transformer(seed=1)
    hashed = save(one, tmp_path / "deep" / "start.pt", {"steps": 3})
    assert load_into(other, str(tmp_path / "deep" / "start.pt")) == hashed
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert other[-1].weight is other[0].token.weight


def test_a_state_dict_of_ones_own_will_do(tmp_path):
    one, other = transformer(), transformer(seed=1)
    torch.save(one.state_dict(), tmp_path / "own.pt")
    load_into(other, str(tmp_path / "own.pt"))
    assert torch.equal(one[1].up.weight, other[1].up.weight)


def test_what_is_no_checkpoint_of_this_model_is_refused_in_one_line(tmp_path):
    file = tmp_path / "start.pt"
    save(transformer(), file, {})
    (tmp_path / "text.pt").write_text("no weights")
    torch.save({"a": 1}, tmp_path / "other.pt")
    torch.save(3, tmp_path / "three.pt")
    refused = {
        (transformer(width=16), file): r"is \(.*8\) in the file and \(.*16\) in the model",
        (transformer(context=6), file): r"'0.position' is \(5, 8\) in the file and \(6, 8\) in the model",
        (architectures.build("transformer", 3, 8, (5,), 11), file): "has no '3.attention",
        (transformer(), tmp_path / "none.pt"): "cannot be read",
        (transformer(), tmp_path / "text.pt"): "not a file that torch.load can read",
        (transformer(), tmp_path / "other.pt"): "holds no weights",
        (transformer(), tmp_path / "three.pt"): "holds no weights",
    }
    for (model, path), said in refused.items():
        with pytest.raises(UsageError, match=said) as caught:
            load_into(model, str(path))
        assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_a_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        save(transformer(), tmp_path / "file" / "start.pt", {})
