"""A suite that is written wrongly is one line that names file, experiment or claim, and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from fgbench.errors import UsageError
from fgbench.reproduction.loading import read

FILE = """
title = "A paper"
source = "Somebody 2024"

[[experiments]]
name = "speed"
title = "A small MLP"
kind = "jobs"

[experiments.all]
archs = ["mlp"]
depths = [2]
width = 8
[experiments.all.runs.paper]

[experiments.smoke]
depths = [1]

[[experiments.claims]]
text = "forward is faster"
where = "Table 1"
mark = "R"
value = 0.5
figure = "paper/mlp-d2-w8-b64/forward/ratio"
test = "near"
"""


def line(folder: Path, old: str, new: str) -> str:
    """What is said of the file with one thing changed."""
    assert FILE.count(old) == 1
    with pytest.raises(UsageError) as caught:
        read(written(folder, FILE.replace(old, new)))
    text = str(caught.value)
    assert "\n" not in text
    return text


def written(folder: Path, text: str) -> Path:
    file = folder / "paper.toml"
    file.write_text(text)
    return file


def test_what_is_right_is_read(tmp_path):
    suite = read(written(tmp_path, FILE))
    (experiment,) = suite.experiments
    assert (suite.name, suite.title, suite.source) == ("paper", "A paper", "Somebody 2024")
    assert experiment.settings("smoke")["depths"] == [1]
    assert experiment.settings("full")["depths"] == [2]
    assert experiment.settings("paper") == experiment.settings("laptop"), "where nothing is said of it"
    more = FILE.replace("[experiments.smoke]", "[experiments.paper]\nwidth = 16\n[experiments.smoke]")
    (experiment,) = read(written(tmp_path, more)).experiments
    assert [experiment.settings(scale)["width"] for scale in ("laptop", "paper", "full")] == [8, 16, 8]
    assert [(claim.value, claim.tolerance) for claim in experiment.claims] == [(0.5, 0.1)]


CLAIM = "paper.toml, experiment speed, claim 'forward is faster'"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('mark = "R"', 'mark = "R"\ncolour = "red"', f"{CLAIM}, colour: no such key; the keys are text,"),
        ('where = "Table 1"', "", f"{CLAIM}, where: is missing."),
        ('text = "forward is faster"', "", "paper.toml, experiment speed, claim 1, text: is missing."),
        ("value = 0.5", 'value = "0.5"', f"{CLAIM}, value: must be a valid number."),
        ('test = "near"', 'test = "like"', f"{CLAIM}, test: must be 'near', 'below', 'above' or 'none'."),
        ('mark = "R"', 'mark = "X"', f"{CLAIM}, mark: must be '', 'R', 'D' or 'C'."),
        ('mark = "R"', "", f"{CLAIM}: the keys 'value' and 'mark' go together"),
        ('mark = "R"\nvalue = 0.5', "", f"{CLAIM}: a claim that is near a value needs the key 'value'."),
        (
            'test = "near"',
            'test = "near"\nneeds = "huge"',
            f"{CLAIM}, needs: must be 'smoke', 'laptop', 'paper' or",
        ),
        ("d2-w8", "d3-w8", f"{CLAIM}, figure: no scale of the experiment gives 'paper/mlp-d3-w8-b64/forward"),
        ("/ratio", "/speed", f"{CLAIM}, figure: no scale of the experiment gives 'paper/"),
        ('test = "near"', 'test = "below"\nthan = "paper/x"', f"{CLAIM}, than: no scale of the experiment"),
        (
            'kind = "jobs"',
            'kind = "guess"',
            "paper.toml, experiment speed, kind: must be 'jobs',",
        ),
        ('kind = "jobs"', "", "paper.toml, experiment speed, kind: is missing."),
        ("width = 8", "wide = 8", "paper.toml, experiment speed, smoke: a run has no option wide."),
        ("[experiments.all.runs.paper]", "", "paper.toml, experiment speed, smoke: 'runs' is missing."),
        (
            'archs = ["mlp"]',
            'archs = ["lenet"]',
            "experiment speed, smoke: no architecture 'lenet': choose",
        ),
        (
            "[experiments.smoke]",
            "[experiments.tiny]",
            "experiment speed, tiny: no such key; the keys are name,",
        ),
        ('source = "Somebody 2024"', "", "paper.toml, source: is missing."),
        ('source = "Somebody 2024"', "source = ", "paper.toml is not valid TOML: Invalid value (at line 3"),
    ],
)
def test_what_is_wrong_is_one_line_of_where_and_what(tmp_path, old, new, said):
    assert said in line(tmp_path, old, new)


@pytest.mark.parametrize(
    ("kind", "settings", "figure"),
    [
        (
            "functions",
            'seeds = 1\ntiming_seconds = 1\ncases = [{ function = "beale", n = 2, iterations = 5, '
            "learning_rates = { backprop = 0.01 } }]",
            "beale/2/backprop/final",
        ),
        (
            "approximation",
            'structures = ["gaussian"]\nways = ["mean"]\ndimensions = [4]\ntangents = [2]\ndraws = 3',
            "gaussian/mean/n=4/k=2/excess",
        ),
        ("alignment", "methods = { backprop = 0.1 }", "backprop/inner"),
    ],
)
def test_every_kind_says_which_figures_it_gives(tmp_path, kind, settings, figure):
    head = f'title = "A"\nsource = "B"\n[[experiments]]\nname = "one"\ntitle = "One"\nkind = "{kind}"\n'
    claim = '[[experiments.claims]]\ntext = "it is so"\nwhere = "text"\ntest = "below"\nfigure = '
    body = f"{head}[experiments.all]\n{settings}\n[experiments.smoke]\n{claim}"
    assert read(written(tmp_path, f'{body}"{figure}"')).experiments[0].claims[0].figure == figure
    with pytest.raises(UsageError, match=r"claim 'it is so', figure: no scale of the experiment gives 'x/y'"):
        read(written(tmp_path, f'{body}"x/y"'))
