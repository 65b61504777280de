import pytest
import torch
from torch import nn

from samkit import measure
from samkit.errors import Unsupported


def linear(weight):
    net = nn.Linear(2, 1, bias=False).double()
    nn.init.constant_(net.weight, 0.0)
    net.weight.data += torch.tensor(weight, dtype=torch.float64)
    return net


def weights(net):
    return {k: v.clone() for k, v in net.state_dict().items()}


def test_the_line_passes_through_both_ends_and_the_middle():
    a, b = linear([[0.0, 1.0]]), linear([[2.0, 3.0]])
    model = linear([[9.0, 9.0]])
    seen = measure.on_line(
        model, weights(a), weights(b), [0, 0.5, 1, 1.5], lambda net: net.weight.flatten().tolist()
    )
    assert seen == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert model.weight.flatten().tolist() == [9, 9]


def test_the_plane_keeps_distances():
    a, b, c = (weights(linear([w])) for w in ([0.0, 1.0], [3.0, 1.0], [1.0, 3.0]))
    at, (p, q, r) = measure.plane_through(a, b, c)
    assert p == (0.0, 0.0)
    assert q == pytest.approx((3.0, 0.0))
    assert r == pytest.approx((1.0, 2.0))
    for corner, (u, v) in zip((a, b, c), (p, q, r), strict=True):
        torch.testing.assert_close(at(u, v)["weight"], corner["weight"])
    grid = measure.on_plane(
        linear([[0.0, 0.0]]), at, [0.0, 3.0], [0.0, 2.0], lambda net: net.weight.flatten().tolist()
    )
    flat = [value for row in grid for point in row for value in point]
    assert flat == pytest.approx([0, 1, 3, 1, 0, 3, 3, 3])


def test_three_on_a_line_have_no_plane():
    a, b, c = (weights(linear([w])) for w in ([0.0, 0.0], [1.0, 1.0], [2.0, 2.0]))
    with pytest.raises(ValueError, match="lie on one line"):
        measure.plane_through(a, b, c)


def test_batchnorm_is_estimated_anew_at_every_point():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval()
    other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval()
    x = 5 + torch.randn(64, 2)
    ends = weights(net), weights(other)
    with pytest.raises(ValueError, match="pass statistics"):
        measure.on_line(net, *ends, [0.5], lambda n: 0)
    means = measure.on_line(net, *ends, [0.0, 0.5, 1.0], lambda n: n(x).mean(0), statistics=[x])
    for mean in means:
        torch.testing.assert_close(mean, torch.zeros(3), atol=1e-5, rtol=0)
    assert (net[1].running_mean == 0).all() and not net.training


def test_statistics_may_come_from_a_generator():
    torch.manual_seed(0)
    net, other = (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval() for _ in range(2))
    batches = [5 + torch.randn(8, 2), torch.randn(8, 2)]

    def mean(n):
        return n[1].running_mean.tolist()

    a, b = weights(net), weights(other)
    true = measure.on_line(net, a, b, [0.0, 1.0], mean, statistics=batches)
    assert measure.on_line(net, a, b, [0.0, 1.0], mean, statistics=iter(batches)) == true
    true = measure.on_plane(net, lambda u, v: a, [0.0], [0, 1], mean, statistics=batches)
    found = measure.on_plane(net, lambda u, v: a, [0.0], [0, 1], mean, statistics=iter(batches))
    assert found == true


def test_tied_weights_count_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

    nets = [Tied() for _ in range(3)]
    at, corners = measure.plane_through(*(net.state_dict() for net in nets))
    plain, alone = measure.plane_through(*(net.a.state_dict() for net in nets))
    assert corners == alone
    moved = at(0.3, -0.2)
    assert torch.equal(moved["a.weight"], moved["b.weight"])
    assert torch.equal(moved["a.weight"], plain(0.3, -0.2)["weight"])


def test_networks_that_differ_are_refused():
    two, three = ({"v": torch.zeros(k)} for k in (2, 3))
    with pytest.raises(ValueError, match=r"the model has no \['v'\]"):
        measure.on_line(linear([[0.0, 0.0]]), two, two, [0], len)
    with pytest.raises(ValueError, match="differ in the names or shapes"):
        measure.on_line(linear([[0.0, 0.0]]), two, three, [0], len)
    with pytest.raises(ValueError, match="differ in the names or shapes"):
        measure.on_line(
            linear([[0.0, 0.0]]), weights(linear([[0.0, 0.0]])), weights(nn.Linear(3, 1)), [0], len
        )


def test_complex_weights_lie_on_the_line_and_in_the_plane():
    class Complex(nn.Module):
        def __init__(self, seed):
            super().__init__()
            generator = torch.Generator().manual_seed(seed)
            self.w = nn.Parameter(torch.randn(3, dtype=torch.complex64, generator=generator))
            self.v = nn.Parameter(torch.randn(2, generator=generator))

        def forward(self, x):
            return (x.to(torch.complex64) @ self.w).abs() + self.v.sum()

    nets, x = [Complex(seed) for seed in range(3)], torch.randn(5, 3)
    a, b, c = map(weights, nets)

    def outputs(net):
        return net(x)

    ends = measure.on_line(nets[2], a, b, [0.0, 1.0, 0.5], outputs)
    torch.testing.assert_close(ends[:2], [outputs(net) for net in nets[:2]])
    middle = Complex(0)
    middle.load_state_dict({k: (a[k] + b[k]) / 2 for k in a})
    torch.testing.assert_close(ends[2], outputs(middle))
    at, corners = measure.plane_through(a, b, c)
    for (u, v), net in zip(corners, nets, strict=True):
        torch.testing.assert_close(measure.on_plane(nets[0], at, [u], [v], outputs)[0][0], net(x))
    distance = sum((a[k] - b[k]).abs().square().sum() for k in a).sqrt()
    assert corners[1][0] == pytest.approx(float(distance))


def frozen_and_not():
    torch.manual_seed(0)
    layers = nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)
    return nn.Sequential(*layers)


def test_every_module_is_measured_in_its_own_mode():
    net, other, x = frozen_and_not(), frozen_and_not(), 5 + torch.randn(64, 2)
    for n, mean in ((net, 1.0), (other, 3.0)):
        n[1].running_mean.fill_(mean)
        n[1].eval()
    modes = measure.on_line(
        net,
        weights(net),
        weights(other),
        [0.0, 0.5],
        lambda n: ([m.training for m in n], n[1].running_mean.mean().item(), n[3].running_mean),
        statistics=[(x, "labels are not looked at")],
    )
    for training, frozen, estimated in modes:
        assert training == [True, False, True, True, True]
        assert frozen in (1.0, 2.0)
        assert (estimated != 0).all()
    assert [m.training for m in net] == [True, False, True, True, True]
    whole = measure.on_line(
        net.eval(), weights(net), weights(net), [0.0], lambda n: n[1].running_mean, statistics=[x]
    )
    torch.testing.assert_close(whole[0], net[0](x).mean(0).detach())


def test_only_batchnorm_estimates_while_the_others_hold():
    """Dropout in eval mode drops nothing there, InstanceNorm in eval mode learns nothing."""

    class Net(nn.Sequential):
        def forward(self, x):
            h = self[1](self[0](x).unsqueeze(1)).flatten(1)
            return self[3](self[2](h))

    layers = nn.Linear(2, 3), nn.InstanceNorm1d(1, track_running_stats=True), nn.Dropout(0.5)
    net, x = Net(*layers, nn.BatchNorm1d(3)).eval(), torch.randn(64, 2)
    ((mean, tracked),) = measure.on_line(
        net,
        weights(net),
        weights(net),
        [0.0],
        lambda n: (n[3].running_mean, n[1].running_mean),
        statistics=x.split(32),
    )
    h = net[1](net[0](x).unsqueeze(1)).flatten(1)
    torch.testing.assert_close(mean, h.mean(0).detach())
    assert (tracked == net[1].running_mean).all()


def test_every_point_sees_the_same_random_numbers():
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 3))
    x = torch.randn(64, 2)
    one, two = measure.on_line(net, weights(net), weights(net), [0.0, 1.0], lambda n: n(x))
    assert torch.equal(one, two)


def test_no_statistics_and_models_that_cannot_be_copied_are_refused():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).eval()
    with pytest.raises(ValueError, match="statistics has no batch"):
        measure.on_line(net, weights(net), weights(net), [0.0], len, statistics=iter(()))
    net = nn.Linear(2, 3)
    net.last = net(torch.ones(1, 2))  # with the graph behind it
    with pytest.raises(Unsupported, match="cannot be copied, and is not to be changed"):
        measure.on_line(net, weights(net), weights(net), [0.0], len)
