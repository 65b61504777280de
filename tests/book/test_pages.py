"""The built pages in a real browser, every request that leaves this machine refused."""

import gzip
import re
import threading
from itertools import combinations
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import sync_playwright

from samkit import claims
from tools import book, browser

PAGES = [page.relative_to(book.ROOT).with_suffix(".html").as_posix() for page in book.toc_pages()]


@pytest.fixture(scope="session")
def site():
    with book.server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def chromium():
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=browser.find_or_get(),
            args=["--no-sandbox", "--disable-background-networking", "--disable-quic"],
        )
        yield running
        running.close()


@pytest.fixture(params=["light", "dark"])
def page(chromium, site, request):
    """A tab that fails the test on a console error or a request to elsewhere."""
    context = chromium.new_context(color_scheme=request.param, reduced_motion="reduce")
    tab = context.new_page()
    wrong = []
    tab.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
    tab.on(
        "console",
        lambda message: (
            wrong.append(message.text) if message.type in ("error", "warning") else None
        ),
    )

    def only_local(route):
        if route.request.url.startswith((site, "data:", "blob:")):
            route.continue_()
        else:
            wrong.append(f"request to {route.request.url}")
            route.abort()

    context.route("**/*", only_local)
    tab.scheme = request.param
    yield tab
    context.close()
    assert wrong == []


@pytest.mark.parametrize("path", PAGES)
def test_page(page, site, path):
    response = page.goto(site + path, wait_until="load")
    assert response.ok
    page.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise")
    page.evaluate("window.MathJax && MathJax.startup ? MathJax.startup.promise : null")

    assert page.locator("article h1").count() == 1
    assert page.evaluate("document.documentElement.dataset.theme") == page.scheme
    # every formula is drawn, and none as an error
    assert page.locator("article .math:not(:has(mjx-container))").count() == 0
    assert page.locator("mjx-merror, [data-mml-node=merror]").count() == 0
    # every picture is there and says what it shows
    for picture in page.locator("article img").all():
        assert picture.get_attribute("alt")
        assert picture.evaluate("img => img.complete && img.naturalWidth > 0")
    for drawing in page.locator("svg.samkit-figure").all():
        assert len(drawing.get_attribute("aria-label")) > 20
        box = drawing.bounding_box()
        assert box["width"] > 200 and box["height"] > 100
    # every interactive figure is in its picture's place
    for name in page.eval_on_selector_all("[data-samkit-figure]", "all => all.map(el => el.id)"):
        page.wait_for_selector(f"[id='{name}'][data-mounted] .samkit-interactive")
    assert browser.accessibility_faults(page) == []


def test_a_page_is_light(site):
    """At most 500 kB compressed without MathJax, all that it loads included."""
    weights = {}
    for path in PAGES:
        files = {path, *re.findall(r'(?:src|href)="([^"#?]+)', (book.HTML / path).read_text())}
        local = {(book.HTML / path).parent / f for f in files if "://" not in f}
        local = {f.resolve() for f in local if f.suffix in (".js", ".mjs", ".css", ".woff2")}
        if "data-samkit-figure" in (book.HTML / path).read_text():
            local |= set((book.HTML / "_static").glob("*.mjs"))
        files = [book.HTML / path, *(f for f in local if f.name != "tex-svg.js")]
        weights[path] = sum(len(gzip.compress(f.read_bytes())) for f in files) / 1000
    assert max(weights.values()) <= 500, weights


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("path", PAGES)
def test_nothing_sticks_out_sideways(chromium, site, path, width):
    tab = chromium.new_page(viewport={"width": width, "height": 800})
    tab.goto(site + path)
    excess = tab.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    tab.close()
    assert excess <= 0


def test_every_local_link_leads_somewhere(chromium, site):
    tab = chromium.new_page()
    targets = set()
    for path in PAGES:
        tab.goto(site + path)
        links = tab.eval_on_selector_all(  # in drawings too, whose links are no strings
            "a[href]",
            "links => links.map(link => new URL(link.getAttribute('href'), document.baseURI).href)",
        )
        targets |= {link for link in links if link.startswith(site)}
    broken = []
    for url, fragments in _by_page(targets).items():
        if not tab.goto(url).ok:
            broken.append(url)
        elif url.endswith(".html"):
            broken += [
                f"{url}#{fragment}"
                for fragment in fragments
                if not tab.evaluate("id => !!document.getElementById(id)", fragment)
            ]
    tab.close()
    assert broken == []


def _by_page(urls):
    pages = {}
    for url in urls:
        parts = urlsplit(url)
        fragments = pages.setdefault(parts._replace(fragment="").geturl(), set())
        if parts.fragment:
            fragments.add(parts.fragment)
    # pages only: a download would start instead of opening
    return {url: found for url, found in pages.items() if url.endswith((".html", "/"))}


def test_the_ledger_shows_the_verdicts_that_the_chapters_reported(chromium, site):
    tab = chromium.new_page()
    tab.goto(site + "book/ledger.html")
    row = tab.locator("[id='claim-fig06-digits']")
    assert row.locator(".verdict").inner_text() == "PASS"
    assert "at most 1e-06" in row.inner_text()
    assert "outputs stored in the authors' notebook" in row.inner_text()
    assert "python -m samkit check fig06.digits" in row.inner_text()
    cell = row.get_by_role("link", name="a cell of 06-sparse-regression")
    assert cell.get_attribute("href").endswith("06-sparse-regression.html#checked-fig06-digits")
    recorded = tab.locator("[id='claim-fig12-mnist1d-rise']")
    assert "fig12_label_noise-laptop.jsonl, 5 seeds" in recorded.inner_text()
    tab.close()


def test_every_row_with_a_verdict_is_among_those_that_a_mutant_turned(chromium, site):
    tab = chromium.new_page()
    tab.goto(site + "book/mutants.html")
    shown = set(tab.locator(".mutants td:first-of-type code").all_inner_texts())
    tab.close()
    assert shown >= {c.id for c in claims.ledger().values() if c.tolerance is not None}


def test_every_row_of_the_ledger_is_on_the_map_and_every_need_is_a_line(page, site):
    page.goto(site + "book/claim-map.html")
    rows = claims.ledger()
    assert page.locator(".claim-map .node").count() == len(rows)
    needs = sum(len(row.needs) for row in rows.values())
    assert page.locator(".claim-map .edge").count() == needs
    boxes = page.eval_on_selector_all(
        ".claim-map .node rect", "rects => rects.map(rect => rect.getBoundingClientRect().toJSON())"
    )
    for one, other in combinations(boxes, 2):
        assert (
            one["right"] <= other["left"]
            or other["right"] <= one["left"]
            or one["bottom"] <= other["top"]
            or other["bottom"] <= one["top"]
        )
    inside = """nodes => nodes.filter(node =>
        node.querySelector("text").getBBox().width + 12 > node.querySelector("rect").getBBox().width
    ).map(node => node.textContent)"""
    assert page.eval_on_selector_all(".claim-map .node", inside) == []


@pytest.mark.parametrize("how", ["click", "keyboard"])
def test_a_box_of_the_map_leads_to_its_row(page, site, how):
    page.goto(site + "book/claim-map.html")
    box = page.locator(".claim-map .node[href$='#claim-fig06-digits']")
    assert "✓" in box.text_content() and "verdict-pass" in box.get_attribute("class")
    if how == "click":
        box.click()
    else:
        box.focus()
        page.keyboard.press("Enter")
    page.wait_for_url("**/ledger.html#claim-fig06-digits")
    assert page.locator("[id='claim-fig06-digits']").is_visible()


def test_a_proof_unfolds_with_its_formulas(page, site):
    page.goto(site + "book/09-convergence.html")
    page.wait_for_function("window.MathJax && MathJax.startup && MathJax.startup.promise")
    page.evaluate("MathJax.startup.promise")
    proof = page.locator("details.proof-fold").first
    formula = proof.locator("mjx-container").first
    assert not formula.is_visible()
    proof.locator("summary").click()
    assert formula.bounding_box()["height"] > 8
