"""A figure in a notebook, as a reader has it: JupyterLab, its kernel, and a real browser."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import pytest
from playwright.sync_api import expect

from tools import browser
from tools.interactive import computed
from tools.tree import ROOT

CELLS = {
    "show": "from samkit.paper import interactive\n\n"
    'figure = interactive.figure("diagonal-lab", m=4)\nfigure',
    "read": 'print("m is", figure.state["m"], "rho is", figure.state["rho"])',
    "set": 'figure.state = {**figure.state, "m": 8, "rho": 0.3}',
    "controls": """from samkit.paper import interactive


def double(m=1):
    return f"twice {m} is {2 * m}"


interactive.controls(double, m=(1, 8))""",
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab that shows a notebook with CELLS, everything of its own kept."""
    home = tmp_path_factory.mktemp("lab")
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS.values()]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}),
        home / "figure.ipynb",
    )
    settings = home / "SETTINGS" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})  # or it asks the network
    )
    folders = {f"JUPYTER_{which}_DIR": str(home / which) for which in ("CONFIG", "DATA", "RUNTIME")}
    folders |= {
        f"JUPYTERLAB_{which}_DIR": str(home / which) for which in ("SETTINGS", "WORKSPACES")
    }
    environment = {**os.environ, **folders, "PYTHONPATH": str(ROOT)}
    environment.pop("SAMKIT_BOOK", None)
    options = {
        "ServerApp.root_dir": home,
        "ServerApp.allow_root": True,
        "ServerApp.port": 0,
        "IdentityProvider.token": "",
        "ServerApp.terminals_enabled": False,
    }
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser"]
            + [f"--{name}={value}" for name, value in options.items()],
            env=environment,
            cwd=home,
            stdout=log,
            stderr=log,
        )
    try:
        yield f"{_address(server, home)}lab/tree/figure.ipynb"
    finally:
        server.terminate()
        server.wait(20)


def _address(server, home):
    """Where the server answers, from the file it writes when it has begun."""
    for _ in range(900):
        for path in (home / "RUNTIME").glob("jpserver-*.json"):
            address = json.loads(path.read_text() or "{}").get("url")
            with suppress(URLError):  # the file is there before the server listens
                if address and urlopen(f"{address}api/status").status == 200:
                    return address
        assert server.poll() is None, (home / "log").read_text()
        time.sleep(0.1)
    raise AssertionError((home / "log").read_text())


@pytest.fixture(scope="module")
def notebook(lab):
    """The notebook in a tab, its kernel idle; fails on an error or a request to elsewhere."""
    with browser.chromium() as chromium:
        tab = chromium.new_context(reduced_motion="reduce").new_page()
        wrong = browser.watched(tab, lab.split("/lab")[0], kinds=("error",))
        with tab.expect_websocket(lambda socket: "/api/kernels/" in socket.url):
            tab.goto(lab)
        tab.wait_for_selector(".jp-CodeCell")
        tab.wait_for_selector("[data-status=idle]", state="attached")
        yield tab
    assert wrong == []


def run(notebook, name):
    """Run one cell; its output."""
    cell = notebook.locator(".jp-CodeCell").nth(list(CELLS).index(name))
    cell.locator(".cm-content").click()
    expect(cell).to_have_class(re.compile("jp-mod-active"))
    notebook.keyboard.press("Control+Enter")
    cell.locator(".jp-InputPrompt", has_text="[*]").wait_for(state="detached")
    expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"))
    return cell.locator(".jp-OutputArea")


@pytest.mark.long
def test_python_and_the_hand_move_the_same_figure(notebook):
    shown = run(notebook, "show")
    figure = shown.locator(".samkit-interactive")
    figure.wait_for()
    drawing = figure.locator("svg[role=img]")
    m, rho = (figure.locator(f"[id$='-{name}']") for name in ("m", "rho"))
    expect(drawing).to_have_attribute("aria-label", computed("diagonal-lab", {"m": 4})["alt"])
    expect(run(notebook, "read")).to_have_text("m is 4 rho is 0.14")

    # the hand moves the figure, and Python's state follows
    figure.locator(".samkit-more").evaluate("details => (details.open = true)")
    m.focus()
    notebook.keyboard.press("ArrowRight")
    notebook.keyboard.press("ArrowRight")
    rho.focus()
    notebook.keyboard.press("Home")
    state = {"m": 6, "rho": 0}
    expect(drawing).to_have_attribute("aria-label", computed("diagonal-lab", state)["alt"])
    expect(run(notebook, "read")).to_have_text("m is 6 rho is 0")

    # Python sets the state, and the figure follows
    run(notebook, "set")
    state = {"m": 8, "rho": 0.3}
    expect(drawing).to_have_attribute("aria-label", computed("diagonal-lab", state)["alt"])
    expect(m).to_have_attribute("aria-valuetext", "8")
    expect(run(notebook, "read")).to_have_text("m is 8 rho is 0.3")


@pytest.mark.long
def test_controls_call_the_kernel(notebook):
    shown = run(notebook, "controls")
    expect(shown.locator(".jp-OutputArea")).to_have_text("'twice 1 is 2'")
    shown.locator("[role=slider]").focus()
    notebook.keyboard.press("ArrowRight")
    notebook.keyboard.press("ArrowRight")
    expect(shown.locator(".jp-OutputArea")).to_have_text("'twice 3 is 6'")
