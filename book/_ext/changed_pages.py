"""Which pages are written again when some have changed.

Sphinx writes the pages that it has read again, and those whose table of contents lists them. But
every page shows the titles of all, and refers to others by their headings, their numbers, their
theorems and their bibliography. So all pages are written where any of these has changed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path


def shown_elsewhere(env) -> str:
    """A hash of what pages show of one another."""

    def known(domain: str, name: str):
        return env.domaindata.get(domain, {}).get(name, {})

    parts = [
        [(name, title.astext()) for name, title in env.titles.items()],
        [(name, toc.astext()) for name, toc in env.tocs.items()],
        [(name, sorted(of.items())) for name, of in env.toc_secnumbers.items()],
        [(name, sorted(map(str, of.items()))) for name, of in env.toc_fignumbers.items()],
        known("std", "labels").items(),
        known("std", "anonlabels").items(),
        known("math", "objects").items(),
        known("py", "objects").items(),
        [
            (one.citation_id, one.key, one.bibliography_key.docname)
            for one in known("cite", "citations")
        ],
        [(name, one["docname"]) for name, one in getattr(env, "proof_list", {}).items()],
    ]
    text = "\n".join(line for part in parts for line in [*sorted(map(str, part)), ""])
    return hashlib.sha256(text.encode()).hexdigest()


def all_or_some(app, env):
    """The pages to be written besides those that were read."""
    before, now = getattr(env, "shown_elsewhere", None), shown_elsewhere(env)
    env.shown_elsewhere = now
    if now == before:
        return []
    # Sphinx takes pages out of its search index one by one, and would leave words of their titles
    (Path(app.outdir) / "searchindex.js").unlink(missing_ok=True)
    return sorted(env.found_docs)


def setup(app):
    app.connect("env-updated", all_or_some, priority=900)  # once all is numbered
    return {"parallel_read_safe": True, "parallel_write_safe": True}
