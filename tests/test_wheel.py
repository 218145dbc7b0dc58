"""fgbench as it is installed: built as a wheel and used from an empty folder, far from the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A process each would spend its time on imports: one runs them all, as `fgbench` would one by one.
COMMANDS = """
import sys
import fgbench
from fgbench.cli import main

print(fgbench.__file__)
for line in sys.stdin.read().splitlines():
    sys.argv = ["fgbench", *line.split()]
    try:
        main()
    except SystemExit as end:
        print(f"code {end.code}: {line}")
"""
RUN = (
    *("--dataset", "synthetic:shape=1x8x8,classes=4,samples=512"),  # made in no time in each worker
    *("--arch", "mlp", "--depth", "1", "--width", "16", "--device", "cpu", "--threads", "1"),
    *("--method", "backprop:update=fused", "--method", "forward:structure=rank-one"),
    *("--time-only", "--processes", "2", "--max-measure-seconds", "0.5", "--out", "results"),
)
THEN = (
    "plot results",
    "report results --out report.html",
    "baseline results --out baseline.csv",
    "check results --baseline baseline.csv --inconclusive pass",
    "reproduce baydin2022 --scale smoke --only fig2 --out papers",
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder that the wheel was unpacked into, without what it depends on."""
    wheels, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, ROOT]
    subprocess.run(build, check=True)
    (wheel,) = wheels.glob("fgbench-*.whl")
    unpack = [*pip, "install", "--no-deps", "--no-index", "--no-compile", "--target", target, wheel]
    subprocess.run(unpack, check=True)
    return target


def used(installed: Path, folder: Path, command: list[str], lines: str = "") -> str:
    """What a command prints that runs in a folder, with the installed fgbench and no other."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1", "COLUMNS": "100"}
    done = subprocess.run(
        command, cwd=folder, env=environment, input=lines, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_tool_does_what_it_does_in_the_repository(installed: Path, tmp_path: Path) -> None:
    printed = used(installed, tmp_path, [sys.executable, str(installed / "bin" / "fgbench"), "run", *RUN])
    assert "forward:structure=rank-one takes" in printed
    printed = used(installed, tmp_path, [sys.executable, "-c", COMMANDS], "\n".join(THEN))
    assert printed.startswith(str(installed)), "the repository's own was imported"
    codes = [line for line in printed.splitlines() if line.startswith("code ")]
    assert codes == [f"code 0: {line}" for line in THEN], printed
    assert list(tmp_path.glob("results/charts/*.png"))
    assert "forward:structure=rank-one" in (tmp_path / "report.html").read_text()
    assert list(tmp_path.glob("papers/*/report.html"))
