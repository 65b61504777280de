import numpy as np
import pytest
import torch

from samkit import msam_grad, nets
from samkit.errors import Diverged
from samkit.paper.experiments.fig07_relu_network import X, Y
from samkit.training import relu1d, relu1d_kernel

STEP = {"step_size": 1e-5, "steps": 1000}


@pytest.fixture
def net():
    return np.random.default_rng(0).normal(size=(3, 20)) * np.array([[2.5], [2.5], [4.0]])


def module(net):
    network = nets.OneHiddenLayer(net.shape[1]).double()
    with torch.no_grad():
        for p, row in zip((network.w, network.b, network.a), net, strict=True):
            p.copy_(torch.from_numpy(row))
    return network


def half_squares(outputs, targets):
    return 0.5 * (outputs - targets) ** 2


@pytest.mark.parametrize("rho, m", [(0.0, 12), (0.3, 12), (0.3, 5), (0.3, 1)])
def test_the_gradient_is_autograds(net, rho, m):
    network = module(net)
    x, y = torch.from_numpy(X)[:, None], torch.from_numpy(Y)
    loss = msam_grad(network, half_squares, x, y, rho=rho, m=m, method="loop")
    g, found = relu1d.sam_gradient(net, X, Y, rho, m)
    expected = 12 * torch.stack([network.w.grad, network.b.grad, network.a.grad]).numpy()
    np.testing.assert_allclose(g, expected, rtol=1e-10, atol=1e-10)
    assert found == pytest.approx(12 * loss.item())


@pytest.mark.parametrize("rho, m", [(0.0, 12), (0.3, 12), (0.3, 5), (0.3, 1)])
@pytest.mark.parametrize("decay", [False, True])
def test_the_kernel_takes_the_same_steps(net, rho, m, decay):
    slow, fast = net.copy(), net.copy()
    arguments = (X, Y, rho, m, 1e-5, decay, 100, 20, 70, 0.0)
    a, b = relu1d.advance_slowly(slow, *arguments), relu1d_kernel.advance(fast, *arguments)
    assert a == pytest.approx(b) and a[0] == 70
    assert not np.allclose(slow, net)
    np.testing.assert_allclose(fast, slow, rtol=1e-9, atol=1e-9)


def test_training_stops_at_the_loss_and_records_on_the_way(net):
    found = relu1d.train(net, X, Y, rho=0.0, m=12, decay=False, record_at=[0, 10], **STEP)
    assert [step for step, _ in found.losses] == [0, 10, 1000]
    losses = [loss for _, loss in found.losses]
    assert losses[0] == pytest.approx(relu1d.gradient(net, X, Y)[1]) and losses[2] < losses[1]
    assert found.loss == pytest.approx(relu1d.gradient(found.net, X, Y)[1])
    until = losses[1] * (1 + 1e-9)  # the kernel rounds otherwise
    short = relu1d.train(net, X, Y, rho=0.0, m=12, decay=False, until=until, **STEP)
    assert short.steps == 10 and short.loss <= until


def test_without_numba_it_is_the_same(net, monkeypatch):
    with_numba = relu1d.train(net, X, Y, rho=0.3, m=12, decay=True, **STEP)
    monkeypatch.setattr(relu1d.importlib.util, "find_spec", lambda _: None)
    without = relu1d.train(net, X, Y, rho=0.3, m=12, decay=True, **STEP)
    np.testing.assert_allclose(without.net, with_numba.net, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("numba", [True, False])
def test_divergence_and_bad_settings_are_clear(net, monkeypatch, numba):
    if not numba:
        monkeypatch.setattr(relu1d.importlib.util, "find_spec", lambda _: None)
    common = {"rho": 0.3, "m": 12, "decay": False}
    with pytest.raises(Diverged, match="lower the step size or rho"):
        relu1d.train(net, X, Y, **common, step_size=10.0, steps=100)
    with pytest.raises(ValueError, match="from 1 to 12"):
        relu1d.train(net, X, Y, **(common | {"m": 13}), **STEP)
    with pytest.raises(ValueError, match="must be positive"):
        relu1d.train(net, X, Y, **common, step_size=1e-5, steps=0)


def test_complexity_of_known_functions():
    # bends at -1 (slope +6), at 0 twice (+1 and -1, which cancel), at 5 (outside); one is flat
    w = np.array([2.0, 1.0, -0.5, 1.0, 0.0])
    b = np.array([2.0, 0.0, 0.0, -5.0, 1.0])
    a = np.array([3.0, 1.0, -2.0, 7.0, 9.0])
    net = np.stack([w, b, a])
    at, change = relu1d.slope_changes(net, -2.0, 2.0)
    np.testing.assert_allclose(at, [-1.0, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(sorted(change), [-1.0, 1.0, 6.0])
    assert relu1d.kinks(net, -2.0, 2.0, bins=101) == 1
    assert relu1d.variation(net, -2.0, 2.0, bins=101) == pytest.approx(6.0)
    assert relu1d.path_norm(net) == pytest.approx(6 + 1 + 1 + 7)
    x = np.array([-1.5, 1.0, 6.0])
    relu = np.maximum(np.outer(x, w) + b, 0) @ a
    np.testing.assert_allclose(relu1d.values(net, x), relu)
    np.testing.assert_allclose(
        relu1d.values(net, x), module(net)(torch.from_numpy(x)[:, None]).detach().numpy()
    )


@pytest.mark.parametrize("kernel", [False, True])
def test_at_zero_a_neuron_is_inactive_as_in_torch(kernel):
    """w x + b = 0 exactly for the first neuron: no gradient for its w and b, nor for its a."""
    net = np.array([[1.0, 1.0], [-2.0, 1.0], [3.0, 0.5]])
    x, y = np.array([2.0]), np.array([0.25])
    network = module(net)
    half_squares(network(torch.from_numpy(x)[:, None]), torch.from_numpy(y)).sum().backward()
    expected = np.stack([p.grad.numpy() for p in (network.w, network.b, network.a)])
    assert (expected[:, 0] == 0).all() and (expected[:, 1] != 0).all()
    if kernel:  # one step of length 1 along the gradient
        moved = net.copy()
        relu1d_kernel.advance(moved, x, y, 0.0, 1, 1.0, False, 1, 0, 1, 0.0)
        g = net - moved
    else:
        g, _ = relu1d.gradient(net, x, y)
    np.testing.assert_allclose(g, expected, rtol=1e-12)


def with_jumps(*changes):
    """A network whose slope jumps by these at 0.05, 0.15, ..., in parts of length 0.1 of [0, 1]."""
    at = 0.05 + 0.1 * np.arange(len(changes))
    return np.stack([np.ones(len(changes)), -at, np.array(changes)])


def test_a_kink_counts_above_one_hundredth_of_all():
    for share, counted in ((0.005, 1), (0.009, 1), (0.011, 2), (0.019, 2), (0.03, 2)):
        net = with_jumps(1 - share, -share)
        assert relu1d.kinks(net, 0.0, 1.0, bins=10) == counted, share
    assert relu1d.kinks(with_jumps(1.0, 0.3, 0.2), 0.0, 1.0, bins=10, share=0.15) == 2
    default = with_jumps(*np.ones(10))  # in 100 parts they are as many
    assert relu1d.kinks(default, 0.0, 1.0) == 10


def test_the_step_size_falls_linearly_to_zero():
    net = np.array([[1.0], [0.0], [1.0]])
    x, y = np.array([1.0]), np.array([0.0])
    sizes = []
    for t in range(4):
        moved = net.copy()
        relu1d.advance_slowly(moved, x, y, 0.0, 1, 0.1, True, 4, t, t + 1, 0.0)
        g, _ = relu1d.gradient(net, x, y)
        sizes.append(((net - moved) / np.where(g == 0, 1, g))[0, 0])
    np.testing.assert_allclose(sizes, [0.1, 0.075, 0.05, 0.025])
