"""The buttons of a chapter that open its notebook in Colab or Binder, or download it executed.

The theme's own lead to the page's source, a .md, which neither of them opens as a notebook. The
address of the repository is in pyproject.toml and nowhere else.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parents[2]
PLACES = {  # with the theme's pictures, which come with the book
    "Colab": (
        "https://colab.research.google.com/github/{repository}/blob/main/{notebook}",
        "_static/images/logo_colab.png",
    ),
    "Binder": (
        "https://mybinder.org/v2/gh/{repository}/main?labpath={quoted}",
        "_static/images/logo_binder.svg",
    ),
}


def repository() -> str:
    """Where the project is published."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"]


def links(docname: str) -> dict[str, str]:
    """Where the notebook of this page opens, by the name of the place; none if it has none."""
    notebook = f"notebooks/{Path(docname).name}.ipynb"
    if not docname.startswith("book/") or not (ROOT / notebook).exists():
        return {}
    owner_and_name = repository().removeprefix("https://github.com/")
    quoted = quote(notebook, safe="")
    return {
        name: url.format(repository=owner_and_name, notebook=notebook, quoted=quoted)
        for name, (url, _) in PLACES.items()
    }


def add_buttons(app, pagename, templatename, context, doctree):
    buttons = [
        {
            "type": "link",
            "text": name,
            "tooltip": f"Open this chapter in {name}",
            "icon": PLACES[name][1],
            "url": url,
        }
        for name, url in links(pagename).items()
    ]
    if buttons:
        download = {
            "type": "link",
            "text": ".ipynb",
            "tooltip": "Download this chapter as a notebook, with the results it shows",
            "icon": "fas fa-book",
            "url": context["pathto"](f"executed/{Path(pagename).name}.ipynb", 1),
        }
        for group in context["header_buttons"]:
            if group.get("label") == "download-buttons":
                group["buttons"].insert(0, download)
        context["header_buttons"].append(
            {
                "type": "group",
                "tooltip": "Run this chapter",
                "icon": "fas fa-rocket",
                "buttons": buttons,
                "label": "launch-buttons",
            }
        )


def setup(app):
    app.connect("html-page-context", add_buttons, priority=501)  # after the theme has begun
    return {"parallel_read_safe": True, "parallel_write_safe": True}
