"""What stands where in this tree, and how a command of tools/ ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
HTML = BUILD / "html"


class BuildFailed(Exception):
    """What stops a command: its words name the file and the cure."""


def toc_pages() -> list[Path]:
    """Every page that _toc.yml names, as a source file in order."""
    try:
        toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise BuildFailed(f"_toc.yml cannot be read: correct it.\n{error}") from None
    names = [toc["root"]]
    for part in toc["parts"]:
        names += [chapter["file"] for chapter in part["chapters"]]
    pages = [ROOT / f"{name}.md" for name in names]
    for page in pages:
        if not page.exists():
            raise BuildFailed(
                f"_toc.yml names {page.relative_to(ROOT)}, which does not exist: write it, or take "
                "the line out"
            )
    return pages


def chapters() -> list[Path]:
    """The pages that have cells to execute (their jupytext header says so)."""
    return [page for page in toc_pages() if "format_name: myst" in header(page)]


def header(page: Path) -> str:
    """What stands between the lines --- at the top of a page."""
    text = page.read_text(encoding="utf-8")
    return text.split("\n---\n")[0] if text.startswith("---\n") else ""


def write_whole(path: Path, text: str) -> None:
    """Write a file so that an interruption leaves the old one or the new one, never a half.

    Raises BuildFailed when the disk does not take it.
    """
    temporary = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        if temporary.is_file():
            temporary.unlink()
        raise unwritable(path, error) from None


def unwritable(path: Path, error: Exception) -> BuildFailed:
    reason = getattr(error, "strerror", None) or error
    return BuildFailed(
        f"{path} could not be written ({reason}). Make room or give access there and run the same "
        "command again: finished chapters are kept"
    )


def run(commands: dict[str, Callable[[], None]], usage: str | None) -> None:
    """The command that the command line names; a failure ends it with its words and code 1."""
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        raise SystemExit(usage)
    end(commands[sys.argv[1]])


def end(command: Callable[[], None]) -> None:
    """A command to its end: a failure ends it with its words and the exit code 1."""
    try:
        command()
    except BuildFailed as failure:
        raise SystemExit(str(failure)) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted: finished chapters are kept, the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None
