"""The interactive figures outside the book: `python -m tools.interactive write` or `serve`.

``write`` draws their pictures for pages without scripts, after it has written what samkit computes
or recorded for some of them as modules, esm/*-data.mjs; ``serve`` shows all figures on one page.
Their modules run in the node that Playwright brings along.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from html import escape
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from playwright._impl._driver import compute_driver_executable

from samkit.paper import interactive
from tools import serve

WIDTH = 680


def run(module: str, function: str, *arguments: Any) -> Any:
    """What a function exported by a module of esm/ returns, as JSON gives it."""
    script = (
        f"import(process.argv[1]).then(m => console.log(JSON.stringify("
        f"m.{function}(...JSON.parse(process.argv[2])))))"
    )
    return _node(script, (interactive.ESM / f"{module}.mjs").as_uri(), json.dumps(arguments))


def computed(name: str, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A figure in a state (its defaults for what is left out): and what it says of it."""
    script = """
        Promise.all([import(process.argv[1]), import(process.argv[2])]).then(([kit, module]) => {
            const figure = module.default.figure;
            const given = JSON.parse(process.argv[3]);
            const state = kit.valid(figure, {...kit.defaults(figure), ...given});
            const result = figure.compute(state);
            const drawn = figure.draw(state, result, Number(process.argv[4]));
            const say = Object.fromEntries(figure.say(state, result));
            const presets = figure.presets ?? [], alt = figure.alt(state, result);
            const tell = figure.tell?.(state, result), first = figure.rolls && figure.film(0);
            console.log(JSON.stringify({state, result, say, alt, tell, presets, first, ...drawn}));
        })"""
    modules = [(interactive.ESM / f"{part}.mjs").as_uri() for part in ("kit", name)]
    return _node(script, *modules, json.dumps(state or {}), str(WIDTH))


def controls(name: str) -> list[dict[str, Any]]:
    """The controls of a figure, as its module gives them."""
    script = (
        "import(process.argv[1]).then(m => console.log(JSON.stringify(m.default.figure.controls)))"
    )
    return _node(script, (interactive.ESM / f"{name}.mjs").as_uri())


def picture(name: str, state: Mapping[str, Any] | None = None) -> str:
    """The figure, as an SVG for pages without scripts; without a state as it is seen first.

    What begins with a film has the words that stand above it in ``data-tell``.
    """
    found = computed(name, state)
    words = ""
    if state is None and (first := found.get("first")):
        found = computed(name, first)
        words = f'data-tell="{escape(found["tell"])}" '
    return (
        f'<svg class="samkit-figure" role="img" {words}aria-label="{escape(found["alt"])}" '
        f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {found["height"]}" '
        f'font-family="sans-serif">{found["body"]}</svg>\n'
    )


DATA = "// Written by `python -m tools.interactive write` from {source}.\n{body}"


def switch_data() -> str:
    """Test errors at the end of Figure 8's runs, by the protocol: a switch at a share of training.

    ``at`` is the share before the switch, 1 where there is none; an error for each seed.
    """
    from samkit.paper import protocol  # imports torch

    schedules = {"cosine": ("{}", (0.25, 0.5, 0.75)), "divided by ten": ("{}, piecewise", (0.5,))}
    runs = []
    for schedule, (name, shares) in schedules.items():
        methods = {("ERM", 1): "ERM, rate of 16-SAM", ("16-SAM", 1): "16-SAM"}
        methods |= {("ERM", at): f"ERM to 16-SAM at {at:g}" for at in shares}
        methods |= {("16-SAM", at): f"16-SAM to ERM at {at:g}" for at in shares}
        for (first, at), method in methods.items():
            errors = protocol.errors("mnist1d", name.format(method)).tolist()
            runs.append({"schedule": schedule, "first": first, "at": at, "errors": errors})
    return _data_module(runs, "the runs of Figure 8, by the protocol")


def role_data() -> str:
    """For every m and radius that was tried on MNIST-1D the validation error at its best rate.

    "errors" are the judged test errors, one for each seed, at the radius that was chosen for m.
    """
    from samkit.paper import protocol  # imports torch

    tuned = protocol.tuned_frame("mnist1d")
    cells = []
    for method in ("ERM", "1-SAM", "4-SAM", "16-SAM", "64-SAM", "128-SAM"):
        own = tuned[tuned["method"] == method]
        chosen = protocol.chosen("mnist1d", method)[1]
        for rho, error in own.groupby("rho")["validation_error"].min().items():
            m = 0 if method == "ERM" else int(method.split("-")[0])
            cell = {"m": m, "rho": rho, "tuned": round(error, 6)}
            if rho == chosen:
                cell["errors"] = protocol.errors("mnist1d", method).tolist()
            cells.append(cell)
    return _data_module(cells, "the runs of Figure 2, by the protocol, m = 0 is ERM")


def radius_data() -> str:
    """For the ways to perturb of Figure 1 the validation error at each radius, at its best rate.

    The radius that was chosen has "gain", the interval of the judged gain over ERM.
    """
    import pandas as pd

    from samkit.paper import protocol  # imports torch
    from samkit.paper.experiments.frame import interval

    tuned = [protocol.tuned_frame(task) for task in ("mnist1d", "mnist1d-random")]
    tasks = {"random": "mnist1d-random"}
    cells: list[dict[str, Any]] = []
    for method in ("ERM", "random", "n-SAM, previous batch", "n-SAM", "128-SAM", "16-SAM"):
        task = tasks.get(method, "mnist1d")
        own = pd.concat(tuned).query("method == @method")
        chosen = protocol.chosen(task, method)[1]
        for rho, error in own.groupby("rho")["validation_error"].min().items():
            cell: dict[str, Any] = {"method": method.replace(", previous batch", " previous")}
            cell |= {"rho": rho, "tuned": round(error, 6)}
            if rho == chosen and method != "ERM":
                ends = interval(protocol.errors("mnist1d", "ERM") - protocol.errors(task, method))
                cell["gain"] = [round(end, 6) for end in ends]
            cells.append(cell)
    return _data_module(cells, "the runs of Figure 1, by the protocol")


def switches_data() -> str:
    """By how much the gain over ERM grows when a part of SAM is switched off: intervals by seed.

    "ten" over the ten seeds, "sixty" over the second stage's where it has them, and the "gain".
    """
    from samkit.paper import protocol  # imports torch
    from samkit.paper.experiments.frame import interval

    ways = {
        "unnormalized": ("mnist1d-unnormalized", "128-SAM, unnormalized", "as good"),
        "3 ascent steps": ("mnist1d", "128-SAM, 3 steps", "no better"),
        "10 ascent steps": ("mnist1d", "128-SAM, 10 steps", "no better"),
        "softplus": ("mnist1d", "128-SAM, softplus", "as good"),
        "previous batch": ("mnist1d", "n-SAM, previous batch", "lost"),
        "independent batch": ("mnist1d", "n-SAM", "lost"),
        "step size only": ("mnist1d-step-size", "128-SAM, step size only", "lost"),
    }
    sam = protocol.errors("mnist1d", "ERM") - protocol.errors("mnist1d", "128-SAM")
    runs: list[dict[str, Any]] = [{"switch": "SAM as it is", "gain": sam.mean().round(6)}]
    for name, (task, method, expected) in ways.items():
        erm = "ERM, softplus" if name == "softplus" else "ERM"
        gain = protocol.errors("mnist1d", erm) - protocol.errors(task, method)
        run = {"switch": name, "expected": expected, "gain": gain.mean().round(6)}
        found = {"ten": gain - sam}
        if protocol.seeds_of(task, method, second=True):
            of_sam = protocol.errors("mnist1d", "128-SAM", second=True)
            found["sixty"] = of_sam - protocol.errors(task, method, second=True)
        runs.append(run | {n: [round(e, 6) for e in interval(f)] for n, f in found.items()})
    return _data_module(runs, "the runs of chapter 12, by the protocol")


def labels_data() -> str:
    """Means over the judged seeds of Figure 12: errors on right and wrong labels by epoch."""
    from samkit.paper import protocol  # imports torch

    kinds = {
        "40 % symmetric": "{}",
        "60 % symmetric": "{}, 60 %",
        "40 % asymmetric": "{}, asymmetric",
    }
    series = {"right": "train_clean_error", "wrong": "train_noisy_error"}
    series |= {"validation": "validation_error"}
    runs = []
    for noise, name in kinds.items():
        for method in ("ERM", "128-SAM", "16-SAM"):
            histories = protocol.errors("mnist1d-noise40", name.format(method), "history")
            run = {"noise": noise, "method": method, "epoch": histories[0]["epoch"]}
            means = {
                short: np.mean([h[key] for h in histories], 0) for short, key in series.items()
            }
            runs.append(run | {short: mean.round(4).tolist() for short, mean in means.items()})
    return _data_module(runs, "the runs of Figure 12, by the protocol, mean errors over ten seeds")


def gain_data() -> str:
    """Figure 11.1, problem by problem: what m-SAM gains, measured for ``sizes``, and the law.

    ``law`` is predicted for m = 1 to 20, and ``off`` is its part off the support.
    """
    from samkit.diagonal import SparseRegression
    from samkit.paper import law

    runs = []
    for seed in range(3):
        found = law.gain([SparseRegression.sample(seed=seed)])
        run = {"seed": seed, "sizes": found.sizes.tolist()}
        for name in ("measured", "law", "off"):
            run[name] = getattr(found, name)[0].round(4).tolist()
        runs.append(run)
    return _data_module(runs, "samkit.paper.law.gain")


def effect_data() -> str:
    """Plain training (m = 0) and m-SAM for the m of the landing figure: beta and test loss."""
    found = run("every-m", "found", {"seed": 0, "init": 0.03, "rho": 0.14})
    runs = []
    for m, one in [(0, found["erm"]), *((one["m"], one) for one in found["runs"])]:
        beta = [float(f"{value:.11g}") for value in one["beta"].values()]
        runs.append({"m": m, "test": float(f"{one['test']:.11g}"), "beta": beta})
    return _data_module(runs, "esm/every-m.mjs")


def price_data() -> str:
    """Costs of a step of m-SAM in steps of SGD, from benchmarks/bench_msam.py."""
    from samkit.paper import records

    networks = {
        "MLP on a CPU": "mlp",
        "small ResNet on a CPU": "resnet",
        "MLP on a GPU": "mlp, cuda",
        "ResNet-18 on a GPU": "resnet18, cuda",
    }
    runs = []
    for words, net in networks.items():
        for row in records.load("bench_msam")[net]["rows"]:
            costs = {way: round(row[f"{way} / sgd"], 3) for way in ("loop", "ghost", "auto")}
            runs.append({"network": words, "m": row["m"], **costs})
    return _data_module(runs, "the record of benchmarks/bench_msam.py")


def _data_module(runs: Sequence[Mapping[str, Any]], source: str) -> str:
    lines = ",\n".join(f"  {json.dumps(run)}" for run in runs)
    return DATA.format(source=source, body=f"export const runs = [\n{lines},\n];\n")


RECORDED = {
    "switch-data": switch_data,
    "role-data": role_data,
    "radius-data": radius_data,
    "switches-data": switches_data,
    "labels-data": labels_data,
    "gain-data": gain_data,
    "price-data": price_data,
    "effect-data": effect_data,
}


def _node(script: str, *arguments: str) -> Any:
    return json.loads(_said(script, *arguments))


@cache
def _said(script: str, *arguments: str) -> str:
    """What node prints; the modules are taken not to change meanwhile."""
    node = compute_driver_executable()[0]
    done = subprocess.run(
        [node, "--input-type=commonjs", "-e", script, *arguments], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


PAGE = """<!doctype html><html lang="en" data-theme="{theme}"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Figures</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="interactive.css">
<style>body {{ font: 16px sans-serif; margin: 1rem auto; max-width: 48rem; padding: 0 0.5rem }}
html[data-theme=dark] {{ color: #ced6dd; background: #14181e; color-scheme: dark }}</style>
<script type="module" src="mount.mjs"></script><main><h1>Figures</h1>{figures}</main></html>
"""


def write_site(
    folder: Path, names: Sequence[str] = interactive.NAMES, theme: str = "light"
) -> None:
    """A page index.html with these figures, NAME.html with each alone, and all that they need."""
    shutil.copytree(interactive.ESM, folder, dirs_exist_ok=True)
    for page, shown in {"index": names, **{name: [name] for name in names}}.items():
        text = PAGE.format(theme=theme, figures="".join(map(interactive.html, shown)))
        (folder / f"{page}.html").write_text(text, encoding="utf-8")


@contextmanager
def serving(names: Sequence[str] = interactive.NAMES, theme: str = "light") -> Iterator[str]:
    """The address of a page with these figures, served on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        write_site(Path(folder), names, theme)
        with serve.serving(Path(folder)) as address:
            yield address


def show() -> None:
    """All figures on one page, until interrupted."""
    with serving() as address:
        print(f"{address}  (Ctrl-C ends it)", flush=True)
        Event().wait()


def write() -> None:
    """The modules of numbers, and the pictures of all figures."""
    for name, module in RECORDED.items():
        (interactive.ESM / f"{name}.mjs").write_text(module(), encoding="utf-8")
    interactive.PICTURES.mkdir(exist_ok=True)
    for name in interactive.NAMES:
        path = interactive.PICTURES / f"{name}.svg"
        path.write_text(picture(name), encoding="utf-8")
        print(path.name)


def main(arguments: Sequence[str]) -> int:
    actions = {("write",): write, ("serve",): show}
    if tuple(arguments) not in actions:
        print(__doc__, file=sys.stderr)
        return 2
    actions[tuple(arguments)]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
