from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from samkit.theory import convergence as cv


def make_problems() -> dict[str, cv.FiniteSum]:
    rng = np.random.default_rng(0)
    return {
        "least squares": cv.SharedDesign(rng.normal(size=(6, 4)) / 2, rng.normal(size=(5, 6))),
        "cosine wells": cv.CosineWells(rng.uniform(0.2, 1, (5, 3)), rng.normal(size=(5, 3))),
        "noisy sine": cv.NoisySine(2.0),
    }


PROBLEMS = make_problems()
SCHEMES = ("same", "independent")


@pytest.fixture(params=PROBLEMS)
def problem(request: pytest.FixtureRequest) -> cv.FiniteSum:
    return PROBLEMS[request.param]


def points(problem: cv.FiniteSum, count: int, scale: float = 3.0) -> np.ndarray:
    return scale * np.random.default_rng(1).normal(size=(count, problem.d))


# --- the constants are the constants -------------------------------------------------------------


def test_gradients_match_finite_differences(problem):
    w, h = points(problem, 20), 1e-6
    for j in range(problem.d):
        step = h * np.eye(problem.d)[j]
        slope = (problem.losses(w + step) - problem.losses(w - step)) / (2 * h)
        np.testing.assert_allclose(problem.gradients(w)[..., j], slope, rtol=1e-6, atol=1e-7)


def test_beta_bounds_every_example_and_is_attained(problem):
    """||grad l_i(w) - grad l_i(w')|| <= beta ||w - w'||; near pairs come close."""
    w = points(problem, 40_000)
    direction = np.random.default_rng(2).normal(size=w.shape)
    direction *= 1e-4 / np.linalg.norm(direction, axis=1, keepdims=True)
    change = problem.gradients(w + direction) - problem.gradients(w)
    ratio = np.linalg.norm(change, axis=-1) / 1e-4
    assert ratio.max() <= problem.beta * (1 + 1e-7)
    assert ratio.max() >= 0.97 * problem.beta


def test_sigma2_is_the_largest_variance(problem):
    gradients = problem.gradients(points(problem, 100_000))
    deviation = gradients - gradients.mean(1, keepdims=True)
    variance = (deviation**2).sum(-1).mean(-1)
    assert variance.max() <= problem.sigma2 * (1 + 1e-12)
    assert variance.max() >= 0.97 * problem.sigma2


def test_minimum_is_the_minimum(problem):
    """Coordinate by coordinate search (all three are separable or convex) agrees to 1e-12."""
    w = points(problem, 1)[0] / 3
    for _ in range(100):
        for j in range(problem.d):
            e = np.eye(problem.d)[j]

            def along(x, w=w, e=e):
                return problem.losses(w + x * e).mean()

            grid = np.linspace(-np.pi, np.pi, 41)
            x0 = grid[np.argmin([along(x) for x in grid])]
            w = w + e * minimize_scalar(along, bracket=(x0 - 0.1, x0 + 0.1), tol=1e-12).x
        if problem.losses(w).mean() < problem.minimum + 1e-13:
            break
    assert problem.losses(w).mean() == pytest.approx(problem.minimum, abs=1e-12)
    assert problem.losses(points(problem, 100_000)).mean(1).min() >= problem.minimum - 1e-12


@pytest.mark.parametrize("name", ["least squares", "noisy sine"])
def test_pl_inequality(name):
    problem = PROBLEMS[name]
    w = points(problem, 200_000)
    norm2 = (problem.gradients(w).mean(1) ** 2).sum(-1)
    gap = problem.losses(w).mean(1) - problem.minimum
    ratio = norm2 / (2 * gap)
    assert ratio.min() >= problem.mu * (1 - 1e-9)
    assert ratio.min() <= 1.05 * problem.mu


def test_sine_pl_constant_is_a_tight_lower_bound():
    x = np.linspace(1e-3, 30, 2_000_001)
    ratio = (2 * x + 3 * np.sin(2 * x)) ** 2 / (2 * (x**2 + 3 * np.sin(x) ** 2))
    certified = cv.sine_pl_constant()
    assert certified <= ratio.min()
    assert certified == pytest.approx(0.1755, abs=1e-4)
    assert (2 + 6 * np.cos(2 * x)).min() < -3.99  # not convex


# --- lemmas, with every batch enumerated: no sampling error --------------------------------------


def test_expected_loss_after_is_the_mean_over_runs(problem):
    """One step of run_sam, 40,000 times, from one point; five standard errors."""
    w, gamma, rho = np.full(problem.d, 1.5), 0.7 / problem.beta, 0.6 / problem.beta
    for scheme in SCHEMES:
        gap = cv.run_sam(problem, w, [gamma], rho, scheme=scheme, runs=40_000).gap[1]
        exact = cv.expected_loss_after(problem, w, gamma, rho, scheme) - problem.minimum
        assert abs(gap.mean() - exact) <= 5 * gap.std() / 200


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("g", [0.05, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("root_r", [0.0, 0.2, 0.6, 0.99])
def test_one_step_lemma(problem, scheme, g, root_r):
    gamma, rho = g / problem.beta, root_r / problem.beta
    w = points(problem, 2000)
    after = cv.expected_loss_after(problem, w, gamma, rho, scheme)
    norm2 = (problem.gradients(w).mean(1) ** 2).sum(1)
    p, q = cv.descent_coefficients(gamma, rho, problem.beta, scheme)
    bound = problem.losses(w).mean(1) - p * norm2 + q * problem.sigma2
    assert (after <= bound + 1e-10).all()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["least squares", "noisy sine"])
@pytest.mark.parametrize("g", [0.01, 0.1, 0.25, 0.4, 0.5])
def test_pl_lemma(name, scheme, g):
    problem = PROBLEMS[name]
    gamma = g / problem.beta
    w = points(problem, 2000)
    after = cv.expected_loss_after(problem, w, gamma, np.sqrt(gamma / problem.beta), scheme)
    contraction, q = cv.pl_contraction(gamma, problem.beta, problem.mu, scheme)
    gap = problem.losses(w).mean(1) - problem.minimum
    assert (after - problem.minimum <= (1 - contraction) * gap + q * problem.sigma2 + 1e-10).all()


def test_alignment_lemma_and_its_equality_case(problem):
    w = points(problem, 5000)
    for fraction in (0.1, 0.5, 1.0, 2.0):
        rho = fraction / problem.beta
        a = problem.gradients(w).mean(1)
        c = problem.gradients(w + rho * a).mean(1)
        assert ((a * c).sum(1) >= (1 - fraction) * (a**2).sum(1) - 1e-9).all()
    ripple = cv.Ripple(beta=3.0, k=2.0)  # curvature -beta at its maximum pi / k
    w = np.array([[np.pi / 2 + 1e-5]])
    a = ripple.gradients(w).mean(1)
    c = ripple.gradients(w + 0.1 * a).mean(1)
    assert float((a * c / a**2).squeeze()) == pytest.approx(1 - 3.0 * 0.1, abs=1e-8)


def test_pl_schedule_meets_what_the_proof_uses():
    """theta's range, c >= 3/4 mu gamma in phase two, c >= 0.85 mu gamma in phase one, K <= 2.96."""
    g = np.linspace(1e-6, 0.5, 20_001)
    s = 1 - g + g**2
    theta = np.minimum(1 - g, 1.25 - 2 * g) / s
    assert (theta > 0).all() and (theta * s <= 1 - g + 1e-15).all()
    assert (2 * (1 - g) - theta * s >= 0.75 - 1e-12).all()
    k = 0.5 / theta + 0.5 * (1 + np.sqrt(g)) ** 2
    assert k.max() < 2.96 and 64 / 9 * k.max() < 22
    contraction, q = cv.pl_contraction(0.5, 1.0, 1.0, "same")
    assert contraction == pytest.approx(0.425) and q / 0.25 == pytest.approx(3.957, abs=1e-3)
    assert 4 * np.exp(-2) / 0.425**2 < 3


# --- the theorems -------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 20, 300])
def test_paper_bound_holds(problem, scheme, steps):
    """The mean over 400 runs, five standard errors added, stays below the bound."""
    start = np.full(problem.d, 2.0)
    gap = float(problem.losses(start).mean() - problem.minimum)
    gammas, rhos = cv.paper_schedule(steps, problem.beta)
    run = cv.run_sam(problem, start, gammas, rhos, scheme=scheme, runs=400)
    average = run.gradient_norm2.mean(0)
    upper = average.mean() + 5 * average.std() / 20
    assert upper <= cv.paper_bound(steps, gap, beta=problem.beta, noise=problem.sigma2)
    if steps >= 5:
        ours = cv.stationarity_bound(
            gap, gammas, rhos, beta=problem.beta, noise=problem.sigma2, scheme=scheme
        )
        assert upper <= ours
        assert ours <= cv.paper_bound(steps, gap, beta=problem.beta, noise=problem.sigma2)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["least squares", "noisy sine"])
def test_pl_bound_holds_at_every_step(name, scheme):
    problem, steps = PROBLEMS[name], 1000
    start = np.full(problem.d, 3.0)
    gap = float(problem.losses(start).mean() - problem.minimum)
    constants = {"beta": problem.beta, "mu": problem.mu, "noise": problem.sigma2}
    run = cv.run_sam(
        problem, start, *cv.pl_schedule(steps, problem.beta, problem.mu), scheme=scheme, runs=400
    )
    upper = run.gap.mean(1) + 5 * run.gap.std(1) / 20
    ours = cv.pl_recursion_bound(steps, gap, scheme=scheme, **constants)
    paper = np.array([cv.pl_paper_bound(t, gap, **constants) for t in range(1, steps + 1)])
    assert (upper[1:] <= ours[1:]).all()
    assert (ours[1:] <= paper).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pl_recursion_stays_below_the_paper_bound_for_any_condition_number(scheme):
    """Deterministic: the recursion of the lemma against 3 and 22, for each term alone."""
    for kappa in (1.0, 1.3, 2.0, 5.0, 30.0, 400.0):
        for gap, noise in ((1.0, 0.0), (0.0, 1.0)):
            constants = {"beta": kappa, "mu": 1.0, "noise": noise}
            steps = int(60 * kappa)
            ours = cv.pl_recursion_bound(steps, gap, scheme=scheme, **constants)[1:]
            paper = [cv.pl_paper_bound(t, gap, **constants) for t in range(1, steps + 1)]
            assert (ours <= np.array(paper) + 1e-15).all()


def test_recursion_uses_every_bit_of_the_three():
    """With no noise and a large condition number the 'same' bound comes within 2 % of 3."""
    kappa = 1000.0
    ours = cv.pl_recursion_bound(5400, 1.0, beta=kappa, mu=1.0, noise=0.0, scheme="same")[1:]
    paper = np.array(
        [cv.pl_paper_bound(t, 1.0, beta=kappa, mu=1.0, noise=0.0) for t in range(1, 5401)]
    )
    assert 0.98 < (ours / paper).max() <= 1


def test_full_batch_is_deterministic_and_converges_for_constant_rho():
    problem = PROBLEMS["cosine wells"]
    steps = np.full(3000, 0.5 / problem.beta)
    run = cv.run_sam(problem, [2.0, 2.0, 2.0], steps, 0.5 / problem.beta, batch_size=None, runs=2)
    assert (run.w[0] == run.w[1]).all()
    assert run.gradient_norm2[-1].max() < 1e-20


# --- normalized SAM -----------------------------------------------------------------------------


@pytest.mark.slow
def test_normalized_stochastic_sam_stops_beside_the_minimizer():
    """c = (-1, -1, 2): limit -rho / 3 where |L'| = rho / 3; Robbins-Monro steps 1/(t+2)."""
    targets, rho, steps = np.array([-1.0, -1.0, 2.0]), 0.3, 4000
    limit = cv.normalized_counterexample(targets, rho)
    assert limit == pytest.approx(-0.1)
    problem = cv.SharedDesign(np.eye(1), targets[:, None])
    for start in (-5.0, 0.0, 4.0):
        gammas = 1 / (np.arange(steps) + 2.0)
        run = cv.run_sam(problem, [start], gammas, rho, runs=500, normalized=True)
        standard_error = run.w.std() / np.sqrt(500)
        assert abs(run.w.mean() - limit) < 5 * standard_error + 2e-3
        assert run.w.std() < 0.05
    drift = cv.expected_sam_gradient(problem, [limit], rho, "same", normalized=True)
    assert abs(drift).max() < 1e-15
    with pytest.raises(ValueError, match="rho is too large"):
        cv.normalized_counterexample(targets, 3.1)


def test_normalized_full_batch_sam_rests_on_the_steepest_slope():
    ripple = cv.Ripple(beta=2.0, k=5.0)
    start = np.array([-ripple.rho + 0.9 * np.pi / 10])
    run = cv.run_sam(
        ripple, start, np.full(400, 0.4 / 2.0), ripple.rho, batch_size=None, normalized=True
    )
    assert run.w.squeeze() == pytest.approx(-ripple.rho, abs=1e-12)
    assert run.gradient_norm2[-1] == pytest.approx((2.0 / 5.0) ** 2, rel=1e-12)
    plain = cv.run_sam(ripple, start, np.full(400, 0.2), 0.1, batch_size=None)
    assert plain.gradient_norm2[-1] < 1e-20


# --- bad input ----------------------------------------------------------------------------------


def test_bad_input_is_refused():
    problem = PROBLEMS["noisy sine"]
    with pytest.raises(ValueError, match="scheme"):
        cv.run_sam(problem, [1.0], [0.1], [0.1], scheme="both")
    with pytest.raises(ValueError, match="batch_size"):
        cv.run_sam(problem, [1.0], [0.1], [0.1], batch_size=0)
    with pytest.raises(ValueError, match="gamma <= 1 / beta"):
        cv.descent_coefficients(2.0, 0.1, 1.0, "independent")
    with pytest.raises(ValueError, match="smaller rho"):
        cv.stationarity_bound(1.0, [0.5], [1.0], beta=1.0, noise=0.0, scheme="independent")
    with pytest.raises(ValueError, match="PL constant"):
        cv.pl_schedule(10, beta=1.0, mu=2.0)
    with pytest.raises(ValueError, match="amplitudes"):
        cv.CosineWells([[-1.0]], [[0.0]])
    with pytest.raises(ValueError, match="shape"):
        cv.CosineWells([[1.0]], [[0.0, 1.0]])
    with pytest.raises(ValueError, match="one entry a step"):
        cv.run_sam(problem, [1.0], [[0.1]], [[0.1]])
    with pytest.raises(ValueError, match="at least 1"):
        cv.paper_schedule(0, beta=1.0)
    with pytest.raises(ValueError, match=r"gamma <= 1 / \(2 beta\)"):
        cv.pl_contraction([0.9], beta=1.0, mu=0.5, scheme="same")
    with pytest.raises(ValueError, match="noise"):
        cv.NoisySine(25.0)
    with pytest.raises(ValueError, match="targets"):
        cv.SharedDesign(np.eye(2), np.ones((3, 3)))


# --- groups inside a batch, and the batch before -------------------------------------------------


def test_groups_of_a_batch_by_hand(problem):
    """All ordered pairs of two examples, each with its own perturbation."""
    w, gamma, rho, n = points(problem, 3), 0.3, 0.2, problem.n
    losses = []
    for i, j in permutations(range(n), 2):
        each = [problem.gradients(w + rho * problem.gradients(w)[:, k])[:, k] for k in (i, j)]
        losses.append(problem.losses(w - gamma * (each[0] + each[1]) / 2).mean(-1))
    enumerated = cv.expected_loss_after(problem, w, gamma, rho, "same", groups=2, m=1)
    np.testing.assert_allclose(enumerated, np.mean(losses, axis=0), rtol=1e-12)


@pytest.mark.parametrize(("groups", "m"), [(1, 2), (2, 1), (2, 2), (4, 1)])
@pytest.mark.parametrize("g", [0.1, 1.0])
@pytest.mark.parametrize("root_r", [0.1, 0.9])
def test_one_step_lemma_with_groups(problem, groups, m, g, root_r):
    if groups * m > problem.n:
        with pytest.raises(ValueError, match="a batch has 1 to n=2"):
            cv.expected_loss_after(problem, 0, 0.1, 0.1, "same", groups=groups, m=m)
        return
    gamma, rho, w = g / problem.beta, root_r / problem.beta, points(problem, 60)
    after = cv.expected_loss_after(problem, w, gamma, rho, "same", groups=groups, m=m)
    p, q = cv.descent_coefficients(gamma, rho, problem.beta, "same", groups=groups)
    norm2 = (problem.gradients(w).mean(-2) ** 2).sum(-1)
    bound = problem.losses(w).mean(-1) - p * norm2 + q * problem.sigma2 / (groups * m)
    assert (after - bound).max() < 1e-10


@pytest.mark.parametrize("m", [1, 2, 4])
def test_the_mean_direction_of_m_sam_is_the_mean_of_single_steps(m):
    wells, w = PROBLEMS["cosine wells"], points(PROBLEMS["cosine wells"], 1)[0]
    run = cv.run_sam(wells, w, [1.0], [0.3], batch_size=4, m=m, runs=200_000)
    steps = w - run.w
    groups = (wells.gradients(w)[list(group)].mean(0) for group in product(range(5), repeat=m))
    directions = [
        wells.gradients(w + 0.3 * a)[list(group)].mean(0)
        for group, a in zip(product(range(5), repeat=m), groups, strict=True)
    ]
    deviation = (steps.mean(0) - np.mean(directions, axis=0)) / (steps.std(0) / 200_000**0.5)
    assert np.abs(deviation).max() < 4.5


def test_the_batch_before_is_that_of_the_step_before():
    """With a step of size 0 the second step ascends along what the first descended along."""
    wells, w = PROBLEMS["cosine wells"], points(PROBLEMS["cosine wells"], 1)[0]
    drawn = np.random.default_rng(5).multinomial(1, np.full(5, 0.2), size=(3, 7))
    run = cv.run_sam(wells, w, [0.0, 1.0], [0.3, 0.3], scheme="previous", runs=7, seed=5)
    ascent = drawn[1] @ wells.gradients(w)
    by_hand = w - np.einsum("rn,rnd->rd", drawn[2], wells.gradients(w + 0.3 * ascent))
    np.testing.assert_allclose(run.w, by_hand, rtol=1e-12)


@pytest.mark.parametrize(
    "setting", [{"m": 3}, {"m": 2, "scheme": "independent"}, {"m": 1, "batch_size": None}]
)
def test_a_group_size_that_does_not_fit_is_refused(setting):
    with pytest.raises(ValueError, match="group size that divides"):
        cv.run_sam(PROBLEMS["noisy sine"], [1.0], [0.1], [0.1], **{"batch_size": 4, **setting})


def test_independent_batches_are_enumerated_one_by_one_only():
    problem = PROBLEMS["noisy sine"]
    with pytest.raises(ValueError, match="batches of one"):
        cv.expected_loss_after(problem, np.ones((1, 1)), 0.1, 0.1, "independent", groups=2)
