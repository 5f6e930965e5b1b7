"""The report in a real browser: nothing is asked of the network, everything shows, and it prints."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.emd import ClassLabel
from tasks import report
from tasks.chips import Chip
from tasks.exporting.report import write_export_report
from tests.chips_by_hand import write_chips
from tests.tasks.test_report import EMD, SCORES, whole

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; on Debian: apt-get install chromium"),
]
PALE = """() => [...document.querySelectorAll("body *")]
    .filter(e => !e.children.length && e.textContent.trim() && !["SCRIPT", "STYLE"].includes(e.tagName))
    .map(e => getComputedStyle(e).color.match(/\\d+/g).slice(0, 3))
    .filter(rgb => Math.max(...rgb) > 0x77).length"""  # how many texts are lighter than a middle grey


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, "--disable-sync"])
        yield browser
        browser.close()


def test_the_report_shows_all_of_itself_and_asks_nobody(browser: Any, tmp_path: Path) -> None:
    asked, complaints = list[str](), list[str]()
    page = browser.new_page(viewport={"width": 1100, "height": 800})
    page.on("request", lambda request: asked.append(request.url.partition(":")[0]))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"file://{whole(tmp_path)}")
    assert ["file"] == asked  # the page itself; what is inside of it is not asked for
    assert [] == complaints
    pictures = page.eval_on_selector_all("img", "found => found.map(img => [img.complete, img.naturalWidth, img.alt])")
    assert 8 == len(pictures)
    assert all(complete and width > 100 and alt for complete, width, alt in pictures)
    assert 0 == page.evaluate(PALE)  # dark text on white


@pytest.mark.parametrize("paper", [False, True])
@pytest.mark.parametrize("classes", [1, 5, 11, 40])
def test_no_table_is_cut_at_the_edge(browser: Any, tmp_path: Path, classes: int, paper: bool) -> None:
    figures = ("Precision", "Recall", "F1_Score", "AP", "AP50_95")
    names = ["a name without any space" * 3, "x" * 60, *(f"class {i}" for i in range(38))][:classes]
    row = dict.fromkeys(figures, 0.0005022) | dict.fromkeys(("True_Positive", "False_Positive", "False_Negative"), 2000)
    scores = {
        **SCORES,
        "per_class": dict.fromkeys(names, row),
        "per_class_intervals": {name: dict.fromkeys(figures, (0.0002804, 0.123)) for name in names},
        "confusion_matrix": [[2000] * (classes + 1)] * (classes + 1),
    }
    labels = [ClassLabel(i, name, (255, 0, 0)).document() for i, name in enumerate(names, start=1)]
    data = {part: {"chips": 7, "of": dict.fromkeys(names, 31)} for part in ("training", "validation", "scored")}
    written = report.write_metrics_page(tmp_path, EMD.replace(Classes=labels), scores=scores, data=data)
    page = browser.new_page(viewport={"width": 720 if paper else 1100, "height": 800})  # A4 and its margins
    page.emulate_media(media="print" if paper else "screen")
    page.goto(f"file://{written}")
    wide = page.eval_on_selector_all(".wide", "all => all.map(e => [e.clientWidth, e.scrollWidth])")
    assert 5 == len(wide)
    assert all(needed <= given for given, needed in wide)


@pytest.mark.parametrize("paper", [False, True])
def test_the_page_of_an_export_is_not_cut_either(browser: Any, tmp_path: Path, paper: bool) -> None:
    classes = [{"Value": i, "Name": f"{i}" * 60, "Color": [255, 0, 0]} for i in (1, 2)]
    mask = np.eye(64, dtype=np.uint8)
    one = Chip("", np.zeros((1, 64, 64), np.uint8), np.ones((64, 64), bool), mask=mask)
    written = write_export_report(write_chips(tmp_path, [one], classes, "Classified_Tiles").path)
    page = browser.new_page(viewport={"width": 720 if paper else 800, "height": 800})
    page.emulate_media(media="print" if paper else "screen")
    page.goto(f"file://{written}")
    assert (720 if paper else 800) >= page.evaluate("document.documentElement.scrollWidth")


@pytest.mark.parametrize("width", [400, 1100])
def test_the_report_needs_no_scrolling_sideways(browser: Any, tmp_path: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(f"file://{whole(tmp_path)}")
    assert width >= page.evaluate("document.documentElement.scrollWidth")


def test_the_report_prints_on_a_few_pages(browser: Any, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto(f"file://{whole(tmp_path)}")
    printed = page.pdf(format="A4", path=tmp_path / "report.pdf")
    assert 1 < printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") <= 6
