"""One style for every figure: one colour a method, readable in light and dark, with alt text.

And one for every table of numbers.
"""

from __future__ import annotations

import html
import io
import re
from hashlib import sha256
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's own text colour in a drawing
COLORS = {  # from the palette of Okabe and Ito, at least 3:1 against a white and a dark page
    "ERM": "#808080",
    "n-SAM": "#0072B2",
    "m-SAM": "#009E73",
    "1-SAM": "#D55E00",
    "random": "#B5659A",
}
LINES = {"ERM": "-", "n-SAM": "--", "m-SAM": "-.", "1-SAM": "-", "random": (0, (1, 3))}

STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "figure.figsize": (7.2, 3.4),
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    "font.size": 11,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.frameon": False,
    "mathtext.fontset": "dejavusans",
    "savefig.facecolor": "none",
    "svg.fonttype": "path",
    "svg.hashsalt": "samkit",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def line(method: str, **changes: Any) -> dict[str, Any]:
    """Keyword arguments for ``ax.plot``: the colour, dash, width and label of a method.

    ERM is wide, so that it shows under a method that coincides with it.
    """
    return {
        "color": COLORS[method],
        "linestyle": LINES[method],
        "linewidth": 4 if method == "ERM" else 2,
        "label": method,
        **changes,
    }


def subplots(*args: Any, **kwargs: Any) -> tuple[Figure, Any]:
    """``plt.subplots`` in the book's style, which stays on for what is drawn afterwards."""
    plt.rcParams.update(STYLE)
    return plt.subplots(*args, **kwargs)


class Picture:
    """A finished figure: an inline SVG in the text colour of the page around it."""

    def __init__(self, svg: str, alt: str) -> None:
        self.svg, self.alt = svg, alt

    def _repr_html_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"<figure: {self.alt}>"


def show(figure: Figure, alt: str) -> Picture:
    """Close a matplotlib figure and return it as the last value of a cell.

    ``alt`` says in words what the picture shows, for those who cannot see it; ValueError if it is
    shorter than a sentence.
    """
    if len(alt.split()) < 6:
        raise ValueError(f"alt={alt!r}: say in a sentence what the figure shows")
    with io.StringIO() as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
        drawing = file.getvalue()
    plt.close(figure)
    drawing = drawing[drawing.index("<svg") :].replace(INK, "currentColor")
    drawing = re.sub(r' d="[^"]*"', _rounded, drawing)
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    prefix = "f" + sha256((drawing + alt).encode()).hexdigest()[:8] + "-"
    drawing = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}", drawing)
    words = html.escape(alt, quote=True)
    drawing = drawing.replace(
        "<svg", f'<svg class="samkit-figure" role="img" aria-label="{words}"', 1
    )
    return Picture(drawing, alt)


def _rounded(path: re.Match) -> str:
    """Coordinates to a hundredth of a point, which no eye tells from more."""
    return re.sub(r"(\.\d\d)\d+", r"\1", path[0])


class Table:
    """Numbers in rows: an HTML table with its caption on a page, plain text in a console."""

    def __init__(self, rows: pd.DataFrame, caption: str) -> None:
        self.rows, self.caption = rows, caption

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{_cell(name)}</th>' for name in self.rows)
        body = "".join(
            f"<tr>{''.join(f'<td>{_cell(value)}</td>' for value in row)}</tr>"
            for row in self.rows.itertuples(index=False)
        )
        words = html.escape(self.caption, quote=True)
        return (
            f'<div class="samkit-table" tabindex="0" role="region" aria-label="{words}"><table>'
            f"<caption>{words}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table></div>"
        )

    def __repr__(self) -> str:
        return f"{self.caption}\n{self.rows.to_string(index=False)}"


def table(rows: Any, caption: str) -> Table:
    """A table as the last value of a cell, from all that ``pandas.DataFrame`` takes.

    The columns' names are the headings. A float stands with three leading digits: hand over
    text, such as "0.258 ± 0.006", where other digits are wanted. ``caption`` says what
    the numbers are or what they show; ValueError if it is shorter than a sentence.
    """
    if len(caption.split()) < 4:
        raise ValueError(f"caption={caption!r}: say in a sentence what the table shows")
    frame = pd.DataFrame(rows)
    return Table(frame.map(_text).rename(columns=str), caption)


def _text(value: Any) -> str:
    """A cell: three digits of a float, a dash for what is missing."""
    if value is None or value is pd.NA or value != value:
        return "–"
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() else f"{value:.3g}"
    return str(value)


def _cell(text: str) -> str:
    """HTML of a cell or a heading: underscores are spaces, a hyphen before a number is a minus."""
    words = {"rho": "ρ", "alpha": "α", "gamma": "γ", "theta": "θ"}.get(text, text)
    return re.sub(r"(?<!\w)-(?=\.?\d)", "−", html.escape(words.replace("_", " ")))
