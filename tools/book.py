"""The book: `python -m tools.book build`, check or serve.

build executes the chapters that need it (execute.py), renders the pages if anything has changed
(render.py) and checks them (gate.py). It may be interrupted anywhere: an execution is kept whole or
not at all, and the stamp that calls the pages finished is written last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import nbformat

from samkit.paper import claims
from tools import execute, gate, render, serve, tree
from tools.tree import BuildFailed


@contextmanager
def alone() -> Iterator[None]:
    """Inside, no other build runs in this tree; BuildFailed if one does."""
    import fcntl

    try:
        tree.BUILD.mkdir(exist_ok=True)
        file = open(tree.BUILD / "lock", "w")
    except OSError as error:
        raise tree.unwritable(tree.BUILD, error) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildFailed(
                f"another build is running in {tree.ROOT}: wait for it, or stop it"
            ) from None
        yield


def build() -> None:
    with alone():
        pages, chapters = tree.toc_pages(), tree.chapters()
        execute.execute_stale(chapters)
        execute.forget_strangers(chapters)
        if changed := [page.stem for page in chapters if not execute.is_kept(page)]:
            raise BuildFailed(
                f"samkit, a package or {', '.join(changed)} changed while the book was built: run "
                "the same command again"
            )
        now = render.state(chapters)
        damaged = bool(gate.faults(pages, chapters))
        if damaged or now != render.rendered():
            check_reports(chapters)
            print("rendering the pages", flush=True)
            render.render(chapters, now, anew=damaged)
            gate.check()
            tree.write_whole(render.STAMP, json.dumps(now, indent=1))
    print(f"The book is at {tree.HTML / 'index.html'} ({len(pages)} pages). `make serve` shows it.")


def check_reports(chapters: list) -> None:
    """BuildFailed where a chapter reports a row without the recorded runs that the row names."""
    executed = {page.stem: execute.executed_path(page) for page in chapters}
    reports = claims.collect({k: nbformat.read(path, 4) for k, path in executed.items()})
    for row in map(claims.find, reports):
        facts = executed[row.chapter].with_suffix(".json").read_text(encoding="utf-8")
        read = {name.rpartition("/")[2] for name in json.loads(facts)["used"]}
        if unread := set(row.records) - read:
            raise BuildFailed(
                f"samkit/paper/ledger.toml says that the check of {row.id} reads "
                f"{', '.join(sorted(unread))}, but {row.chapter} does not: correct its records"
            )


if __name__ == "__main__":
    tree.run({"build": build, "check": gate.check, "serve": serve.serve}, __doc__)
