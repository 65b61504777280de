"""The rules of the perturbation against closed forms and a numerical maximizer, in float64."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from samkit import Perturbation, perturbation

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
    "sam": perturbation.radii(W, [0.3] * 3),
    "groups": perturbation.radii(W, [0.3, 0.1, 0.7]),
    "group at rest": perturbation.radii(W, [0.3, 0.0, 0.7]),
    "asam": perturbation.radii(W, [0.3] * 3, eta=0.01),
    "asam, groups": perturbation.radii(W, [0.3, 0.1, 0.7], eta=0.0),
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
    delta = flat(perturbation.sam(G, RADII[name])).numpy()
    assert np.allclose(delta, best, atol=2e-5)
    assert g @ delta >= g @ best - 1e-6  # as SLSQP may leave the ball by its tolerance


def test_sam_and_asam_formulas():
    # Foret et al. 2021, equation 2; Kwon et al. 2021, equation 9, with T_w = |w| + eta
    w, g, rho, eta = flat(W), flat(G), 0.3, 0.01
    assert torch.allclose(flat(perturbation.sam(G, RADII["sam"])), rho * g / g.norm(), rtol=1e-12)
    T = w.abs() + eta
    asam = rho * T**2 * g / (T * g).norm()
    assert torch.allclose(flat(perturbation.sam(G, RADII["asam"])), asam, rtol=1e-12)


def test_unnormalized_formulas():
    rhos = [0.3, 0.0, 0.7]
    for eta in (None, 0.01):
        found = perturbation.unnormalized(G, perturbation.radii(W, rhos, eta), rhos)
        for d, g, w, r in zip(found, G, W, rhos, strict=True):
            T = 1.0 if eta is None else w.abs() + eta
            assert torch.allclose(d, r * T**2 * g, rtol=1e-12)


@settings(deadline=None)  # a machine may be busy
@given(scale=st.floats(1e-3, 1e3))
def test_asam_is_invariant_to_scales(scale):
    # w -> A w, g -> g / A leaves delta / w as it is (Kwon et al. 2021, theorem 1), eta = 0
    A = [scale, 1.0, 1 / scale]
    w2 = [a * w for a, w in zip(A, W, strict=True)]
    g2 = [g / a for a, g in zip(A, G, strict=True)]
    one = perturbation.sam(G, perturbation.radii(W, [0.3] * 3, 0.0))
    two = perturbation.sam(g2, perturbation.radii(w2, [0.3] * 3, 0.0))
    for a, d1, d2 in zip(A, one, two, strict=True):
        assert torch.allclose(a * d1, d2, rtol=1e-10)


@pytest.mark.parametrize("name", RADII)
def test_random_directions(name):
    T = full(RADII[name])
    moves = T > 0
    generator = torch.Generator().manual_seed(0)
    z = torch.stack([flat(perturbation.gaussian(W, RADII[name], generator)) for _ in range(4000)])
    # standard error of a variance: sqrt(2 / 4000) = 2.2 %; the largest of 14 within 4.5 of them
    assert torch.allclose(z.var(0), T**2, rtol=0.1)
    on_sphere = flat(perturbation.sphere(W, RADII[name], generator))
    if name != "group at rest":
        assert torch.isclose((on_sphere / T)[moves].norm(), torch.tensor(1.0).double())
    assert (on_sphere[~moves] == 0).all()


def test_random_directions_repeat_with_the_generator():
    a, b = (
        flat(perturbation.sphere(W, RADII["asam"], torch.Generator().manual_seed(5)))
        for _ in range(2)
    )
    assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["sam", "groups", "asam"])
def test_projection(name):
    T = full(RADII[name])
    inside = [0.1 * t for t in perturbation.sam(G, RADII[name])]
    assert torch.allclose(flat(perturbation.project(inside, RADII[name])), flat(inside), rtol=1e-12)
    outside = [7.0 * t for t in perturbation.sam(G, RADII[name])]
    back = flat(perturbation.project(outside, RADII[name]))
    assert torch.isclose((back / T).norm(), torch.tensor(1.0).double())
    assert torch.allclose(back * 7, flat(outside))


def test_ascent_reaches_the_worst_point_of_a_quadratic():
    # max of w^T H w / 2 over ||w|| <= rho is rho^2 lambda_max / 2, at an eigenvector
    H = torch.diag(torch.tensor([1.0, 2.0, 5.0]).double())
    w = torch.tensor([0.3, 0.3, 0.01]).double()
    delta = [None]
    for _ in range(60):
        at = w * 0 + (delta[0] if delta[0] is not None else 0.01 * w)
        delta = perturbation.ascend(delta, perturbation.sam([H @ at], [0.5]), [0.5])
    assert torch.allclose(delta[0].abs(), torch.tensor([0.0, 0.0, 0.5]).double(), atol=1e-8)


def test_step_size_only():
    G2 = tensors(2)
    found = flat(perturbation.step_size_only(G, G2))
    assert torch.isclose(found.norm(), flat(G2).norm())
    assert torch.isclose(torch.cosine_similarity(found, flat(G), 0), torch.tensor(1.0).double())


@pytest.mark.parametrize("name", RADII)
def test_no_gradient_no_move(name):
    zero = [torch.zeros_like(g) for g in G]
    assert (flat(perturbation.sam(zero, RADII[name])) == 0).all()
    some = perturbation.sam([G[0], None, G[2]], RADII[name])
    assert some[1] is None
    T = full(RADII[name])
    there = torch.cat([torch.ones(6), torch.zeros(4), torch.ones(4)]).bool()
    g = torch.where(there, flat(G), 0)
    assert torch.allclose(flat([some[0], some[2]]), (T**2 * g / (T * g).norm())[there], rtol=1e-12)
    assert perturbation.sam([None] * 3, RADII[name]) == [None] * 3


@pytest.mark.parametrize("name", RADII)
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_norm_that_is_not_finite_is_no_small_move(name, bad):
    g = [G[0] * bad, G[1], G[2]]
    assert flat(perturbation.sam(g, RADII[name])).isnan().all()
    assert flat(perturbation.project(g, RADII[name])).isnan().all()
    assert flat(perturbation.step_size_only(g, G)).isnan().all()


@pytest.mark.parametrize("name", ["sam", "groups", "asam"])
def test_sparse_gradients_equal_dense_ones(name):
    rows = G[0].clone()
    rows[1] = 0
    index = torch.tensor([[0, 2, 0]])  # row 0 comes twice and adds up
    values = torch.stack([rows[0] / 4, rows[2], rows[0] * 3 / 4])
    sparse = torch.sparse_coo_tensor(index, values, rows.shape, check_invariants=True)
    found = perturbation.sam([sparse, *G[1:]], RADII[name])
    true = perturbation.sam([rows, *G[1:]], RADII[name])
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
    assert perturbation.one(radii) is same


def test_one_parameter_alone_moves_as_well():
    g = [torch.tensor([3.0, 4.0])]
    torch.testing.assert_close(perturbation.unnormalized(g, [0.5], [0.5]), [0.5 * g[0]])
    torch.testing.assert_close(perturbation.sam(g, [0.5]), [0.1 * g[0]])


def test_a_vector_of_weights_with_a_sparse_gradient_has_its_own_radii():
    g, T = torch.tensor([0.0, 2.0, 0.0]), torch.tensor([1.0, 3.0, 5.0])
    (got,) = perturbation.times([g.to_sparse()], [T])
    assert got.is_sparse and torch.equal(got.to_dense(), g * T)


@pytest.mark.parametrize(
    "call",
    [
        lambda: perturbation.radii(W, [0.3], eta=0.1),
        lambda: perturbation.times(G, [0.3, 0.1]),
        lambda: perturbation.unnormalized(G, [0.3, 0.1, 0.1], [0.3, 0.1]),
        lambda: perturbation.ascend(G, G[:2], [0.3] * 3),
    ],
)
def test_lists_of_other_lengths_are_refused(call):
    with pytest.raises(ValueError, match="zip"):
        call()


# one value, for vectors


def quadratic(w0: Tensor):
    """The gradient of a quadratic around 0, in as many dimensions."""
    H = torch.diag(torch.linspace(0.5, 2.0, w0.shape[-1], dtype=w0.dtype))
    return lambda v: v @ H + 0.1


VALUES = [
    Perturbation(0.3),
    Perturbation(0.3, normalize=False),
    Perturbation(0.3, normalize=False, project=True),
    Perturbation(0.3, adaptive=True),
    Perturbation(0.3, adaptive=True, normalize=False),
    Perturbation(0.3, steps=3),
    Perturbation(0.3, steps=3, adaptive=True),
    Perturbation(0.3, steps=3, normalize=False),
    Perturbation(0.0, steps=2),
]


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_the_formulas_for_vectors_equal_the_rules_for_lists(value):
    w, gradient = flat(W), quadratic(flat(W))

    def split(v):
        return [p.view(s) for p, s in zip(v.split([6, 4, 4]), SHAPES, strict=True)]

    T = perturbation.radii(W, [value.rho] * 3, perturbation.ETA if value.adaptive else None)
    delta = [torch.zeros_like(p) for p in W]
    for _ in range(value.steps):
        g = split(gradient(w + flat(delta)))
        move = (
            perturbation.sam(g, T)
            if value.normalize
            else perturbation.unnormalized(g, T, [value.rho] * 3)
        )
        if value.steps == 1 and not value.project:
            delta = move
        else:
            delta = perturbation.ascend(delta, move, T)
    torch.testing.assert_close(value.delta(w, gradient), flat(delta), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_a_stack_is_each_vector_on_its_own_with_its_own_radius(value):
    w = torch.stack([flat(W), flat(G)])
    rho = torch.tensor([[0.2], [0.7]], dtype=torch.float64)
    found = value.delta(w, quadratic(w), rho=rho)
    for row, own, radius in zip(found, w, (0.2, 0.7), strict=True):
        alone = replace(value, rho=radius).delta(own, quadratic(own))
        torch.testing.assert_close(row, alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-30])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize": False},
        {"normalize": False, "project": True},
        {"normalize": False, "project": True, "m": 2, "share_of_batch": True},
    ],
)
def test_one_step_is_a_multiple_of_the_gradient(options, groups, scale):
    value, g = Perturbation(0.3, **options), 5 * scale * flat(G)
    expected = value.delta(flat(W), lambda v: g, groups=groups)
    unit = g.abs().max()
    factor = value.factor((g / unit).norm(), unit, groups=groups)
    torch.testing.assert_close(factor * (g / unit), expected, rtol=1e-12, atol=0)


def test_the_conventions_of_the_authors_code():
    # the loss of a batch is divided by the number of groups, the move taken back onto the ball
    g = flat(G) / flat(G).norm()
    for length, groups, expected in ((3.0, 1, 0.1), (0.5, 1, 0.05), (3.0, 4, 0.075), (8.0, 4, 0.1)):
        value = Perturbation(0.1, m=2, normalize=False, project=True, share_of_batch=True)
        delta = value.delta(flat(W), lambda v, size=length: size * g, groups=groups)
        torch.testing.assert_close(delta, expected * g)


def test_random_perturbations_of_vectors():
    noise = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0)).double()
    on_sphere = Perturbation(0.3, source="random").delta(noise, noise=noise)
    torch.testing.assert_close(on_sphere, 0.3 * noise / noise.norm(dim=-1, keepdim=True))
    gaussian = Perturbation(0.3, source="random", normalize=False).delta(noise, noise=noise)
    torch.testing.assert_close(gaussian, 0.3 / 1000**0.5 * noise)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-37, 1e-25, 1.0, 1e25, 1e37])
def test_the_unit_vector_neither_overflows_nor_underflows(scale, dtype):
    g = torch.tensor([0.6, -0.8, 0.0]).to(dtype)
    x = (scale * g.double()).to(dtype)
    close = {"rtol": 2e-2, "atol": 0} if dtype == torch.bfloat16 else {"rtol": 1e-6, "atol": 0}
    torch.testing.assert_close(perturbation.unit(x), g, **close)
    torch.testing.assert_close(perturbation.unit(torch.stack([x, g])), torch.stack([g, g]), **close)
    two = [x[:1], x[1:], None]
    length = perturbation.norm(two)
    torch.testing.assert_close(length.double(), x.double().norm(), rtol=1e-6, atol=0)
    found = flat(perturbation.sam(two, [0.5] * 3)[:2])
    torch.testing.assert_close(found.to(dtype), 0.5 * g, **close)
    apart = flat(perturbation.sam(two, [torch.tensor(0.5), torch.tensor(0.5), 0.5])[:2])
    torch.testing.assert_close(apart.to(dtype), 0.5 * g, **close)


def test_no_direction_is_no_move_and_a_lost_number_loses_the_move():
    zero, some = torch.zeros(4), torch.ones(4)
    assert (perturbation.unit(torch.stack([zero, some])) == torch.stack([zero, some / 2])).all()
    for bad in (float("inf"), float("nan")):
        lost = perturbation.unit(torch.tensor([[1.0, bad], [3.0, 4.0]]))
        assert lost[0].isnan().all() and lost[1].tolist() == pytest.approx([0.6, 0.8])
    # a gradient below all normal numbers is not longer than the radius
    tiny = torch.tensor([1e-42, 0.0])
    assert 0 < float(perturbation.sam([tiny], [3.0])[0].norm()) <= 3.0


def test_the_nearest_point_of_a_ball():
    x = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    expected = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]])
    torch.testing.assert_close(perturbation.ball(x, 1.0), expected)
    torch.testing.assert_close(perturbation.ball(1e30 * x, 1.0)[0], expected[0])
    assert (perturbation.ball(x, 0.0) == 0).all()


@pytest.mark.parametrize(
    ("value", "label", "ascents"),
    [
        (Perturbation(), "ERM", 0),
        (Perturbation(m=4), "ERM", 0),
        (Perturbation(0.1), "SAM", 1),
        (Perturbation(0.1, steps=3), "SAM", 3),
        (Perturbation(0.1, m=16), "16-SAM", 1),
        (Perturbation(0.1, source="previous"), "n-SAM", 1),
        (Perturbation(0.1, source="independent"), "n-SAM", 1),
        (Perturbation(0.1, source="random"), "random", 0),
    ],
)
def test_labels_and_ascents(value, label, ascents):
    assert (value.label, value.ascents) == (label, ascents)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": -1.0}, "finite radius, 0 or larger"),
        ({"rho": float("nan")}, "finite radius"),
        ({"rho": float("inf")}, "finite radius"),
        ({"source": "other"}, "source='other': pass one of own, previous, independent, random"),
        ({"m": 0}, "m=0: pass a whole number"),
        ({"m": 2.5}, "m=2.5: pass a whole number"),
        ({"steps": 0}, "steps=0: pass a whole number"),
        ({"steps": None}, "steps=None: pass a whole number"),
        ({"m": 2, "source": "previous"}, "leave m out"),
        ({"source": "random", "steps": 2}, "no ascent"),
        ({"source": "random", "adaptive": True}, "no ascent"),
        ({"project": True}, "project is for unnormalized"),
        ({"m": 2, "share_of_batch": True}, "share_of_batch is for unnormalized"),
        ({"normalize": False, "share_of_batch": True}, "over groups of m"),
    ],
)
def test_a_perturbation_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Perturbation(**{"rho": 0.1, **options})


def test_a_group_is_no_larger_than_the_batch():
    assert [Perturbation(m=m).group_size(8) for m in (None, 1, 8)] == [8, 1, 8]
    with pytest.raises(ValueError, match="m=9: pass a whole number from 1 to 8"):
        Perturbation(m=9).group_size(8)
