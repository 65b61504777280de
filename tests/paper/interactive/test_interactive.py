"""The Python side: widgets, pages, modules in one piece, pictures in step with their figures."""

import json
import re
import sys

import pytest

from samkit.diagonal import SparseRegression, flow
from samkit.paper import figures, interactive
from tools import interactive as outside


@pytest.mark.parametrize("name", interactive.NAMES)
def test_pictures_are_in_step(name):
    stored = (interactive.PICTURES / f"{name}.svg").read_text(encoding="utf-8")
    assert stored == outside.picture(name), "run: python -m tools.interactive write"


@pytest.mark.parametrize("name", interactive.NAMES)
def test_a_module_in_one_piece_computes_the_same(name, tmp_path):
    alone = tmp_path / "alone.mjs"
    alone.write_text(interactive.module(name), encoding="utf-8")
    assert not re.search(r"^import ", alone.read_text(), re.MULTILINE)
    script = """import(process.argv[1]).then(({default: {figure, render}}) => {
        const state = Object.fromEntries(figure.controls.map(c => [c.name, c.value]));
        const same = typeof render === "function" && figure.name;
        console.log(JSON.stringify([same, figure.say(state, figure.compute(state))]));
    })"""
    found, say = outside._node(script, alone.as_uri())
    assert found == name and dict(say) == outside.computed(name)["say"]


@pytest.mark.parametrize("name", ["diagonal-lab", "relu-network"])
def test_long_computations_come_in_slices(name):
    script = """import(process.argv[1]).then(({default: {figure}}) => {
        const state = Object.fromEntries(figure.controls.map(c => [c.name, c.value]));
        const slices = figure.slices(state);
        let [pauses, next] = [0, undefined];
        while (!(next = slices.next()).done) pauses++;
        console.log(JSON.stringify([pauses, figure.say(state, next.value)]));
    })"""
    pauses, say = outside._node(script, (interactive.ESM / f"{name}.mjs").as_uri())
    assert pauses >= 30
    assert dict(say) == outside.computed(name)["say"]


@pytest.mark.parametrize("name", interactive.NAMES)
def test_every_preset_is_a_state_of_its_own(name):
    presets = outside.computed(name)["presets"]
    assert presets, "a figure has at least one preset for what the text says"
    start = outside.computed(name)["state"]
    for preset in presets:
        found = outside.computed(name, preset["state"])
        assert set(preset["state"]) <= set(start)
        assert {**start, **preset["state"]} == found["state"], "out of a control's range"
        assert len(found["alt"].split()) > 8


def test_methods_have_the_colours_of_the_other_figures():
    colours = outside._node(
        "import(process.argv[1]).then(kit => console.log(JSON.stringify(kit.COLORS)))",
        (interactive.ESM / "kit.mjs").as_uri(),
    )
    assert colours == figures.COLORS


def test_states_are_checked_and_written_briefly():
    script = """Promise.all([import(process.argv[1]), import(process.argv[2])]).then(([kit, m]) => {
        const f = m.default.figure, start = kit.defaults(f);
        const back = kit.decode(f, kit.encode(f, {...start, m: 4, rho: 0.2}));
        const wild = kit.decode(f, "m:99,rho:x,unknown:1,,n:-3");
        const odd = ["m:", "rho:0,5", "rho:1:2", "seed: ", ",", "n"].map(t => kit.decode(f, t));
        console.log(JSON.stringify([kit.encode(f, start), start, back, wild, odd]));
    })"""
    modules = [(interactive.ESM / f"{part}.mjs").as_uri() for part in ("kit", "diagonal-lab")]
    nothing, start, back, wild, odd = outside._node(script, *modules)
    assert nothing == ""
    assert back == {**start, "m": 4, "rho": 0.2}
    assert wild == {**start, "m": 30, "n": 5}
    assert odd == [start] * 6, "what is no number is the default, not the least value"


def test_a_choice_among_stops_is_one_of_them():
    assert outside.computed("effect", {"m": 3})["state"] == {"m": 1}
    assert outside.computed("effect", {"m": "5"})["state"] == {"m": 5}


ENDS = [
    (name, control["name"], control[end])
    for name in interactive.NAMES
    for control in outside.controls(name)
    if control["kind"] == "range" and "stops" not in control and "get" not in control
    for end in ("min", "max")
]


@pytest.mark.parametrize("name, control, value", ENDS)
def test_the_ends_of_every_range_are_drawn(name, control, value):
    """Or the numbers say that training diverges: never NaN, in the drawing or in words."""
    found = outside.computed(name, {control: value})
    words = " ".join([found["alt"], *found["say"].values()])
    assert not re.search(r"NaN|Infinity|∞|undefined|null", found["body"] + words)


def test_numbers_are_short():
    cases = {
        0.12345: "0.123",
        -2.0: "−2",
        1.2345e-7: "1.23 · 10⁻⁷",
        123456.0: "1.23 · 10⁵",
        1e5: "10⁵",
        -1e-7: "−10⁻⁷",
        0.0: "0",
    }
    for value, text in cases.items():
        assert outside.run("kit", "num", value) == text


def test_a_widget_in_a_notebook_and_a_part_of_a_page_in_the_book(monkeypatch):
    monkeypatch.delenv("SAMKIT_BOOK", raising=False)
    widget = interactive.figure("effect", m=4)
    assert (
        widget.state == {"m": 4} and "render" in widget._esm and ".samkit-controls" in widget._css
    )
    monkeypatch.setenv("SAMKIT_BOOK", "1")
    page = interactive.figure("effect", m=4)._repr_html_()
    assert json.loads(re.search(r'data-state="([^"]*)"', page)[1].replace("&quot;", '"')) == {
        "m": 4
    }
    assert "<svg" in page and "aria-label" in page
    assert repr(interactive.figure("effect")) == "<interactive figure effect>"


def test_without_anywidget_the_cure_is_said(monkeypatch):
    monkeypatch.delenv("SAMKIT_BOOK", raising=False)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ImportError, match=r"pip install 'samkit\[interactive\]'"):
        interactive.figure("effect")


def test_unknown_figures_are_refused():
    for ask in (interactive.figure, interactive.html, interactive.module):
        with pytest.raises(ValueError, match="no figure 'x'; there are effect"):
            ask("x")


def drawn(m=1, rho=0.1, rule="plain"):
    return f"m {m}, rho {rho}, {rule}"


CHOICES = {"m": [1, 2, 4], "rho": (0.0, 0.3, 0.1), "rule": ["plain", "broken"]}


def test_controls_call_python_again_in_a_notebook(monkeypatch):
    monkeypatch.delenv("SAMKIT_BOOK", raising=False)
    made = interactive.controls(drawn, **CHOICES)
    m, rho, rule = made.kwargs_widgets
    assert made.result == "m 1, rho 0.1, plain"
    m.value = 4
    assert made.result == "m 4, rho 0.1, plain"
    rho.value, rule.value = 0.3, "broken"
    assert made.result == "m 4, rho 0.3, broken"
    rho.value = 7.0
    assert made.result == "m 4, rho 0.3, broken", "a slider ends where its range does"


def test_controls_follow_samkit(monkeypatch):
    monkeypatch.delenv("SAMKIT_BOOK", raising=False)
    problem = SparseRegression.sample()

    def limit(m=1, rho=0.1):
        return flow(problem, rho=rho, m=m).test_loss

    made = interactive.controls(limit, m=[1, 20], rho=(0.0, 0.2, 0.1))
    m, rho = made.kwargs_widgets
    assert made.result == flow(problem, rho=0.1, m=1).test_loss
    m.value = 20
    assert made.result == flow(problem, rho=0.1, m=20).test_loss
    rho.value = 0.0
    assert made.result == flow(problem).test_loss


def test_controls_are_the_first_picture_in_the_book(monkeypatch):
    monkeypatch.setenv("SAMKIT_BOOK", "1")
    assert interactive.controls(drawn, **CHOICES) == "m 1, rho 0.1, plain"


@pytest.mark.parametrize("choices", [{"m": [2, 4]}, {"rho": (0.2, 0.3, 0.1)}, {"seed": [0, 1]}])
def test_controls_start_from_a_default(choices):
    with pytest.raises(ValueError, match="give drawn an argument"):
        interactive.controls(drawn, **choices)
