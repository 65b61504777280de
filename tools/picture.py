"""Draw the pictures by which others know the book: `python -m tools.picture` writes the README's,
book/_static/readme.svg, and that of a link to a page, book/_static/card.png.
"""

from __future__ import annotations

from samkit.diagonal import SparseRegression, flow
from samkit.paper import figures
from tools import browser, interactive
from tools.tree import ROOT

PATH = ROOT / "book" / "_static" / "readme.svg"
CARD = ROOT / "book" / "_static" / "card.png"
GROUP_SIZES = [1, 2, 4, 5, 10, 20]


def draw() -> str:
    """Test loss of the limit against m, as an SVG on a white ground."""
    problem = SparseRegression.sample()
    figure, axis = figures.subplots()
    erm = flow(problem, init=0.03).test_loss
    axis.axhline(erm, **figures.line("ERM"))
    losses = [flow(problem, rho=0.14, m=m, init=0.03).test_loss for m in GROUP_SIZES]
    axis.loglog(GROUP_SIZES, losses, "o", **figures.line("m-SAM"))
    axis.set(
        xlabel="m, the number of examples that share a perturbation",
        ylabel="test loss",
        xticks=GROUP_SIZES,
        xticklabels=GROUP_SIZES,
    )
    axis.minorticks_off()
    axis.legend()
    svg = figures.show(
        figure, alt="Test loss falls tenfold as the group size m falls from 20 to 1"
    ).svg
    ground = '<rect width="100%" height="100%" fill="white"/>'
    head, rest = svg.split(">", 1)
    return f"{head}>{ground}{rest}".replace("currentColor", "#222222")


def card() -> bytes:
    """The landing figure under the book's title, 1200 by 630 pixels, as a PNG."""
    page = f"""<!doctype html><title>card</title><style>
        body {{ font: 27px Georgia, serif; margin: 38px 90px; color: #222; background: #fff }}
        h1 {{ font-size: 44px; margin: 0 0 6px }} p {{ margin: 0 0 10px }}
        svg {{ width: 800px; display: block; margin: auto }}</style>
        <h1>Sharpness-aware minimization, understood</h1>
        <p>What matters is how many examples share a step uphill.</p>
        {interactive.picture("effect", {"m": 1})}"""
    with browser.chromium() as running:
        tab = running.new_page(viewport={"width": 1200, "height": 630})
        tab.set_content(page)
        return tab.screenshot()


if __name__ == "__main__":
    PATH.write_text(draw(), encoding="utf-8")
    CARD.write_bytes(card())
    print(PATH.relative_to(ROOT), CARD.relative_to(ROOT))
