"""fit by two gloo processes on the CPU is fit by one."""

import importlib
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from samkit import Perturbation
from samkit.errors import Diverged
from samkit.training import Recipe, fit

fitting = importlib.import_module("samkit.training.fit")  # samkit.training.fit is the function

pytestmark = pytest.mark.slow  # processes of their own

RANKS, N, BATCH = 2, 26, 12  # an incomplete last batch
SHORT = {"epochs": 2, "batch_size": BATCH, "learning_rate": 0.2}

RECIPES = {
    "ERM": Recipe(**SHORT, weight_decay=0.1),
    "random": Recipe(Perturbation(0.2, source="random"), **SHORT),
    "SAM": Recipe(Perturbation(0.2), **SHORT, weight_decay=0.1),
    "n-SAM": Recipe(Perturbation(0.2, source="previous"), **SHORT),
    "m-SAM, m=2": Recipe(Perturbation(0.2, m=2), **SHORT, weight_decay=0.1),
    "m-SAM, m=3, the loop": Recipe(Perturbation(0.2, m=3), **SHORT),
    "m-SAM, m of the share": Recipe(Perturbation(0.2, m=6), **SHORT),
    "m-SAM, m of the batch": Recipe(Perturbation(0.2, m=12), **SHORT, weight_decay=0.1),
    "a switch": Recipe(**SHORT, switch=((1, Perturbation(0.2, m=3)),)),
}


class Gain(nn.Module):
    """A layer that the ghost path has no rule for."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(8, dtype=torch.float64))

    def forward(self, x):
        return x * torch.stack([self.gain])


def train(recipe, net=None, **options):
    """(history, weights) after training, by as many processes as there are."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (N,), generator=generator)
    torch.manual_seed(0)
    layers = nn.Linear(6, 8), nn.Tanh(), Gain() if recipe.perturbation.m == 3 else nn.Identity()
    net = net or nn.Sequential(*layers, nn.Linear(8, 3)).double()
    history = fit(net, recipe, (x, y), evaluate={"test": (x[:9], y[:9])}, **options).history
    return history, torch.cat([p.detach().flatten() for p in net.parameters()])


def noisy(x, *, generator):
    return x + 0.1 * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def spoiled(x, *, generator):
    """A nan in the batch's last example, which the second process has."""
    return torch.cat([x[:-1], x[-1:] * torch.nan])


class Stop(Exception):
    pass


def stop(epochs, _):
    raise Stop(epochs)


def rank(i: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=i, world_size=RANKS)
    torch.set_num_threads(1)
    found = {name: train(recipe) for name, recipe in RECIPES.items()}
    found["augmented"] = train(RECIPES["SAM"], augment=noisy)

    file, errors = Path(folder) / "checkpoint.pt", []
    for name, options in (
        ("SAM", {"progress": stop, "checkpoint": file}),
        ("SAM", {"augment": spoiled}),
        ("m-SAM, m=2", {"augment": spoiled}),
    ):
        try:
            train(RECIPES[name], **options)
        except (Stop, Diverged) as error:
            errors.append(repr(error))
    mine = file if i == 0 else file.with_name("of the first process alone.pt")
    found["resumed"] = train(RECIPES["SAM"], checkpoint=mine)
    found["files"] = mine.exists()
    for recipe, net in (
        (Recipe(batch_size=13), None),
        (Recipe(Perturbation(0.1, m=4), batch_size=12), None),
        (Recipe(Perturbation(0.1, m=2), separate_groups=True, batch_size=12), None),
        (RECIPES["ERM"], nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)).double()),
    ):
        try:
            train(recipe, net)
        except ValueError as error:
            errors.append(str(error))
    torch.save(found | {"errors": errors}, Path(folder) / f"{i}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of the processes has, case by case."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(rank, (port, str(folder)), nprocs=RANKS)
    return [torch.load(folder / f"{i}.pt", weights_only=True) for i in range(RANKS)]


@pytest.mark.parametrize("name", [*RECIPES, "augmented", "resumed"])
def test_two_processes_have_the_metrics_and_weights_of_one(found, name):
    options = {"augment": noisy} if name == "augmented" else {}
    history, weights = train(RECIPES.get(name, RECIPES["SAM"]), **options)
    for other_history, other_weights in (process[name] for process in found):
        torch.testing.assert_close(other_weights, weights, rtol=0, atol=1e-12)
        assert other_history.keys() == history.keys()
        for key in history:
            precision = 1e-6 if key == "batch_loss" else 1e-12  # that one is noted in float32
            assert other_history[key] == pytest.approx(history[key], rel=precision)


def test_the_first_process_alone_writes_and_reads_the_checkpoint(found):
    assert [process["files"] for process in found] == [True, False]


def test_what_stops_one_process_stops_all(found):
    for process in found:
        stopped, nan, nan_in_a_group, *_ = process["errors"]
        assert stopped == "Stop(1)"
        assert "diverged in step 0" in nan and "diverged in step 0" in nan_in_a_group


def test_what_cannot_be_shared_is_refused(found):
    for process in found:
        batch, m, group, norm = process["errors"][3:]
        assert "batch_size=13 over 2 processes: pass a multiple" in batch
        assert "m=4 over 2 processes: pass a divisor of the 6 examples" in m
        assert "separate_groups is for one process" in group
        assert "BatchNorm over several processes needs CUDA" in norm


def test_the_loop_is_used_where_it_is_said(monkeypatch):
    methods = []

    def noting(*args, method, **options):
        methods.append(method)
        return fits_msam_grad(*args, method=method, **options)

    fits_msam_grad = fitting.msam_grad
    monkeypatch.setattr(fitting, "msam_grad", noting)
    train(RECIPES["m-SAM, m=3, the loop"])
    assert methods == ["ghost"] + ["loop"] * 4
