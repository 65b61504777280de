"""Draw the README's picture: `python -m tools.picture` writes book/_static/readme.svg."""

from __future__ import annotations

from samkit.diagonal import SparseRegression, flow
from samkit.paper import figures
from tools.book import ROOT

PATH = ROOT / "book" / "_static" / "readme.svg"
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


if __name__ == "__main__":
    PATH.write_text(draw(), encoding="utf-8")
    print(PATH.relative_to(ROOT))
