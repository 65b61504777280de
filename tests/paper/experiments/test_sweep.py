import json
import subprocess
import sys
import time

import dask
import joblib
import psutil
import pytest
from distributed import LocalCluster

from samkit.paper import experiments, records
from samkit.paper.command_line import main
from samkit.paper.experiments import classify, fig01_perturbations, sweep

NAME = "fig01_perturbations"


@pytest.fixture(autouse=True)
def tiny(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMKIT_RESULTS", str(tmp_path))
    monkeypatch.setitem(fig01_perturbations.EPOCHS, "ci", 2)
    return tmp_path


def run(**options):
    lines = []
    return sweep.sweep(NAME, "ci", say=lines.append, **options), "\n".join(lines)


def test_where_nothing_is_recorded_the_file_and_the_command_are_named():
    assert experiments.recorded_so_far(NAME, "ci") == []
    with pytest.raises(FileNotFoundError) as missing:
        experiments.recorded(NAME, "ci")
    assert f"no runs in {records.runs_path(NAME, 'ci')}" in str(missing.value)
    assert f"python -m samkit run {NAME} --scale ci" in str(missing.value)


@pytest.mark.slow
def test_what_is_recorded_is_skipped():
    outcome, said = run(seeds=(0,))
    assert (outcome.done, outcome.skipped, outcome.left) == (4, 0, 0)
    assert "[1/4] ERM, seed 0: test error" in said and "left)" in said
    first = experiments.recorded(NAME, "ci")
    outcome, said = run(seeds=(0, 1))
    assert (outcome.done, outcome.skipped) == (4, 4)
    assert "4 of 8 runs are recorded already" in said
    assert experiments.recorded(NAME, "ci")[:4] == first


def test_runs_are_picked_by_their_description(capsys):
    assert main(["run", NAME, "--match", "^(n-)?SAM rho=0.1, seed 0$"]) == 0
    recipes = [r["config"]["recipes"][0] for r in experiments.recorded(NAME, "ci")]
    methods = [classify.setting(recipe)["method"] for recipe in recipes]
    assert methods == ["n-SAM", "SAM"]
    assert main(["run", NAME, "--match", "GAM"]) == 2
    said = capsys.readouterr().err
    assert "no run matches 'GAM'; they are\n  ERM, seed 0\n  random rho=0.1, seed 0" in said
    assert main(["run", NAME, "--match", "SAM("]) == 2
    assert "'SAM(' is no regular expression" in capsys.readouterr().err
    assert len(experiments.recorded(NAME, "ci")) == 2


@pytest.mark.long
def test_a_run_repeats_bit_for_bit():
    run(seeds=(1,))
    first = experiments.recorded(NAME, "ci")
    records.keep(NAME, "ci", ())
    run(seeds=(1,), jobs=2)
    again = {r["hash"]: r["metrics"] for r in experiments.recorded(NAME, "ci")}
    assert {r["hash"]: r["metrics"] for r in first} == again


@pytest.fixture(scope="module")
def cluster():
    """Two workers, each a process with one thread."""
    options = {"threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(n_workers=2, **options) as cluster:
        yield cluster


@pytest.mark.long
def test_on_a_dask_cluster_the_same_runs_have_the_same_metrics(cluster, monkeypatch):
    run(seeds=(0,))
    first = experiments.recorded(NAME, "ci")
    records.keep(NAME, "ci", ())
    monkeypatch.setattr(fig01_perturbations, "run", None)  # here, not in the workers
    assert main(["run", NAME, "--seeds", "0", "--dask", cluster.scheduler_address]) == 0
    again = {r["hash"]: r for r in experiments.recorded(NAME, "ci")}
    assert len(again) == 4
    for record in first:
        for kept in ("metrics", "data", "versions", "hardware"):
            assert record[kept] == again[record["hash"]][kept]


def test_a_cluster_that_is_not_there_is_one_clear_line(monkeypatch, capsys):
    with dask.config.set({"distributed.comm.timeouts.connect": "0.5s"}):
        assert main(["run", NAME, "--dask", "tcp://127.0.0.1:9"]) == 2
    assert "127.0.0.1:9" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(["run", NAME, "--dask", "tcp://127.0.0.1:9"]) == 2
    assert "pip install 'dask[distributed]'" in capsys.readouterr().err


def test_two_runs_at_once_in_one_process_are_refused():
    with (
        joblib.parallel_config(backend="threading"),
        pytest.raises(ValueError, match="give every worker one thread"),
    ):
        run(seeds=(0,), jobs=2)
    with sweep._alone:
        pass  # the other run has ended


def test_records_without_a_time_and_an_empty_file_of_seconds_are_fine(tiny):
    outcome, _ = run(seeds=(0,), match="^ERM")
    path = records.runs_path(NAME, "ci")
    record = json.loads(path.read_text())
    del record["seconds"]
    path.write_text(json.dumps(record) + "\n")
    config = fig01_perturbations.configs("ci", (0,))[1]
    file = sweep.checkpoint(NAME, "ci", config)
    file.with_name(f"{file.name}.seconds").write_text("")
    outcome, _ = run(seeds=(0,), match="^(ERM|random)", budget_minutes=10)
    assert (outcome.done, outcome.skipped) == (1, 1)


def test_no_time_no_run():
    outcome, said = run(seeds=(0,), budget_minutes=0)
    assert (outcome.done, outcome.left) == (0, 4)
    assert "4 runs are left; the same command goes on" in said


@pytest.mark.slow
def test_time_up_in_the_middle_resumes_from_the_checkpoint(tiny, monkeypatch):
    run(seeds=(0,))
    expected = experiments.recorded(NAME, "ci")
    records.keep(NAME, "ci", ())
    clock, now = [0.0], time.time

    class Clock:
        @staticmethod
        def time():
            clock[0] += 1.0
            return now() + clock[0]

    # With this clock the first run starts in time, and is over the time after its first epoch.
    monkeypatch.setattr(sweep, "time", Clock)
    outcome, said = run(seeds=(0,), budget_minutes=2.5 / 60)
    assert outcome.done == 0 and "ERM, seed 0 goes on from its checkpoint" in said
    kept = {file.suffix: file for file in (tiny / "checkpoints").iterdir()}
    assert set(kept) == {".pt", ".seconds"}
    kept[".seconds"].write_text("1000")
    monkeypatch.setattr(sweep, "time", time)
    run(seeds=(0,))
    found = experiments.recorded(NAME, "ci")
    assert [r["metrics"] for r in found] == [r["metrics"] for r in expected]
    resumed, *others = (r["seconds"] for r in found)  # the time of both attempts
    assert 1000 < resumed < 1100 and max(others) < 100
    assert not list((tiny / "checkpoints").iterdir())


@pytest.mark.long
def test_runs_whose_parent_is_killed_stop_at_their_next_epoch(tiny):
    """With a checkpoint, instead of going on for a record that nobody will write."""
    code = f"from samkit.paper.experiments.sweep import sweep; sweep({NAME!r}, 'ci', jobs=2)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        while process.poll() is None and not list((tiny / "checkpoints").glob("*.pt")):
            time.sleep(0.1)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()

    def used():
        return sum(worker.cpu_times().user for worker in workers if worker.is_running())

    try:
        deadline, before = time.monotonic() + 20, -1.0
        while (now := used()) > before and time.monotonic() < deadline:
            before = now
            time.sleep(1)
        assert now == before  # nobody computes any more
        assert list((tiny / "checkpoints").glob("*.seconds"))
    finally:
        for worker in workers:
            worker.kill()


def test_records_of_other_settings_are_an_error(monkeypatch):
    run(seeds=(0,))
    monkeypatch.setitem(fig01_perturbations.EPOCHS, "ci", 3)
    with pytest.raises(ValueError, match=r"4 of 4 runs were made with other settings.*--drop-old"):
        experiments.recorded(NAME, "ci")
    with pytest.raises(ValueError, match="other settings"):
        run(seeds=(0,))


@pytest.mark.slow
def test_durations():
    assert [sweep.duration(s) for s in (40, 720, 12600)] == ["40 s", "12 min", "3.5 h"]
