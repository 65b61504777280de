"""Pages that need no network: MathJax from a Python package, no script twice."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path


def copy_mathjax(app):
    """Put MathJax where `mathjax_path` of _config.yml looks for it: TeX in, SVG out, and lazy."""
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    source = Path(package.submodule_search_locations[0]) / "static" / "mathjax"
    for name in ("tex-svg.js", "ui/lazy.js"):
        target = Path(app.outdir) / "_static" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target)


def drop_repeated_scripts(app, pagename, templatename, context, doctree):
    """Sphinx emits late inline scripts twice, which redeclares their constants: keep the first."""
    seen, kept = set(), []
    for script in context.get("script_files", ()):
        body = getattr(script, "attributes", {}).get("body")
        if body is None or body not in seen:
            kept.append(script)
        seen.add(body)
    context["script_files"] = kept


def setup(app):
    app.connect("builder-inited", copy_mathjax)
    app.connect("html-page-context", drop_repeated_scripts, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
