"""`fgbench pretrain`: a file that cannot be written is told before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from fgbench.running.pretraining import Pretraining
from tests.cli.test_commands import fgbench_says

SMALL = ("--depth", "1", "--width", "16", "--dataset", "pydoc:context=16,part=first", "--threads", "1")


@pytest.mark.parametrize(
    ("out", "why"),
    [("folder", "this is a folder"), ("file/start.pt", "exists"), ("/proc/nowhere/start.pt", "No such file")],
)
def test_it_does_not_train_for_a_file_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, why: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(Pretraining, "points", lambda *_: pytest.fail("it trains"))
    done = fgbench_says("pretrain", str(tmp_path / out), *SMALL)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "cannot be written" in line
    assert why in line


def test_its_folder_is_made(tmp_path: Path) -> None:
    out = tmp_path / "new" / "start.pt"
    done = fgbench_says("pretrain", str(out), *SMALL, "--steps", "1")
    assert done.returncode == 0, done.stderr
    assert [file.name for file in out.parent.iterdir()] == ["start.pt"]
