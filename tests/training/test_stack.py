import numpy as np
import pytest
import torch
from scipy import stats

from samkit import Perturbation, msam_grad, training
from samkit.training import MLP, errors, gradients, losses, train_stack, worst_case
from samkit.training.stack import Draws, _mean_over_groups, direction

NET = MLP((4, 6, 3))
NETS = {"one hidden layer": NET, "three": MLP((4, 6, 5, 6, 3)), "none": MLP((4, 3))}
SHORT = dict(epochs=2, batch_size=8, dtype=torch.float64)
PERTURBATIONS = [
    Perturbation(),
    Perturbation(0.5, source="random"),
    Perturbation(0.3),
    Perturbation(0.3, m=1),
    Perturbation(0.3, source="independent"),
    Perturbation(0.3, source="previous"),
    Perturbation(0.1, m=2),
    Perturbation(1.5, source="random"),
    Perturbation(1.5, source="random", normalize=False),
    Perturbation(0.3, m=2),
    Perturbation(0.3, m=8),
    Perturbation(0.3, normalize=False),
    Perturbation(0.3, m=4, normalize=False),
    Perturbation(3.0, m=4, normalize=False, share_of_batch=True, project=True),
    Perturbation(0.3, steps=3),
    Perturbation(0.3, adaptive=True),
]


# a network as a function of one vector

WIDE = MLP((5, 7, 3))


def as_modules(w):
    """The same network in torch's own layers."""
    first, second = torch.nn.Linear(5, 7).double(), torch.nn.Linear(7, 3).double()
    W1, b1, W2, b2 = w.split([35, 7, 21, 3])
    with torch.no_grad():
        first.weight.copy_(W1.reshape(5, 7).T)
        first.bias.copy_(b1)
        second.weight.copy_(W2.reshape(7, 3).T)
        second.bias.copy_(b2)
    return torch.nn.Sequential(first, torch.nn.ReLU(), second)


@pytest.fixture
def stack():
    generator = torch.Generator().manual_seed(0)
    w = torch.stack([WIDE.init(generator) for _ in range(4)])
    x = torch.randn(4, 6, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (4, 6), generator=generator)
    return w, x, y


def test_a_stack_of_vectors_is_a_stack_of_networks(stack):
    w, x, y = stack
    assert WIDE.size == w.shape[1] == 66
    found = losses(WIDE, w, x, y), errors(WIDE, w, x, y), gradients(WIDE, w, x, y)
    for k in range(4):
        model = as_modules(w[k])
        z = model(x[k])
        loss = torch.nn.functional.cross_entropy(z, y[k])
        loss.backward()
        weight1, bias1, weight2, bias2 = (p.grad for p in model.parameters())
        gradient = torch.cat([weight1.T.flatten(), bias1, weight2.T.flatten(), bias2])
        torch.testing.assert_close(found[0][k], loss.detach())
        assert found[1][k] == (z.argmax(1) != y[k]).double().mean()
        torch.testing.assert_close(found[2][k], gradient)


def test_examples_are_shared_where_they_have_no_leading_dimension(stack):
    w, x, y = stack
    shared = losses(WIDE, w, x[0], y[0])
    torch.testing.assert_close(shared, losses(WIDE, w, x[:1].expand(4, 6, 5), y[:1].expand(4, 6)))


def test_initial_weights_are_within_torchs_default_bounds():
    w = WIDE.init(torch.Generator().manual_seed(3))
    assert w[:42].abs().max() <= 5**-0.5 and w[42:].abs().max() <= 7**-0.5
    assert w[:42].abs().max() > 0.9 * 5**-0.5


# the worst case


class Quadratic:
    """Two logits (-q(w), 0) with q quadratic: the loss of class 0 increases with q."""

    def __init__(self, g, H):
        self.g, self.H = g, H

    def logits(self, w, x):
        q = w @ self.g + 0.5 * ((w @ self.H) * w).sum(-1)
        return torch.stack([-q, torch.zeros_like(q)], -1)[..., None, :]


@pytest.mark.parametrize("rho", [0.3, 2.0])
def test_the_maximum_of_a_quadratic_in_two_dimensions_is_found(rho):
    """Against a grid of the disc: its maximum is on the rim or inside."""
    g = torch.tensor([0.4, -0.3], dtype=torch.float64)
    H = torch.tensor([[-1.0, 0.6], [0.6, -2.0]], dtype=torch.float64)
    problem = Quadratic(g, H)
    angle = torch.linspace(0, 2 * torch.pi, 721, dtype=torch.float64)
    radius = torch.linspace(0, rho, 201, dtype=torch.float64)[:, None]
    grid = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    x, y = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    expected = losses(problem, grid, x, y).max()
    found = worst_case(problem, torch.zeros(2, dtype=torch.float64), x, y, rho, steps=200)
    assert found == pytest.approx(float(expected), abs=2e-3 * rho)


@pytest.fixture
def trained():
    generator = torch.Generator().manual_seed(1)
    w = torch.stack([2 * NET.init(generator) for _ in range(3)])
    x = torch.randn(3, 8, 4, generator=generator, dtype=torch.float64)
    return w, x, torch.randint(3, (3, 8), generator=generator)


def test_never_below_the_one_step_value_and_never_above_with_a_smaller_ball(trained):
    w, x, y = trained
    kept = w.clone()
    one_step = losses(NET, w + Perturbation(0.5).delta(w, lambda v: gradients(NET, v, x, y)), x, y)
    found = worst_case(NET, w, x, y, 0.5)
    assert (found >= one_step).all()
    assert (found >= worst_case(NET, w, x, y, 0.2)).all()
    assert (w == kept).all()
    torch.testing.assert_close(worst_case(NET, w, x, y, 0.0), losses(NET, w, x, y))


def test_more_restarts_never_lower_the_result(trained):
    w, x, y = trained
    assert (worst_case(NET, w, x, y, 1.0, restarts=3) >= worst_case(NET, w, x, y, 1.0)).all()


def test_the_score_may_be_the_error(trained):
    w, x, y = trained
    found = worst_case(NET, w, x, y, 3.0, score=errors)
    assert (found >= errors(NET, w, x, y)).all() and found.max() <= 1
    assert (found > errors(NET, w, x, y)).any()


def test_the_search_takes_steps_of_half_the_radius_and_then_of_a_tenth():
    """On a linear loss, from w itself: the points at which the score is taken."""
    problem = Quadratic(torch.tensor([0.6, 0.8]).double(), torch.zeros(2, 2).double())
    x, y = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    lengths = []

    def score(network, w, x, y):
        lengths.append(round(float(w.norm()), 12))
        return losses(network, w, x, y)

    worst_case(problem, torch.zeros(2).double(), x, y, 2.0, score=score, steps=2, restarts=0)
    # at w; from the first-order step, which stays on the rim; from w
    assert lengths == [0, 2, 2, 2, 0, 1, 1.2]


# training


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(27, 4)), rng.integers(3, size=27)  # 27: the last 3 are left out


@pytest.fixture(scope="module")
def swept(data):
    return {
        name: train_stack(net, *data, PERTURBATIONS, [5, 9], **SHORT) for name, net in NETS.items()
    }


def by_the_formulas(network, x, y, perturbation, seed):
    """Torch's SGD with momentum and cosine along the direction of the specification."""
    x, y = torch.tensor(x), torch.tensor(y)
    draws = Draws(network, seed, torch.float64)
    w = draws.start.clone().requires_grad_()
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    for _ in range(2):
        order, other_order = draws.orders(27)
        for k in range(3):
            rows = order[8 * k : 8 * k + 8]
            others = other_order[8 * k : 8 * k + 8]
            if perturbation.source == "previous":
                others = order[8 * k - 8 : 8 * k] if k else order[16:24]
            batch, other = (x[rows], y[rows]), (x[others], y[others])
            noise = draws.noise() if perturbation.source == "random" else None
            w.grad = direction(network, perturbation, w.detach(), batch, other, noise)
            optimizer.step()
            schedule.step()
    return w.detach()


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("which", range(len(PERTURBATIONS)), ids=lambda k: str(PERTURBATIONS[k]))
@pytest.mark.parametrize("seed", [0, 1])
def test_the_stack_equals_the_specification(data, swept, net, which, seed):
    expected = by_the_formulas(NETS[net], *data, PERTURBATIONS[which], [5, 9][seed])
    torch.testing.assert_close(swept[net][which, seed], expected, rtol=1e-10, atol=1e-12)


def test_perturbations_and_seeds_differ(swept):
    some = [k for k, each in enumerate(PERTURBATIONS) if each.m != 8]  # m = 8 is the whole batch
    flat = swept["one hidden layer"][some].flatten(0, 1)
    apart = torch.cdist(flat, flat) + torch.eye(len(flat))
    assert apart.min() > 1e-4


def test_the_extremes_of_m_and_of_rho(data):
    x, y = torch.tensor(data[0]), torch.tensor(data[1])
    draws = Draws(NET, 0, torch.float64)
    w, noise = draws.start, draws.noise()
    batch, other = (x[:8], y[:8]), (x[8:16], y[8:16])

    def d(*args, other=other, **options):
        return direction(NET, Perturbation(*args, **options), w, batch, other, noise)

    torch.testing.assert_close(d(0.3), d(0.3, m=8))
    torch.testing.assert_close(d(0.3, source="independent", other=batch), d(0.3))
    for source in ("random", "own", "independent", "previous"):
        torch.testing.assert_close(d(0.0, source=source), gradients(NET, w, *batch))
    by_example = [gradients(NET, w, x[i : i + 1], y[i : i + 1]) for i in range(8)]
    shifted = [
        gradients(NET, w + 0.3 * g / g.norm(), x[i : i + 1], y[i : i + 1])
        for i, g in enumerate(by_example)
    ]
    torch.testing.assert_close(d(0.3, m=1), torch.stack(shifted).mean(0))


def test_perturbations_with_one_seed_share_start_and_batches(data):
    three = [Perturbation(), Perturbation(source="independent"), Perturbation(m=4)]
    zero = train_stack(NET, *data, three, [7], **SHORT)
    torch.testing.assert_close(zero[0], zero[1])
    torch.testing.assert_close(zero[0], zero[2])


def test_a_seed_decides_start_batches_other_batches_and_noise_each_on_its_own():
    def drawn(seed):
        draws = Draws(NET, seed, torch.float64)
        own, other = draws.orders(1000)
        return draws.start, own.double(), other.double(), draws.noise()

    one, again, two = drawn(3), drawn(3), drawn(4)
    for a, b, c in zip(one, again, two, strict=True):
        assert torch.equal(a, b)
        assert abs(np.corrcoef(a, c)[0, 1]) < (0.1 if len(a) == 1000 else 0.5)
    assert abs(np.corrcoef(one[1], one[2])[0, 1]) < 0.1
    assert sorted(one[1].tolist()) == sorted(one[2].tolist()) == list(range(1000))


def test_the_noise_is_standard_normal():
    noise = Draws(MLP((40, 64, 10)), 0, torch.float64).noise().numpy()
    assert stats.kstest(noise, "norm").pvalue > 0.1
    assert stats.kstest(noise, "uniform", args=(-(3**0.5), 2 * 3**0.5)).pvalue < 1e-6


@pytest.mark.parametrize("m", [3, 16])
def test_a_group_size_that_does_not_fill_the_batch(data, m):
    with pytest.raises(ValueError, match=r"divisor of batch_size=8|from 1 to 8"):
        train_stack(NET, *data, [Perturbation(), Perturbation(0.1, m=m)], [0], **SHORT)


@pytest.mark.parametrize("more", [{"steps": 2}, {"adaptive": True}])
def test_groups_take_one_step_in_a_ball(data, more):
    with pytest.raises(ValueError, match="for the whole batch"):
        train_stack(NET, *data, [Perturbation(0.1, m=2, **more)], [0], **SHORT)


def test_data_that_do_not_fit(data):
    x, y = data
    with pytest.raises(ValueError, match="no larger than the data"):
        train_stack(NET, x, y, [Perturbation()], [0], batch_size=28)
    with pytest.raises(ValueError, match="one label per"):
        train_stack(NET, x[:-1], y, [Perturbation()], [0], batch_size=8)
    with pytest.raises(ValueError, match="at least one perturbation"):
        train_stack(NET, x, y, [], [0], batch_size=8)


def test_weights_that_stop_being_finite_stop_the_stack_with_the_name_of_the_perturbation(data):
    two = [Perturbation(rho, source="random") for rho in (0.1, 1e200)]
    with pytest.raises(FloatingPointError, match=r"rho=1e\+200.*random.*seed 4.*lower rho"):
        train_stack(NET, *data, two, [4], **SHORT)


@pytest.mark.parametrize("m", [1, 2])
def test_a_fitted_group_is_perturbed_by_rho_although_squares_underflow(m):
    """A gradient of 1e-25 in float32, for the second logit alone: its squares are zero."""
    net, w, rho = MLP((1, 2)), torch.tensor([[29.0, -29.0, 0.0, 0.0]]), torch.tensor([[60.0]])
    x, y = torch.ones(1, 2, 1), torch.tensor([[0, 0]])
    assert 0 < gradients(net, w, x, y).abs().max() < 1e-20
    moved = w + rho * torch.tensor([[0.0, 0.5, 0.0, 0.5]]).sqrt()
    expected = gradients(net, moved, x, y)
    assert expected.abs().max() > 0.9
    found = _mean_over_groups(net, Perturbation(60.0, m=m), w, x, y, rho, m)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("m", [1, 2, 8])
def test_a_group_whose_gradient_is_exactly_zero_is_not_perturbed(data, m, normalize):
    """Saturated predictions: the loss of an example and its gradient are 0 in float32."""
    x = torch.tensor(data[0][:8], dtype=torch.float32)
    w = (400 * NET.init(torch.Generator().manual_seed(2))).float()
    y = NET.logits(w, x).argmax(-1)
    y[7] = (y[7] + 1) % 3  # one example has a gradient
    flat = [bool((gradients(NET, w, x[i], y[i]) == 0).all()) for i in range(8)]
    assert 4 <= sum(flat) < 8
    rule = Perturbation(0.1, m=m, normalize=normalize)
    found = train_direction(w, x, y, rule, m)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    (W1, b1), (W2, b2) = NET.layers(w)
    with torch.no_grad():
        for p, value in zip(model.parameters(), (W1.T, b1[0], W2.T, b2[0]), strict=True):
            p.copy_(value)
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    msam_grad(model, loss, x, y, rho=0.1, m=m, normalize=normalize, method="loop")
    g = [p.grad.T if p.dim() == 2 else p.grad for p in model.parameters()]
    torch.testing.assert_close(found, torch.cat([part.flatten() for part in g]))
    assert found.abs().max() > 0


def train_direction(w, x, y, rule, m):
    if m == len(y):
        return direction(NET, rule, w, (x, y), (x, y))
    return _mean_over_groups(NET, rule, w[None], x[None], y[None], torch.tensor([[rule.rho]]), m)[0]


def test_names_of_before_are_still_there_and_say_the_new_ones():
    with pytest.warns(DeprecationWarning, match=r"samkit\.Perturbation"):
        rule = training.Rule
    assert rule("ERM") == Perturbation()
    assert rule("m-SAM", 0.1, 4) == Perturbation(0.1, m=4)
    assert rule("random", 0.1) == Perturbation(0.1, source="random", normalize=False)
    assert rule("n-SAM", 0.1) == Perturbation(0.1, source="independent")
    with pytest.warns(DeprecationWarning, match="train_stack"):
        assert training.train is train_stack
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = training.nothing
