"""The rules of the perturbation against closed forms and a numerical maximizer, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from samkit import perturb

SHAPES = [(3, 2), (4,), (1, 2, 2)]


def tensors(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, dtype=torch.float64, generator=generator) for s in SHAPES]


def flat(ts) -> Tensor:
    return torch.cat([t.flatten() for t in ts])


def full(radii) -> Tensor:
    """T as one vector."""
    return torch.cat(
        [
            torch.as_tensor(T, dtype=torch.float64).expand(s).flatten()
            for T, s in zip(radii, SHAPES, strict=True)
        ]
    )


W, G = tensors(0), tensors(1)

#: the radii of every member of the family
RADII = {
    "sam": perturb.radii(W, [0.3] * 3),
    "groups": perturb.radii(W, [0.3, 0.1, 0.7]),
    "group at rest": perturb.radii(W, [0.3, 0.0, 0.7]),
    "asam": perturb.radii(W, [0.3] * 3, eta=0.01),
    "asam, groups": perturb.radii(W, [0.3, 0.1, 0.7], eta=0.0),
}


@pytest.mark.parametrize("name", RADII)
def test_sam_maximizes_the_linearized_loss(name):
    T, g = full(RADII[name]).numpy(), flat(G).numpy()
    # maximize <g, T z> over ||z||^2 <= 1 without knowing the answer
    inside = {"type": "ineq", "fun": lambda z: 1 - z @ z, "jac": lambda z: -2 * z}
    start = np.zeros(len(g))
    found = minimize(
        lambda z: -g @ (T * z),
        start,
        jac=lambda z: -g * T,
        constraints=inside,
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    best = T * found.x
    delta = flat(perturb.sam(G, RADII[name])).numpy()
    assert np.allclose(delta, best, atol=2e-5)
    assert g @ delta >= g @ best - 1e-6  # as SLSQP may leave the ball by its tolerance


def test_sam_and_asam_formulas():
    # Foret et al. 2021, equation 2; Kwon et al. 2021, equation 9, with T_w = |w| + eta
    w, g, rho, eta = flat(W), flat(G), 0.3, 0.01
    assert torch.allclose(flat(perturb.sam(G, RADII["sam"])), rho * g / g.norm(), rtol=1e-12)
    T = w.abs() + eta
    asam = rho * T**2 * g / (T * g).norm()
    assert torch.allclose(flat(perturb.sam(G, RADII["asam"])), asam, rtol=1e-12)


def test_unnormalized_formulas():
    rhos = [0.3, 0.0, 0.7]
    for eta in (None, 0.01):
        found = perturb.unnormalized(G, perturb.radii(W, rhos, eta), rhos)
        for d, g, w, r in zip(found, G, W, rhos, strict=True):
            T = 1.0 if eta is None else w.abs() + eta
            assert torch.allclose(d, r * T**2 * g, rtol=1e-12)


@given(scale=st.floats(1e-3, 1e3))
def test_asam_is_invariant_to_scales(scale):
    # w -> A w, g -> g / A leaves delta / w as it is (Kwon et al. 2021, theorem 1), eta = 0
    A = [scale, 1.0, 1 / scale]
    w2 = [a * w for a, w in zip(A, W, strict=True)]
    g2 = [g / a for a, g in zip(A, G, strict=True)]
    one = perturb.sam(G, perturb.radii(W, [0.3] * 3, 0.0))
    two = perturb.sam(g2, perturb.radii(w2, [0.3] * 3, 0.0))
    for a, d1, d2 in zip(A, one, two, strict=True):
        assert torch.allclose(a * d1, d2, rtol=1e-10)


@pytest.mark.parametrize("name", RADII)
def test_random_directions(name):
    T = full(RADII[name])
    moves = T > 0
    generator = torch.Generator().manual_seed(0)
    z = torch.stack([flat(perturb.gaussian(W, RADII[name], generator)) for _ in range(4000)])
    # standard error of a variance: sqrt(2 / 4000) = 2.2 %; the largest of 14 within 4.5 of them
    assert torch.allclose(z.var(0), T**2, rtol=0.1)
    on_sphere = flat(perturb.sphere(W, RADII[name], generator))
    if name != "group at rest":
        assert torch.isclose((on_sphere / T)[moves].norm(), torch.tensor(1.0).double())
    assert (on_sphere[~moves] == 0).all()


def test_random_directions_repeat_with_the_generator():
    a, b = (
        flat(perturb.sphere(W, RADII["asam"], torch.Generator().manual_seed(5))) for _ in range(2)
    )
    assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["sam", "groups", "asam"])
def test_projection(name):
    T = full(RADII[name])
    inside = [0.1 * t for t in perturb.sam(G, RADII[name])]
    assert torch.allclose(flat(perturb.project(inside, RADII[name])), flat(inside), rtol=1e-12)
    outside = [7.0 * t for t in perturb.sam(G, RADII[name])]
    back = flat(perturb.project(outside, RADII[name]))
    assert torch.isclose((back / T).norm(), torch.tensor(1.0).double())
    assert torch.allclose(back * 7, flat(outside))


def test_ascent_reaches_the_worst_point_of_a_quadratic():
    # max of w^T H w / 2 over ||w|| <= rho is rho^2 lambda_max / 2, at an eigenvector
    H = torch.diag(torch.tensor([1.0, 2.0, 5.0]).double())
    w = torch.tensor([0.3, 0.3, 0.01]).double()
    delta = [None]
    for _ in range(60):
        at = w * 0 + (delta[0] if delta[0] is not None else 0.01 * w)
        delta = perturb.ascend(delta, perturb.sam([H @ at], [0.5]), [0.5])
    assert torch.allclose(delta[0].abs(), torch.tensor([0.0, 0.0, 0.5]).double(), atol=1e-8)


def test_step_size_only():
    G2 = tensors(2)
    found = flat(perturb.step_size_only(G, G2))
    assert torch.isclose(found.norm(), flat(G2).norm())
    assert torch.isclose(torch.cosine_similarity(found, flat(G), 0), torch.tensor(1.0).double())


@pytest.mark.parametrize("name", RADII)
def test_no_gradient_no_move(name):
    zero = [torch.zeros_like(g) for g in G]
    assert (flat(perturb.sam(zero, RADII[name])) == 0).all()
    some = perturb.sam([G[0], None, G[2]], RADII[name])
    assert some[1] is None
    T = full(RADII[name])
    there = torch.cat([torch.ones(6), torch.zeros(4), torch.ones(4)]).bool()
    g = torch.where(there, flat(G), 0)
    assert torch.allclose(flat([some[0], some[2]]), (T**2 * g / (T * g).norm())[there], rtol=1e-12)
    assert perturb.sam([None] * 3, RADII[name]) == [None] * 3


@pytest.mark.parametrize("name", RADII)
@pytest.mark.parametrize("bad", [float("inf"), float("nan"), 1e200])
def test_a_norm_that_is_not_finite_is_no_small_move(name, bad):
    g = [G[0] * bad, G[1], G[2]]
    assert flat(perturb.sam(g, RADII[name])).isnan().all()
    assert flat(perturb.project(g, RADII[name])).isnan().all()
    assert flat(perturb.step_size_only(g, G)).isnan().all()


@pytest.mark.parametrize("name", ["sam", "groups", "asam"])
def test_sparse_gradients_equal_dense_ones(name):
    rows = G[0].clone()
    rows[1] = 0
    index = torch.tensor([[0, 2, 0]])  # row 0 comes twice and adds up
    values = torch.stack([rows[0] / 4, rows[2], rows[0] * 3 / 4])
    sparse = torch.sparse_coo_tensor(index, values, rows.shape, check_invariants=True)
    found = perturb.sam([sparse, *G[1:]], RADII[name])
    true = perturb.sam([rows, *G[1:]], RADII[name])
    assert found[0].is_sparse
    for a, b in zip(found, true, strict=True):
        assert torch.allclose(a.to_dense(), b, rtol=1e-12)


@pytest.mark.parametrize(
    ("radii", "same"),
    [
        ([0.3, 0.3, 0.3], True),
        ([1e3, float("1e3"), 1000], True),
        ([0.3, 0.3, 0.1], False),
        ([0.3, 0.3, 0.7], False),
        ([0.1, 0.3, 0.3], False),
        ([torch.ones(2), torch.ones(2)], False),
        ([0.3, torch.tensor(0.3)], False),
    ],
)
def test_one_factor_serves_equal_numbers_only(radii, same):
    assert perturb.one(radii) is same


def test_one_parameter_alone_moves_as_well():
    g = [torch.tensor([3.0, 4.0])]
    torch.testing.assert_close(perturb.unnormalized(g, [0.5], [0.5]), [0.5 * g[0]])
    torch.testing.assert_close(perturb.sam(g, [0.5]), [0.1 * g[0]])


def test_a_vector_of_weights_with_a_sparse_gradient_has_its_own_radii():
    g, T = torch.tensor([0.0, 2.0, 0.0]), torch.tensor([1.0, 3.0, 5.0])
    (got,) = perturb.times([g.to_sparse()], [T])
    assert got.is_sparse and torch.equal(got.to_dense(), g * T)


@pytest.mark.parametrize(
    "call",
    [
        lambda: perturb.radii(W, [0.3], eta=0.1),
        lambda: perturb.times(G, [0.3, 0.1]),
        lambda: perturb.unnormalized(G, [0.3, 0.1, 0.1], [0.3, 0.1]),
        lambda: perturb.ascend(G, G[:2], [0.3] * 3),
    ],
)
def test_lists_of_other_lengths_are_refused(call):
    with pytest.raises(ValueError, match="zip"):
        call()
