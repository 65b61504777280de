"""Find a browser for the pages, or get one: `python -m tools.browser`, or `... firefox`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

NAMES = {
    "chromium": ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"),
    "firefox": ("firefox-esr", "firefox"),
}
MAC = {
    "chromium": "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "firefox": "/Applications/Firefox.app/Contents/MacOS/firefox",
}
DEBIAN = {"chromium": ("chromium", "fonts-liberation"), "firefox": ("firefox-esr",)}
PREFERENCES = {  # of Firefox: no motion, and it reaches this machine and no other
    "ui.prefersReducedMotion": 1,
    "network.proxy.type": 1,
    **{f"network.proxy.{scheme}": "127.0.0.1" for scheme in ("http", "ssl")},
    **{f"network.proxy.{scheme}_port": 9 for scheme in ("http", "ssl")},
}


def installed(name: str = "chromium") -> str | None:
    """The path of a browser on this machine, a Chromium that Playwright fetched included."""
    from playwright.sync_api import sync_playwright

    for program in (*NAMES[name], MAC[name]):
        if path := shutil.which(program):
            return path
    if name != "chromium":  # Playwright's own Firefox answers to it alone
        return None
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if path and Path(path).exists() else None


def by_apt(name: str) -> None:
    """Debian's, where apt is there and may be used without a question."""
    if not shutil.which("apt-get"):
        return
    may = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if may and (not shutil.which("sudo") or subprocess.run([*may, "true"]).returncode):
        return
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([*may, "apt-get", "update", "-qq"], env=quiet)
    # what chromium recommends besides fonts, such as printing, is a hundred packages more
    get = ["apt-get", "install", "-y", "-qq", "--no-install-recommends"]
    subprocess.run([*may, *get, *DEBIAN[name]], env=quiet, stdout=subprocess.DEVNULL)


def by_playwright(name: str) -> None:
    """Playwright's own download."""
    if name == "chromium":
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"])


def find_or_get(name: str = "chromium") -> str:
    """The path of a browser; tries apt, then Playwright. Exits with the cure if none can be had."""
    for get in (None, by_apt, by_playwright):
        if get:
            print(f"no {name} found: trying {get.__name__.replace('_', ' ')}", flush=True)
            get(name)
        if path := installed(name):
            return path
    raise SystemExit(
        f"The pages cannot be tested in {name}: none is here, and neither apt nor Playwright could "
        f"bring one. Install one by hand, e.g. `apt-get install {DEBIAN[name][0]}`."
    )


class Patient:
    """A running browser in which a wait ends after a minute: on busy cores a page is late."""

    WAIT = 60_000  # milliseconds

    def __init__(self, running):
        self._running = running

    def new_page(self, **options):
        return self._later(self._running.new_page(**options))

    def new_context(self, **options):
        return self._later(self._running.new_context(**options))

    def _later(self, one):
        one.set_default_timeout(self.WAIT)
        return one


@contextmanager
def chromium():
    """A running browser that reaches this machine and no other."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=Patient.WAIT)

    path = find_or_get()  # before Playwright runs, which it may have to ask too
    with sync_playwright() as playwright:
        alone = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
        quiet = ["--disable-background-networking", "--disable-quic"]
        running = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", alone, *quiet]
        )
        yield Patient(running)
        running.close()


class InChromium:
    """A tab of Playwright's, as tools/gate.py asks of one."""

    def __init__(self, page):
        self.page, self.evaluate = page, page.evaluate

    def goto(self, address: str) -> None:
        self.page.goto(address)

    def resize(self, width: int) -> None:
        self.page.set_viewport_size({"width": width, "height": 800})


class InFirefox:
    """A frame of Firefox's, which can be narrower than a window; by Mozilla's Marionette."""

    def __init__(self, driver):
        self.driver = driver
        driver.timeout.script = 300
        driver.set_window_rect(width=2000, height=900)

    def goto(self, address: str) -> None:
        self.driver.switch_to_frame()
        self.driver.navigate("about:blank")
        frame = "{style: 'border: 0; position: fixed; inset: 0; width: 100%; height: 800px'}"
        self._run(
            f"""async () => {{
            const frame = Object.assign(document.createElement("iframe"), {frame});
            const loaded = new Promise((done) => frame.addEventListener("load", done));
            document.body.append(Object.assign(frame, {{src: {address!r}}}));
            await loaded;
        }}"""
        )

    def resize(self, width: int) -> None:
        self._run(f"async () => {{ document.querySelector('iframe').style.width = '{width}px' }}")

    def evaluate(self, function: str):
        self.driver.switch_to_frame(0)
        try:
            return self._run(function)
        finally:
            self.driver.switch_to_frame()

    def _run(self, function: str):
        called = f"(async () => ({function})())()"
        script = f"{called}.then((value) => arguments[0]([value]), (e) => arguments[0](`${{e}}`))"
        answer = self.driver.execute_async_script(script)
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer[0]


@contextmanager
def firefox():
    """A tab of a Firefox without a window, which reaches this machine and no other."""
    from marionette_driver.marionette import Marionette

    options = {"headless": True, "prefs": PREFERENCES, "gecko_log": os.devnull}
    driver = Marionette(bin=find_or_get("firefox"), port=0, **options)
    try:
        driver.start_session()
        yield InFirefox(driver)
    finally:
        driver.cleanup()


@contextmanager
def tab(name: str):
    """A tab of a browser, as tools/gate.py asks for."""
    if name == "firefox":
        with firefox() as one:
            yield one
    else:
        with chromium() as running:
            yield InChromium(running.new_page(reduced_motion="reduce"))


def watched(tab, site: str, kinds: tuple[str, ...] = ("error", "warning")) -> list[str]:
    """What goes wrong in a tab from now on: exceptions, console messages, requests elsewhere."""
    wrong: list[str] = []
    local = (site, "data:", "blob:")
    tab.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
    tab.on("console", lambda m: wrong.append(m.text) if m.type in kinds else None)
    tab.on("request", lambda r: None if r.url.startswith(local) else wrong.append(r.url))
    return wrong


# Contrast is the same where the colour, the size and the ground of words are: one element of each.
DISTINCT = """() => {
    const kinds = new Map(), clear = ["rgba(0, 0, 0, 0)", "transparent"];
    for (const element of document.querySelectorAll("body *")) {
        const words = element.matches("input, select, textarea") ||
            [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
        if (!words || !element.checkVisibility({visibilityProperty: true})) continue;
        const style = getComputedStyle(element), kind = [];
        kind.push(style.color, style.fontSize, style.fontWeight, style.textShadow);
        for (let ground = element; ground; ground = ground.parentElement) {
            const {backgroundColor, backgroundImage, opacity} = getComputedStyle(ground);
            if (opacity !== "1" || backgroundImage !== "none") kind.push(opacity, backgroundImage);
            if (clear.includes(backgroundColor)) continue;
            kind.push(backgroundColor);
            if (!backgroundColor.startsWith("rgba")) break;
        }
        if (!kinds.has(`${kind}`)) kinds.set(`${kind}`, element);
    }
    return [...kinds.values()];
}"""


def accessibility_faults(page, *, colours_alone: bool = False) -> list[str]:
    """What axe-core finds wrong with a page as it is, or with its contrasts; a line an element."""
    from axe_playwright_python.base import AXE_FILE_PATH

    page.evaluate(Path(AXE_FILE_PATH).read_text(encoding="utf-8"))
    # it loads nothing itself, and does not work out what nobody reads
    common = {"preload": False, "resultTypes": ["violations"], "selectors": False}
    contrast = common | {"runOnly": ["color-contrast"]}
    include = page.evaluate_handle(DISTINCT)
    run = "([include, options]) => axe.run(include ? {include} : document, options)"
    found = page.evaluate(run, [include, contrast])["violations"]
    if not colours_alone:
        rest = common | {"rules": {"color-contrast": {"enabled": False}}}
        found += page.evaluate(run, [None, rest])["violations"]
    return [
        f"{fault['id']}: {fault['help']}: {node['html'][:120]}"
        for fault in found
        for node in fault["nodes"]
    ]


if __name__ == "__main__":
    print(f"browser: {find_or_get(*sys.argv[1:])}")
