"""The interactive figures outside the book: `python -m tools.interactive write` or `serve`.

``write`` draws their pictures for pages without scripts, after it has written the recorded runs
that some of them show as modules, esm/*-data.mjs; ``serve`` shows all figures on one page.
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

from samkit.paper import interactive, records
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
            const tell = figure.tell?.(state, result);
            console.log(JSON.stringify({state, result, say, alt, tell, presets, ...drawn}));
        })"""
    modules = [(interactive.ESM / f"{part}.mjs").as_uri() for part in ("kit", name)]
    return _node(script, *modules, json.dumps(state or {}), str(WIDTH))


def controls(name: str) -> list[dict[str, Any]]:
    """The controls of a figure, as its module gives them."""
    script = (
        "import(process.argv[1]).then(m => console.log(JSON.stringify(m.default.figure.controls)))"
    )
    return _node(script, (interactive.ESM / f"{name}.mjs").as_uri())


def picture(name: str) -> str:
    """The figure in its first state, as an SVG for pages without scripts."""
    found = computed(name)
    return (
        f'<svg class="samkit-figure" role="img" aria-label="{escape(found["alt"])}" '
        f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {found["height"]}" '
        f'font-family="sans-serif">{found["body"]}</svg>\n'
    )


DATA = "// Written by `python -m tools.interactive write` from the runs of {source}.\n{body}"


def switch_data() -> str:
    """Test and validation errors over the epochs of Figure 8's runs.

    Those of one training with a switch, and the first trainings of the fine-tuning runs, which have
    none. An error in units of 0.0001 is three digits to the base 36, one string for each seed.
    """
    from samkit.paper.experiments import fig08_fine_tuning as fine_tuning  # imports torch

    found: dict[tuple[str, int], list[dict]] = {}
    for record in records.runs("fig08_fine_tuning", "laptop"):
        setting = fine_tuning.setting(record["config"])
        first, then = setting["run"].split(" -> ")
        if first == then or setting["switch"]:
            epochs = record["config"]["recipes"][0]["epochs"]
            found.setdefault((first, setting["switch"] or epochs), []).append(record)
    runs = [
        {"first": first, "at": at}
        | {
            name: [
                "".join(map(_three_digits, r["metrics"]["history"][f"{name}_error"][:epochs]))
                for r in sorted(settled, key=lambda record: record["seed"])
            ]
            for name in ("test", "validation")
        }
        for (first, at), settled in found.items()
        if first != "128-SAM"
    ]
    return _data_module(runs, "Figure 8, errors in units of 0.0001, three digits to the base 36")


def role_data() -> str:
    """The test errors of m-SAM for every recorded m and radius on MNIST-1D, one for each seed."""
    found: dict[tuple, list[tuple[int, float]]] = {}
    for record in records.runs("fig02_role_of_m", "laptop"):
        perturbation = record["config"]["recipes"][0]["perturbation"]
        if record["config"]["data"] == "mnist1d" and perturbation["steps"] == 1:
            m = perturbation["m"] if perturbation["rho"] else 0
            error = record["metrics"]["test_error"]
            found.setdefault((m, perturbation["rho"]), []).append((record["seed"], error))
    cells = [
        {"m": m, "rho": rho, "errors": [error for _, error in sorted(of)]}
        for (m, rho), of in sorted(found.items())
    ]
    return _data_module(cells, "Figure 2, m = 0 is ERM")


def labels_data() -> str:
    """Means over the seeds of Figure 12: errors over the epochs on right and wrong labels."""
    found: dict[tuple, list[dict]] = {}
    for record in records.runs("fig12_label_noise", "laptop"):
        config = record["config"]
        perturbation = config["recipes"][0]["perturbation"]
        method = f"{perturbation['m']}-SAM" if perturbation["rho"] else "ERM"
        noise = f"{100 * config['noise']:.0f} % {config['noise_kind']}"
        found.setdefault((noise, method), []).append(record["metrics"]["history"])
    series = {"right": "train_clean_error", "wrong": "train_noisy_error", "test": "test_error"}
    runs = [
        {"noise": noise, "method": method}
        | {
            short: "".join(map(_three_digits, np.mean([h[name] for h in histories], axis=0)))
            for short, name in series.items()
        }
        for (noise, method), histories in sorted(found.items())
    ]
    return _data_module(runs, "Figure 12, mean errors in units of 0.0001, as in switch-data.mjs")


def _data_module(runs: Sequence[Mapping[str, Any]], source: str) -> str:
    lines = ",\n".join(f"  {json.dumps(run)}" for run in runs)
    return DATA.format(source=source, body=f"export const runs = [\n{lines},\n];\n")


RECORDED = {
    "switch-data": switch_data,
    "role-data": role_data,
    "labels-data": labels_data,
}


def _three_digits(error: float) -> str:
    return np.base_repr(round(10_000 * error), 36).lower().zfill(3)


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
    """The recorded runs, and the pictures of all figures."""
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
