"""Sharpness against closed forms: on a quadratic every quantity is known."""

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import nn

from samkit import measure
from samkit.errors import NonFinite, Undefined


class Quadratic(nn.Module):
    """l_i(w) = w'H_i w / 2 + b_i'w: the input of example i is (H_i, b_i)."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, H, b):
        return torch.einsum("i,nij,j->n", self.w, H, self.w) / 2 + b @ self.w


def values(outputs, targets):
    return outputs + 0 * targets


def true_increase(H, slope, rho):
    """max over the ball of slope'd + d'Hd/2, by the secular equation (H positive definite)."""
    eigenvalues, vectors = np.linalg.eigh(H)
    g = vectors.T @ slope

    def length(mu):
        return np.linalg.norm(g / (mu - eigenvalues)) - rho

    low = eigenvalues[-1] + 1e-12
    mu = brentq(length, low, eigenvalues[-1] + np.linalg.norm(g) / rho + 1)
    d = vectors @ (g / (mu - eigenvalues))
    return slope @ d + d @ H @ d / 2


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(6, 4, 4))
    H = roots @ roots.transpose(0, 2, 1) / 4
    b, w = rng.normal(size=(6, 4)), rng.normal(size=4)
    return H, b, w


def inputs(problem):
    H, b, w = problem
    return Quadratic(w), (torch.tensor(H), torch.tensor(b)), torch.zeros(6, dtype=torch.float64)


@pytest.mark.parametrize("m", [1, 2, 4, 6, None])
@pytest.mark.parametrize("rho", [0.1, 1.0])
def test_m_sharpness_of_a_quadratic(problem, m, rho):
    H, b, w = problem
    size = m or 6
    expected = 0.0
    for first in range(0, 6, size):
        group = slice(first, first + size)
        mean_H, mean_b = H[group].mean(axis=0), b[group].mean(axis=0)
        expected += len(H[group]) / 6 * true_increase(mean_H, mean_H @ w + mean_b, rho)
    net, x, y = inputs(problem)
    found = measure.sharpness(net, values, x, y, rho=rho, m=m, steps=200, restarts=3)
    assert found == pytest.approx(expected, rel=1e-3)
    assert found <= expected * (1 + 1e-12), "a search can only find less than the maximum"


def test_a_minimum_is_not_flat(problem):
    H, _, _ = problem
    net = Quadratic(np.zeros(4))
    x = torch.tensor(H), torch.zeros(6, 4, dtype=torch.float64)
    y = torch.zeros(6, dtype=torch.float64)
    top = np.linalg.eigvalsh(H.mean(axis=0))[-1]
    found = measure.sharpness(net, values, x, y, rho=0.5, steps=100)
    assert found == pytest.approx(0.5**2 * top / 2, rel=1e-3)
    assert measure.sharpness(net, values, x, y, rho=0.5, restarts=0) == 0.0


def test_more_steps_and_restarts_never_find_less_than_the_first_step(problem):
    net, x, y = inputs(problem)
    one = measure.sharpness(net, values, x, y, rho=0.3, m=2, steps=1, restarts=0)
    many = measure.sharpness(net, values, x, y, rho=0.3, m=2, steps=50, restarts=2)
    assert many >= one > 0


def test_average_sharpness_of_a_quadratic(problem):
    H, _, w = problem
    net, x, y = inputs(problem)
    mean, error = measure.average_sharpness(net, values, x, y, rho=0.3, draws=4000)
    expected = 0.3**2 * np.trace(H.mean(axis=0)) / (2 * len(w))
    assert abs(mean - expected) < 4 * error


def test_top_eigenvalue_of_a_quadratic(problem):
    H, _, _ = problem
    net, x, y = inputs(problem)
    expected = np.linalg.eigvalsh(H.mean(axis=0))[-1]
    assert measure.top_eigenvalue(net, values, x, y) == pytest.approx(expected, rel=1e-8)


def test_a_single_weight_has_a_single_eigenvalue():
    net, x = nn.Linear(1, 1, bias=False), torch.tensor([[1.0], [3.0]])
    found = measure.top_eigenvalue(net, lambda z, _: z[:, 0].square() / 2, x, torch.zeros(2))
    assert found == pytest.approx((1 + 9) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_hessian_of_zeros_has_the_eigenvalue_zero(dtype):
    x, y = torch.randn(4, 3, dtype=dtype), torch.zeros(4, dtype=dtype)
    for net in (nn.Linear(3, 1, dtype=dtype), nn.Linear(1, 1, bias=False, dtype=dtype)):
        part = x[:, : net.in_features]
        assert measure.top_eigenvalue(net, lambda z, _: z[:, 0], part, y) == 0.0
        relu = nn.Sequential(net, nn.ReLU(), nn.Linear(1, 1, dtype=dtype).requires_grad_(False))
        assert measure.top_eigenvalue(relu, lambda z, _: z[:, 0], part, y) == 0.0


def test_a_hessian_that_is_not_finite_is_said():
    net = nn.Linear(2, 1)
    with pytest.raises(NonFinite, match="the Hessian has"):
        measure.top_eigenvalue(
            net, lambda z, _: (z[:, 0] * 1e30).square(), torch.ones(1, 2), torch.ones(1)
        )


def test_attention_has_second_derivatives():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    net, x = layer.double(), torch.randn(3, 5, 4).double()

    def loss(z, _):
        return z[..., 0].square().mean(1)

    found = measure.top_eigenvalue(net, loss, x, torch.zeros(3))
    flat = measure.flatness.Flat(net, loss)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        hessian = torch.autograd.functional.hessian(
            lambda w: flat.loss(w, x, torch.zeros(3)), flat.w
        )
    assert found == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-6)


def test_inputs_may_be_a_list(problem):
    net, x, y = inputs(problem)
    settings = dict(rho=0.3, m=2)
    found = measure.sharpness(net, values, list(x), y, **settings)
    assert found == measure.sharpness(net, values, x, y, **settings)
    assert measure.top_eigenvalue(net, values, list(x), y) > 0


@pytest.mark.parametrize(
    "of",
    [
        lambda *a: measure.sharpness(*a, rho=0.1, m=2),
        lambda *a: measure.average_sharpness(*a, rho=0.1),
        measure.top_eigenvalue,
    ],
)
def test_a_loss_that_is_not_one_per_example_is_refused(problem, of):
    net, x, y = inputs(problem)
    for loss in (lambda z, t: z.mean(), lambda z, t: z[:, None]):
        with pytest.raises(ValueError, match=r"one loss per example, shape \([26],\); got"):
            of(net, loss, x, y)


def test_inputs_may_be_a_dict(problem):
    net, (H, b), y = inputs(problem)
    by_name = measure.sharpness(net, values, {"b": b, "H": H}, y, rho=0.3, m=2)
    assert by_name == measure.sharpness(net, values, (H, b), y, rho=0.3, m=2)


def test_a_loss_that_overflows_in_the_ball_is_said():
    net = nn.Linear(1, 1, bias=False)
    with pytest.raises(NonFinite, match="lower rho"):
        measure.sharpness(net, lambda z, _: z[:, 0].exp(), torch.ones(1, 1), torch.ones(1), rho=1e3)


def test_it_works_on_a_network_and_leaves_it_alone():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.GroupNorm(2, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    x, y = torch.randn(10, 3), torch.randint(2, (10,))
    before = {k: v.clone() for k, v in net.state_dict().items()}

    def loss(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    settings = dict(rho=0.1, steps=5)
    by_m = [measure.sharpness(net, loss, x, y, m=m, **settings) for m in (1, 3, 10)]
    assert by_m[0] > by_m[2] > 0, "single examples have more to gain than their mean"
    assert measure.top_eigenvalue(net, loss, x, y) > 0
    measure.average_sharpness(net, loss, x, y, rho=0.1, draws=3)
    assert all((before[k] == v).all() for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert by_m == [measure.sharpness(net, loss, x, y, m=m, **settings) for m in (1, 3, 10)]


def test_groups_in_parts_give_the_same(problem, monkeypatch):
    net, x, y = inputs(problem)
    whole = measure.sharpness(net, values, x, y, rho=0.3, m=1, restarts=0)
    monkeypatch.setattr("samkit.measure.flatness.CHUNK", 8)
    parts = measure.sharpness(net, values, x, y, rho=0.3, m=1, restarts=0)
    assert parts == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rho": 0.0}, "positive radius"),
        ({"m": 7}, "from 1 to 6"),
        ({"m": 0}, "from 1 to 6"),
        ({"m": 2.5}, r"m=2\.5: pass the size of a group, a whole number from 1 to 6"),
        ({"m": "2"}, "m='2': pass"),
        ({"steps": 0}, "at least 1 step"),
    ],
)
def test_bad_settings(problem, changes, message):
    net, x, y = inputs(problem)
    with pytest.raises(ValueError, match=message):
        measure.sharpness(net, values, x, y, **{"rho": 0.1, **changes})


def test_bad_settings_of_the_average_case_and_nothing_to_move(problem):
    net, x, y = inputs(problem)
    with pytest.raises(ValueError, match="at least 2 draws"):
        measure.average_sharpness(net, values, x, y, rho=0.1, draws=1)
    with pytest.raises(ValueError, match="requires_grad=True"):
        measure.top_eigenvalue(net.requires_grad_(False), values, x, y)


def test_batchnorm_in_train_mode_is_refused():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with pytest.raises(Undefined, match=r"call model\.eval\(\)"):
        measure.sharpness(net, values, torch.randn(4, 3), torch.zeros(4), rho=0.1)


def test_gradients_whose_squares_underflow_still_have_a_direction():
    from samkit.measure.flatness import _unit

    v = torch.tensor([[3e-30, 4e-30], [0.0, 0.0], [3.0, -4.0]])
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, -0.8]])
    torch.testing.assert_close(_unit(v), expected)
    net = torch.nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[40.0, 0.0], [-40.0, 0.0]]))
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([0])  # fitted: the gradient is about 1e-35
    found = measure.sharpness(
        net, lambda z, y: nn.functional.cross_entropy(z, y, reduction="none"), x, y, rho=0.1, m=1
    )
    assert 0 <= found < 1e-6
