"""SAM and msam_grad under DistributedDataParallel: two gloo processes on the CPU."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from oracle import dense, relative
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from samkit import SAM, msam_grad

RANKS, B, RHO = 2, 12, 0.3


def losses(z, y):
    return F.cross_entropy(z, y, reduction="none")


def data():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return net, torch.randn(B, 4).double(), torch.randint(3, (B,))


def optimizer(model, x, y, per_rank):
    """The gradient of one SAM step."""
    context = {"ascent_context": model.no_sync} if per_rank else {}
    opt = SAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=RHO, **context)

    def closure():
        opt.zero_grad()
        loss = losses(model(x), y).mean()
        loss.backward()
        return loss

    for _ in range(2):
        opt.step(closure)


def gradient(model, x, y, m, method, decay=0.0):
    for _ in range(2):
        model.zero_grad()
        msam_grad(model, losses, x, y, rho=RHO, m=m, method=method, weight_decay=decay)


#: name -> (what each rank does, the m of all data that it amounts to, weight decay)
CASES = {
    "SAM, synchronized": (lambda *a: optimizer(*a, per_rank=False), B, 0.0),
    "SAM, per rank": (lambda *a: optimizer(*a, per_rank=True), B // RANKS, 0.0),
    "m-SAM, loop": (lambda *a: gradient(*a, 2, "loop"), 2, 0.0),
    "m-SAM, ghost": (lambda *a: gradient(*a, 2, "ghost"), 2, 0.0),
    "m-SAM, ghost, whole": (lambda *a: gradient(*a, None, "ghost"), B // RANKS, 0.0),
    "m-SAM, loop, weight decay": (lambda *a: gradient(*a, 2, "loop", 0.2), 2, 0.2),
    "m-SAM, ghost, weight decay": (lambda *a: gradient(*a, 2, "ghost", 0.2), 2, 0.2),
}


def rank(i: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=i, world_size=RANKS)
    torch.set_num_threads(1)
    found = {}
    for name, (do, *_) in CASES.items():
        net, x, y = data()
        part = slice(i * B // RANKS, (i + 1) * B // RANKS)
        model = DistributedDataParallel(net)
        do(model, x[part], y[part])
        found[name] = {k: p.grad for k, p in net.named_parameters()}
    torch.save(found, Path(folder) / f"{i}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each rank has in p.grad, case by case."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(rank, (port, str(folder)), nprocs=RANKS)
    return [torch.load(folder / f"{i}.pt", weights_only=True) for i in range(RANKS)]


@pytest.mark.parametrize("name", CASES)
def test_every_rank_has_the_gradient_of_all_data(found, name):
    net, x, y = data()
    _, m, decay = CASES[name]
    true = dense(net, losses, x, y, rho=RHO, m=m, decay=decay)
    for grads in found:
        assert relative(grads[name], true) < 1e-12
