"""The page to share: one file, whole or not at all, every name escaped, claims with their verdicts."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pandas as pd
import pytest
from typer.testing import CliRunner

from fgbench.charts import draw_all
from fgbench.cli import app
from fgbench.errors import ResultsError, UsageError
from fgbench.page import write_markdown, write_page
from fgbench.page.claims import counted
from fgbench.page.collecting import _flat
from fgbench.page.drawing import inline, with_shared_styles
from fgbench.page.template import HERE, _plain, _time, breakable
from fgbench.store.run_folder import RUN_FILE
from tests.builders import run_folder
from tests.page.made_up import METHODS, SCRIPT, results
from tests.report.made_up import group


class Elements(HTMLParser):
    """Counts of elements, every attribute, and identifiers of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = results(tmp_path_factory.mktemp("page"))
    write_page(root, root / "report.html")
    return (root / "report.html").read_text()


def test_names_of_a_user_stay_text(page):
    elements = Elements(page)
    assert elements.tags.count("script") == 1  # the page's own
    assert page.count("document.title=") > 5 and SCRIPT not in page


def test_nothing_comes_from_elsewhere(page):
    links = [v for _, name, v in Elements(page).attributes if name in ("src", "href", "xlink:href")]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"@import|url\((?!#)", page)


def test_every_name_in_it_is_the_only_one_and_every_link_has_its_end(page):
    attributes = Elements(page).attributes
    names = [value for _, name, value in attributes if name == "id"]
    assert len(names) == len(set(names))
    ends = {v[1:] for _, name, v in attributes if name in ("href", "xlink:href") and v.startswith("#")}
    ends |= set(re.findall(r"url\(#([^)]+)\)", page))
    assert ends <= set(names)


def test_it_holds_a_row_a_method_and_group_the_charts_the_samples_and_the_command(page):
    elements = Elements(page)
    assert len([1 for tag, name, _ in elements.attributes if (tag, name) == ("tr", "data-method")]) == 6
    assert {v for _, name, v in elements.attributes if name == "data-method"} == set(METHODS)
    # Six of times and memory; ratios over floors; of each depth its roofline, cosines and variance.
    assert elements.tags.count("figure") == 6 + 1 + 2 * 3
    assert "Timed blocks" in page and "fgbench run --method" in page
    assert "forward takes 2.00 times as long a step" in page
    assert {v for _, name, v in elements.attributes if name == "data-csv"} >= {"samples.csv", "curves.csv"}


def test_a_figure_has_the_digits_of_the_table_in_the_terminal():
    assert [_plain(value).text for value in (392888.0, 0.0123, None)] == ["393000", "0.0123", "–"]
    facts = {"load_1min": 2.99755859375, "torch_build": {"mkl": True}, "cores": 4}
    assert list(_flat(facts)) == [("load 1min", "3.00"), ("torch build mkl", "True"), ("cores", "4")]


def test_a_times_interval_does_not_run_into_how_many_reached_it():
    row = group(t=0.12, t_low=0.01, t_high=0.84).iloc[1]
    assert _time(row, {"t": (0.01, 2.0)}).small == "[0.01, 0.84]; 3 of 3 reached validation loss 0.5"


def test_it_is_said_where_other_targets_are_and_what_the_bound_of_a_ratio_is(page, tmp_path):
    results(tmp_path)
    write_markdown(tmp_path, tmp_path / "README.md")
    for text in (page, (tmp_path / "README.md").read_text()):
        assert "other targets are in its targets.csv" in " ".join(text.split())
        assert "over the upper end of the reference" in text


def test_ratios_of_a_single_process_are_said_to_have_intervals_that_are_too_narrow(tmp_path):
    results(tmp_path)
    said = "Intervals are over the rounds of one process, and so too narrow."
    write_markdown(tmp_path, tmp_path / "README.md")
    assert said not in (tmp_path / "README.md").read_text()
    (ratios,) = tmp_path.rglob("ratios.csv")
    table = pd.read_csv(ratios)
    table.assign(processes=1).to_csv(ratios, index=False)
    write_markdown(tmp_path, tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text()
    times, memory = text.index("## Step time"), text.index("## Peak memory")
    assert text.count(said) == 1
    assert times < text.index(said) < memory


def test_a_methods_name_is_broken_after_a_colon_or_comma_alone():
    made = breakable("forward:tangents=4,structure=<b>")
    assert made == ("<span>forward:</span><wbr><span>tangents=4,</span><wbr><span>structure=&lt;b&gt;</span>")
    assert breakable("backprop") == "<span>backprop</span>"
    assert "tbody th span { white-space: nowrap; }" in (HERE / "page.css").read_text()


def test_a_packed_csv_is_there_as_one_that_is_not(tmp_path):
    run = run_folder(tmp_path).path
    (run / "curve.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    write_page(tmp_path, tmp_path / "report.html")
    links = re.findall(
        r'data-csv="([^"]+)"[^>]*base64,([^"]+)"[^>]*>.*?<small>(.*?)</small>',
        (tmp_path / "report.html").read_text(),
    )
    packed, size = {name: found for name, *found in links}["curve.csv"]
    assert gzip.decompress(base64.b64decode(packed)) == b"a,b\n1,2\n"
    assert size == "8 B"


def test_claims_have_their_verdicts_in_words_and_colour(page):
    for verdict in ("reproduced", "not reproduced", "not comparable"):
        assert f'<strong class="{verdict.replace(" ", "-")}">{verdict}</strong>' in page
    assert "1 reproduced, 1 not reproduced, 1 not comparable" in page


def test_values_that_are_computed_and_what_the_paper_does_not_ask_are_counted_apart():
    own, computed, beyond = "0.5 (text) [R]", "1 (§4.1, predicted) [C]", "(beyond the paper)"
    yes, no = "reproduced", "not reproduced"
    assert counted([(own, yes), (computed, yes), (own, no), (beyond, no), (computed, yes)]) == (
        "1 reproduced, 1 not reproduced; of computed values 2 reproduced; of what is asked beyond the paper "
        "1 not reproduced"
    )
    assert counted([("(text)", yes)]) == "1 reproduced"
    assert counted([(beyond, no)]) == "of what is asked beyond the paper 1 not reproduced"
    assert counted([]) == ""


def test_a_chart_follows_the_scheme_and_shares_no_name():
    svg = '<?xml?><svg width="5pt" height="2pt" viewBox="0 0 5 2"><metadata>x</metadata><defs>'
    svg += '<path id="m1" style="stroke: #222222"/></defs><g id="axes_1"><use xlink:href="#m1"/></g></svg>'
    made = inline(svg, "c3-")
    assert 'id="c3-0"' in made and '<use href="#c3-0"' in made and "stroke: var(--ink)" in made
    assert "metadata" not in made and "axes_1" not in made and "5pt" not in made


def test_charts_share_the_styles_that_are_alike():
    ink, line = 'd="M0 0" style="stroke: var(--ink)"', 'd="M0 0" style="stroke: var(--line); fill: none"'
    charts = {"one": [("a", f"<path {ink}/><path {line}/>")], "two": [("b", f"<path {line}/>")]}
    slim, rules = with_shared_styles(charts)
    assert slim["one"] == [("a", '<path d="M0 0" class="s0"/><path d="M0 0" class="s1"/>')]
    assert slim["two"] == [("b", '<path d="M0 0" class="s1"/>')]
    assert rules.splitlines() == [".s0 { stroke: var(--ink) }", ".s1 { stroke: var(--line); fill: none }"]


def _no_run(root):
    (root / "empty").mkdir()
    return root / "empty"


def _damaged_table(root):
    run = run_folder(root).path
    (run / "ratios.csv").write_text("group,what\n1,2\n")
    return root


def _other_schema(root):
    file = run_folder(root).path / RUN_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "schema_version": 99}))
    return root


def _damaged_facts(root):
    file = run_folder(root).path / RUN_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "groups": [{"name": "x"}]}))
    return root


def _damaged_claims(root):
    results(root)
    (root / "paper" / "claims.md").write_text("| |\n|---|\n| fig | nonsense |\n")
    return root


@pytest.mark.parametrize("write", [write_page, write_markdown])
@pytest.mark.parametrize("bad", [_no_run, _damaged_table, _other_schema, _damaged_facts, _damaged_claims])
def test_of_bad_runs_nothing_is_written(bad, write, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "in").mkdir()
    with pytest.raises(ResultsError):
        write(bad(tmp_path / "in"), tmp_path / "out" / "report")
    assert not list((tmp_path / "out").iterdir())


def test_a_packed_csv_that_is_torn_is_named_and_nothing_is_written(tmp_path):
    torn = run_folder(tmp_path).path / "curve.csv.gz"
    torn.write_bytes(gzip.compress(b"a,b\n1,2\n")[:-9])
    with pytest.raises(ResultsError, match=r"curve\.csv\.gz: cannot be unpacked"):
        write_page(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_markdown_never_replaces_a_file_of_somebodys_own(tmp_path):
    root = results(tmp_path)
    (root / "README.md").write_text("# Mine\n")
    with pytest.raises(UsageError, match="not written by fgbench report"):
        write_markdown(root, root / "README.md")
    assert (root / "README.md").read_text() == "# Mine\n"


def test_markdown_has_a_table_for_each_question(tmp_path):
    root = results(tmp_path)
    write_markdown(root, root / "README.md")
    text = (root / "README.md").read_text()
    for heading in ("by depth", "Peak memory", "What a step costs", "Time to target", "The papers' claims"):
        assert heading in text
    assert "| `forward` | 2.00 [1.90, 2.10] | 3.00 [2.85, 3.15] |" in text
    assert "| `forward` | 2 | 2.00 | 2.00 | 50% | 0.250 | 7.00 | 2.00 | 1.00 |" in text
    assert "<script>" not in text
    write_markdown(root, root / "README.md")  # it may replace its own
    assert (root / "README.md").read_text() == text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--format", "pdf"], "must be one of html, markdown"),
        (["--out", "/proc/page.html"], "cannot be written"),
        (["--out", "nowhere/page.html"], "its folder does not exist"),
    ],
)
def test_wrong_use_is_a_line(arguments, says, tmp_path):
    result = CliRunner().invoke(app, ["report", str(tmp_path), *arguments])
    assert isinstance(result.exception, UsageError) and says in str(result.exception)


def test_a_chart_in_the_page_says_less_and_shows_the_same(tmp_path):
    draw_all(results(tmp_path), tmp_path / "charts", "svg")
    drawn = next((tmp_path / "charts").glob("loss_curves*.svg")).read_text()
    made = inline(drawn, "c1-")
    assert len(made) < 0.7 * len(drawn)
    before, after = (ElementTree.fromstring(text) for text in (drawn[drawn.index("<svg") :], made))
    for name in ("path", "text", "use", "clipPath"):
        count, kept = (len(root.findall(f".//{{*}}{name}")) for root in (before, after))
        assert kept == count > 0, name
    texts, kept = ([node.text for node in root.findall(".//{*}text")] for root in (before, after))
    assert kept == texts
    assert not [g for g in after.findall(".//{*}g") if not g.attrib]
    x, kept = ([float(n.get("x")) for n in r.findall(".//{*}use")] for r in (before, after))
    assert kept == pytest.approx(x, abs=0.06), "a twentieth of a pixel"
