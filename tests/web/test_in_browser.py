"""The page as people use it, in a real Chromium: seen, typed at, on a phone, in the dark, without scripts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.history import history
from registry.web.configuration import Configuration, Limits
from tests.web import browser
from tests.web.shelf import MODELS, fill

pytestmark = [
    pytest.mark.slow,
    browser.needs_chromium,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]
PAGES = [
    *("/", "/models/roofs", "/models/roofs/4", "/models/roofs/history", "/compare?ref=roofs@4&ref=roofs@1"),
    *("/results", "/results/district-1", "/sign-in", "/models/none"),
]
EXPECTED = ("because the document's frame is sandboxed", "404")  # the script of the report; a page that is not there


@pytest.fixture
def address(shelf: Path) -> Iterator[str]:
    """Where the page is served, to this machine alone."""
    assert shelf.is_dir()
    with browser.served(Configuration(limits=Limits(requests=10**6))) as where:
        yield where


@pytest.fixture
def chromium() -> Iterator[Any]:
    with browser.chromium() as running:
        yield running


def test_every_page_serves_everybody_and_asks_nobody_else(address: str, chromium: Any) -> None:
    """In the light and in the dark on a phone: axe finds nothing, nothing scrolls sideways, nothing complains."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    complaints, asked = list[str](), list[str]()
    for scheme, width in (("light", 1280), ("dark", 390)):
        context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        for path in PAGES:
            page.goto(f"{address}{path}", wait_until="networkidle")
            found = axe.run(page).response["violations"]
            assert [] == [(path, scheme, one["id"], [n["html"][:120] for n in one["nodes"]][:3]) for one in found]
            assert width >= page.evaluate("document.documentElement.scrollWidth"), path
        context.close()
    assert [] == [one for one in asked if not one.startswith((address, "data:"))]
    assert [] == [one for one in complaints if not any(word in one for word in EXPECTED)]


def test_a_long_name_makes_no_page_wider_than_a_phone(address: str, chromium: Any) -> None:
    name = "ponds-" + "of" * 60
    fill({name: (*MODELS["roofs"][:3], (0.5, 0.6), "ap50")})
    page = chromium.new_context(viewport={"width": 390, "height": 800}).new_page()
    for path in ("", "/1", "/history"):
        page.goto(f"{address}/models/{name}{path}")
        assert 390 >= page.evaluate("document.documentElement.scrollWidth"), path


def test_maps_draw_what_they_are_given_and_nothing_of_it_runs(address: str, chromium: Any) -> None:
    page = chromium.new_page()
    for path, shapes in (("/models/roofs/4", 2), ("/results/district-1", 61), ("/results", 8)):
        page.goto(f"{address}{path}")
        page.wait_for_selector("[data-map][data-drawn=yes]")
        assert shapes == page.locator("[data-map] .leaflet-overlay-pane path").count()
    page.goto(f"{address}/results/district-1")
    page.wait_for_selector("[data-drawn=yes]")
    page.locator("[data-map] path.leaflet-interactive").first.dispatch_event("click")
    popup = page.locator(".leaflet-popup-content")
    assert "<img src=x onerror=alert(1)>" in popup.inner_text()  # as text
    assert 0 == popup.locator("img").count()


def test_a_model_is_found_and_promoted_by_keyboard_alone(address: str, chromium: Any) -> None:
    page = chromium.new_page()
    page.goto(address)
    page.keyboard.press("Tab")
    assert "Skip to the content" == page.evaluate("document.activeElement.textContent")
    page.locator("input[name=text]").focus()
    page.keyboard.type("palms")
    page.keyboard.press("Enter")
    page.wait_for_url("**text=palms**")
    assert ["palms"] == page.locator(".card h2").all_inner_texts()
    page.goto(f"{address}/models/roofs/1")
    page.locator("#reason").focus()
    page.keyboard.type("steadier in shadows")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/history")
    event = history("roofs")[0]
    assert ("promoted", 1, "steadier in shadows") == (event.action, event.version, event.reason)
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#reason").fill("back")
    page.get_by_role("button", name="Roll back").click()
    page.wait_for_selector(".timeline li.rolled-back")
    assert "rolled back" == history("roofs")[0].action


def test_the_report_is_seen_and_its_script_is_not_run(address: str, chromium: Any) -> None:
    page = chromium.new_page()
    ran = list[str]()
    page.on("dialog", lambda dialog: ran.append(dialog.message))
    page.goto(f"{address}/models/roofs/4")
    page.locator("iframe.report").scroll_into_view_if_needed()
    assert "Average precision 0.71" in page.frame_locator("iframe.report").locator("p").inner_text()
    assert [] == ran


def test_without_scripts_everything_is_still_there(address: str, chromium: Any) -> None:
    page = chromium.new_context(java_script_enabled=False).new_page()
    page.goto(f"{address}/models/roofs")
    page.get_by_role("button", name="Compare the two marked").click()
    page.wait_for_url("**/compare?**")
    assert "+0.130" in page.content()
