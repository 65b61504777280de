import pytest
import torch

from samkit.training import MLP, ascent_step, errors, gradients, losses, worst_case
from samkit.training.ascent import project

NET = MLP((4, 6, 3))


class Quadratic:
    """Two logits (-q(w), 0) with q quadratic: the loss of class 0 increases with q."""

    def __init__(self, g, H):
        self.g, self.H = g, H

    def logits(self, w, x):
        q = w @ self.g + 0.5 * ((w @ self.H) * w).sum(-1)
        return torch.stack([-q, torch.zeros_like(q)], -1)[..., None, :]


def test_the_step_has_length_rho_and_points_uphill():
    g = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    step = ascent_step(g, 0.5)
    torch.testing.assert_close(step, torch.tensor([[0.3, 0.4], [0.0, 0.0]]))
    rho = torch.tensor([[1.0], [2.0]])
    assert ascent_step(g, rho).isfinite().all()


def test_projection():
    delta = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    torch.testing.assert_close(
        project(delta, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]])
    )


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
    one_step = losses(NET, w + ascent_step(gradients(NET, w, x, y), 0.5), x, y)
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
