# SPDX-License-Identifier: Apache-2.0
import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mammo_dp.report.collect import ReportError
from mammo_dp.report.page import BROWSERS, find_chromium, print_pdf, report
from tests.report.chromium import Browser, browser
from tests.report.conftest import Tree

CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")

BOXES = """[...document.querySelectorAll('figure svg, figure img, table')].map(one => {
  const box = one.getBoundingClientRect();
  return [one.tagName, box.width, box.height]})"""
# Text against the ground below it (WCAG 2.1, 1.4.3), for every element that holds text itself.
CONTRAST = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = (paints) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const paint of paints) { canvas.fillStyle = paint; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (colour) => colour.map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const low = [];
  for (const one of document.querySelectorAll('body *')) {
    const own = [...one.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || one.closest('style, title, desc') || !one.getClientRects().length) continue;
    const grounds = [];
    for (let at = one; at; at = at.parentElement)
      grounds.unshift(getComputedStyle(at).backgroundColor);
    const style = getComputedStyle(one);
    const ink = one.tagName === 'text' ? style.fill : style.color;
    const [a, b] = [light(rgb(grounds)), light(rgb([...grounds, ink]))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) low.push([one.tagName, one.textContent.slice(0, 40), ratio]);
  }
  return low})()"""
# What reaches beyond the window and cannot be scrolled into it.
OUTSIDE = """[...document.querySelectorAll('main *')].filter(one =>
  one.getBoundingClientRect().right > document.documentElement.clientWidth + 1
  && !one.closest('.scroll, .wide')).map(one => [one.tagName, one.textContent.slice(0, 60)])"""
# What of the main table is seen, and all of it, in pixels.
MAIN_TABLE = """[...document.querySelectorAll('[aria-label="Table of utility and privacy"]')]
  .map(one => [one.clientWidth, one.scrollWidth])[0]"""
GROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def page(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "report"
    sheets = {"phantoms": str(tree.data("phantoms"))}
    report(runs=str(tree.runs), out=str(out), sheets=sheets)
    return out / "report.html"


@pytest.fixture(scope="module")
def opened(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM
    with browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as one:
        one.open(page)
        yield one


@needs_chromium
def test_the_page_asks_for_nothing_and_complains_about_nothing(opened: Browser) -> None:
    asked = [
        event["params"]["request"]["url"]
        for event in opened.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert len(asked) >= 1
    assert all(url.startswith(("file:///", "data:image/png")) for url in asked)
    assert sum(url.startswith("file:") for url in asked) == 1
    said = {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"}
    assert not [event for event in opened.events if event["method"] in said]


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_are_seen_text_is_readable_and_nothing_hangs_out(
    opened: Browser, scheme: str
) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.send("Emulation.setEmulatedMedia", features=features)
    boxes = opened.ask(BOXES)
    assert {tag for tag, _, _ in boxes} == {"svg", "IMG", "TABLE"}
    assert all(width > 100 and height > 30 for _, width, height in boxes)
    assert opened.ask(CONTRAST) == []
    red = int(opened.ask(GROUND).removeprefix("rgb(").split(",")[0])
    assert (red < 60) == (scheme == "dark")
    for width in (390, 820, 1500):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        opened.send("Emulation.setDeviceMetricsOverride", **size)
        assert opened.ask(OUTSIDE) == []


@needs_chromium
def test_the_main_table_shows_all_its_columns_on_a_screen(opened: Browser) -> None:
    size = {"width": 1200, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.send("Emulation.setDeviceMetricsOverride", **size)
    seen, whole = opened.ask(MAIN_TABLE)
    assert whole <= seen


@needs_chromium
def test_the_page_prints_to_a4(opened: Browser) -> None:
    printed = opened.send("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
    pdf = base64.b64decode(printed["data"])
    assert pdf.startswith(b"%PDF")
    assert b"595" in pdf  # points of A4
    assert b"842" in pdf or b"841" in pdf


def test_a_pdf_without_chromium_names_the_remedy(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ReportError, match=r"none of chromium, .* is on PATH. Install one of them"):
        report(runs=str(tree.runs), out=str(tmp_path / "out"), format="pdf")
    assert not (tmp_path / "out").exists()


def test_a_browser_that_fails_leaves_no_pdf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\necho cannot start >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert find_chromium() == str(broken)
    with pytest.raises(ReportError, match=r"ended with 3 and no PDF \(cannot start\)"):
        print_pdf(tmp_path / "page.html", tmp_path / "page.pdf", str(broken))
    assert not (tmp_path / "page.pdf").exists()
