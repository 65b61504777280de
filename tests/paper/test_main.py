import os
import signal
import subprocess
import sys

import pytest

from samkit.paper import command_line, experiments, records
from samkit.paper.command_line import main
from samkit.paper.experiments import classify, fig01_perturbations, fig07_relu_network, sweep

NAME = "fig07_relu_network"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMKIT_RESULTS", str(tmp_path))
    monkeypatch.delenv("SAMKIT_SCALE", raising=False)
    return tmp_path


def test_the_command_runs_records_and_skips():
    command = [sys.executable, "-m", "samkit", "run", NAME, "--scale", "ci", "--seeds", "0"]
    first = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "[3/3] 1-SAM rho=0.3, seed 0: kinks" in first
    assert len(records.runs(NAME, "ci")) == 3
    second = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "3 of 3 runs are recorded already" in second
    assert len(records.runs(NAME, "ci")) == 3


def test_interrupted_it_keeps_what_is_done(monkeypatch):
    command = [sys.executable, "-m", "samkit", "run", NAME, "--scale", "laptop"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs ignore Ctrl-C, and so would their children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for line in process.stdout:
        if line.startswith("[2/15]"):
            os.kill(process.pid, signal.SIGINT)
            break
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in error
    assert len(records.runs(NAME, "laptop")) in (2, 3)


def test_list_counts_what_is_recorded(monkeypatch, capsys):
    monkeypatch.setitem(fig07_relu_network.STEPS, "ci", 50)
    assert main(["run", NAME, "--seeds", "0"]) == 0
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert f"{NAME}: Figure 7" in said and "3 of   3 runs recorded" in said


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run", "fig99"], "no experiment 'fig99'; there are fig01_perturbations"),
        (["run", NAME, "--scale", "huge"], "no scale 'huge'; there are ci, laptop, paper"),
        (["run", NAME, "--jobs", "0"], "--jobs 0: pass a number of processes"),
        (["run", NAME, "--budget-minutes", "nan"], "--budget-minutes nan: pass 0 or more"),
        (["run", NAME, "--budget-minutes", "-1"], "--budget-minutes -1.0: pass 0 or more"),
        (
            ["run", "all", "--match", "GAM"],
            "no experiment at scale ci has a run with --data None, --match GAM",
        ),
        (["run", "all", "--match", "SAM("], "'SAM(' is no regular expression"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_all_are_those_experiments_that_have_such_runs(monkeypatch, capsys):
    done = []
    monkeypatch.setattr(
        sweep, "sweep", lambda name, *_, **__: done.append(name) or sweep.Outcome(1)
    )
    monkeypatch.setattr(command_line, "load", lambda source: None)  # as if the data were there
    assert main(["run", "all", "--scale", "paper", "--cpu", "--data", "cifar100"]) == 0
    assert "fig01_perturbations" in done and "fig07_relu_network" not in done
    done.clear()
    assert main(["run", "all"]) == 0
    assert done == list(experiments.NAMES)


def test_a_damaged_checkpoint_is_one_clear_line(elsewhere, monkeypatch, capsys):
    monkeypatch.setitem(fig01_perturbations.EPOCHS, "ci", 2)
    config = fig01_perturbations.configs("ci", (0,))[0]
    file = sweep.checkpoint("fig01_perturbations", "ci", config)
    file.parent.mkdir()
    damaged = file.with_name(f"{file.name}.0.pt")
    damaged.write_bytes(b"PK")
    assert main(["run", "fig01_perturbations", "--match", "^ERM"]) == 2
    error = capsys.readouterr().err
    assert f"{damaged} is damaged or no checkpoint" in error and "delete it" in error


@pytest.mark.parametrize("seeds", ["a", "-5"])
def test_bad_seeds_are_refused(capsys, seeds):
    with pytest.raises(SystemExit) as caught:
        main(["run", NAME, "--seeds", seeds])
    assert caught.value.code == 2 and "write numbers like 0,1,2" in capsys.readouterr().err


def test_time_up_is_its_own_exit_code(capsys):
    assert main(["run", NAME, "--budget-minutes", "0"]) == 3
    assert "3 runs are left" in capsys.readouterr().out


def test_old_records_can_be_dropped(monkeypatch, capsys):
    monkeypatch.setitem(fig07_relu_network.STEPS, "ci", 50)
    assert main(["run", NAME]) == 0
    monkeypatch.setitem(fig07_relu_network.STEPS, "ci", 60)
    assert main(["run", NAME]) == 2
    assert "--drop-old" in capsys.readouterr().err
    assert main(["run", NAME, "--drop-old"]) == 0
    assert "3 old records removed" in capsys.readouterr().out
    assert {r["config"]["steps"] for r in records.runs(NAME, "ci")} == {60}


def test_paper_scale_without_a_gpu_says_what_it_would_cost(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(classify, "cost", lambda configs: 7200.0 * len(configs))
    command = ["run", "fig01_perturbations", "--scale", "paper", "--seeds", "0"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "these 32 runs would take about 64.0 h" in error and "--cpu" in error
    assert main([*command, "--data", "cifar100"]) == 2
    assert "these 16 runs would take about 32.0 h" in capsys.readouterr().err
    assert main([*command, "--data", "cifar10", "--match", "^SAM rho=0.1,"]) == 2
    assert "these 1 runs would take about 2.0 h" in capsys.readouterr().err
    assert main([*command, "--data", "mnist1d"]) == 2
    assert "no run is on data 'mnist1d'; they are on cifar10, cifar100" in capsys.readouterr().err


def test_missing_data_are_told_before_the_first_run(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("SAMKIT_DATA", str(tmp_path))
    monkeypatch.setattr("samkit.paper.experiments.sweep.sweep", lambda *a, **how: 1 / 0)
    assert main(["run", "fig01_perturbations", "--scale", "paper", "--cpu"]) == 2
    assert f"is read from {tmp_path}, but there is no" in capsys.readouterr().err


#: samkit run ... --scale paper, in a tiny size, started by torchrun
BY_TORCHRUN = """
import sys
import pytest
from test_main import tiny_paper
with pytest.MonkeyPatch.context() as patch:
    sys.exit(tiny_paper(patch))
"""


def tiny_paper(monkeypatch):
    """fig01 at scale paper with one epoch of an MLP; the exit code."""
    monkeypatch.setitem(fig01_perturbations.EPOCHS, "paper", 1)
    monkeypatch.setitem(fig01_perturbations.RADII, "paper", (0.1,))
    monkeypatch.setitem(fig01_perturbations.DATA, "paper", ("cifar10",))
    monkeypatch.setattr(classify, "on", lambda data, *rules, **how: classify.small(*rules, **how))
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    return main(["run", "fig01_perturbations", "--scale", "paper", "--cpu", "--seeds", "0"])


@pytest.mark.long
def test_torchrun_shares_every_run_between_its_processes(tmp_path, monkeypatch):
    name = "fig01_perturbations"
    assert tiny_paper(monkeypatch) == 0
    one = records.runs(name, "paper")

    monkeypatch.setenv("SAMKIT_RESULTS", str(tmp_path / "two"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), *sys.path]))
    script = tmp_path / "by_torchrun.py"
    script.write_text(BY_TORCHRUN)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, script], capture_output=True, text=True, check=True)
    two = records.runs(name, "paper")

    assert done.stdout.count("[4/4]") == 1  # one of them leads
    assert not list((tmp_path / "two" / "checkpoints").iterdir())
    assert [r["hash"] for r in one] == [r["hash"] for r in two]
    assert two[0]["hardware"] == f"2 processes, the first on {one[0]['hardware']}"
    for a, b in zip(one, two, strict=True):
        for measure in ("train_loss", "test_loss", "test_error"):
            assert b["metrics"][measure] == pytest.approx(a["metrics"][measure], rel=1e-3)
