from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from samkit.theory import pac_bayes as pb


def test_kl_against_numerical_integration():
    """k = 1: quadrature of q log(q / p)."""
    for w, s, t in ((0.7, 0.3, 1.1), (2.0, 1.5, 0.8)):
        q, p = stats.norm(w, s), stats.norm(0, t)

        def integrand(x, q=q, p=p):
            return q.pdf(x) * (q.logpdf(x) - p.logpdf(x))

        value, _ = integrate.quad(integrand, -20, 20)
        assert pb.gaussian_kl(w, 1, s, t) == pytest.approx(value, rel=1e-8)


def test_best_prior_variance_gives_half_k_log_one_plus_v():
    """The minimum over t of the KL is (k/2) log(1 + v), at t^2 = s^2 (1 + v)."""
    k, s, distance = 50, 0.2, 3.0
    v = distance**2 / (k * s**2)
    best = pb.gaussian_kl(distance, k, s, s * np.sqrt(1 + v))
    assert best == pytest.approx(k / 2 * np.log1p(v), rel=1e-12)
    assert (pb.gaussian_kl(distance, k, s, np.linspace(0.1, 5, 999)) >= best).all()


def test_grid_prior_costs_at_most_half_a_nat():
    rng = np.random.default_rng(0)
    for k in (1, 7, 1000, 200_000):
        distance, s = np.exp(rng.uniform(-6, 6, 500)), np.exp(rng.uniform(-6, 2, 500))
        v = distance**2 / (k * s**2)
        j = pb.prior_index(distance, k, s)
        kl = pb.gaussian_kl(distance, k, s, s * np.exp(j / (2 * k)))
        assert (kl <= 0.5 * (1 + k * np.log1p(v)) * (1 + 1e-9)).all()
    share = 1 / ((np.arange(10**6) + 1) * (np.arange(10**6) + 2.0))
    assert share.sum() == pytest.approx(1, abs=2e-6) and share.sum() <= 1


def test_norm_concentration():
    """P(||eps|| > rho) <= n^(-1/2), by simulation for small k and by the chi-square law for all."""
    rng = np.random.default_rng(1)
    for k in (1, 3, 30):
        for n in (10, 100, 1000):
            s = pb.noise_std(1.0, k, n)
            exact = stats.chi2.sf(s**-2, k)
            outside = (np.linalg.norm(s * rng.normal(size=(200_000, k)), axis=1) > 1).mean()
            assert abs(outside - exact) < 5 * np.sqrt(exact / 200_000) + 1e-5
            assert exact <= n**-0.5
    for k in (1, 10, 1000, 10**6):
        for n in (2, 50, 10**4, 10**8):
            assert stats.chi2.sf(pb.noise_std(1.0, k, n) ** -2, k) <= n**-0.5


def test_by_hand():
    """k = 2, n = 101, s = 1/2, ||w|| = 1, delta = 1/10: v = 2, j = ceil(2 log 3) = 3.

    2.1972 + 1 + 2 * 6.9177 + 2 * 2.9957 = 23.0241.
    """
    assert pb.prior_index(1.0, 2, 0.5) == 3
    inside = (2 * np.log(3) + 1 + 2 * np.log(1010) + 2 * np.log(20)) / 400
    assert pb.complexity(1.0, 2, 101, 0.5, 0.1) == pytest.approx(np.sqrt(inside), rel=1e-14)
    assert pb.random_bound(0.25, 1.0, k=2, n=101, std=0.5, delta=0.1) == pytest.approx(
        0.25 + np.sqrt(23.0241 / 400), rel=1e-6
    )
    assert pb.monte_carlo_slack(200, np.exp(-4.0)) == pytest.approx(0.1)


def test_worst_case_is_random_bound_with_the_max_and_the_miss():
    n, k, rho = 1000, 40, 0.3
    s = pb.noise_std(rho, k, n)
    expected = pb.random_bound(0.2 * (1 - n**-0.5) + n**-0.5, 2.0, k=k, n=n, std=s, delta=0.05)
    got = pb.worst_case_bound(0.2, 2.0, k=k, n=n, rho=rho, delta=0.05)
    assert got == pytest.approx(float(expected), rel=1e-14)
    v = 4.0 / rho**2 * (1 + np.sqrt(np.log(n) / k)) ** 2
    assert v == pytest.approx(4.0 / (k * s**2), rel=1e-12)


def test_published_form_is_implied_even_with_factor_one_and_constant_five():
    rng = np.random.default_rng(2)
    for _ in range(5000):
        k, n = int(np.exp(rng.uniform(0, 15))), int(np.exp(rng.uniform(np.log(2), 15)))
        kwargs = {"k": k, "n": n, "rho": np.exp(rng.uniform(-8, 4)), "delta": rng.uniform(1e-6, 1)}
        distance = np.exp(rng.uniform(-8, 8))
        loss = rng.uniform()
        ours = pb.worst_case_bound(loss, distance, **kwargs)
        smaller = pb.published_form(loss, distance, **kwargs, factor=1.0)
        assert ours <= smaller + 1e-12
        assert smaller <= pb.published_form(loss, distance, **kwargs)


def test_published_form_needs_its_constant():
    setting = {"k": 16598, "n": 2, "rho": 65.0, "delta": 0.997}
    ours = pb.worst_case_bound(0.0, 1e-3, **setting)
    assert pb.published_form(0.0, 1e-3, **setting, constant=0.0) < ours
    assert pb.published_form(0.0, 1e-3, **setting, constant=1.0) > ours


def test_exponential_moment_behind_the_bound():
    """E exp(2(n-1) (p - mean)_+^2) <= n, for Bernoulli(p) means: summed exactly over outcomes."""
    for n in (2, 5, 30, 200):
        hits = np.arange(n + 1)
        for p in (0.01, 0.3, 0.5, 0.97):
            gap = np.maximum(p - hits / n, 0)
            moment = (stats.binom.pmf(hits, n, p) * np.exp(2 * (n - 1) * gap**2)).sum()
            assert moment <= n


def test_bound_holds_on_a_problem_with_known_risk():
    """Thresholds on the line: both sides of the random bound exact, 300 samples of size 40.

    x ~ N(0, 1), label x > 0, classifier x > w + eps.  The random classifier's true and empirical
    errors are averages of normal distribution functions; w is fitted to each sample.
    """
    rng = np.random.default_rng(3)
    n, s, delta = 40, 0.2, 0.2
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    failures = optimistic = 0
    for _ in range(300):
        x = rng.normal(size=n)
        w = x[np.abs(x).argmin()]
        eps = w + s * nodes
        true = weights @ abs(stats.norm.cdf(eps) - 0.5)
        empirical = stats.norm.cdf((np.sign(x) * w - abs(x)) / s).mean()
        bound = pb.random_bound(empirical, abs(w), k=1, n=n, std=s, delta=delta)
        failures += true > bound
        optimistic += true > empirical
    assert failures <= 300 * delta
    assert optimistic > 60  # without the added term the inequality fails far more often


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="losses in"):
        pb.random_bound(1.2, 1.0, k=2, n=10, std=0.1, delta=0.1)
    with pytest.raises(ValueError, match="n >= 2"):
        pb.complexity(1.0, 2, 1, 0.1, 0.1)
    with pytest.raises(ValueError, match="0 < delta < 1"):
        pb.complexity(1.0, 2, 10, 0.1, 1.0)
    with pytest.raises(ValueError, match="std positive"):
        pb.complexity(1.0, 2, 10, 0.0, 0.1)
