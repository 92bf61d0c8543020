"""The whole story in headless Chromium: see, edit, approve, steer, pause, reload, go on, stop.

Screenshots are kept in the folder that WEB_SCREENSHOTS names, or in the test's own.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.config.settings import Settings, overrides
from agent.session.folder import folder_of
from memory.events import ApprovalEvent, EndedEvent, PlanEvent
from memory.journal import read_events

MakeSettings = Callable[..., Settings]

pytest.importorskip("fastapi", reason="needs fastapi: pip install '.[web]'")
webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")

PATIENCE_S = 100
# Trainings last some seconds, so that their progress can be seen.
SMALL = ("session.images_per_round=16", "session.shard_size=2", "dstm.steps=400")
# Elements that stick out of the window to the right, but for those in a box that scrolls.
OVERFLOWING = """
return [...document.querySelectorAll('body, body *')].filter((element) =>
  !element.parentElement.closest('.scroll, [role=tablist]') &&
  element.getBoundingClientRect().right > document.documentElement.clientWidth + 1
).map((element) => element.outerHTML.slice(0, 200))
  .concat(document.documentElement.scrollWidth > innerWidth ? ['the page'] : []);
"""
PHONE = 375
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1100",
)


def chromium() -> tuple[str, str]:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    return browser, driver


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """Serve the page in a process of its own and return its address, with the token."""
    name = settings.session.name
    words = [sys.executable, "-m", "agent.cli.app", "web", "solar", "--port", "0"]
    for assignment in overrides(settings):
        words += ["--set", assignment]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        printed = process.stdout.readline()
        address = re.search(rf"http://127\.0\.0\.1:\d+/\?session={name}&token=\S+", printed)
        assert address, printed
        yield address[0]
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE_S)
        finally:
            process.kill()
            process.communicate()


class Page:
    """A browser, and what a person does with it."""

    def __init__(self, folder: Path, pictures: Path) -> None:
        browser, driver = chromium()
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for option in (*OPTIONS, f"--user-data-dir={folder}"):
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        service = webdriver.ChromeService(executable_path=driver)
        self.driver = webdriver.Chrome(options=options, service=service)
        self._pictures = pictures

    def find(self, css: str) -> list[Any]:
        elements: list[Any] = self.driver.find_elements("css selector", css)
        return elements

    def text(self, css: str) -> str:
        """Return the text of an element, also of one that is out of sight."""
        script = "const e = document.querySelector(arguments[0]); return e ? e.textContent : ''"
        return " ".join(str(self.driver.execute_script(script, css)).split())

    def until(self, css: str, words: str = "") -> Any:
        """Return the first usable element once its text has the words."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            elements = self.find(f"{css}:not(:disabled)")
            if elements and words in self.text(css):
                return elements[0]
            time.sleep(0.1)
        self.shoot("failed")
        raise AssertionError(f"no {css} with {words!r}; the page says: {self.text('body')[:2000]}")

    def press(self, css: str, words: str = "") -> None:
        self.driver.execute_script("arguments[0].click()", self.until(css, words))

    def fill(self, css: str, value: str, end: str = "\n") -> None:
        field = self.until(css)
        # Not `clear`, which counts as a change.
        field.send_keys("\ue009a\ue000" + value + end)

    def keys(self, keys: str) -> None:
        """Press keys wherever the focus is."""
        webdriver.ActionChains(self.driver).send_keys(keys).perform()

    def tab(self, name: str) -> None:
        self.press(f"#tab-{name}")
        assert self.find(f"#panel-{name}")[0].is_displayed()

    def shoot(self, name: str, width: int = 1280) -> None:
        """Keep a screenshot; on a phone all of the page, of which nothing may overflow."""
        height = 1100 if width > 700 else 844
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        time.sleep(0.5)
        if width < 700:
            assert self.driver.execute_script(OVERFLOWING) == []
        shot = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": width < 700}
        )
        self._pictures.mkdir(parents=True, exist_ok=True)
        (self._pictures / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def console(self) -> list[str]:
        """Return what the browser's console shows since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def hosts(self) -> set[str]:
        """Return all hosts that answered, or were asked for, so far."""
        urls = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.responseReceived":
                urls.add(message["params"]["response"]["url"])
        return {url.split("/")[2] for url in urls if url.startswith("http")}


@contextmanager
def opened(folder: Path) -> Iterator[Page]:
    """Open a browser with a profile of its own in `folder`."""
    shots = Path(os.environ.get("WEB_SCREENSHOTS", folder / "screenshots"))
    page = Page(folder / "profile", shots)
    try:
        yield page
    finally:
        page.driver.quit()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with opened(tmp_path) as page:
        yield page


@pytest.mark.slow
def test_story_in_a_browser(make_settings: MakeSettings, page: Page) -> None:
    settings = make_settings("session.name=web", "session.rounds=3", *SMALL)
    with served(settings) as address:
        page.driver.get(address)
        page.press("#controls button", "Start")
        page.until("#plan [data-edit='1 count']")
        assert "token" not in page.driver.current_url
        page.shoot("plan")
        page.shoot("plan-phone", PHONE)

        page.fill("[data-edit='1 count']", "7", "\t")
        page.until("#plan [data-edit='1 count'][value='7']")
        assert page.find("[data-edit='1 count']")[0].get_attribute("value") == "7"
        field = page.driver.switch_to.active_element
        assert field.get_attribute("data-say") == "/edit 1 remove", "the focus is kept"
        page.fill("#plan form input", "half a reas", "")
        page.fill("[data-edit='2 count']", "0", "\t")
        page.until("#plan .error", "no whole number")
        page.until("#plan [data-edit='2 count']:not([value='0'])")
        assert page.find("[data-edit='2 count']")[0].get_attribute("value") != "0"
        typed = page.find("#plan form input")[0].get_attribute("value")
        assert typed == "half a reas", "what is typed is kept"
        page.press("[data-say='/approve']")

        page.until("#head progress[max='400']")
        page.shoot("progress")
        page.until("#plan h2", "Plan of round 2")
        page.until("#chat", "Round 1 is done")
        page.tab("Failures")
        page.until("#failures img")
        wait_for_pictures(page, "#failures img")
        page.shoot("failures")
        page.shoot("failures-phone", PHONE)
        page.press("#failures button[data-say^='/focus']")
        page.until("#chat", "Understood: focus")

        page.tab("Prompts")
        wait_for_pictures(page, "#prompts img")
        page.shoot("prompts")
        page.fill("#line textarea", "<img src=x onerror=alert(1)> {{value}} ${1+1}")
        page.until("#chat", "<img src=x onerror=alert(1)> {{value}} ${1+1}")
        assert not page.find("#chat img[src='x']")
        page.fill("#line textarea", "/show")
        page.until("#chat img")

        page.fill("#plan form input", "no bright ones")
        page.until("#chat", "it is planned again")
        page.until("#plan", "Preference w2")
        page.press("[data-say='/approve']")
        page.press("[data-say='/pause']")
        page.until("#head .badge", "paused")
        page.shoot("paused")
        page.driver.refresh()
        page.until("#head .badge", "paused")
        page.until("#chat", "Understood: focus")
        page.press("[data-say='/continue']")
        page.until("#plan h2", "Plan of round 3")
        page.tab("Scores")
        page.until("#charts svg")
        page.shoot("scores")
        page.shoot("scores-phone", PHONE)
        page.tab("Timeline")
        wait_for_pictures(page, "#timeline img")
        page.shoot("timeline")
        page.driver.execute_script("document.querySelectorAll('#timeline summary')[1].focus()")
        page.driver.switch_to.active_element.send_keys("\ue013")  # arrow up
        page.driver.switch_to.active_element.send_keys("\n")
        page.until("#timeline li:first-child details[open] dl", "Why")
        page.tab("Memory")
        page.fill("#query textarea, #query input", "dark poly cells")
        page.until("#found table")
        page.shoot("memory")
        page.shoot("memory-phone", PHONE)
        page.press("nav a")
        page.until("#sessions tr td", "web")
        page.press("#sessions a", "web")
        page.until("#tab-Memory[aria-selected=false]")
        page.press("[data-say='/stop']")
        page.until("#head .badge", "idle")
        page.press("[data-say='/leave']")
        page.until("#head", "No process has this session open")
        assert page.console() == []
        assert page.hosts() == {address.split("/")[2]}
    events = read_events(folder_of(settings.home, "web") / "journal.jsonl")
    first, second = (e.plan for e in events if isinstance(e, PlanEvent))
    assert first.prompts[0].count == 7
    assert "bright" not in {p.attributes.get("brightness") for p in second.prompts}
    last = events[-1]
    assert isinstance(last, EndedEvent) and last.rule == "asked"


def wait_for_pictures(page: Page, css: str) -> None:
    script = (
        "return [...document.querySelectorAll(arguments[0])]"
        ".some((image) => image.complete && image.naturalWidth > 0)"
    )
    deadline = time.monotonic() + PATIENCE_S
    while not page.driver.execute_script(script, css):
        assert time.monotonic() < deadline, css
        time.sleep(0.1)


@pytest.mark.slow
def test_two_viewers_share_one_session(make_settings: MakeSettings, tmp_path: Path) -> None:
    settings = make_settings("session.name=shared", "session.rounds=2", *SMALL)
    with served(settings) as address, opened(tmp_path / "a") as one, opened(tmp_path / "b") as two:
        for page in (one, two):
            page.driver.get(address)
        one.press("#controls button", "Start")
        for page in (one, two):
            page.until("#plan [data-edit='1 count']")
        one.fill("[data-edit='1 count']", "7", "\t")
        two.until("#plan [data-edit='1 count'][value='7']")
        assert two.find("[data-edit='1 count']")[0].get_attribute("value") == "7"

        two.fill("#line textarea", "more dark poly cells")
        for page in (one, two):
            page.until("#chat", "Understood: more of")
        # Both press at once: the plan is approved once, and nobody is told of a failure.
        two.press("[data-say='/approve']")
        one.driver.execute_script("document.querySelector(\"[data-say='/approve']\")?.click()")
        for page in (one, two):
            page.until("#plan h2", "Plan of round 2")
        two.press("[data-say='/approve']")
        for page in (one, two):
            page.until("#head .badge", "finished")
            assert "Traceback" not in page.text("body")
            assert page.console() == []
    journal = folder_of(settings.home, "shared") / "journal.jsonl"
    events = read_events(journal)
    assert [e.verdict for e in events if isinstance(e, ApprovalEvent)] == ["approve", "approve"]
    assert [e.plan.round for e in events if isinstance(e, PlanEvent)] == [1, 2]
    assert next(e.plan for e in events if isinstance(e, PlanEvent)).prompts[0].count == 7


@pytest.mark.slow
def test_the_address_without_a_session_lists_them(make_settings: MakeSettings, page: Page) -> None:
    settings = make_settings("session.name=listed", *SMALL)
    with served(settings) as address:
        page.driver.get(address.replace("session=listed&", ""))
        page.until("#sessions td", "listed")
        page.shoot("sessions")
        page.shoot("sessions-phone", PHONE)
        page.press("#begin button")
        page.until("#head h1", "listed")
        page.driver.get(address.partition("?")[0] + "?session=none")
        page.until("#notice", "no session 'none'")
        page.press("#sessions a", "listed")
        page.until("#head h1", "listed")
        assert page.console() == []


@pytest.mark.slow
def test_the_keyboard_alone_starts_a_session(make_settings: MakeSettings, page: Page) -> None:
    settings = make_settings("session.name=keys", *SMALL)
    with served(settings) as address:
        page.driver.get(address)
        page.until("#controls button")
        page.keys("\ue004\ue004\n")  # past the link to all sessions
        page.until("#plan [data-edit='1 count']")
        page.driver.execute_script("document.querySelector('#tab-Scores').focus()")
        page.keys("\ue014")  # arrow right
        page.until("#tab-Timeline[aria-selected=true]")
        page.driver.refresh()
        page.until("#tab-Timeline[aria-selected=true]")
        assert page.console() == []
