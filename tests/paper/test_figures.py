import re
import xml.etree.ElementTree as ET

import pytest

from samkit.paper import figures

ALT = "A straight line that rises from left to right."


def picture():
    figure, axis = figures.subplots()
    axis.plot([0, 1], [0, 1], **figures.line("1-SAM"))
    axis.set_xlabel("steps")
    axis.legend()
    return figures.show(figure, alt=ALT)


def test_the_svg_takes_the_pages_text_colour_and_carries_its_alt_text():
    svg = picture()._repr_html_()
    root = ET.fromstring(svg)
    assert root.get("aria-label") == ALT and root.get("role") == "img"
    assert figures.INK not in svg and "currentColor" in svg
    inks = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]+|currentColor)", svg))
    assert inks == {"currentColor", figures.COLORS["1-SAM"].lower()}, "no colour of its own"
    assert figures.COLORS["1-SAM"].lower() in svg.lower()


def test_words_and_legends_that_a_chapter_adds_take_that_colour_too():
    figure, axis = figures.subplots()
    axis.plot([0, 1], [0, 1], **figures.line("1-SAM"))
    axis.text(0.5, 0.5, "here")
    axis.legend()
    svg = figures.show(figure, alt=ALT).svg
    texts = re.findall(r'id="[^"]*text_\d+">\s*<!--.*?-->\s*<g([^>]*)>', svg, flags=re.DOTALL)
    assert len(texts) > 10 and all("currentColor" in style for style in texts)
    assert "#ffffff" not in svg  # the box of a legend


def test_two_figures_on_a_page_do_not_share_ids():
    first = figures.show(figures.subplots()[0], alt=ALT).svg
    second = picture().svg
    ids = [set(re.findall(r'id="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0] and ids[1] and not ids[0] & ids[1]
    for svg in (first, second):
        targets = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
        assert {a or b for a, b in targets} <= set(re.findall(r'id="([^"]+)"', svg))


def test_the_same_figure_is_the_same_text():
    assert picture().svg == picture().svg


def test_a_console_shows_the_words():
    assert repr(picture()) == f"<figure: {picture().alt}>"


def test_a_figure_without_words_is_refused():
    with pytest.raises(ValueError, match="say in a sentence"):
        figures.show(figures.subplots()[0], alt="a plot")


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("method", figures.COLORS)
@pytest.mark.parametrize("page", ["#ffffff", "#121212"])
def test_every_colour_stands_out_on_a_light_and_a_dark_page(method, page):
    light, dark = sorted([luminance(figures.COLORS[method]), luminance(page)], reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3


def test_a_table_has_its_caption_its_headings_and_every_cell():
    rows = {"m": [1, 16], "test_error": ["0.258 ± 0.006", "-"], "gain": [-0.01234, float("nan")]}
    found = figures.table(rows, "Smaller groups have <less> error.")
    root = ET.fromstring(found._repr_html_())
    assert root.find("table/caption").text == "Smaller groups have <less> error."
    heads = root.findall("table/thead/tr/th")
    assert [head.text for head in heads] == ["m", "test error", "gain"]
    assert all(head.get("scope") == "col" for head in heads)
    cells = [[cell.text for cell in row] for row in root.findall("table/tbody/tr")]
    assert cells == [["1", "0.258 ± 0.006", "−0.0123"], ["16", "-", "–"]]
    assert root.get("tabindex") == "0" and root.get("aria-label").startswith("Smaller groups")


def test_a_console_shows_a_table_as_text():
    text = repr(figures.table({"m": [1], "gain": [0.5]}, "One row of two numbers."))
    assert text.splitlines()[0] == "One row of two numbers." and "0.5" in text.splitlines()[-1]


def test_a_table_without_words_is_refused():
    with pytest.raises(ValueError, match="say in a sentence"):
        figures.table({"m": [1]}, "a table")
