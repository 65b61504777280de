"""The buttons lead from a chapter to its notebook, where Colab and Binder look for it."""

from urllib.parse import parse_qs, urlsplit

import pytest

from book._ext import launch_buttons
from tools import notebooks
from tools.tree import ROOT, chapters

CHAPTERS = pytest.mark.parametrize("page", chapters(), ids=lambda page: page.stem)


@CHAPTERS
def test_the_buttons_open_the_notebook_of_the_chapter(page):
    links = launch_buttons.links(f"book/{page.stem}")
    assert set(links) == {"Colab", "Binder"}
    owner_and_name = urlsplit(notebooks.repository()).path
    notebook = notebooks.notebook_path(page).relative_to(ROOT).as_posix()

    colab = urlsplit(links["Colab"])
    assert (colab.scheme, colab.netloc) == ("https", "colab.research.google.com")
    assert colab.path == f"/github{owner_and_name}/blob/main/{notebook}"

    binder = urlsplit(links["Binder"])
    assert (binder.scheme, binder.netloc) == ("https", "mybinder.org")
    assert binder.path == f"/v2/gh{owner_and_name}/main"
    assert parse_qs(binder.query) == {"labpath": [notebook]}


@pytest.mark.parametrize("docname", ["book/index", "book/ledger", "search", "genindex"])
def test_a_page_without_a_notebook_has_no_buttons(docname):
    context = {"header_buttons": []}
    launch_buttons.add_buttons(None, docname, "page.html", context, None)
    assert context["header_buttons"] == []


def test_the_buttons_of_a_chapter():
    """Their pictures come with the book, and so does the notebook with what it shows."""
    downloads = {"label": "download-buttons", "buttons": [{"text": ".md"}]}
    context = {"header_buttons": [downloads], "pathto": lambda path, resource: f"../{path}"}
    launch_buttons.add_buttons(None, "book/03-diagonal-networks", "page.html", context, None)
    _, group = context["header_buttons"]
    assert [button["text"] for button in group["buttons"]] == ["Colab", "Binder"]
    assert all(button["icon"].startswith("_static/") for button in group["buttons"])
    notebook, source = downloads["buttons"]
    assert notebook["url"] == "../executed/03-diagonal-networks.ipynb" and source["text"] == ".md"
