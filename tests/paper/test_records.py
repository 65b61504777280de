import errno
import io
import json
import subprocess
import sys
import warnings
from dataclasses import dataclass, make_dataclass
from pathlib import Path

import pytest

from samkit.paper import records


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMKIT_RESULTS", str(tmp_path))
    return tmp_path


def test_what_is_saved_is_loaded(elsewhere):
    record = {"machine": {"device": "a"}, "rows": [{"m": 1, "ratio": 1.5}]}
    path = records.save("bench", record)
    assert path.parent == elsewhere
    assert records.load("bench") == record
    assert [p.name for p in elsewhere.iterdir()] == ["bench.json"]


def test_a_missing_record_says_where_records_come_from():
    with pytest.raises(FileNotFoundError, match="clone it, or set SAMKIT_RESULTS"):
        records.load("nothing")
    assert records.load("nothing", missing={"rows": []}) == {"rows": []}


def test_half_a_record_is_not_a_record(elsewhere):
    (elsewhere / "half.json").write_text('{"rows": [')
    with pytest.raises(ValueError, match=r"half\.json is not a whole record"):
        records.load("half")


def test_the_repository_is_the_default_place(monkeypatch):
    monkeypatch.delenv("SAMKIT_RESULTS")
    assert records.folder().name == "results"
    assert (records.folder().parent / "samkit").is_dir()


# Runs, one line each


def add(seed, **metrics):
    return records.append(
        "experiment", "ci", {"rho": 0.1, "seed": seed}, metrics, seconds=1.5, data="made up"
    )


def test_runs_are_read_back_in_order_with_what_they_were_run_on():
    assert records.runs("experiment", "ci") == []
    written = [add(0, error=0.25), add(1, history=[0.123456789, 1e-12])]
    found = records.runs("experiment", "ci")
    assert found == written
    assert [r["seed"] for r in found] == [0, 1]
    assert found[1]["metrics"]["history"] == [0.123457, 1e-12]
    assert found[0]["config"] == {"rho": 0.1, "seed": 0}
    for key in ("hardware", "date", "data", "seconds", "scale", "experiment"):
        assert found[0][key]
    assert {"python", "numpy"} <= set(found[0]["versions"])


@dataclass(frozen=True)
class Recipe:
    m: int
    rate: float = 0.1


@dataclass(frozen=True)
class Config:
    rho: float
    recipes: tuple[Recipe, ...] = (Recipe(2),)
    seed: int = 0


def test_the_hash_tells_configurations_apart():
    others = Config(0.2), Config(0.1, ()), Config(0.1, (Recipe(3),)), Config(0.1, (Recipe(2, 0.2),))
    assert len({*map(records.config_hash, (Config(0.1), *others))}) == 5
    restored = records.restored(Config, json.loads(json.dumps(records.plain(others[3]))))
    assert restored == others[3]
    assert records.config_hash(restored) == records.config_hash(others[3])


def test_a_new_field_with_a_default_leaves_every_hash_as_it_was():
    @dataclass(frozen=True)
    class Recipe:
        m: int
        rate: float = 0.1
        warm_up: int = 0

    kind = make_dataclass("Config", [("rho", float), ("recipes", tuple[Recipe, ...], ())])
    before = Config(0.1, (globals()["Recipe"](3),))
    assert records.config_hash(kind(0.1, (Recipe(3),))) == records.config_hash(before)
    assert records.config_hash(kind(0.1, (Recipe(3, warm_up=1),))) != records.config_hash(before)


def test_a_default_that_changes_makes_its_records_stale(monkeypatch):
    later = make_dataclass("Config", [("rho", float), ("seed", int, 1)])
    kind = make_dataclass("Config", [("rho", float), ("seed", int, 0)])
    fewer = make_dataclass("Config", [("rho", float)])
    records.append("experiment", "ci", kind(0.1), {}, seconds=1, data="made up")
    monkeypatch.setattr(records, "kind_of", lambda _: kind)
    assert len(records.runs("experiment", "ci")) == 1
    monkeypatch.setattr(records, "kind_of", lambda _: later)
    with pytest.raises(ValueError, match=r"line 1: the hash .* or a default, was changed"):
        records.runs("experiment", "ci")
    monkeypatch.setattr(records, "kind_of", lambda _: fewer)
    with pytest.raises(ValueError, match=r"line 1: extra fields found \(seed\)"):
        records.runs("experiment", "ci")


def test_a_record_names_the_commit_that_made_it():
    made = add(0)["commit"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert made.removesuffix(" + changes") == head.strip()
    assert f"made by commit {made[:9]}" in records.provenance([add(0)])


def test_a_folder_that_cannot_be_written_is_named_before_any_run(elsewhere, monkeypatch):
    monkeypatch.setenv("SAMKIT_RESULTS", str(elsewhere / "file" / "results"))
    (elsewhere / "file").write_text("")
    with pytest.raises(OSError, match=r"records cannot be written there .* Set SAMKIT_RESULTS"):
        records.check_writable()


def test_an_installed_package_records_in_the_folder_that_one_is_in(monkeypatch, elsewhere):
    monkeypatch.delenv("SAMKIT_RESULTS")
    monkeypatch.setattr(records, "ROOT", elsewhere)  # no repository
    assert records.folder().absolute() == Path.cwd() / "results"
    records.commit.cache_clear()
    assert records.commit() == ""
    records.commit.cache_clear()


def test_a_record_changed_by_hand_is_an_error():
    add(0, error=0.25)
    path = records.runs_path("experiment", "ci")
    path.write_text(path.read_text().replace('"rho":0.1', '"rho":0.2'))
    with pytest.raises(ValueError, match=r"line 1: the hash .* is not that of its config"):
        records.runs("experiment", "ci")


@pytest.mark.parametrize("cut", [1, 2, 100])
def test_a_line_cut_off_is_left_out_and_then_removed(cut):
    first = add(0, error=0.25)
    add(1, error=0.5)
    path = records.runs_path("experiment", "ci")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.warns(RuntimeWarning, match="cut off while it was written; that run is to be"):
        assert records.runs("experiment", "ci") == [first]
    with pytest.warns(RuntimeWarning, match="it is removed"):
        again = add(1, error=0.5)
    assert records.runs("experiment", "ci") == [first, again]


def test_a_line_broken_elsewhere_is_an_error():
    add(0)
    path = records.runs_path("experiment", "ci")
    path.write_text(path.read_text()[:50] + "\n" + path.read_text())
    with pytest.raises(ValueError, match="line 1: no record"):
        records.runs("experiment", "ci")


def test_a_full_disk_loses_nothing(monkeypatch):
    first = add(0)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(records.os, "fsync", full)
        with pytest.raises(OSError, match=r"could not be recorded \(No space.*unharmed"):
            add(1)
    assert records.runs("experiment", "ci") == [first]


def test_a_line_that_the_disk_takes_in_part_is_taken_back(monkeypatch, elsewhere):
    first = add(0)

    class Full(io.FileIO):
        def write(self, line):
            return super().write(line[: len(line) // 2])

    with monkeypatch.context() as patched:
        patched.setattr(records, "open", lambda path, *_, **__: Full(path, "a+"), raising=False)
        with pytest.raises(OSError, match="only a part of the record was written"):
            add(1)
    assert records.runs("experiment", "ci") == [first]


def test_killed_at_any_moment_of_writing_what_was_recorded_stays(elsewhere):
    """A process that appends without end is killed, again and again."""
    code = (
        "from samkit import records\n"
        "for k in range(10**6):\n"
        "    m = {'x': list(range(5000))}\n"
        "    records.append('e', 'ci', {'seed': k}, m, seconds=1, data='')\n"
        "    print(k, flush=True)\n"
    )
    done = -1
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        done = int(line)
        if done == 20:
            process.kill()
    process.wait()
    process.stdout.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the last line may be torn
        seeds = [r["seed"] for r in records.runs("e", "ci")]
    assert seeds[: done + 1] == list(range(done + 1))


def test_a_run_is_recorded_once(elsewhere):
    first = add(0, error=0.25)
    other = add(1, error=0.5)
    assert add(0, error=0.75) == first
    path = records.runs_path("experiment", "ci")
    assert len(path.read_text().splitlines()) == 2
    again = json.dumps({**first, "metrics": {"error": 0.75}})
    path.write_text(path.read_text() + again + "\n")  # as two commands at once did
    assert records.runs("experiment", "ci") == [first, other]


def test_two_processes_record_a_run_once(elsewhere):
    code = (
        "from samkit import records\n"
        "for seed in range(40):\n"
        "    records.append('experiment', 'ci', {'seed': seed}, {}, seconds=0, data='', place={})"
    )
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    lines = records.runs_path("experiment", "ci").read_text().splitlines()
    assert sorted(json.loads(line)["seed"] for line in lines) == list(range(40))


def test_dropping_keeps_the_rest():
    kept = add(0)
    add(1)
    assert records.keep("experiment", "ci", {kept["hash"]}) == 1
    assert records.runs("experiment", "ci") == [kept]


def test_provenance_says_where_runs_come_from():
    with pytest.raises(ValueError, match="python -m samkit run EXPERIMENT records some"):
        records.provenance([])
    found = [add(3), add(1), add(1)]
    found[0] |= {"date": "2026-02-01T10:00:00", "data": "another copy"}
    found[1] |= {"date": "2026-01-31T23:00:00"}
    found[2] |= {"date": "2026-01-31T10:00:00"}
    found[2] |= {"commit": ""}  # as of an installed samkit
    hardware, versions = found[0]["hardware"], found[0]["versions"]
    assert records.provenance(found).split("\n") == [
        "3 recorded runs, seeds 1, 3",
        "on 2026-01-31 to 2026-02-01",
        f"hardware: {hardware}",
        "data: another copy",
        "data: made up",
        ", ".join(f"{k} {versions[k]}" for k in ("samkit", "torch", "numpy") if k in versions),
        f"made by commit {found[0]['commit'][:9]}",
    ]
    assert "on 2026-01-31\n" in records.provenance(found[1:])
    assert "4 recorded runs, seeds 1 to 3\n" in records.provenance([*found, add(2)])


def test_data_drawn_by_each_seed_are_one_line():
    found = [add(1) | {"data": "made up, seed 1"}, add(2) | {"data": "made up, seed 2"}]
    lines = records.provenance(found).split("\n")
    assert [line for line in lines if "data" in line] == ["data: made up, drawn by each seed"]
