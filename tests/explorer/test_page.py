"""The page in a real browser: Debian's Chromium, driven by playwright."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import fedpriv

pytest.importorskip("marimo", reason="the page needs marimo: pip install 'fedpriv[app]'")
playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
pytestmark = [
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="the browser tests need chromium (apt)"),
    pytest.mark.timeout(300),  # a browser on a busy machine
]

ROOT = Path(__file__).parents[2]
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PATIENCE = 60_000
"""Milliseconds."""


@pytest.fixture(scope="module")
def address():
    """A server of the page, ended by its process."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "fedpriv", "explore", "--port", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            yield server.stdout.readline().split()[1]
        finally:
            server.kill()


@pytest.fixture(scope="module")
def seen():
    """What the browser asked for, and what went wrong in it."""
    return {"hosts": set(), "errors": []}


@pytest.fixture(scope="module")
def page(address, seen):
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: seen["hosts"].add(urlsplit(request.url)[:2]))
        page.on("websocket", lambda socket: seen["hosts"].add(urlsplit(socket.url)[:2]))
        page.on("pageerror", lambda error: seen["errors"].append(str(error)))
        page.on("console", lambda m: seen["errors"].append(m.text) if m.type == "error" else None)
        page.goto(address)
        page.locator("#theory").wait_for()
        yield page
        browser.close()


def slider(page, label):
    return page.locator("marimo-slider").filter(has_text=label).get_by_role("slider")


def pictures(page, part):
    return [image.get_attribute("src") for image in page.locator(f"#{part} img").all()]


def wait_until(page, condition):
    for _ in range(PATIENCE // 100):
        if condition():
            return
        page.wait_for_timeout(100)
    raise AssertionError("the page did not change")


def too_wide(page):
    """What sticks out of the window, and what would have to be scrolled sideways; wide tables may be."""
    return page.evaluate("""() => {
        const inside = (e) => e.closest('.fp-scroll');
        const name = (e) => e.tagName + '.' + e.className;
        const seen = (e) => e.checkVisibility({ opacityProperty: true });
        const all = [...document.querySelectorAll('body *')].filter((e) => !inside(e) && seen(e));
        const out = all.filter((e) => e.getBoundingClientRect().right > innerWidth + 1);
        const scrolling = all.filter((e) => e.scrollWidth > e.clientWidth + 1
            && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX));
        const whole = document.scrollingElement.scrollWidth > innerWidth ? ['the page'] : [];
        return [...whole, ...out.map(name), ...scrolling.map(name)];
    }""")


def focused(page):
    """The text of the element that has the keyboard, also inside of shadow roots."""
    return page.evaluate("""() => {
        let e = document.activeElement;
        while (e && e.shadowRoot && e.shadowRoot.activeElement) e = e.shadowRoot.activeElement;
        return e ? e.textContent.trim() : '';
    }""")


def test_the_page_teaches_in_five_sections(page):
    assert page.title() == "fedpriv explorer"
    assert page.get_by_role("heading", level=1).inner_text() == "What can a server read in an update?"
    assert page.get_by_role("heading", level=2).count() == 5
    assert len(pictures(page, "people")) == 4
    assert len(pictures(page, "server")) == 8
    assert "ε = ∞" in page.locator("#theory").inner_text()


def test_a_slider_changes_the_pictures_by_keyboard(page):
    before = pictures(page, "server")
    slider(page, "samples of each").focus()
    page.keyboard.press("ArrowRight")
    wait_until(page, lambda: len(pictures(page, "people")) == 5)
    wait_until(page, lambda: len(pictures(page, "server")) == 8)
    assert pictures(page, "server") != before


def test_the_attack_is_reached_by_tab_and_started_by_enter(page):
    page.locator("#people").click()  # nothing has the keyboard
    slider(page, "samples of each").focus()
    for _ in range(40):
        if focused(page) == "Attack":
            break
        page.keyboard.press("Tab")
    assert focused(page) == "Attack"
    page.keyboard.press("Enter")
    page.get_by_text("The server has 5 of 5, and can prove 5 of them.").wait_for()
    truth, found = pictures(page, "outcome")[::2], pictures(page, "outcome")[1::2]
    assert truth == pictures(page, "people")
    assert len(found) == 5
    page.locator("#theory").get_by_text("test accuracy").wait_for()


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_off(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(300)
    assert too_wide(page) == []
    page.set_viewport_size({"width": 1280, "height": 900})


def test_another_choice_takes_the_old_result_away(page):
    slider(page, "people averaged").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("one mean over Bob and Alice").wait_for()
    wait_until(page, lambda: page.locator("#outcome").count() == 0)


def test_noise_without_a_clip_norm_is_refused_and_with_one_has_an_epsilon(page):
    slider(page, "noise").focus()
    page.keyboard.press("End")
    page.get_by_text("noise needs a clip norm").wait_for()
    slider(page, "clip norm (0: off)").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.get_by_text("noise in it").wait_for()
    epsilon = fedpriv.privacy.epsilon(noise_multiplier=3.0, delta=1e-5)
    assert f"ε = {epsilon:.3g}" in page.locator("#theory").inner_text()
    assert "whole client" in page.locator("#theory").inner_text()


def test_a_long_attack_shows_progress_and_can_be_canceled(page):
    page.get_by_label("data").select_option("photographs")
    page.get_by_label("model").select_option("a small LeNet")
    slider(page, "seconds for the attack").focus()
    page.keyboard.press("End")
    page.get_by_text("numbers", exact=True).wait_for()
    page.get_by_role("button", name="Attack").click()
    bar = page.get_by_role("progressbar", name="time used")
    bar.wait_for()
    first = int(bar.get_attribute("aria-valuenow"))
    wait_until(page, lambda: int(bar.get_attribute("aria-valuenow")) > first)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("No result: canceled.").wait_for()
    assert page.get_by_role("button", name="Cancel").count() == 0


def test_points_are_a_plot_and_a_table(page):
    page.get_by_label("data").select_option("points in the plane")
    page.locator("#server table").wait_for()
    page.get_by_role("button", name="Attack").click()
    page.get_by_text("The server has 2 of 2").wait_for()
    assert page.locator("#outcome img.fp-plot").count() == 1
    page.set_viewport_size({"width": 390, "height": 900})
    page.wait_for_timeout(300)
    assert too_wide(page) == []
    page.set_viewport_size({"width": 1280, "height": 900})


def test_without_the_token_of_the_address_nobody_gets_in(address):
    parts = urlsplit(address)
    base = f"{parts.scheme}://{parts.netloc}"
    with urllib.request.urlopen(base, timeout=30) as answer:
        assert "/auth/login" in answer.geturl()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{base}/api/status", timeout=30)


def test_no_request_left_the_machine_and_nothing_went_wrong(page, address, seen):
    page.wait_for_timeout(300)
    ours = urlsplit(address).netloc
    strangers = {(s, host) for s, host in seen["hosts"] if s not in ("data", "blob") and host != ours}
    assert strangers == set()
    assert seen["errors"] == []
