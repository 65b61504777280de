"""SAM and msam_grad on two gloo processes on the CPU: DistributedDataParallel, FSDP2, FSDP1."""

from __future__ import annotations

import faulthandler
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from oracle import dense, relative
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from samkit import SAM, NonFinite, msam_grad, perturbation

pytestmark = pytest.mark.slow  # processes of their own

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


#: seconds: for one communication, for all that a rank does
PATIENCE, LIMIT = 120, 540


@contextmanager
def group(i: int, port: int) -> Iterator[None]:
    """Rank i of a group whose ranks leave together; after LIMIT seconds it says where it stands.

    The rank that leaves first takes the others' connections with it, so all wait for the last one.
    """
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    torch.set_num_threads(1)
    address, patience = f"tcp://127.0.0.1:{port}", timedelta(seconds=PATIENCE)
    dist.init_process_group("gloo", address, rank=i, world_size=RANKS, timeout=patience)
    yield
    dist.barrier()
    dist.destroy_process_group()


def rank(i: int, port: int, folder: str) -> None:
    with group(i, port):
        torch.save(gradients(i), Path(folder) / f"{i}.pt")


def gradients(i: int) -> dict[str, dict[str, torch.Tensor]]:
    found = {}
    for name, (do, *_) in CASES.items():
        net, x, y = data()
        part = slice(i * B // RANKS, (i + 1) * B // RANKS)
        model = DistributedDataParallel(net)
        do(model, x[part], y[part])
        found[name] = {k: p.grad for k, p in net.named_parameters()}
    return found


def spawned(rank, folder):
    """What each rank has saved."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    ranks = mp.spawn(rank, (port, str(folder)), nprocs=RANKS, join=False)
    end = time.monotonic() + LIMIT + 10
    while not ranks.join(timeout=max(0.0, end - time.monotonic())):
        if time.monotonic() > end:
            for process in ranks.processes:
                process.kill()
            pytest.fail(f"the ranks have not come to an end within {LIMIT} s")
    return [torch.load(folder / f"{i}.pt", weights_only=True) for i in range(RANKS)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each rank has in p.grad, case by case."""
    return spawned(rank, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", CASES)
def test_every_rank_has_the_gradient_of_all_data(found, name):
    net, x, y = data()
    _, m, decay = CASES[name]
    true = dense(net, losses, x, y, rho=RHO, m=m, decay=decay)
    for grads in found:
        assert relative(grads[name], true) < 1e-12


# The same steps on whole weights, and where they are spread over the ranks

#: SAM's options
OPTIONS = {
    "SAM": {},
    "unnormalized": {"normalize": False},
    "ASAM": {"adaptive": True},
    "three ascent steps": {"ascent_steps": 3},
    "step size only": {"step_size_only": True},
    "GSAM": {"combine": partial(perturbation.gsam, alpha=0.4)},
    "LookSAM": {"interval": 2, "reuse": 0.7},
    "Friendly SAM": {"friendly": 0.9},
    "momentum": {},
}


def three_steps(model, x, y, name, opt=None):
    if opt is None:
        momentum = 0.9 if name == "momentum" else 0.0
        opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
        opt = SAM(opt, rho=RHO, **OPTIONS[name])

    def closure():
        opt.zero_grad()
        loss = losses(model(x), y).mean()
        loss.backward()
        return loss

    for _ in range(3):
        opt.step(closure)


def sharded_rank(i: int, port: int, folder: str) -> None:
    with group(i, port):
        torch.save(steps(i), Path(folder) / f"{i}.pt")


def steps(i: int) -> dict[tuple[str, str], dict[str, torch.Tensor]]:
    part = slice(i * B // RANKS, (i + 1) * B // RANKS)
    seen = {}
    for name in OPTIONS:
        net, x, y = data()
        model = DistributedDataParallel(net, gradient_as_bucket_view=True)
        three_steps(model, x[part], y[part], name)
        seen["DDP", name] = dict(net.named_parameters())

        net, x, y = data()
        fully_shard(net[0])
        fully_shard(net)
        three_steps(net, x[part], y[part], name)
        seen["FSDP2", name] = {k: p.full_tensor() for k, p in net.named_parameters()}
    net, x, y = data()
    fully_shard(net)
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=RHO)
    before = {k: p.full_tensor() for k, p in net.named_parameters()}
    bad = x[part] * (float("nan") if i else 1)  # in the shards of one rank alone
    with pytest.raises(NonFinite):
        three_steps(net, bad, y[part], "SAM", opt)
    assert all(torch.equal(p.full_tensor(), before[k]) for k, p in net.named_parameters())
    for original in (True, False):
        net, x, y = data()
        model = FullyShardedDataParallel(
            net, use_orig_params=original, device_id=torch.device("cpu")
        )
        with pytest.raises(ValueError, match="fully_shard"):
            three_steps(model, x[part], y[part], "SAM")
    return seen


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return spawned(sharded_rank, tmp_path_factory.mktemp("shards"))


@pytest.mark.long
@pytest.mark.parametrize("how", ["DDP", "FSDP2"])
@pytest.mark.parametrize("name", OPTIONS)
def test_sharded_weights_are_stepped_like_whole_ones(sharded, how, name):
    net, x, y = data()
    three_steps(net, x, y, name)
    for seen in sharded:
        assert relative(seen[how, name], dict(net.named_parameters())) < 1e-12
