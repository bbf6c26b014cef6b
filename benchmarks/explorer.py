"""The page of `fedpriv explore`: seconds from a change until its answer stands on the page, in Chromium.

One control after the other is moved as a reader moves it, with the keyboard, from the choices with which the
page opens; then the attack is pressed for small cases. Seconds are those of a clock, drawing included.
Needs `pip install 'fedpriv[app]'`, playwright, and Debian's chromium.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from fedpriv.lab.explore import Choice, Data, answer
from fedpriv.lab.study import Cell, Results

PATIENCE = 60_000
"""Milliseconds."""
CONTROLS = ("samples of each", "people averaged", "visits of the server", "clip norm (0: off)")
DATA = (Data.POINTS, Data.DIGITS, Data.FACES)
REPEATS = 3
READING = 10_000
"""Milliseconds that a reader looks at the page first; the process that attacks wakes up meanwhile."""


@contextmanager
def opened() -> Iterator[Any]:
    """The page, served by a process of its own and shown by a browser."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        raise ValueError(
            "expected a browser called chromium, found none; install it, as in: apt install chromium"
        )
    command = [sys.executable, "-m", "fedpriv", "explore", "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[1]
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": 1280, "height": 900})
                page.set_default_timeout(PATIENCE)
                page.goto(address)
                page.locator("#theory").wait_for()
                yield page
                browser.close()
        finally:
            server.kill()


def shown(page: Any, part: str) -> str:
    """All that stands in a part of the page."""
    place = page.locator(f"#{part}")
    return str(place.inner_html()) if place.count() else ""


def changed(page: Any, act: Callable[[], object]) -> float:
    """Seconds until the page shows that the server saw something else."""
    before = shown(page, "server")
    start = time.perf_counter()
    act()
    while shown(page, "server") in ("", before):
        if time.perf_counter() - start > PATIENCE / 1000:
            raise TimeoutError("the page did not answer")
        page.wait_for_timeout(10)
    return time.perf_counter() - start


def move(label: str) -> dict[str, Any]:
    """One step of a slider to the right, several times."""
    with opened() as page:
        handle = page.locator("marimo-slider").filter(has_text=label).get_by_role("slider")
        handle.focus()
        seconds = [changed(page, partial(page.keyboard.press, "ArrowRight")) for _ in range(REPEATS)]
    return {"answer_seconds": seconds}


def press(data: Data) -> dict[str, Any]:
    """Other data, then the attack."""
    with opened() as page:
        page.get_by_label("data").select_option(data.value)
        page.wait_for_timeout(READING)
        start = time.perf_counter()
        page.get_by_role("button", name="Attack").click()
        page.locator("#outcome img").first.wait_for()
        return {"answer_seconds": [time.perf_counter() - start]}


def compute(data: Data) -> dict[str, Any]:
    """The answer without a page."""
    result = answer(Choice(data=data, batch_size=2, people=1))
    return {"recovered": result.recovered, "certified": sum(result.certified)}


def cells() -> list[Cell]:
    """Sliders, attacks, and attacks without the page."""
    return [
        *(Cell(f"moving {label!r}", partial(move, label)) for label in CONTROLS),
        *(Cell(f"attacking {data.value}", partial(press, data)) for data in DATA),
        *(
            Cell(f"{data.value}, two samples, without the page", partial(compute, data), quick=True)
            for data in DATA
        ),
    ]


def slowest(results: Results) -> float:
    """Seconds of the slowest answer on the page."""
    return max(
        float(max(values["answer_seconds"])) for values in results.values() if "answer_seconds" in values
    )


def sentences(results: Results) -> dict[str, list[str]]:
    """Words of the guide."""
    return {"docs/explorer.md": [f"the slowest of these answers took {slowest(results):.1f} seconds"]}
