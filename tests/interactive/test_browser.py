"""Every figure in a real browser: controls by mouse and keyboard, presets, address, phone."""

import pytest
from playwright.sync_api import sync_playwright

from samkit import interactive
from tools import browser
from tools import interactive as outside


@pytest.fixture(scope="module")
def site():
    with outside.serving() as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=browser.find_or_get(), args=["--no-sandbox"]
        )
        yield running
        running.close()


@pytest.fixture
def tab(chromium, site):
    context = chromium.new_context(reduced_motion="reduce")
    page = context.new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)

    def only_local(route):
        if route.request.url.startswith((site, "data:")):
            route.continue_()
        else:
            wrong.append(f"request to {route.request.url}")
            route.abort()

    context.route("**/*", only_local)
    yield page
    context.close()
    assert wrong == []


def opened(tab, site, name, query=""):
    tab.goto(site + query)
    figure = tab.locator(f"#{name}")
    tab.wait_for_selector(f"#{name}[data-mounted]")
    return figure


def frames(tab, count=2):
    for _ in range(count):
        tab.evaluate("() => new Promise(requestAnimationFrame)")


def seen(figure):
    """What the reader sees: the drawing, the numbers, the picture in words."""
    drawing = figure.locator("svg[role=img]")
    return (
        drawing.inner_html(),
        figure.locator(".samkit-numbers").inner_text(),
        drawing.get_attribute("aria-label"),
    )


def controls(name):
    found = outside._node(
        "import(process.argv[1]).then(m => console.log(JSON.stringify(m.default.figure.controls)))",
        (interactive.ESM / f"{name}.mjs").as_uri(),
    )
    return [(name, c["name"], c["kind"]) for c in found if c["kind"] != "hidden"]


CONTROLS = [row for name in interactive.NAMES for row in controls(name)]


@pytest.mark.parametrize("name, control, kind", CONTROLS)
@pytest.mark.parametrize("how", ["mouse", "keyboard"])
def test_every_control_moves_the_picture_and_its_state_is_in_the_address(
    tab, site, name, control, kind, how
):
    figure = opened(tab, site, name)
    before = seen(figure)
    handle = figure.locator(f"[id$='-{control}']")
    handle.scroll_into_view_if_needed()
    if kind == "choice":
        options = handle.locator("option").count()
        now = handle.evaluate("select => select.selectedIndex")
        if how == "mouse":
            handle.select_option(index=(now + 1) % options)
        else:
            handle.focus()
            tab.keyboard.press("ArrowDown" if now + 1 < options else "ArrowUp")
    elif how == "keyboard":
        handle.focus()
        if kind == "toggle":
            tab.keyboard.press("Space")
        else:
            low = handle.evaluate("input => input.value === input.max")
            for _ in range(8):
                tab.keyboard.press("ArrowLeft" if low else "ArrowRight")
    elif kind == "toggle":
        handle.click()
    else:
        box = handle.bounding_box()
        value, most = handle.evaluate("input => [Number(input.value), Number(input.max)]")
        share = 0.9 if value < 0.5 * most else 0.1
        tab.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
    frames(tab)
    after = seen(figure)
    assert after[0] != before[0], "the drawing is as before"
    later = "() => new Promise(done => setTimeout(() => done(location.href), 300))"
    address = tab.evaluate(later)  # it follows the last change within 250 ms
    assert f"{name}=" in address
    figure = opened(tab, address, name)  # a reader who follows the link sees the same
    assert seen(figure) == after
    figure.get_by_role("button", name="Reset").click()
    frames(tab)
    assert seen(figure) == before


@pytest.mark.parametrize("name", interactive.NAMES)
def test_presets_show_what_node_computes(tab, site, name):
    figure = opened(tab, site, name)
    for preset in outside.computed(name)["presets"]:
        figure.get_by_role("button", name=preset["label"], exact=True).click()
        frames(tab)
        expected = outside.computed(name, preset["state"])
        numbers = figure.locator(".samkit-numbers div").all()
        shown = {n.locator("dt").inner_text(): n.locator("dd").inner_text() for n in numbers}
        assert shown == expected["say"]
        assert figure.locator("svg[role=img]").get_attribute("aria-label") == expected["alt"]


@pytest.mark.parametrize("name", interactive.NAMES)
def test_a_narrow_phone(chromium, site, name):
    page = chromium.new_page(viewport={"width": 360, "height": 740})
    figure = opened(page, site, name)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    drawing = figure.locator("svg[role=img]").bounding_box()
    assert drawing["width"] > 250
    # no text leaves the drawing or lies on other text
    inside, texts = figure.locator("svg[role=img]").evaluate(
        """svg => [svg.getBoundingClientRect().toJSON(),
            [...svg.querySelectorAll("text")].map(t => t.getBoundingClientRect().toJSON())]"""
    )
    for box in texts:
        assert box["left"] >= inside["left"] - 1 and box["right"] <= inside["right"] + 1
        assert box["bottom"] <= inside["bottom"] + 1
    page.close()


def test_the_start_can_be_dragged(tab, site):
    figure = opened(tab, site, "m-dial")
    handle = figure.locator("[data-drag=start]").bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    before = figure.locator("[id$='-u']").input_value()
    tab.mouse.move(x, y)
    tab.mouse.down()
    tab.mouse.move(x - 80, y - 40, steps=5)
    tab.mouse.up()
    frames(tab)
    moved = figure.locator("[data-drag=start]").bounding_box()
    assert moved["x"] == pytest.approx(handle["x"] - 80, abs=3)
    assert moved["y"] == pytest.approx(handle["y"] - 40, abs=3)
    assert figure.locator("[id$='-u']").input_value() != before


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(chromium, theme):
    with outside.serving(theme=theme) as address:
        page = chromium.new_page()
        page.goto(address)
        for name in interactive.NAMES:
            page.wait_for_selector(f"#{name}[data-mounted]")
        assert browser.accessibility_faults(page) == []
        page.close()


def test_without_scripts_the_picture_is_there(chromium, site):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(site)
    for name in interactive.NAMES:
        picture = page.locator(f"#{name} svg")
        assert picture.bounding_box()["height"] > 100
        assert len(picture.get_attribute("aria-label")) > 20
    context.close()


def test_the_points_of_the_network_can_be_dragged(tab, site):
    figure = opened(tab, site, "relu-network")
    before = figure.locator(".samkit-numbers").inner_text()
    handle = figure.locator("[data-drag='point.4']")
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x, y)
    tab.mouse.down()
    tab.mouse.move(x + 30, y + 60, steps=5)
    tab.mouse.up()
    frames(tab)
    moved = figure.locator("[data-drag='point.4']").bounding_box()
    assert moved["y"] + moved["height"] / 2 == pytest.approx(y + 60, abs=4)
    assert moved["x"] + moved["width"] / 2 == pytest.approx(x, abs=1)
    # the controls follow, and can take it back
    assert figure.locator("[id$='-point']").get_attribute("aria-valuetext") == "5"
    handle = figure.locator("[id$='-height']")
    assert float(handle.get_attribute("aria-valuetext").replace("−", "-")) < -0.5
    handle.focus()
    while handle.get_attribute("aria-valuetext") != "0":
        tab.keyboard.press("ArrowRight")
        frames(tab)
    assert figure.locator(".samkit-numbers").inner_text() == before


def test_training_plays_when_asked_and_restarts_with_a_change(tab, site):
    figure = opened(tab, site, "relu-network", "?relu-network=ahead:0,steps:10000")
    button = figure.get_by_role("button", name="Play", exact=True)
    numbers = figure.locator(".samkit-numbers")

    def step():
        return int(numbers.locator("dd").first.inner_text().split(" ")[0].replace(",", ""))

    frames(tab, 5)
    assert step() == 0  # nothing moves by itself
    figure.get_by_role("button", name="Step", exact=True).click()
    assert step() == 200
    speed = figure.locator("[id$='-speed']")
    speed.focus()
    tab.keyboard.press("ArrowRight")
    frames(tab)
    assert step() == 200  # another speed goes on from here
    button.click()
    tab.wait_for_function("button => button.textContent === 'Play'", arg=button.element_handle())
    assert step() == 10_000  # it stops at the end
    figure.locator("[id$='-rho']").focus()
    tab.keyboard.press("ArrowRight")
    frames(tab)
    assert step() == 0
