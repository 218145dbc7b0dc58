"""The README's commands are commands that there are, with options that they have."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from fgbench.cli import app

README = Path(__file__).parent.parent / "README.md"
BLOCKS = "".join(re.findall(r"^```\w*\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL))
COMMANDS = sorted(set(re.findall(r"^\s*(fgbench [^\n|]*)$", BLOCKS, re.MULTILINE)))


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_exists_with_its_options(line):
    _, name, *arguments = shlex.split(line, comments=True)
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert name in commands
    known = {option for parameter in commands[name].params for option in parameter.opts}
    given = {a.partition("=")[0] for a in arguments if a.startswith("--")}
    assert given <= known


def test_there_are_some():
    assert len(COMMANDS) > 20
