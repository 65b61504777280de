"""Sharpness against closed forms: on a quadratic every quantity is known."""

import contextlib
import copy

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import nn

from samkit import measure
from samkit.errors import NonFinite, Undefined, Unsupported


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


def dense_hessian(net, loss, x, y):
    """Of the mean loss in all trainable weights, by torch.autograd.functional."""
    named = dict(net.named_parameters())

    def at(*weights):
        outputs = torch.func.functional_call(net, dict(zip(named, weights, strict=True)), (x,))
        return loss(outputs, y).mean()

    weights = tuple(p.detach() for p in named.values())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        blocks = torch.autograd.functional.hessian(at, weights)
    rows = [
        torch.cat([b.reshape(w.numel(), -1) for b in row], dim=1)
        for w, row in zip(weights, blocks, strict=True)
    ]
    return torch.cat(rows)


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


@pytest.mark.slow
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
    hessian = dense_hessian(net, loss, x, torch.zeros(3))
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
    from samkit.perturbation import unit

    v = torch.tensor([[3e-30, 4e-30], [0.0, 0.0], [3.0, -4.0]])
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, -0.8]])
    torch.testing.assert_close(unit(v), expected)
    net = torch.nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[40.0, 0.0], [-40.0, 0.0]]))
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([0])  # fitted: the gradient is about 1e-35
    found = measure.sharpness(
        net, lambda z, y: nn.functional.cross_entropy(z, y, reduction="none"), x, y, rho=0.1, m=1
    )
    assert 0 <= found < 1e-6


# Models and data of every kind: the value is that of a formula, of autograd or of a float32 copy


def smooth(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)


def per_example(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def examples(n=12, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator, dtype=dtype)
    return x, torch.randint(2, (n,), generator=generator)


@pytest.mark.parametrize("m", [None, 1, 3, 4, 5, 12])
def test_a_loader_is_the_batch_in_parts(m):
    net, (x, y) = smooth(), examples()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4)
    settings = dict(rho=0.3, steps=5)
    expected = measure.sharpness(net, per_example, x, y, m=m, restarts=0, **settings)
    for data in (loader, list(loader), iter(loader)):
        value = measure.sharpness(net, per_example, data, m=m, restarts=0, **settings)
        assert value == pytest.approx(expected, rel=1e-9)


def test_the_other_measures_take_a_loader_too():
    net, (x, y) = smooth(), examples()
    parts = [*zip(x.split(5), y.split(5), strict=True)]
    for of in (
        measure.top_eigenvalue,
        lambda *a: measure.hessian_trace(*a, draws=3),
        lambda *a: measure.average_sharpness(*a, rho=0.3, draws=3),
    ):
        np.testing.assert_allclose(of(net, per_example, iter(parts)), of(net, per_example, x, y))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(4, 3), "targets are missing"),
        ({"x": torch.zeros(4, 3)}, "targets are missing"),
        (3, "targets are missing"),
        ((torch.zeros(4, 3), torch.zeros(4)), r"a batch is a Tensor: make it a pair"),
        ([{"input_ids": 1, "labels": 2}], r"a batch is a dict: .*b\['labels'\]"),
        ([], "no batches"),
    ],
)
def test_data_that_are_no_batches_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        measure.sharpness(smooth(), per_example, data, rho=0.1)
    with pytest.raises(ValueError, match=message):
        measure.top_eigenvalue(smooth(), per_example, data)


def test_a_group_larger_than_all_data_of_a_loader_is_refused():
    x, y = examples()
    with pytest.raises(ValueError, match=r"m=13: .* from 1 to 12"):
        measure.sharpness(smooth(), per_example, iter([(x, y)]), rho=0.1, m=13)


class Routed(nn.Module):
    """Mixture of experts: each example goes to one of them, in Python."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(3, 2), nn.ModuleList(nn.Linear(3, 2) for _ in range(2))

    def forward(self, x):
        gates = self.gate(x).softmax(1)
        out = torch.zeros(len(x), 2, dtype=x.dtype)
        for k, expert in enumerate(self.experts):
            rows = (gates.argmax(1) == k).nonzero()[:, 0]
            if rows.numel():
                out = out.index_add(0, rows, gates[rows, k, None] * expert(x[rows]))
        return out


class Branching(nn.Module):
    """Data-dependent control flow, as where transformers look whether a mask masks anything."""

    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        h = self.layer(x)
        return self.out(h.tanh() if bool((x.abs() < 9).all()) else h)


class ByNumpy(nn.Module):
    """A part of the forward pass that torch does not see."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x) * torch.from_numpy(
            np.exp(-(x.detach().numpy() ** 2)).sum(1, keepdims=True)
        )


class Force(nn.Module):
    """The derivative of a network by its input."""

    def __init__(self):
        super().__init__()
        self.net = smooth()

    def forward(self, x):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.net(x).square().sum(), x, create_graph=True)
        return slope[:, :2]


class Tracking(nn.Module):
    """InstanceNorm in train mode, with running statistics."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 8)
        self.norm = nn.InstanceNorm1d(2, track_running_stats=True, affine=True)

    def forward(self, x):
        return self.norm(self.layer(x).view(-1, 2, 4)).square().sum(2)


@pytest.mark.parametrize("kind", [Routed, Branching, ByNumpy, Force, Tracking])
def test_where_vmap_cannot_a_loop_gives_the_mean_over_the_groups(kind):
    torch.manual_seed(0)
    net, (x, y) = kind().double(), examples()
    settings = dict(rho=0.2, steps=3, restarts=0)
    with pytest.warns(
        RuntimeWarning, match=r"vmap cannot run this model \(.+\): the groups ascend"
    ):
        value = measure.sharpness(net, per_example, x, y, m=4, **settings)
    alone = [
        measure.sharpness(net, per_example, x[k : k + 4], y[k : k + 4], **settings)
        for k in (0, 4, 8)
    ]
    assert value == pytest.approx(np.mean(alone), rel=1e-12)
    assert value > 0
    eigenvalue = measure.top_eigenvalue(net, per_example, x, y)
    if kind is not Force:  # torch.autograd.functional itself cannot
        eigenvalues = torch.linalg.eigvalsh(dense_hessian(copy.deepcopy(net), per_example, x, y))
        assert eigenvalue == pytest.approx(float(eigenvalues[-1]), rel=1e-6)


def test_vmap_that_gives_something_else_is_noticed():
    class Odd(nn.Linear):
        def forward(self, x):
            factor = 2.0 if torch._C._functorch.maybe_current_level() == 2 else 1.0
            return factor * super().forward(x)

    net, (x, y) = Odd(3, 2).double(), examples()
    with pytest.warns(RuntimeWarning, match="it is off by"):
        value = measure.sharpness(net, per_example, x, y, m=4, rho=0.1)
    plain = nn.Linear(3, 2).double()
    plain.load_state_dict(net.state_dict())
    assert value == pytest.approx(measure.sharpness(plain, per_example, x, y, m=4, rho=0.1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("parts", [slice(None), slice(0, 1)], ids=["all", "first layer"])
def test_half_precision_is_measured_in_float32(dtype, parts):
    net, (x, y) = smooth(dtype=torch.float32), examples(dtype=torch.float32)
    net[parts].to(dtype)
    x = x.to(dtype).float()
    wide = copy.deepcopy(net).float()
    for of in (
        lambda *a: measure.sharpness(*a, rho=1e-3, m=4),
        lambda *a: measure.average_sharpness(*a, rho=1e-3, draws=3),
        lambda *a: measure.hessian_trace(*a, draws=3),
        measure.top_eigenvalue,
    ):
        expected = of(wide, per_example, x, y)
        np.testing.assert_allclose(of(net, per_example, x.to(net[0].weight.dtype), y), expected)
        with torch.autocast("cpu", torch.bfloat16):
            np.testing.assert_allclose(of(wide, per_example, x, y), expected)
    assert measure.sharpness(net, per_example, x, y, rho=1e-3, m=4) > 1e-4
    assert {p.dtype for p in net[parts].parameters()} == {dtype}


def test_weights_of_two_types_are_measured_in_the_wider():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2).double()

        def forward(self, x):
            return self.b(self.a(x).tanh().double())

    torch.manual_seed(0)
    net, (x, y) = Mixed(), examples()
    wide = copy.deepcopy(net).double()
    expected = measure.sharpness(wide, per_example, x, y, rho=0.1, m=4)
    assert measure.sharpness(net, per_example, x.float(), y, rho=0.1, m=4) == pytest.approx(
        expected, rel=1e-5
    )
    assert [p.dtype for p in net.parameters()] == [torch.float32] * 2 + [torch.float64] * 2

    class Stubborn(Mixed):
        def forward(self, x):
            return self.b(self.a(x.float()).tanh().double())

    with pytest.raises(Unsupported, match=r"measured in torch.float64.*pass model.float\(\)"):
        measure.sharpness(Stubborn(), per_example, x.float(), y, rho=0.1)


def test_a_forward_pass_in_half_precision_is_refused():
    class Casting(nn.Linear):
        def forward(self, x):
            return (x.bfloat16() @ self.weight.bfloat16().T).float()

    net, (x, y) = Casting(3, 2), examples(dtype=torch.float32)
    with pytest.raises(Unsupported, match=r"computes in half precision \(.*bfloat16\)"):
        measure.sharpness(net, per_example, x, y, rho=0.1, m=4)
    with pytest.raises(Unsupported, match="computes in half precision"):
        measure.top_eigenvalue(net, per_example, x, y)


def test_complex_weights_count_as_their_two_parts():
    class Complex(nn.Module):
        def __init__(self, w):
            super().__init__()
            self.w = nn.Parameter(w)

        def forward(self, x):
            z = x.to(self.w.dtype) @ self.w if self.w.is_complex() else None
            if z is None:  # the same network in real numbers
                return torch.stack([x @ self.w[:, 0], x @ self.w[:, 1]]).square().sum(0).sin()
            return z.abs().square().sin()

    x = examples()[0]
    w = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pairs = []
    for net in (Complex(torch.view_as_complex(w)), Complex(w)):
        pairs.append(
            [
                measure.sharpness(net, values, x, x[:, 0], rho=0.2, m=4),
                measure.sharpness(net, values, x, x[:, 0], rho=0.2, m=4, restarts=0, steps=3),
                *measure.average_sharpness(net, values, x, x[:, 0], rho=0.2, draws=3),
                measure.top_eigenvalue(net, values, x, x[:, 0]),
                *measure.hessian_trace(net, values, x, x[:, 0], draws=3),
            ]
        )
    np.testing.assert_allclose(*pairs)


@pytest.mark.parametrize(
    "normed", [torch.nn.utils.parametrizations.weight_norm, "hook"], ids=["parametrized", "hook"]
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_the_hessian_of_weight_norm_is_that_of_differences(normed):
    wrap = torch.nn.utils.weight_norm if normed == "hook" else normed
    net, (x, y) = smooth(), examples()
    net[0], net[2] = wrap(net[0]), wrap(net[2])
    names, start = zip(*net.named_parameters(), strict=True)
    start = [p.detach().clone() for p in start]

    def slope(flat):
        leaves = [
            part.view(p.shape).requires_grad_()
            for part, p in zip(flat.split([p.numel() for p in start]), start, strict=True)
        ]
        outputs = torch.func.functional_call(net, dict(zip(names, leaves, strict=True)), (x,))
        grads = torch.autograd.grad(per_example(outputs, y).mean(), leaves)
        return torch.cat([g.flatten() for g in grads])

    w = torch.cat([p.flatten() for p in start])
    rows = [(slope(w + h) - slope(w - h)) / 2e-6 for h in 1e-6 * torch.eye(len(w)).double()]
    expected = torch.linalg.eigvalsh(torch.stack(rows))[-1]
    assert measure.top_eigenvalue(net, per_example, x, y) == pytest.approx(float(expected), 1e-5)
    trace, error = measure.hessian_trace(net, per_example, x, y, draws=400)
    assert abs(trace - torch.stack(rows).trace()) < 4 * error


def test_a_second_derivative_that_is_not_symmetric_is_refused(monkeypatch):
    monkeypatch.setattr(measure.flatness, "WeightNormByFormula", contextlib.nullcontext)
    net, (x, y) = smooth(dtype=torch.float32), examples(dtype=torch.float32)
    net[0] = torch.nn.utils.parametrizations.weight_norm(net[0])
    for of in (measure.top_eigenvalue, measure.hessian_trace):
        with pytest.raises(Unsupported, match=r"not symmetric \(u'Hv = .*write it by its formula"):
            of(net, per_example, x, y)


class Square(torch.autograd.Function):
    """A backward pass written by hand that forgets its own derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        return g * 2 * ctx.saved_tensors[0].detach()


class Once(Square):
    backward = staticmethod(torch.autograd.function.once_differentiable(Square.backward))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (Square.apply, r"not the derivative of the first: .* apart"),
        (Once.apply, r"not the derivative of the first: .* apart"),
        (lambda z: torch.cdist(z, torch.eye(2), p=1.5), "torch has no second derivative"),
    ],
    ids=["detached", "once differentiable", "cdist"],
)
def test_second_derivatives_that_are_wrong_or_missing_are_refused(function, message):
    class Net(nn.Linear):
        def forward(self, x):
            return function(super().forward(x))

    net, (x, y) = Net(3, 2), examples(dtype=torch.float32)
    for of in (measure.top_eigenvalue, measure.hessian_trace):
        with pytest.raises(Unsupported, match=message):
            of(net, per_example, x, y)
    assert measure.sharpness(net, per_example, x, y, rho=0.1) > 0


def test_kinks_and_rounding_do_not_count_as_wrong_derivatives():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(3, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 2)
    )
    x, y = examples(200, dtype=torch.float32)
    assert measure.top_eigenvalue(net, per_example, x, y) > 0


def test_a_loss_that_reads_the_weights_sees_the_moved_ones():
    net, (x, y) = smooth(), examples()

    def decayed(outputs, targets):
        penalty = sum(p.square().sum() for p in net.parameters()) / 2
        return 0 * per_example(outputs, targets) + penalty

    norm = float(torch.cat([p.detach().flatten() for p in net.parameters()]).norm())
    for m in (None, 4):
        value = measure.sharpness(net, decayed, x, y, rho=0.1, m=m)
        assert value == pytest.approx(0.1 * norm + 0.1**2 / 2)
    assert measure.top_eigenvalue(net, decayed, x, y) == pytest.approx(1.0)


def test_a_layer_that_changes_its_input_changes_nothing_outside():
    net, (x, y) = smooth(), examples()
    copied = nn.Sequential(nn.ReLU(), net)
    in_place = nn.Sequential(nn.ReLU(inplace=True), net)
    before = x.clone()
    for m in (None, 4):
        settings = dict(rho=0.1, m=m, steps=3)
        value = measure.sharpness(in_place, per_example, x, y, **settings)
        assert value == measure.sharpness(copied, per_example, x, y, **settings)
    assert torch.equal(x, before)


def test_dropout_in_train_mode_has_one_mask():
    net, (x, y) = nn.Sequential(nn.Dropout(0.5), smooth()), examples()
    tiny = [measure.sharpness(net, per_example, x, y, rho=1e-6, m=m) for m in (None, 4)]
    assert max(tiny) < 1e-5, "with a mask for each evaluation it would be of the size of the loss"
    mean, _ = measure.average_sharpness(net, per_example, x, y, rho=1e-6, draws=5)
    assert abs(mean) < 1e-5


def test_sparse_embeddings_and_tied_weights():
    class Tied(nn.Module):
        def __init__(self, sparse):
            super().__init__()
            self.words = nn.Embedding(5, 3, sparse=sparse)
            self.out = nn.Linear(3, 5, bias=False)
            self.out.weight = self.words.weight

        def forward(self, x):
            return self.out(self.words(x).tanh())

    words, y = torch.arange(6) % 5, torch.arange(6) % 5
    nets = []
    for sparse in (True, False):
        torch.manual_seed(0)
        nets.append(Tied(sparse).double())
    for of in (
        lambda *a: measure.sharpness(*a, rho=0.1, m=2),
        lambda *a: measure.sharpness(*a, rho=0.1),
        measure.top_eigenvalue,
    ):
        assert of(nets[0], per_example, words, y) == of(nets[1], per_example, words, y)
    assert nets[0].words.sparse


def test_models_around_models_are_measured_themselves():
    net, (x, y) = smooth(), examples()
    value = measure.sharpness(net, per_example, x, y, rho=0.1, m=4)
    compiled = torch.compile(net, backend="eager")
    assert measure.sharpness(compiled, per_example, x, y, rho=0.1, m=4) == value


def test_what_cannot_be_measured_says_so():
    x, y = examples()
    lazy = nn.Sequential(nn.LazyLinear(2))
    with pytest.raises(ValueError, match=r"0\.weight has no shape yet: call the model once"):
        measure.sharpness(lazy, per_example, x, y, rho=0.1)

    class Detached(nn.Linear):
        def forward(self, x):
            return super().forward(x).detach()

    for of in (measure.top_eigenvalue, lambda *a: measure.sharpness(*a, rho=0.1, m=4)):
        with pytest.raises(ValueError, match="depends on none of the model's trainable weights"):
            of(Detached(3, 2).double(), per_example, x, y)
    other = smooth(1)
    with pytest.raises(ValueError, match="depends on none of the model's trainable weights"):
        measure.sharpness(smooth(), lambda z, t: per_example(other(x), t), x, y, rho=0.1)


class FullyShardedDataParallel(nn.Sequential):
    """Of the name by which FSDP's is known."""


def test_sharded_models_are_refused():
    x, y = examples()
    with pytest.raises(Unsupported, match="sharded by FSDP"):
        measure.sharpness(FullyShardedDataParallel(smooth()), per_example, x, y, rho=0.1)
    net = smooth()
    net[0].weight.full_tensor = lambda: None  # as a DTensor has
    with pytest.raises(Unsupported, match=r"0\.weight is sharded"):
        measure.top_eigenvalue(net, per_example, x, y)


# By closed forms


@pytest.mark.slow
def test_adaptive_sharpness_is_that_of_the_scaled_problem(problem):
    """In the units T = |w| + eta the quadratic has the Hessian T H T and the slope T g."""
    H, b, w = problem
    T = np.abs(w) + 0.05
    H, slope = H.mean(0), T * (H.mean(0) @ w + b.mean(0))
    scaled = T[:, None] * H * T
    net, x, y = inputs(problem)
    settings = dict(rho=0.3, adaptive=True, eta=0.05)
    value = measure.sharpness(net, values, x, y, steps=200, restarts=3, **settings)
    expected = true_increase(scaled, slope, 0.3)
    assert value == pytest.approx(expected, rel=1e-3) and value <= expected * (1 + 1e-12)
    mean, error = measure.average_sharpness(net, values, x, y, draws=4000, **settings)
    assert abs(mean - 0.3**2 * np.trace(scaled) / (2 * len(w))) < 4 * error
    by_groups = measure.sharpness(net, values, x, y, m=2, **settings)
    x, y = [t.chunk(3) for t in x], y.chunk(3)
    alone = [
        measure.sharpness(net, values, (x[0][k], x[1][k]), y[k], restarts=0, **settings)
        for k in range(3)
    ]
    assert by_groups == pytest.approx(np.mean(alone), rel=1e-3)
    with pytest.raises(ValueError, match="eta=-1: pass a finite number"):
        measure.sharpness(net, values, x, y, rho=0.1, adaptive=True, eta=-1)


def test_the_trace_of_a_quadratic(problem):
    H, _, _ = problem
    net, x, y = inputs(problem)
    trace, error = measure.hessian_trace(net, values, x, y, draws=2000)
    assert abs(trace - np.trace(H.mean(axis=0))) < 4 * error < 0.2
    diagonal = torch.diag_embed(torch.diagonal(x[0], dim1=1, dim2=2))
    exact, error = measure.hessian_trace(net, values, (diagonal, x[1]), y, draws=2)
    assert exact == pytest.approx(np.trace(H.mean(axis=0))) and error == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="draws=1: pass at least 2"):
        measure.hessian_trace(net, values, x, y, draws=1)


def along(values_by_w):
    """A model of one weight and the loss that the function gives at it."""
    net = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(net.weight)
    x, y = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1)
    return net, lambda z, _: values_by_w(z[:, 0]), x, y


def test_the_best_loss_on_the_way_counts_and_not_the_last():
    """A narrow hill: the first step lands on its top, and the later ones slide off it."""
    net, loss, x, y = along(lambda w: 0.1 * w + torch.exp(-(((w - 1) / 0.01) ** 2)) + 0 * w)
    value = measure.sharpness(net, loss, x, y, rho=1.0, steps=1, restarts=0)
    assert value == pytest.approx(1.1)

    def late(w):  # a peak at the radius, and a trap: from the peak the slope leads away
        return torch.where(w > 0.95, 2.0 - 8 * w, w)

    net, loss, x, y = along(late)
    value = measure.sharpness(net, loss, x, y, rho=0.9, steps=4, restarts=0)
    assert value == pytest.approx(0.9)


def test_the_best_of_several_ascents_and_steps_counts():
    """w -> sin(8 w): what an ascent ends in is not the best that it has met."""
    net, loss, x, y = along(lambda w: torch.sin(8 * w))
    met = []

    def noted(z, t):
        losses = loss(z, t)
        met.append(losses.detach().flatten())
        return losses

    value = measure.sharpness(net, noted, x, y, rho=1.0, steps=3, restarts=2)
    assert value == float(torch.cat(met).max()) > float(met[-1])


def test_the_largest_eigenvalue_by_value_is_not_that_of_largest_magnitude():
    H = torch.diag(torch.tensor([-5.0, 1.0, 3.0], dtype=torch.float64))[None]
    zero = torch.zeros(1, 3, dtype=torch.float64)
    net, y = Quadratic([1.0, 1.0, 1.0]), torch.zeros(1)
    net.double()
    assert measure.top_eigenvalue(net, values, (H, zero), y) == pytest.approx(3.0)
    assert measure.top_eigenvalue(net, values, (H - 4 * torch.eye(3), zero), y) == pytest.approx(-1)


def test_every_random_perturbation_has_the_length_rho():
    """On w'w / 2 at 0 the increase is rho^2 / 2 in every direction."""
    for K in (1, 3, 50):
        net = Quadratic([0.0] * K).double()
        x = torch.eye(K, dtype=torch.float64)[None], torch.zeros(1, K, dtype=torch.float64)
        mean, error = measure.average_sharpness(net, values, x, torch.zeros(1), rho=0.3, draws=20)
        assert mean == pytest.approx(0.3**2 / 2, rel=1e-12) and error < 1e-12


def test_every_start_counts_the_gradient_s_and_the_random_ones():
    """A valley at 0: up to 1 on the right, where the gradient points, to 1/2 or 2 on the left."""
    for left, reached in ((0.5, {1.0}), (2.0, {1.0, 2.0})):
        net, loss, x, y = along(lambda w, left=left: torch.where(w >= 0, w, -left * w))
        met = {
            measure.sharpness(net, loss, x, y, rho=1.0, steps=2, restarts=1, seed=seed)
            for seed in range(10)
        }
        assert met == reached
    assert measure.sharpness(net, loss, x, y, rho=1.0, steps=2, restarts=10) == 2.0
