"""The built pages in a real browser, every request that leaves this machine refused."""

import re
from datetime import UTC, datetime

import nbformat
import pytest
from playwright.sync_api import expect
from pypdf import PdfReader

import samkit
from book._ext import launch_buttons
from samkit.paper import claims
from tools import browser, gate, markdown, mutants, render, serve, tree
from tools.tree import HTML, ROOT, chapters, toc_pages

PAGES = [page.relative_to(ROOT).with_suffix(".html").as_posix() for page in toc_pages()]


@pytest.fixture(scope="session")
def site():
    with serve.serving(HTML) as address:
        yield address


@pytest.fixture(scope="session")
def chromium():
    with browser.chromium() as running:
        yield running


@pytest.fixture(params=["light", "dark"])
def page(chromium, site, request):
    """A tab that fails the test on a console error or a request to elsewhere."""
    context = chromium.new_context(color_scheme=request.param, reduced_motion="reduce")
    tab = context.new_page()
    wrong = browser.watched(tab, site)
    tab.scheme = request.param
    yield tab
    context.close()
    assert wrong == []


@pytest.mark.parametrize("path", PAGES)
def test_page(page, site, path):
    """On a desk in the light, on a phone in the dark."""
    page.set_viewport_size({"width": 1200 if page.scheme == "light" else 360, "height": 800})
    assert page.goto(site + path, wait_until="load").ok
    page.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise")
    page.evaluate("window.MathJax && MathJax.startup ? MathJax.startup.promise : null")
    mounted(page)

    assert page.locator("article h1").count() == 1
    assert page.evaluate("document.documentElement.dataset.theme") == page.scheme
    # nothing sticks out sideways
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    # every formula is drawn, and none as an error
    assert page.locator("article .math:not(:has(mjx-container))").count() == 0
    assert page.locator("mjx-merror, [data-mml-node=merror]").count() == 0
    # every picture is there and says what it shows
    pictures = "all => all.filter(i => !i.alt || !i.complete || !i.naturalWidth).map(i => i.src)"
    assert page.eval_on_selector_all("article img", pictures) == []
    sizes = """all => all.map(svg => [svg.ariaLabel, svg.getBoundingClientRect()])
        .map(([words, box]) => [words, box.width, box.height])"""
    for words, width, height in page.eval_on_selector_all("svg.samkit-figure", sizes):
        assert len(words) > 20 and width > 200 and height > 100
    # a verdict stands behind the last word of its paragraph
    inside = """all => all.filter(verdict => {
        const after = verdict.nextSibling;
        return after && after.textContent.trim() && !after.classList?.contains("verdict");
    }).map(verdict => verdict.parentElement.textContent)"""
    assert page.eval_on_selector_all("article p > a.verdict", inside) == []
    # the structure is the same in both schemes
    assert browser.accessibility_faults(page, colours_alone=page.scheme == "dark") == []
    if page.scheme == "light":
        every_figure_has_a_caption_and_leads_to_its_code(page)
    a_chapter_and_only_a_chapter_opens_elsewhere(page, path)


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_landing_figure_and_its_slider_are_in_the_first_screen(chromium, site, width, height):
    tab = chromium.new_page(viewport={"width": width, "height": height}, reduced_motion="reduce")
    tab.goto(site + "book/index.html")
    mounted(tab)
    expect(tab.locator("#effect .samkit-interactive")).to_have_attribute("aria-busy", "false")
    drawing = tab.locator("#effect svg[role=img]").bounding_box()
    slider = tab.locator("#effect .samkit-main input")
    below = slider.bounding_box()
    assert drawing["y"] > 0 and below["y"] + below["height"] <= height
    assert drawing["y"] + drawing["height"] <= below["y"]
    # nothing but m is in sight
    assert tab.locator("#effect input:visible").count() == 1
    words = tab.locator("#effect .samkit-words")
    expect(words).to_contain_text("10 times lower than with plain training")
    slider.press("Home")
    expect(words).to_contain_text("15 % higher than with plain training")
    tab.close()


def test_what_a_link_leads_to_is_shown_on_focus_and_on_hover(chromium, site):
    tab = chromium.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    tab.goto(site + "book/02-what-sam-minimizes.html")
    link, box = tab.locator("article a[href='#thm-nesting']").first, tab.get_by_role("tooltip")
    tab.keyboard.press("Tab")
    link.focus()
    expect(box).to_contain_text("Nesting")
    expect(link).to_have_attribute("aria-describedby", box.get_attribute("id"))
    tab.mouse.move(5, 5)  # a pointer that is elsewhere does not close it
    tab.mouse.move(9, 9)
    tab.wait_for_timeout(500)
    expect(box).to_be_visible()
    tab.keyboard.press("Escape")
    expect(box).to_have_count(0)
    link.blur()
    link.hover()
    box.hover()  # where it stays
    tab.wait_for_timeout(500)
    expect(box).to_contain_text("Nesting")
    tab.mouse.move(5, 5)
    expect(box).to_have_count(0)
    tab.close()


def test_the_root_is_a_page_with_a_title(chromium, site):
    source = (HTML / "index.html").read_text(encoding="utf-8")
    assert "<title>SAM, understood</title>" in source and 'name="description"' in source
    tab = chromium.new_page()
    tab.goto(site)
    tab.wait_for_url("**/book/index.html")
    tab.close()


@pytest.mark.parametrize("path", PAGES)
def test_a_link_to_the_page_shows_words_and_a_picture(path):
    source = (HTML / path).read_text(encoding="utf-8")
    (words,) = re.findall(r'<meta name="description" content="([^"]*)"', source)
    assert 40 <= len(words) <= 230
    tags = dict(re.findall(r'<meta property="(og:[\w:]+)" content="([^"]*)"', source))
    assert tags["og:description"] == words and tags["og:title"] and tags["og:image:alt"]
    picture = HTML / path
    assert (picture.parent / tags["og:image"]).resolve().is_file()
    assert "Report a mistake on this page" in source


def mounted(page):
    """Waits until every interactive figure is in its picture's place."""
    assert page.locator("script[type*='jupyter.widget']").count() == 0
    names = page.eval_on_selector_all("[data-samkit-figure]", "all => all.map(el => el.id)")
    for name in names:
        page.wait_for_selector(f"[id='{name}'][data-mounted] .samkit-interactive")
    return names


def every_figure_has_a_caption_and_leads_to_its_code(page):
    drawings = page.locator("svg.samkit-figure:not([data-samkit-figure] svg)")
    captions = page.locator(".figure-caption[id]")
    assert captions.count() == drawings.count()
    for caption in captions.all():
        own = page.locator(f"[id='{caption.get_attribute('id')}']")
        cell = page.locator("div.cell", has=own)
        code = cell.locator("details.code-fold.source, .tag_teach .cell_input").first
        assert re.search(r"figures\.show\(|draw\(|law\.\w+\(", code.text_content())
        if summary := code.locator("> summary").all():
            summary[0].focus()
            page.keyboard.press("Enter")
            expect(code.locator("pre").first).to_be_visible()


def a_chapter_and_only_a_chapter_opens_elsewhere(page, path):
    notebook = page.locator(".dropdown-download-buttons a[href$='.ipynb']")
    expect(notebook).to_have_count(1 if launch_buttons.links(path.removesuffix(".html")) else 0)
    buttons = page.locator(".dropdown-launch-buttons")
    links = launch_buttons.links(path.removesuffix(".html"))
    is_chapter = (ROOT / path).with_suffix(".md") in chapters()
    assert bool(links) == is_chapter == buttons.count()
    if is_chapter:
        buttons.get_by_role("button", name="Run this chapter").click()
        for name, url in links.items():
            link = buttons.get_by_role("link", name=name)
            expect(link).to_have_attribute("href", url)
            picture = link.get_by_role("img")
            expect(picture).to_be_visible()
            assert picture.evaluate("img => img.complete && img.naturalWidth > 0")


def test_the_open_menu_of_a_chapter(page, site):
    page.goto(site + "book/14-optimizers.html")
    a_chapter_and_only_a_chapter_opens_elsewhere(page, "book/14-optimizers.html")
    assert browser.accessibility_faults(page) == []


@pytest.mark.parametrize("page", ["dark"], indirect=True)
@pytest.mark.parametrize("path", PAGES)
def test_on_paper(page, site, path):
    """Light, unfolded, without controls, no figure longer than a page; afterwards as before."""
    page.set_viewport_size({"width": 680, "height": 1000})  # A4 within its margins
    page.goto(site + path)
    figures = [page.locator(f"[id='{name}']") for name in mounted(page)]
    folded = page.locator("article details:not([open])").count()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print", color_scheme=page.scheme)
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    expect(page.locator("article details:not([open])")).to_have_count(0)
    for figure in figures:
        drawing = figure.locator("svg[role=img]").bounding_box()
        assert drawing["width"] > 250 and drawing["height"] > 150
        assert not figure.locator("input, select, button").first.is_visible()
        section = figure.locator(".samkit-interactive")
        assert section.evaluate("el => getComputedStyle(el).breakInside") == "avoid"
        assert section.bounding_box()["height"] < 1000
    assert page.evaluate("document.documentElement.scrollWidth") <= 680
    page.emulate_media(media="screen", color_scheme=page.scheme)
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    expect(page.locator("html")).to_have_attribute("data-theme", page.scheme)
    expect(page.locator("article details:not([open])")).to_have_count(folded)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("<p style='color: #999'>pale</p>", "color-contrast"),
        ("<p>plain <b style='background: #333'>dark on dark</b></p>", "color-contrast"),
        ("<p style='opacity: .4'>plain</p>", "color-contrast"),
        (
            "<select aria-label='s' style='color: #bbb; background: #fff'><option>a</select>",
            "color-contrast",
        ),
        ("<img src='data:,'>", "image-alt"),
    ],
)
def test_faults_are_noticed(chromium, fault, kind):
    tab = chromium.new_page()
    good = "<!doctype html><html lang='en'><title>t</title><main><h1>t</h1><p>plain</p>{}</main>"
    tab.set_content(good.format(""))
    assert browser.accessibility_faults(tab) == []
    tab.set_content(good.format(fault))
    assert [line.split(":")[0] for line in browser.accessibility_faults(tab)] == [kind]
    tab.close()


def test_the_site_may_be_published():
    gate.check()


@pytest.mark.parametrize("path", PAGES)
def test_every_page_says_of_which_version_and_day_it_is(path):
    foot = (HTML / path).read_text(encoding="utf-8").partition("</article>")[2]
    day = datetime.fromtimestamp(int(render.commit_time()), UTC).date()
    assert f"Last updated on {day}." in foot
    assert f"samkit {samkit.__version__}" in foot


def test_the_executed_notebooks_are_published():
    for page in chapters():
        notebook = nbformat.read(HTML / "executed" / f"{page.stem}.ipynb", as_version=4)
        assert any(cell.get("outputs") for cell in notebook.cells)


def test_notebooks_name_things_as_the_pages_do():
    """A theorem or equation has the number that the page shows, at the address that is given."""
    for label, (name, address) in markdown.places().items():
        path, _, anchor = address.removeprefix(f"{markdown.site()}/").partition("#")
        source = (HTML / path).read_text(encoding="utf-8")
        if anchor:
            assert f'id="{anchor}"' in source, label
        if re.search(r"\d+\.\d+\)?$", name):
            assert name in source.partition(f'id="{anchor}"')[2][:400], (label, name)


@pytest.mark.parametrize(
    ("words", "found"), [("m-sharpness", "06-role-of-m"), ("Polyak", "09-convergence")]
)
def test_search_finds_words_without_a_network(page, site, words, found):
    page.goto(f"{site}search.html?q={words}")
    page.wait_for_selector(f"#search-results li a[href*='{found}']")


@pytest.mark.parametrize("path", ["book/moved.html", "moved.html", "book/a/b.html"])
@pytest.mark.parametrize("below", ["", "samkit/", "book/"])
def test_a_page_that_is_not_there_leads_back_to_the_start(chromium, tmp_path, below, path):
    """Where the book is all of a site, and where it is a part, as on GitHub Pages."""
    if below:
        (tmp_path / below).symlink_to(HTML)
        (tmp_path / "404.html").symlink_to(HTML / "404.html")
    with serve.serving(tmp_path if below else HTML) as site:
        tab = chromium.new_page()
        response = tab.goto(site + below + path)
        assert response.status == 404
        if not below:
            assert browser.accessibility_faults(tab) == []
        link = tab.get_by_role("link", name="The book begins here")
        expect(link).to_have_attribute("href", f"/{below}book/index.html")
        link.click()
        tab.wait_for_url(f"{site}{below}book/index.html")
        mounted(tab)
        tab.close()


def test_opened_from_a_folder_or_without_scripts_a_page_says_what_is_missing(chromium):
    context = chromium.new_context(java_script_enabled=False)
    for tab in (chromium.new_page(), context.new_page()):
        tab.goto((HTML / "book" / "index.html").as_uri())
        picture = tab.locator("#effect svg")
        assert picture.bounding_box()["height"] > 100
        assert picture.get_attribute("aria-label")
        words = tab.locator(".missing:visible")
        expect(words).to_have_count(1)
        expect(words).to_contain_text("pictures that do not move")
        tab.close()
    context.close()


def measured(tab, site):
    found, wrong = gate.look(tab, site)
    print(gate.table(found))
    assert wrong == []


def test_a_reader_sees_pictures_with_words_little_code_and_nothing_cut(chromium, site):
    tab = chromium.new_page(reduced_motion="reduce")
    measured(browser.InChromium(tab), site)
    tab.close()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # Marionette's own
def test_a_reader_with_firefox_sees_the_same(site):
    with browser.tab("firefox") as tab:
        measured(tab, site)


@pytest.mark.parametrize(
    ("html", "complaint"),
    [
        ("<p>good</p>", None),
        ('<p id="a">one</p><p id="a">two</p>', "id a 2 times"),
        ("<details><summary><p>words</p></summary></details>", "<p> in <summary>, line 1"),
        ("<p>one</p></p>", "unexpected-end-tag"),
        ('<a href="gone.html">x</a>', "gone.html"),
        ('<a href="page.html#gone">x</a>', "page.html#gone"),
    ],
)
def test_what_is_no_html_and_links_that_lead_nowhere_are_found(
    tmp_path, monkeypatch, html, complaint
):
    monkeypatch.setattr(tree, "HTML", tmp_path)
    page = "<!doctype html><html lang='en'><head><title>t</title></head><body>{}</body></html>"
    (tmp_path / "page.html").write_text(page.format(html))
    gate.source.cache_clear()
    found = gate.invalid("page.html") + gate.broken_links("page.html")
    gate.source.cache_clear()
    assert (complaint in " ".join(found)) if complaint else found == []


@pytest.mark.parametrize(
    ("html", "complaint"),
    [
        ("<div class='highlight' style='height: 300px'>code</div>", ("code", 0.3)),
        (
            "<svg class='samkit-figure' role='img' aria-label='short' width='300' height='100'>",
            ("wordless", ["short: no caption, no alt"]),
        ),
        (
            "<div class='samkit-main'><input type='range' style='width: 80px; margin: 0'></div>",
            ("sliders", [80]),
        ),
    ],
)
def test_what_a_browser_measures_is_what_is_there(chromium, html, complaint):
    tab = chromium.new_page()
    body = "<article style='height: 1000px; display: block'>{}</article>"
    tab.set_content(f"<!doctype html><body style='margin: 0'>{body.format(html)}")
    found = gate.measured(browser.InChromium(tab))
    tab.close()
    name, value = complaint
    assert getattr(found, name) == (pytest.approx(value) if name == "code" else value)


@pytest.mark.parametrize(
    ("html", "where"),
    [
        ("<p style='width: 500px'>wide</p>", [390]),
        ("<div style='overflow-x: auto'><p style='width: 500px'>scrolls</p></div>", []),
        (
            "<div style='overflow: hidden; width: 100px'><p style='width: 1300px'>gone</p></div>",
            [390, 1280, 1440, 1920],
        ),
        (
            "<svg role='img' width='200' height='50'><text x='150' y='20'>a long text</text></svg>",
            [390, 1280, 1440, 1920],
        ),
        (
            "<svg role='img' width='100%' height='50'><text x='5' y='20'>a long text</text>"
            "<text x='12%' y='24'>another</text></svg>",
            [390],
        ),
        (
            "<svg role='img' width='300' height='50'><g id='a-text_1'><path d='M0 0H50V9'/></g>"
            "<g id='a-text_2'><path d='M40 0H90V9'/></g></svg>",
            [390, 1280, 1440, 1920],
        ),
    ],
)
def test_what_is_cut_is_found(chromium, html, where):
    tab = chromium.new_page()
    tab.set_content(f"<!doctype html><body style='margin: 0'><article>{html}</article>")
    found = gate.measured(browser.InChromium(tab)).cut
    tab.close()
    assert [width for width, elements in found.items() if elements] == where


def test_the_ledger_shows_the_verdicts_that_the_chapters_reported(chromium, site):
    tab = chromium.new_page()
    tab.goto(site + "book/ledger.html")
    row = tab.locator("[id='claim-fig06-digits']")
    assert row.locator(".verdict").first.inner_text() == "holds"
    assert not row.get_by_text("outputs stored in the authors’ notebook").first.is_visible()
    row.locator("summary").click()
    assert row.get_by_text("outputs stored in the authors’ notebook").first.is_visible()
    assert "at most 1e-06" in row.inner_text()
    assert "python -m samkit check fig06.digits" in row.inner_text()
    cell = row.get_by_role("link", name="a cell of 01-sparse-regression")
    assert cell.get_attribute("href").endswith("01-sparse-regression.html#checked-fig06-digits")
    recorded = tab.locator("[id='claim-fig12-mnist1d-rise']")
    assert "small_networks-laptop.jsonl, 102 seeds" in recorded.text_content()
    tab.close()


def test_every_row_with_a_verdict_was_turned_by_a_mutant(chromium, site):
    tab = chromium.new_page()
    tab.goto(site + "book/mutants.html")
    turned = tab.locator(".mutants td:first-of-type code").all_inner_texts()
    tab.close()
    assert {*turned} >= {*mutants.rows_with_verdict()}


@pytest.mark.parametrize("path", [path for path in PAGES if re.match(r"book/\d", path)])
def test_theorems_equations_and_figures_bear_the_chapters_number(path):
    """A single number is the paper's: its Figure 6 is not our Figure 6.1."""
    source = (HTML / path).read_text(encoding="utf-8")
    chapter = int(path[len("book/") :].split("-")[0])
    assert f'<span class="section-number">{chapter}. </span>' in source
    figures = re.findall(r'id="figure-([\d.]+)"><b>Figure ([\d.]+)\.</b>', source)
    expected = [f"{chapter}.{k + 1}" for k in range(len(figures))]
    assert figures == list(zip(expected, expected, strict=True))
    named = re.findall(r'class="caption-number">\w+ ([\d.]+) ?<', source)
    named += re.findall(r'class="eqno">\(([\d.]+)\)', source)
    assert source.count('class="caption-number"') + source.count('class="eqno"') == len(named)
    assert all(number.startswith(f"{chapter}.") for number in named)


def test_every_row_that_did_not_pass_is_on_the_page_of_disagreements(chromium, site):
    tab = chromium.new_page()
    tab.goto(site + "book/ledger.html")
    not_passed = tab.locator(
        ".ledger .row:has(> summary > .verdict-fail, > summary > .verdict-inconclusive)"
    )
    rows = not_passed.evaluate_all("boxes => boxes.map(box => box.id)")
    tab.goto(site + "book/disagreements.html")
    lines = tab.eval_on_selector_all(
        ".disagreements li",
        "lines => lines.map(line => [line.querySelector('a').hash.slice(1), line.textContent])",
    )
    assert len(rows) > 10 and [row for row, _ in lines] == rows
    for _, words in lines:
        assert "measured" in words and "required" in words
    # and is discussed there
    boxes = tab.eval_on_selector_all(
        ".claim > p:first-child > a", "all => all.map(a => a.hash.slice(1))"
    )
    assert set(rows) <= set(boxes)
    tab.close()


def test_the_ledger_is_filtered_by_what_its_rows_say(chromium, site):
    tab = chromium.new_page()
    tab.goto(site + "book/ledger.html")
    rows = tab.locator(".ledger .row")
    shown = tab.locator(".ledger .row:visible")
    assert rows.count() == len(claims.ledger()) == shown.count()
    tab.get_by_label("Chapter").select_option("01-sparse-regression")
    expected = [row for row in claims.ledger().values() if row.chapter == "01-sparse-regression"]
    expect(shown).to_have_count(len(expected))
    tab.get_by_label("Words").fill("fig06.digits python -m samkit check")
    expect(shown).to_have_count(2)  # its own, and the one that rests on it
    assert "chapter=01-sparse-regression" in tab.url
    tab.reload()  # a link to what is shown shows the same
    expect(shown).to_have_count(2)
    tab.get_by_role("button", name="Show all").click()
    expect(shown).to_have_count(len(claims.ledger()))
    # a link to a row opens it
    tab.goto(site + "book/ledger.html#claim-fig06-digits")
    expect(tab.locator("[id='claim-fig06-digits']")).to_have_attribute("open", "")
    tab.close()


def test_without_scripts_the_ledger_is_a_list_of_rows_that_open(chromium, site):
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(site + "book/ledger.html")
    assert tab.locator(".ledger .row:visible").count() == len(claims.ledger())
    assert tab.locator(".ledger-filters").count() == 0
    tab.locator("[id='claim-fig06-digits'] summary").click()
    assert tab.get_by_text("python -m samkit check fig06.digits").is_visible()
    context.close()


def test_the_map_says_in_words_what_rests_on_what(page, site):
    page.goto(site + "book/claim-map.html")
    boxes = page.locator(".claim-map .node")
    assert 12 <= boxes.count() <= 20 and page.locator(".claim-map .edge").count() > 10
    inside = """nodes => nodes.filter(node => [...node.querySelectorAll("text")].some(text =>
        text.getBBox().width + 14 > node.querySelector("rect").getBBox().width
    )).map(node => node.textContent)"""
    assert boxes.evaluate_all(inside) == []
    boxes.first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/02-what-sam-minimizes.html")
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(site + "book/claim-map.html")
    assert page.locator(".claim-map li:visible").count() == page.locator(".claim-map .node").count()


def test_what_a_link_leads_to_is_seen_on_hover_and_on_focus(chromium, site):
    """WCAG 1.4.13: it can be dismissed, hovered, and stays."""
    tab = chromium.new_page()
    tab.goto(site + "book/01-sparse-regression.html")
    link = tab.locator("table.claims a[href*='#claim-fig06-digits']")
    link.hover()
    box = tab.get_by_role("tooltip")
    expect(box).to_contain_text("outputs stored in the authors’ notebook")
    box.hover()
    tab.wait_for_timeout(600)
    expect(box).to_be_visible()
    tab.keyboard.press("Escape")
    expect(box).to_have_count(0)
    tab.mouse.move(0, 0)
    tab.keyboard.press("Tab")
    link.focus()
    expect(box).to_be_visible()
    link.blur()
    tab.close()


def test_presets_are_the_figures_own_wherever_a_page_lets_it_begin(chromium, site):
    tab = chromium.new_page()
    tab.goto(site + "book/10-rest-points.html")
    mounted(tab)
    figure = tab.locator("#convergence")
    pressed = figure.locator("[aria-pressed=true]")
    expect(pressed).to_have_text("At rest on the steepest slope")
    figure.get_by_role("button", name="The theorem's radius").click()
    expect(pressed).to_have_text("The theorem's radius: under the bound")
    tab.close()


@pytest.mark.parametrize("path", [path for path in PAGES if re.match(r"book/\d", path)])
def test_a_printed_chapter_has_its_last_sentence(chromium, site, path, tmp_path):
    """A real PDF: what unfolds after the pages are counted would be cut off at its end."""
    tab = chromium.new_page()
    tab.goto(site + path)
    mounted(tab)
    tab.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise")
    last = tab.locator("article p, article li").last.text_content()
    tab.pdf(path=tmp_path / "chapter.pdf")
    printed = "".join(part.extract_text() for part in PdfReader(tmp_path / "chapter.pdf").pages)
    last, printed = (re.sub(r"[^a-z]", "", text.lower()) for text in (last, printed))
    assert last[-24:] in printed
    tab.close()


def test_a_proof_unfolds_with_its_formulas(page, site):
    page.goto(site + "book/09-convergence.html")
    page.wait_for_function("window.MathJax && MathJax.startup && MathJax.startup.promise")
    page.evaluate("MathJax.startup.promise")
    proof = page.locator("details.proof-fold").first
    formula = proof.locator("mjx-container").first
    assert not formula.is_visible()
    proof.locator("summary").click()
    page.wait_for_function(  # which is set as it comes into sight
        """() => {
            const formula = document.querySelector(".proof-fold mjx-container");
            formula.scrollIntoView({ block: "center" });
            return formula.getBoundingClientRect().height > 8;
        }"""
    )
