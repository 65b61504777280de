import pytest
import torch
from torch import nn

from samkit import measure


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
