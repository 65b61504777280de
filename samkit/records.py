"""Finished runs on disk: small JSON files under results/, each with what it was run on."""

from __future__ import annotations

import json
import os
from pathlib import Path


def folder() -> Path:
    """Where records are: $SAMKIT_RESULTS if set, else results/ of the repository samkit is in."""
    chosen = os.environ.get("SAMKIT_RESULTS")
    return Path(chosen) if chosen else Path(__file__).resolve().parents[1] / "results"


def load(name: str) -> dict:
    """The record of that name, such as "bench_msam".

    FileNotFoundError that says where records come from if it is not there; ValueError if the file
    is not whole.
    """
    path = folder() / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(
            f"no record {path}. Records come with the repository: clone it, or set SAMKIT_RESULTS "
            "to the folder that holds them"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a whole record ({error}): restore or rerun it") from None


def save(name: str, record: dict) -> Path:
    """Write a record whole: an interruption leaves the old file or the new one."""
    path = folder() / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path
