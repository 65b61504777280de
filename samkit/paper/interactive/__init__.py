"""Figures that answer to the reader's hand: the same in a static page, in Jupyter and in Colab.

``figure("effect", m=4)`` is a widget whose ``state`` Python can set and read; when the book is
built it is the same figure for a page without a kernel. Each is one module in esm/, with its
numbers apart from its drawing (``compute`` is tested equal to samkit, ``draw`` makes SVG), on top
of esm/kit.mjs, which has the controls and the state in the page's address. esm/mount.mjs starts
them in a page. pictures/ holds each figure in its first state, for pages without scripts.

===================  ==========================================================================
``effect``           sparse regression, with a step uphill for every m of its examples
``bowls``            four losses: own worst points nearby against a common one
``shrinkage``        where m-SAM shrinks alpha: on the support, or everywhere
``role-map``         recorded runs: the error over the radius, for every m
``radius``           recorded runs: five ways to perturb over the radius, and what each gains
``switches``         recorded runs: what is lost of SAM's gain when one part is switched off
``labels``           recorded runs: right and wrong labels over the epochs
``diagonal-lab``     sparse regression in 10,001 steps, the theorem checked, the rule broken
``entropy``          the hyperbolic entropy of two coefficients, and the solution that has least
``sharpness``        a ball around the weights: one step of SAM against the true maximum
``bound``            the PAC-Bayes bound over noise and examples, against guessing
``convergence``      the bound of the theorem over the steps, against runs of stochastic SAM
``relu-network``     a ReLU network on twelve points trains: gradient descent beside SAM
``switch-on``        recorded runs: SAM switched on, or off, at an epoch of training
``family``           a valley of two weights: where each member of SAM's family goes in it
``price``            recorded costs of a step of m-SAM over m, by the loop and by the fast way
``gain``             what each m gains over plain training: predicted in two parts, and measured
===================  ==========================================================================

``controls(draw, m=[1, 2, 4])`` is for what only Python can compute: in a notebook it calls samkit
again for every setting, in the book it shows the first.

Needs the extra ``interactive`` (anywidget, ipywidgets) in a notebook, nothing in a page.
"""

from __future__ import annotations

import html as markup
import inspect
import json
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

NAMES = (
    "effect",
    "bowls",
    "shrinkage",
    "role-map",
    "radius",
    "switches",
    "labels",
    "diagonal-lab",
    "entropy",
    "sharpness",
    "bound",
    "convergence",
    "relu-network",
    "switch-on",
    "price",
    "family",
    "gain",
)
ESM = Path(__file__).parent / "esm"
PICTURES = Path(__file__).parent / "pictures"

_IMPORT = re.compile(r"^import (\{[^}]*\}) from \"\./([\w-]+)\.mjs\";$", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:const|let|function\*?) (\w+))", re.MULTILINE)


def figure(name: str, **state: Any) -> Any:
    """The figure of that name, to be the last value of a cell; ``state`` sets its controls.

    In Jupyter and Colab an anywidget: its ``state``, a dict, follows the controls and moves them.
    With the environment variable SAMKIT_BOOK, as when the book is built, a part of a static page.
    Raises ValueError for an unknown name, ImportError with the cure where anywidget is missing.
    """
    _check(name)
    if os.environ.get("SAMKIT_BOOK"):
        return Page(name, state)
    try:
        import anywidget  # noqa: F401
    except ImportError:
        raise ImportError(
            "interactive figures in a notebook need anywidget: pip install 'samkit[interactive]'"
        ) from None
    return _widget(name)(state=state)


def controls(draw: Callable[..., Any], **choices: list | tuple) -> Any:
    """What ``draw`` returns, and controls that call it again; to be the last value of a cell.

    ``draw`` has a default for every argument, and returns a picture (``figures.show``). An
    argument's choices are a list of values, or (lowest, highest, step) of a number. In Jupyter
    and Colab these become ipywidgets; with SAMKIT_BOOK, as when the book is built, it is
    ``draw()``.
    Raises ValueError for an argument without a default among its choices, ImportError with the
    cure where ipywidgets is missing.
    """
    arguments = inspect.signature(draw).parameters
    for name, values in choices.items():
        default = arguments[name].default if name in arguments else inspect.Parameter.empty
        ranged = isinstance(values, tuple) and default is not inspect.Parameter.empty
        if not (values[0] <= default <= values[1] if ranged else default in values):
            raise ValueError(f"give {draw.__name__} an argument {name} with a default in {values}")
    if os.environ.get("SAMKIT_BOOK"):
        return draw()
    try:
        import ipywidgets
    except ImportError:
        raise ImportError(
            "controls in a notebook need ipywidgets: pip install 'samkit[interactive]'"
        ) from None
    made = ipywidgets.interactive(draw, {"auto_display": True}, **choices)
    for slider in made.kwargs_widgets:
        slider.continuous_update = False  # draw once, where the hand lets go
    return made


class Page:
    """A figure in a static page."""

    def __init__(self, name: str, state: dict[str, Any]) -> None:
        self.name, self.state = name, state

    def _repr_html_(self) -> str:
        return html(self.name, self.state)

    def __repr__(self) -> str:
        return f"<interactive figure {self.name}>"


def html(name: str, state: dict[str, Any] | None = None) -> str:
    """The figure's place in a page: its picture, until mount.mjs puts the figure there."""
    _check(name)
    given = markup.escape(json.dumps(state or {}), quote=True)
    picture = (PICTURES / f"{name}.svg").read_text(encoding="utf-8")
    told = re.search(r' data-tell="([^"]*)"', picture)
    words = f"<p>{told[1]}</p>" if told else ""
    return (
        f'<div id="{name}" data-samkit-figure="{name}" data-state="{given}">{words}{picture}</div>'
    )


def module(name: str) -> str:
    """The figure's module with all that it imports in it, as anywidget wants it."""
    _check(name)
    found: dict[str, str] = {}
    own = _linked(name, found)
    return "\n".join([*found.values(), own])


def _linked(name: str, found: dict[str, str]) -> str:
    """The text of a module, what it imports taken from the scopes in ``found`` (added to here)."""
    text = (ESM / f"{name}.mjs").read_text(encoding="utf-8")
    for _, needed in _IMPORT.findall(text):
        if needed not in found:
            inner = _linked(needed, found)
            names = ", ".join(_EXPORT.findall(inner))
            body = _EXPORT.sub("", inner)
            found[needed] = (
                f"const {_scope(needed)} = (() => {{\n{body}\nreturn {{ {names} }};\n}})();"
            )
    return _IMPORT.sub(lambda match: f"const {match[1]} = {_scope(match[2])};", text)


def _scope(name: str) -> str:
    return "module_" + name.replace("-", "_")


@cache
def _widget(name: str) -> Any:
    import anywidget
    import traitlets

    class Figure(anywidget.AnyWidget):
        _esm = module(name)
        _css = (ESM / "interactive.css").read_text(encoding="utf-8")
        state = traitlets.Dict().tag(sync=True)

    return Figure


def _check(name: str) -> None:
    if name not in NAMES:
        raise ValueError(f"there is no figure {name!r}; there are {', '.join(NAMES)}")
