"""Find a Chromium to look at the pages with, or get one: `python -m tools.browser`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"


def installed() -> str | None:
    """The path of a Chromium or Chrome on this machine, one that Playwright fetched included."""
    from playwright.sync_api import sync_playwright

    for name in (*NAMES, MAC):
        if path := shutil.which(name):
            return path
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if path and Path(path).exists() else None


def by_apt() -> None:
    """Debian's chromium, where apt is there and may be used without a question."""
    if not shutil.which("apt-get"):
        return
    may = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if may and (not shutil.which("sudo") or subprocess.run([*may, "true"]).returncode):
        return
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([*may, "apt-get", "update", "-qq"], env=quiet)
    # what chromium recommends besides fonts, such as printing, is a hundred packages more
    get = ["apt-get", "install", "-y", "-qq", "--no-install-recommends"]
    wanted = ["chromium", "fonts-liberation"]
    subprocess.run([*may, *get, *wanted], env=quiet, stdout=subprocess.DEVNULL)


def by_playwright() -> None:
    """Playwright's own download."""
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"])


def find_or_get() -> str:
    """The path of a browser; tries apt, then Playwright. Exits with the cure if none can be had."""
    for get in (None, by_apt, by_playwright):
        if get:
            print(f"no Chromium found: trying {get.__name__.replace('_', ' ')}", flush=True)
            get()
        if path := installed():
            return path
    raise SystemExit(
        "The pages cannot be tested: no Chromium or Chrome is here, apt could not install one and "
        "Playwright could not download one. Install one by hand, e.g. `apt-get install chromium`."
    )


@contextmanager
def chromium():
    """A running browser that reaches this machine and no other."""
    from playwright.sync_api import sync_playwright

    path = find_or_get()  # before Playwright runs, which it may have to ask too
    with sync_playwright() as playwright:
        alone = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
        quiet = ["--disable-background-networking", "--disable-quic"]
        running = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", alone, *quiet]
        )
        yield running
        running.close()


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
    print(f"browser: {find_or_get()}")
