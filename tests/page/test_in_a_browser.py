"""The page as a reader uses it, in a real browser: it sorts, filters, expands, downloads, without errors."""

from __future__ import annotations

import json
import time

import pytest

from fgbench.page import write_page
from tests.page.browser import browser, emulate
from tests.page.made_up import METHODS, results

RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "best-practice"]}}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    with browser(folder) as window:
        root = results(folder / "results")
        write_page(root, root / "report.html")
        window.get((root / "report.html").as_uri())
        yield window, folder
        assert window.get_log("browser") == []  # after all that was done to it


def shown(window) -> list[list[str]]:
    return window.execute_script(
        "return [...document.querySelectorAll('#methods tbody tr')].filter(r => r.offsetHeight)"
        ".map(r => [r.dataset.method, r.dataset.depth])"
    )


def press(window, heading: str) -> None:
    window.find_element("xpath", f"//table[@id='methods']//button[.='{heading}']").click()


def choose(window, name: str, value: str) -> None:
    window.execute_script(
        "const s = document.querySelector(`select[name=${arguments[0]}]`); s.value = arguments[1];"
        "s.dispatchEvent(new Event('change', {bubbles: true}))",
        name,
        value,
    )


def test_it_sorts_by_figures_and_not_by_their_letters(opened):
    window, _ = opened
    press(window, "depth")
    assert [depth for _, depth in shown(window)] == ["2"] * 3 + ["10"] * 3
    press(window, "depth")
    assert [depth for _, depth in shown(window)] == ["10"] * 3 + ["2"] * 3
    press(window, "T")  # trained at depth 2 alone: what has no figure stays last
    assert shown(window)[:2] == [["backprop", "2"], ["forward", "2"]]
    press(window, "T")
    assert shown(window)[:2] == [["forward", "2"], ["backprop", "2"]]


def test_it_filters(opened):
    window, _ = opened
    choose(window, "depth", "10")
    choose(window, "method", METHODS[-1])
    assert shown(window) == [[METHODS[-1], "10"]]
    assert window.find_element("id", "count").text == "1 of 6 rows"
    choose(window, "depth", "")
    choose(window, "method", "")
    assert len(shown(window)) == 6


def test_a_click_on_a_row_opens_its_charts(opened):
    window, _ = opened
    panel = window.find_element("id", "setup-0")
    assert panel.get_attribute("open") is None
    window.find_element("css selector", "#methods tbody td").click()
    assert panel.get_attribute("open") is not None
    assert panel.find_element("css selector", "figure svg").size["height"] > 100


def test_a_csv_comes_out_as_it_is_stored(opened):
    window, folder = opened
    (stored,) = folder.rglob("samples.csv")
    link = window.find_element("css selector", "a[data-csv='samples.csv']")
    window.execute_script("arguments[0].click()", link)
    deadline = time.monotonic() + 10
    while not (folder / "samples.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (folder / "samples.csv").read_bytes() == stored.read_bytes()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 1200), ("light", 400)])
def test_anybody_can_read_it(opened, scheme, width):
    axe = pytest.importorskip("axe_core_python.base", reason="axe-core-python is not installed")
    window, _ = opened
    emulate(window, scheme=scheme, width=width)
    assert window.execute_script("return document.documentElement.scrollWidth") <= width
    window.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    window.execute_script(axe.AXE_SCRIPT)
    found = window.execute_async_script(
        "const done = arguments[1]; axe.run(document, arguments[0]).then(r => done(r.violations))", RULES
    )
    assert not found, json.dumps([(v["id"], v["nodes"][0]["html"][:200]) for v in found], indent=1)
