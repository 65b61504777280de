"""A GradScaler for m-SAM, and SAM's gradient as a function."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from oracle import dense, grads, relative
from torch import nn

from samkit import SAM, msam_grad, sam_grad

B, RHO = 8, 0.3


def losses(z, y):
    return F.cross_entropy(z, y, reduction="none")


def problem(dtype=torch.float64):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
    return net, torch.randn(B, 5).to(dtype), torch.randint(3, (B,))


def scaler(scale=2.0**10, enabled=True):
    return torch.amp.GradScaler("cpu", init_scale=scale, enabled=enabled)


@pytest.mark.parametrize("method", ["loop", "ghost"])
@pytest.mark.parametrize("m", [1, 3, None])
@pytest.mark.parametrize("options", [{}, {"normalize": False}, {"weight_decay": 0.2}])
def test_the_step_is_that_without_a_scaler(options, m, method):
    net, x, y = problem()
    true = {
        "normalize": options.get("normalize", True),
        "decay": options.get("weight_decay", 0.0),
    }
    true = dense(net, losses, x, y, rho=RHO, m=m or B, **true)
    s, opt = scaler(), torch.optim.SGD(net.parameters(), lr=0.0)
    loss = msam_grad(net, losses, x, y, rho=RHO, m=m, method=method, scaler=s, **options)
    assert torch.isclose(loss, losses(net(x), y).mean(), rtol=1e-12)
    assert relative(grads(net), {k: v * 2**10 for k, v in true.items()}) < 1e-12
    s.step(opt)
    assert relative(grads(net), true) < 1e-12


def test_float16_needs_the_scale():
    """The gradient of a loss this small is 0 in float16."""
    errors = {}
    for scale in (1.0, 2.0**16):
        net, x, y = problem()
        true = dense(net, lambda z, y: 1e-6 * losses(z, y), x, y, rho=RHO, m=2)
        net, x = net.float(), x.float()
        with torch.autocast("cpu", dtype=torch.float16):
            arguments = {"rho": RHO, "m": 2, "method": "loop", "scaler": scaler(scale)}
            msam_grad(net, lambda z, y: 1e-6 * losses(z, y), x, y, **arguments)
        errors[scale] = relative({k: g.double() / scale for k, g in grads(net).items()}, true)
    assert errors[2.0**16] < 0.02
    assert errors[1.0] > 0.1


@pytest.mark.parametrize("method", ["loop", "ghost"])
def test_an_overflow_is_a_step_that_the_scaler_skips(method):
    net, x, y = problem(torch.float32)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    s, opt = scaler(1e38), torch.optim.SGD(net.parameters(), lr=0.1)
    loss = msam_grad(
        net, lambda z, y: 100 * losses(z, y), x, y, rho=RHO, m=2, method=method, scaler=s
    )
    assert torch.isnan(loss)
    s.step(opt)
    s.update()
    assert s.get_scale() == pytest.approx(5e37)
    assert relative(net.state_dict(), before) == 0


def test_a_scaler_that_is_off_is_none():
    net, x, y = problem()
    msam_grad(net, losses, x, y, rho=RHO, m=2, scaler=scaler(enabled=False))
    assert relative(grads(net), dense(net, losses, x, y, rho=RHO, m=2)) < 1e-12


def test_a_scaler_is_not_for_several_ranks():
    net, x, y = problem()
    net.no_sync = torch.enable_grad  # as a DDP model has it
    with pytest.raises(ValueError, match="bfloat16"):
        msam_grad(net, losses, x, y, rho=RHO, m=2, scaler=scaler())


@pytest.mark.parametrize("loss_fn", [losses, F.cross_entropy])
@pytest.mark.parametrize("options", [{}, {"normalize": False}])
def test_sam_as_a_function(options, loss_fn):
    net, x, y = problem()
    loss = sam_grad(net, loss_fn, x, y, rho=RHO, **options)
    assert torch.isclose(loss, F.cross_entropy(net(x), y), rtol=1e-12)
    assert relative(grads(net), dense(net, losses, x, y, rho=RHO, m=B, **options)) < 1e-12


def test_sam_as_a_function_under_batch_norm():
    net, x, y = problem()
    net.insert(1, nn.BatchNorm1d(8).double())
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.0), rho=RHO)

    def closure():
        opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        return loss

    loss, true = opt.step(closure), grads(net)
    net.zero_grad()
    assert torch.isclose(sam_grad(net, F.cross_entropy, x, y, rho=RHO), loss, rtol=1e-12)
    assert relative(grads(net), true) < 1e-12
    assert int(net[1].num_batches_tracked) == 2  # once for each of the two


def test_sam_as_a_function_needs_a_loss():
    net, x, y = problem()
    with pytest.raises(ValueError, match="one loss per example"):
        sam_grad(net, lambda z, y: z, x, y, rho=RHO)
