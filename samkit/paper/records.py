"""Finished runs on disk: small files under results/, each run with what it was run on.

Benchmarks keep one JSON file each (:func:`load`, :func:`save`). Experiments keep one line of JSON
for each run (:func:`runs`, :func:`append`).
"""

from __future__ import annotations

import datetime
import errno
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from cattrs import Converter, transform_error

from samkit.paper.claims import versions

ROOT = Path(__file__).resolve().parents[2]


def folder() -> Path:
    """Where records are: $SAMKIT_RESULTS if set, else results/ of the repository that samkit is in.

    An installed samkit is in no repository; its records are in ./results.
    """
    chosen = os.environ.get("SAMKIT_RESULTS")
    return Path(chosen) if chosen else (ROOT if is_repository() else Path()) / "results"


def is_repository() -> bool:
    """Whether samkit is imported from its repository, and not from an installed package."""
    return (ROOT / "pyproject.toml").exists()


def check_writable() -> None:
    """OSError that says what to do, unless records can be written to :func:`folder`."""
    path = folder()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path}: records cannot be written there ({error.strerror}). Set SAMKIT_RESULTS to a "
            "folder that can be written",
        ) from error


def load(name: str, missing: dict | None = None) -> dict:
    """The record of that name, such as "bench_msam"; ``missing``, if given, where it is not there.

    Else FileNotFoundError that says where records come from; ValueError if the file is not whole.
    """
    path = folder() / f"{name}.json"
    if not path.exists() and missing is not None:
        return missing
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


# Runs of experiments: one line each in results/<experiment>-<scale>.jsonl


_FULL = Converter(forbid_extra_keys=True)
_CHANGED = Converter(omit_if_default=True)


def plain(config: Any) -> dict:
    """A dataclass, or a dict, as JSON gives it back."""
    return json.loads(json.dumps(config if isinstance(config, Mapping) else asdict(config)))


def config_hash(config: Any) -> str:
    """16 hex digits that tell one configuration from any other.

    They cover what differs from the defaults, so that a new field with a default, which leaves
    every run as it was, leaves every hash as it was.
    """
    text = json.dumps(_CHANGED.unstructure(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def kind_of(experiment: str) -> type | None:
    """The class of an experiment's configurations; None for what is no experiment of the book."""
    from samkit.paper import experiments

    return experiments.load(experiment).Config if experiment in experiments.NAMES else None


def restored(kind: type | None, config: Mapping[str, Any]) -> Any:
    """The configuration of that class from a record; fields that it lacks are at their defaults.

    Raises ValueError for a field that the class does not have. Without a class it stays a dict.
    """
    if kind is None:
        return config
    try:
        return _FULL.structure(config, kind)
    except Exception as error:
        raise ValueError("; ".join(transform_error(error))) from None


def runs_path(experiment: str, scale: str) -> Path:
    return folder() / f"{experiment}-{scale}.jsonl"


def runs(experiment: str, scale: str) -> list[dict]:
    """Every recorded run once, in the order recorded; none if there is no file.

    Of several lines with one hash the first counts: two commands at once could once record the same
    run. A last line that was cut off in the middle of writing is left out with a warning. Raises
    ValueError for any other line that is no record, and for a record whose hash is not that of its
    config: it was changed by hand, or a default was.
    """
    path = runs_path(experiment, scale)
    if not path.exists():
        return []
    *lines, rest = path.read_bytes().split(b"\n")
    if rest:
        warnings.warn(f"{path}: {TORN}; that run is to be repeated", RuntimeWarning, stacklevel=2)
    kind, records = kind_of(experiment), list[dict]()
    known: set[str] = set()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            config, found = record["config"], record["hash"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}, line {number}: no record; restore or remove it") from None
        try:
            whole = config_hash(restored(kind, config)) == found
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}; remove it and run again") from None
        if not whole:
            raise ValueError(
                f"{path}, line {number}: the hash {found} is not that of its config, so the "
                "record, or a default, was changed by hand; remove the line and run again"
            )
        if found in known:
            continue
        known.add(found)
        records.append(record)
    return records


def append(
    experiment: str,
    scale: str,
    config: Any,
    metrics: dict,
    *,
    seconds: float,
    data: str,
    place: dict[str, Any] | None = None,
) -> dict:
    """Add a finished run with what it was run on; returns the record once it is on the disk.

    Where the run is recorded already, by another command at the same time, that record stays and is
    returned.

    ``seconds`` is its wall time, ``data`` says which copy of the data it saw, ``place`` is what
    :func:`environment` said where it was run, by default here. Numbers keep six digits. A line that
    an earlier interruption has cut off is removed with a warning. Raises OSError, with the file as
    before, when the disk does not take the line.
    """
    own = plain(config)
    record = {
        "experiment": experiment,
        "scale": scale,
        "hash": config_hash(config),
        "seed": own.get("seed"),
        "config": own,
        "metrics": _rounded(plain(metrics)),
        "seconds": round(seconds, 3),
        "data": data,
        **(environment() if place is None else place),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    path = runs_path(experiment, scale)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
    with open(path, "a+b", buffering=0) as file:
        _lock(file)
        whole = _whole_lines(file)
        if (there := _recorded(file, record["hash"])) is not None:
            return there
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, "only a part of the record was written")
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(whole)
            raise OSError(
                error.errno,
                f"{path}: the run could not be recorded ({error.strerror}); what was recorded "
                "before is unharmed. Free some space and run again",
            ) from error
    return record


def provenance(found: Sequence[Mapping[str, Any]]) -> str:
    """Where recorded runs come from, in a few lines: how many, seeds, when, on what, which data.

    Raises ValueError where there are none.
    """
    if not found:
        raise ValueError("no runs are recorded: python -m samkit run EXPERIMENT records some")
    seeds = sorted({record["seed"] for record in found})
    whole = len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1
    named = f"{seeds[0]} to {seeds[-1]}" if whole else ", ".join(map(str, seeds))
    dates = sorted({record["date"][:10] for record in found})
    lines = [f"{len(found)} recorded runs, seeds {named}"]
    lines.append(f"on {' to '.join(dict.fromkeys((dates[0], dates[-1])))}")
    lines += sorted({f"hardware: {record['hardware']}" for record in found})
    data = {re.sub(r", seed \d+$", ", drawn by each seed", record["data"]) for record in found}
    lines += sorted(f"data: {words}" for words in data)
    shown = ("samkit", "torch", "numpy")
    lines += sorted(
        {", ".join(f"{k} {r['versions'][k]}" for k in shown if k in r["versions"]) for r in found}
    )
    commits = sorted({record.get("commit", "")[:9] for record in found} - {""})
    lines += [f"made by commit {', '.join(commits)}"] * bool(commits)
    return "\n".join(lines)


def keep(experiment: str, scale: str, hashes: Container[str], kind: type | None = None) -> int:
    """Drop the runs whose hash is not among ``hashes``; returns how many."""
    path, all_runs = runs_path(experiment, scale), runs(experiment, scale)
    kept = [record for record in all_runs if record["hash"] in hashes]
    if len(kept) < len(all_runs):
        temporary = path.with_suffix(".part")
        lines = [json.dumps(record, separators=(",", ":")) + "\n" for record in kept]
        temporary.write_text("".join(lines), encoding="utf-8")
        temporary.replace(path)
    return len(all_runs) - len(kept)


TORN = "its last line was cut off while it was written"


def _whole_lines(file: io.FileIO) -> int:
    """The length of the file up to its last whole line; what follows is cut off."""
    file.seek(0)
    content = file.read()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        warnings.warn(f"{file.name}: {TORN}; it is removed", RuntimeWarning, stacklevel=3)
        file.truncate(whole)
    return whole


def _lock(file: io.FileIO) -> None:
    """Waits until no other process is writing to the file, and keeps it until it is closed."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover, Windows
        return
    with suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_EX)


def _recorded(file: io.FileIO, run: str) -> dict | None:
    """The record of that hash, if it is in the file."""
    file.seek(0)
    for line in file.read().split(b"\n"):
        if run.encode() in line:
            with suppress(ValueError):
                record = json.loads(line)
                if record["hash"] == run:
                    return record
    return None


def _rounded(x: Any) -> Any:
    if isinstance(x, dict):
        return {k: _rounded(v) for k, v in x.items()}
    if isinstance(x, list):
        return [_rounded(v) for v in x]
    return float(f"{x:.6g}") if isinstance(x, float) else x


def environment() -> dict[str, Any]:
    """What this process runs on, as records have it: "hardware", "versions", "commit"."""
    return {"hardware": hardware(), "versions": versions(), "commit": commit()}


@cache
def commit() -> str:
    """The commit of the code that runs, "+ changes" if it has others; "" if samkit is installed.

    Records that are being written are no change of the code.
    """
    if not is_repository():
        return ""
    try:
        head = _git("rev-parse", "HEAD").strip()
        changes = _git("status", "--porcelain", "--", ".", ":!results")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + (" + changes" if changes.strip() else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def hardware() -> str:
    """The accelerator if torch is in use and has one, and the processor."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [s for s in info.read_text().splitlines() if s.startswith("model name")]
        processor = names[0].split(":")[1].strip() if names else processor
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():  # pragma: no cover, needs a GPU
        return f"{torch.cuda.get_device_name()}, {processor}"
    return processor
