"""Every figure in a real browser: controls by mouse and keyboard, presets, address, phone."""

import itertools
import json
import re

import pytest
from playwright.sync_api import expect

from samkit.paper import interactive
from tools import browser, gate
from tools import interactive as outside


@pytest.fixture(scope="module")
def site():
    with outside.serving() as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    with browser.chromium() as running:
        yield running


@pytest.fixture
def tab(chromium, site):
    context = chromium.new_context(reduced_motion="reduce")
    page = context.new_page()
    wrong = browser.watched(page, site)
    yield page
    context.close()
    assert wrong == []


def opened(tab, site, name, query=""):
    tab.goto(f"{site}{name}.html{query}")
    figure = tab.locator(f"#{name}")
    tab.wait_for_selector(f"#{name}[data-mounted]")
    frames(tab)
    unfold(figure)
    return figure


def unfold(figure):
    figure.locator(".samkit-more").evaluate("details => (details.open = true)")


def frames(tab, count=2):
    for _ in range(count):
        tab.evaluate("() => new Promise(requestAnimationFrame)")
    tab.wait_for_function("!document.querySelector('.samkit-interactive[aria-busy=true]')")


def seen(figure):
    """What the reader sees: the drawing, the numbers, the picture in words."""
    drawing = figure.locator("svg[role=img]")
    return (
        drawing.inner_html(),
        figure.locator(".samkit-numbers").inner_text(),
        drawing.get_attribute("aria-label"),
    )


def numbers(figure):
    """The names and texts beside the picture."""
    pairs = figure.locator(".samkit-numbers div").all()
    return {p.locator("dt").inner_text(): p.locator("dd").inner_text() for p in pairs}


def move(tab, handle, kind, how):
    """A control to another value, by the mouse or from the keyboard."""
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


@pytest.mark.parametrize("name", interactive.NAMES)
def test_every_control_moves_the_picture_and_its_state_is_in_the_address(tab, site, name):
    figure = opened(tab, site, name)
    before = seen(figure)
    controls = {c["name"]: c["kind"] for c in outside.controls(name) if c["kind"] != "hidden"}
    reader = tab.context.new_page()
    wrong = browser.watched(reader, site)
    for control, kind in controls.items():
        for how in ("mouse", "keyboard"):
            tab.bring_to_front()  # a tab in the background draws no frames
            move(tab, figure.locator(f"[id$='-{control}']"), kind, how)
            after = seen(figure)
            assert after[0] != before[0], f"{control} by {how}: the drawing is as before"
            if how == "keyboard":  # a reader who follows the link sees the same
                later = "() => new Promise(done => setTimeout(() => done(location.href), 260))"
                address = tab.evaluate(later)  # it follows the last change within 250 ms
                assert f"{name}=" in address
                reader.bring_to_front()
                assert seen(opened(reader, site, name, address.partition(".html")[2])) == after
            tab.bring_to_front()
            figure.get_by_role("button", name="Reset").click()
            frames(tab)
            assert seen(figure) == before, f"{control} by {how}: not as before after a reset"
    assert wrong == []


@pytest.mark.parametrize("name", interactive.NAMES)
def test_presets_show_what_node_computes(tab, site, name):
    figure = opened(tab, site, name)
    for preset in outside.computed(name)["presets"]:
        figure.get_by_role("button", name=preset["label"], exact=True).click()
        frames(tab)
        expected = outside.computed(name, preset["state"])
        assert numbers(figure) == expected["say"]
        assert figure.locator("svg[role=img]").get_attribute("aria-label") == expected["alt"]
        for width in (390, 1280):
            tab.set_viewport_size({"width": width, "height": 800})
            frames(tab, 3)
            assert tab.evaluate(gate.ON_TOP) == [], (preset["label"], width)


@pytest.mark.parametrize("name", interactive.NAMES)
def test_a_narrow_phone(chromium, site, name):
    page = chromium.new_page(viewport={"width": 360, "height": 740})
    figure = opened(page, site, name)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    drawing = figure.locator("svg[role=img]").bounding_box()
    assert drawing["width"] > 250
    # no text leaves the drawing
    inside, texts = figure.locator("svg[role=img]").evaluate(
        """svg => [svg.getBoundingClientRect().toJSON(),
            [...svg.querySelectorAll("text")].map(t => t.getBoundingClientRect().toJSON())]"""
    )
    for box in texts:
        assert box["left"] >= inside["left"] - 1 and box["right"] <= inside["right"] + 1
        assert box["bottom"] <= inside["bottom"] + 1
    page.close()


def handles(name):
    """Of each kind, the first and the last: point.0, point.11."""
    every = re.findall(r'data-drag="([^"]+)"', outside.computed(name)["body"])
    kinds = [list(kind) for _, kind in itertools.groupby(every, lambda h: h.partition(".")[0])]
    return dict.fromkeys(handle for kind in kinds for handle in (kind[0], kind[-1]))


HANDLES = [(name, handle) for name in interactive.NAMES for handle in handles(name)]


def dragged(name, handle, x, y, width):
    """What node says of the handle dragged there, from the first state: the numbers."""
    script = """Promise.all([import(process.argv[1]), import(process.argv[2])]).then(([kit, m]) => {
        const [name, x, y, width] = JSON.parse(process.argv[3]);
        const [handle, index] = name.split(".");
        const figure = m.default.figure, state = kit.defaults(figure);
        const changes = figure.drag[handle](state, x, y, figure.compute(state), width, index);
        const then = kit.valid(figure, {...state, ...changes});
        console.log(JSON.stringify(Object.fromEntries(figure.say(then, figure.compute(then)))));
    })"""
    modules = [(interactive.ESM / f"{part}.mjs").as_uri() for part in ("kit", name)]
    return outside._node(script, *modules, json.dumps([handle, x, y, width]))


def drag_by_mouse(page, start, end):
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=6)
    page.mouse.up()


def drag_by_touch(page, start, end):
    """As a finger does: along the way, the browser decides whether it scrolls instead."""
    session = page.context.new_cdp_session(page)

    def touch(kind, *points):
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": list(points)})

    at = [
        {"x": round(a + (b - a) * k / 6), "y": round(c + (d - c) * k / 6)}
        for k in range(7)
        for (a, c), (b, d) in [(start, end)]
    ]
    touch("touchStart", at[0])
    for point in at[1:]:
        touch("touchMove", point)
    touch("touchEnd")


@pytest.mark.parametrize("how", [drag_by_mouse, drag_by_touch])
@pytest.mark.parametrize("name, handle", HANDLES)
def test_every_handle_can_be_dragged(chromium, site, name, handle, how):
    page = chromium.new_page(has_touch=how is drag_by_touch, viewport={"width": 700, "height": 620})
    figure = opened(page, site, name)
    drawing = figure.locator("svg[role=img]")
    grip = drawing.locator(f"[data-drag='{handle}']")
    grip.scroll_into_view_if_needed()
    box, frame = grip.bounding_box(), drawing.bounding_box()
    scrolled = page.evaluate("scrollY")
    start = [round(box["x"] + box["width"] / 2), round(box["y"] + box["height"] / 2)]
    middle = frame["x"] + frame["width"] / 4
    end = [start[0] + (40 if start[0] < middle else -40), start[1] + 72]
    before = numbers(figure)
    how(page, start, end)
    frames(page)
    width = float(drawing.get_attribute("width"))
    expected = dragged(name, handle, end[0] - frame["x"], end[1] - frame["y"], width)
    assert numbers(figure) == expected != before
    assert page.evaluate("scrollY") == scrolled, "the page moved instead"
    page.close()


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
    before = numbers(figure)
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
    assert numbers(figure) == before


def test_training_plays_when_asked_and_restarts_with_a_change(tab, site):
    figure = opened(tab, site, "relu-network", "?relu-network=ahead:0,steps:10000")
    button = figure.get_by_role("button", name="Play", exact=True)

    def step():
        return int(numbers(figure)["step"].split(" ")[0].replace(",", ""))

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


@pytest.mark.parametrize("motion, least, most", [("reduce", 1, 4), ("no-preference", 10, 999)])
def test_who_prefers_little_motion_sees_little(chromium, site, motion, least, most):
    page = chromium.new_page(reduced_motion=motion)
    figure = opened(page, site, "relu-network", "?relu-network=ahead:0,steps:1000000,speed:10")
    drawings = figure.locator("svg[role=img]").evaluate(
        """async (svg) => {
            let seen = 0;
            new MutationObserver(() => seen++).observe(svg, {childList: true});
            [...document.querySelectorAll("button")].find(b => b.textContent === "Play").click();
            await new Promise(done => setTimeout(done, 1500));
            return seen;
        }"""
    )
    assert least <= drawings <= most
    page.close()


FILMS = ["effect"]


@pytest.mark.parametrize("name", FILMS)
def test_a_film_runs_once_by_itself_and_stops_at_a_touch(chromium, site, name):
    page = chromium.new_page(reduced_motion="no-preference")
    page.goto(f"{site}{name}.html")
    page.wait_for_function(  # the words beside the slider and the presets go with the picture
        """() => document.querySelector(".samkit-main input")?.value === "0"
            && document.querySelector(".samkit-main output").textContent === "m = 20"
            && document.querySelector("[aria-pressed=true]").textContent === 'All share one'"""
    )
    button = page.get_by_role("button", name="Pause", exact=True)
    expect(button).to_be_visible()
    slider = page.locator(".samkit-main input")
    expect(slider).to_have_js_property("value", slider.get_attribute("max"))
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()
    assert "?" not in page.url, "a film is no state of the reader's"
    page.get_by_role("button", name="Play", exact=True).click()
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()
    page.close()


@pytest.mark.parametrize("name", FILMS)
def test_no_film_for_who_prefers_little_motion(tab, site, name):
    figure = opened(tab, site, name)
    before = seen(figure)
    tab.wait_for_timeout(1500)
    assert seen(figure) == before


@pytest.mark.parametrize("name", interactive.NAMES)
def test_the_main_slider_is_long_and_stays_under_the_hand(chromium, site, name):
    """At least 250 px, and where it was after any change of it."""
    for width in (1280, 390):
        page = chromium.new_page(viewport={"width": width, "height": 844}, reduced_motion="reduce")
        figure = opened(page, site, name)
        for slider in figure.locator(".samkit-main input[type=range]").all():
            slider.scroll_into_view_if_needed()
            before = slider.bounding_box()
            assert before["width"] >= 250
            for key in ("Home", "End", "ArrowLeft"):
                slider.press(key)
                frames(page, 3)
                after = slider.bounding_box()
                assert (after["x"], after["width"]) == (before["x"], before["width"])
                assert abs(after["y"] - before["y"]) < 1
        page.close()


def test_the_result_is_announced_and_a_preset_is_pressed(tab, site):
    figure = opened(tab, site, "effect")
    status = figure.locator("[role=status]")
    expect(status).to_have_text("")
    button = figure.get_by_role("button", name="All share one")
    expect(button).to_have_attribute("aria-pressed", "false")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(status).to_have_text(outside.computed("effect", {"m": 20})["tell"])


def test_back_goes_back_in_the_figure_too(tab, site):
    figure = opened(tab, site, "entropy")
    first = seen(figure)
    tab.evaluate("history.pushState(null, '', '?entropy=alpha:5#place')")
    figure.get_by_role("button", name="Large α: least ℓ₂").click()
    frames(tab)
    tab.wait_for_timeout(300)
    tab.go_back()
    frames(tab, 4)
    assert seen(figure) == first


def test_a_link_to_the_state_is_copied(chromium, site):
    context = chromium.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    figure = opened(page, site, "effect", "?effect=m:4")
    figure.get_by_role("button", name="Copy a link").click()
    expect(figure.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").endswith("effect.html?effect=m%3A4")
    context.close()
