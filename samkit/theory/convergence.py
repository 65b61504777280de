r"""Convergence of stochastic SAM (paper, section 5; book/09-convergence).

One step of unnormalized SAM with batches ``I`` and ``J`` of size b is

.. math:: w_{t+1} = w_t - \gamma_t\, \nabla L_I\bigl(w_t + \rho_t \nabla L_J(w_t)\bigr),

either with ``J = I`` (``scheme="same"``: m-SAM with m = b) or with ``J`` drawn independently of
``I`` (``scheme="independent"``).  Throughout, every :math:`l_i` is beta-smooth,
:math:`\frac1n\sum_i \|\nabla l_i(w) - \nabla L(w)\|^2 \le \sigma^2` for all w, and
:math:`\eta = \beta\gamma`, :math:`\xi = (\beta\rho)^2`, :math:`\Delta_t = E L(w_t) - L_*`,
:math:`N = \sigma^2 / b`.

The problems below know their beta, sigma^2, mu and L* exactly, so a bound can be compared
with a run without estimating anything.  All of them are evaluated at many points at once: ``w``
has shape ``(..., d)``, ``losses`` returns ``(..., n)`` and ``gradients`` ``(..., n, d)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, permutations, product
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Scheme = Literal["same", "independent"]
RunScheme = Literal["same", "independent", "previous"]


class FiniteSum(Protocol):
    """A mean of n losses with known constants; ``mu`` is None without the PL inequality."""

    n: int
    d: int
    beta: float
    sigma2: float
    mu: float | None
    minimum: float

    def losses(self, w: Array) -> Array: ...

    def gradients(self, w: Array) -> Array: ...


class SharedDesign:
    r"""Least squares with one design for all: :math:`l_i(w) = \frac12\|Aw - y_i\|^2`.

    The Hessian is the same for every i, hence exactly beta = largest and mu = smallest nonzero
    eigenvalue of :math:`A^\top A`, :math:`\sigma^2 = \frac1n\sum_i\|A^\top(y_i - \bar y)\|^2` at
    every w, and L* is attained at :math:`A^+ \bar y`.  (With a design of its own for each i the
    variance of the gradient grows with w, and no sigma holds everywhere.)

    ``design`` has shape (p, d), ``targets`` (n, p).
    """

    def __init__(self, design: ArrayLike, targets: ArrayLike) -> None:
        self.design = np.asarray(design, float)
        self.targets = np.asarray(targets, float)
        if self.targets.ndim != 2 or self.targets.shape[1] != self.design.shape[0]:
            raise ValueError("targets must have shape (n, p) where design has shape (p, d)")
        self.n, self.d = len(self.targets), self.design.shape[1]
        eigenvalues = np.linalg.svd(self.design, compute_uv=False) ** 2
        self.beta = float(eigenvalues[0])
        self.mu: float | None = float(eigenvalues[eigenvalues > 1e-12 * self.beta][-1])
        noise = (self.targets - self.targets.mean(0)) @ self.design
        self.sigma2 = float((noise**2).sum(1).mean())
        self.minimizer = np.linalg.pinv(self.design) @ self.targets.mean(0)
        self.minimum = float(self.losses(self.minimizer).mean())

    def _residuals(self, w: Array) -> Array:
        return (np.asarray(w) @ self.design.T)[..., None, :] - self.targets

    def losses(self, w: Array) -> Array:
        return 0.5 * (self._residuals(w) ** 2).sum(-1)

    def gradients(self, w: Array) -> Array:
        return self._residuals(w) @ self.design


class CosineWells:
    r"""Smooth and non-convex: :math:`l_i(w) = \sum_j a_{ij}\,(1 - \cos(w_j - c_{ij}))`, a >= 0.

    With :math:`R_j e^{\mathrm i\theta_j} = \frac1n\sum_i a_{ij} e^{\mathrm i c_{ij}}`,

    .. math:: L(w) = \sum_j \bar a_j - R_j \cos(w_j - \theta_j), \qquad
              L_* = \sum_j \bar a_j - R_j, \qquad \beta = \max_{ij} a_{ij},

    and since :math:`2\sin^2 x = 1 - \cos 2x`, the variance of coordinate j is a constant plus one
    wave of frequency 2, whose exact maximum is

    .. math:: \tfrac12 (\overline{a_j^2} - R_j^2)
              + \tfrac12 \Bigl|\overline{a_j^2 e^{2\mathrm i c_j}}
              - R_j^2 e^{2\mathrm i\theta_j}\Bigr|;

    sigma^2 is the sum over j, attained since the coordinates are free.  ``amplitudes`` and
    ``centres`` have shape (n, d).  There are saddles and maxima, so mu is None.
    """

    mu: float | None = None

    def __init__(self, amplitudes: ArrayLike, centres: ArrayLike) -> None:
        self.amplitudes = np.asarray(amplitudes, float)
        self.centres = np.asarray(centres, float)
        if self.amplitudes.ndim != 2 or self.amplitudes.shape != self.centres.shape:
            raise ValueError("amplitudes and centres must both have shape (n, d)")
        if (self.amplitudes < 0).any():
            raise ValueError("amplitudes must be non-negative; shift the centre by pi instead")
        self.n, self.d = self.amplitudes.shape
        mean = (self.amplitudes * np.exp(1j * self.centres)).mean(0)
        second = (self.amplitudes**2 * np.exp(2j * self.centres)).mean(0)
        power = (self.amplitudes**2).mean(0)
        self.beta = float(self.amplitudes.max())
        self.sigma2 = float(0.5 * (power - abs(mean) ** 2 + abs(second - mean**2)).sum())
        self.minimum = float((self.amplitudes.mean(0) - abs(mean)).sum())

    def losses(self, w: Array) -> Array:
        angle = np.asarray(w)[..., None, :] - self.centres
        return (self.amplitudes * (1 - np.cos(angle))).sum(-1)

    def gradients(self, w: Array) -> Array:
        return self.amplitudes * np.sin(np.asarray(w)[..., None, :] - self.centres)


class NoisySine:
    r"""PL and non-convex, one parameter: :math:`l_\pm(w) = w^2 + 3\sin^2 w \pm \tau\sin w`.

    Their mean is :math:`f(w) = w^2 + 3\sin^2 w`, with :math:`f'' = 2 + 6\cos 2w \in [-4, 8]`, and
    L* = 0 at w = 0.  Each :math:`l_\pm'' = 8 - 12 s^2 \mp \tau s`, :math:`s = \sin w`,
    so for :math:`0 \le \tau \le 24` exactly
    :math:`\beta = \max(8 + \tau^2/48,\ 4 + \tau)`; the variance :math:`\tau^2\cos^2 w`
    has maximum :math:`\sigma^2 = \tau^2`, attained at the minimizer.
    ``mu`` is the certified constant of :func:`sine_pl_constant`.
    """

    n, d, minimum = 2, 1, 0.0

    def __init__(self, noise: float = 1.0) -> None:
        if not 0 <= noise <= 24:
            raise ValueError("noise must lie in [0, 24], where beta has the closed form used here")
        self.noise = float(noise)
        self.beta = max(8 + self.noise**2 / 48, 4 + self.noise)
        self.sigma2 = self.noise**2
        self.mu: float | None = sine_pl_constant()
        self._sign = np.array([1.0, -1.0])

    def losses(self, w: Array) -> Array:
        x = np.asarray(w)
        return x**2 + 3 * np.sin(x) ** 2 + self.noise * np.sin(x) * self._sign

    def gradients(self, w: Array) -> Array:
        x = np.asarray(w)
        each = 2 * x + 3 * np.sin(2 * x) + self.noise * np.cos(x) * self._sign
        return each[..., None]


def sine_pl_constant(cells: int = 200_000) -> float:
    r"""A certified lower bound of :math:`\inf_x f'(x)^2 / (2 f(x))` for f = x^2 + 3 sin^2 x.

    f is even, so x > 0.  On (0, 1/2], sin(2x) >= 2x sin(1) and f <= 4 x^2 give a ratio above 6;
    for x >= 6, :math:`(2x-3)^2/(2x^2+6) \ge 81/78`.  In between, on a cell of centre c and
    half-width e, :math:`|f''| \le 8` gives :math:`|f'| \ge |f'(c)| - 8e` and
    :math:`f \le f(c) + |f'(c)| e + 4 e^2`; the smallest cell bound is returned.
    """
    edges = np.linspace(0.5, 6.0, cells + 1)
    c, e = (edges[:-1] + edges[1:]) / 2, (edges[1] - edges[0]) / 2
    slope = abs(2 * c + 3 * np.sin(2 * c))
    value = c**2 + 3 * np.sin(c) ** 2
    lower = np.maximum(slope - 8 * e, 0) ** 2 / (2 * (value + slope * e + 4 * e**2))
    return float(min(lower.min(), 81 / 78))


@dataclass(frozen=True)
class Ripple:
    r"""One loss, :math:`f(w) = (\beta/k^2)(1 - \cos kw)`: the deterministic counter-example.

    With :math:`\rho = 3\pi/(2k)` normalized SAM stands still at :math:`w = -\rho`, the point of
    steepest slope :math:`\beta/k`: its ascent step lands exactly on the minimizer 0.  From
    :math:`|w + \rho| < \pi/(2k)` it converges there for every constant gamma <= 1/beta.
    """

    beta: float = 1.0
    k: float = 1.0
    n: int = 1
    d: int = 1
    sigma2: float = 0.0
    mu: float | None = None
    minimum: float = 0.0

    @property
    def rho(self) -> float:
        return 1.5 * np.pi / self.k

    def losses(self, w: Array) -> Array:
        return self.beta / self.k**2 * (1 - np.cos(self.k * np.asarray(w)))

    def gradients(self, w: Array) -> Array:
        return (self.beta / self.k * np.sin(self.k * np.asarray(w)))[..., None]


# --- the dynamics -------------------------------------------------------------------------------


def _check_scheme(scheme: str, known: tuple[str, ...] = ("same", "independent")) -> None:
    if scheme not in known:
        raise ValueError(f"scheme must be one of {', '.join(known)}, not {scheme!r}")


class Runs(NamedTuple):
    """``gradient_norm2`` (T, runs): ||grad L(w_t)||^2, t < T; ``gap`` (T+1, runs): L(w_t) - L*."""

    gradient_norm2: Array
    gap: Array
    w: Array


def sam_gradient(
    problem: FiniteSum,
    w: Array,
    rho: float,
    weights_i: Array,
    weights_j: Array,
    *,
    normalized: bool = False,
) -> Array:
    r""":math:`\nabla L_I(w + \rho\nabla L_J(w))`, or with the ascent divided by its norm.

    A batch is a row of n weights that sum to one (how often each example was drawn, over b).
    ``w``: (..., d), weights: (..., n); returns (..., d).
    """
    ascent = (weights_j[..., None] * problem.gradients(w)).sum(-2)
    if normalized:
        norm = np.linalg.norm(ascent, axis=-1, keepdims=True)
        ascent = np.divide(ascent, norm, out=np.zeros_like(ascent), where=norm > 0)
    return (weights_i[..., None] * problem.gradients(w + rho * ascent)).sum(-2)


def _groups(n: int, m: int) -> Array:
    """Every group of m of n examples as a row of weights: (groups, n)."""
    return np.array([np.eye(n)[list(group)].mean(0) for group in combinations(range(n), m)])


def expected_sam_gradient(
    problem: FiniteSum,
    w: ArrayLike,
    rho: float,
    scheme: Scheme,
    *,
    m: int = 1,
    normalized: bool = False,
) -> Array:
    """The mean of :func:`sam_gradient` over all groups of m examples, exactly; w: (d,) -> (d,).

    Groups are drawn without replacement, and enumerated.
    """
    _check_scheme(scheme)
    ascent = _groups(problem.n, m)
    weights = ascent if scheme == "same" else np.full_like(ascent, 1 / problem.n)
    points = np.broadcast_to(np.asarray(w, float), (len(ascent), problem.d))
    return sam_gradient(problem, points, rho, weights, ascent, normalized=normalized).mean(0)


def expected_loss_after(
    problem: FiniteSum,
    w: Array,
    gamma: float,
    rho: float,
    scheme: Scheme,
    *,
    groups: int = 1,
    m: int = 1,
) -> Array:
    r""":math:`E[L(w_{t+1}) \mid w_t = w]` over all batches, exactly; (..., d) -> (...).

    A batch has b = ``groups`` * m examples, drawn without replacement.  ``scheme="same"``: each
    group of m has a perturbation of its own, and their gradients are averaged; all splits of all
    batches are enumerated.  ``scheme="independent"``: all pairs of batches of one (groups = m = 1).
    """
    _check_scheme(scheme)
    if not 1 <= groups * m <= problem.n:
        raise ValueError(f"groups={groups}, m={m}: a batch has 1 to n={problem.n} examples")
    one = np.eye(problem.n)
    if scheme == "independent":
        if (groups, m) != (1, 1):
            raise ValueError("independent batches are enumerated for batches of one only")
        pairs = product(one, one)
        steps = [sam_gradient(problem, w, rho, i, j) for i, j in pairs]
    else:
        each = {
            group: sam_gradient(problem, w, rho, weights, weights)
            for group in combinations(range(problem.n), m)
            for weights in [one[list(group)].mean(0)]
        }
        steps = [
            np.mean([each[group] for group in split], axis=0)
            for split in permutations(each, groups)
            if len(set().union(*split)) == groups * m
        ]
    return np.mean([problem.losses(w - gamma * step).mean(-1) for step in steps], axis=0)


def run_sam(
    problem: FiniteSum,
    start: ArrayLike,
    step_sizes: ArrayLike,
    radii: ArrayLike,
    *,
    batch_size: int | None = 1,
    m: int | None = None,
    scheme: RunScheme = "same",
    runs: int = 1,
    seed: int = 0,
    normalized: bool = False,
) -> Runs:
    """T steps of SAM from ``start`` (d,), ``runs`` independent ones side by side.

    ``step_sizes`` and ``radii`` are (T,): gamma_t and rho_t.  Batches are drawn with replacement;
    ``batch_size=None`` uses all n examples in both places (no noise).  ``m`` splits the batch into
    groups of that size, each with its own perturbation (m-SAM; None is one group).  With
    ``scheme="previous"`` the perturbation is along the gradient of the batch of the step before.
    """
    _check_scheme(scheme, ("same", "independent", "previous"))
    if m is not None and (scheme != "same" or batch_size is None or batch_size % m):
        raise ValueError(
            f'm={m}: pass a group size that divides batch_size={batch_size}, with scheme="same"'
        )
    groups = 1 if m is None or batch_size is None else batch_size // m
    gammas, rhos = np.broadcast_arrays(np.asarray(step_sizes, float), np.asarray(radii, float))
    if gammas.ndim != 1:
        raise ValueError("step_sizes and radii must be one-dimensional, one entry a step")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, or None for all, not {batch_size}")
    rng = np.random.default_rng(seed)
    w = np.tile(np.asarray(start, float), (runs, 1))
    full = np.full((runs, problem.n), 1 / problem.n)

    def batch() -> Array:
        if batch_size is None:
            return full
        size = batch_size // groups
        return rng.multinomial(size, full[0], size=runs) / size

    norms, gaps = np.empty((len(gammas), runs)), np.empty((len(gammas) + 1, runs))
    before = batch() if scheme == "previous" else full
    for t, (gamma, rho) in enumerate(zip(gammas, rhos, strict=True)):
        norms[t] = (problem.gradients(w).mean(-2) ** 2).sum(-1)
        gaps[t] = problem.losses(w).mean(-1) - problem.minimum
        step = np.zeros_like(w)
        for _ in range(groups):
            i = batch()
            j = {"same": i, "previous": before}.get(scheme)
            j = batch() if j is None else j
            step += sam_gradient(problem, w, rho, i, j, normalized=normalized) / groups
        w, before = w - gamma * step, i
    gaps[-1] = problem.losses(w).mean(-1) - problem.minimum
    return Runs(norms, gaps, w)


# --- the bounds ---------------------------------------------------------------------------------


def descent_coefficients(
    gamma: ArrayLike, rho: ArrayLike, beta: float, scheme: Scheme, *, groups: int = 1
) -> tuple[Array, Array]:
    r"""(p, q) of the one-step lemma :math:`\Delta^+\le\Delta - p\|\nabla L\|^2 + q\,\sigma^2/b`.

    independent, for eta <= 1: :math:`p =\frac\gamma2(1 -\xi)`, :math:`q =\frac\gamma2(\xi + \eta)`;
    same, the batch in b/m = ``groups`` groups that share a perturbation each:
    :math:`p = \frac\gamma2(1 + \eta(1-\eta) - \xi(1+\eta))`,
    :math:`q = \frac\gamma2(1+\eta)(\xi\frac bm+\eta)`.
    """
    _check_scheme(scheme)
    gamma = np.asarray(gamma, float)
    eta, xi = beta * gamma, (beta * np.asarray(rho, float)) ** 2
    if scheme == "same":
        p = gamma / 2 * (1 + eta * (1 - eta) - xi * (1 + eta))
        return p, gamma / 2 * (1 + eta) * (xi * groups + eta)
    if (eta > 1).any():
        raise ValueError("with independent batches the lemma needs gamma <= 1 / beta")
    return gamma / 2 * (1 - xi), gamma / 2 * (xi + eta)


def stationarity_bound(
    gap: float, gammas: ArrayLike, rhos: ArrayLike, *, beta: float, noise: float, scheme: Scheme
) -> float:
    r"""Bound of :math:`\sum_t p_t E\|\nabla L(w_t)\|^2 /\sum_t p_t` for any schedule.

    The lemma summed: (gap + noise * sum q_t) / sum p_t, with gap = L(w_0) - L* and
    noise = sigma^2 / b.  For a constant schedule the left side is the plain average over t.
    """
    p, q = descent_coefficients(gammas, rhos, beta, scheme)
    if (p <= 0).any():
        raise ValueError("every step needs p_t > 0: take a smaller rho (or gamma)")
    return float((gap + noise * q.sum()) / p.sum())


def paper_schedule(steps: int, beta: float) -> tuple[Array, Array]:
    r"""T3: :math:`\gamma = 1/(\sqrt T\beta)` and :math:`\rho = 1/(T^{1/4}\beta)`, T times each."""
    if steps < 1:
        raise ValueError("steps must be at least 1")
    return np.full(steps, 1 / (steps**0.5 * beta)), np.full(steps, 1 / (steps**0.25 * beta))


def paper_bound(steps: ArrayLike, gap: float, *, beta: float, noise: float, C: float = 8) -> Array:
    r"""T3: average of :math:`E\|\nabla L(w_t)\|^2\le (4\beta\,gap + C\,noise)/\sqrt T`.

    gap = L(w_0) - L* and noise = sigma^2 / b; ``steps`` is T, one or many.  Proved in the book
    for both schemes and every T >= 1, with C = 6 where the batches agree and C = 4 where they are
    independent; C = 8 is the paper's.
    """
    return (4 * beta * gap + C * noise) / np.sqrt(steps)


def pl_schedule(steps: int, beta: float, mu: float) -> tuple[Array, Array]:
    r"""T3 under PL: gamma_t = min{(8t+4)/(3 mu (t+1)^2), 1/(2 beta)}, rho_t^2 = gamma_t/beta."""
    if not 0 < mu <= beta:
        raise ValueError("the PL constant must satisfy 0 < mu <= beta")
    t = np.arange(steps)
    gammas = np.minimum((8 * t + 4) / (3 * mu * (t + 1.0) ** 2), 1 / (2 * beta))
    return gammas, np.sqrt(gammas / beta)


def pl_paper_bound(
    steps: ArrayLike,
    gap: float,
    constants: tuple[float, float] = (3, 22),
    *,
    beta: float,
    mu: float,
    noise: float,
) -> Array:
    r"""T3 under PL: :math:`\Delta_T\le 3\beta^2 gap/(\mu T)^2 + 22\beta\,noise/(\mu^2 T)`.

    ``steps`` is T, one or many.  Proved in the book for both schemes; ``constants`` = (16 / e^2,
    32 / 3) is what its proof gives for independent batches.
    """
    bias, spread = constants
    t = np.asarray(steps, float)
    return bias * (beta / (mu * t)) ** 2 * gap + spread * beta * noise / (mu**2 * t)


def pl_contraction(gamma: ArrayLike, beta: float, mu: float, scheme: Scheme) -> tuple[Array, Array]:
    r"""(c, q) of :math:`\Delta^+\le (1 - c)\Delta + q\,\sigma^2/b` under PL, rho^2 = gamma/beta.

    independent: :math:`c = 2\mu\gamma(1-\eta)`, :math:`q =\gamma\eta (1 + (1-\eta)\mu/(2\beta))`;
    same, for any :math:`0 <\theta\le (1-\eta)/\omega`, :math:`\omega = 1 - \eta + \eta^2`:
    :math:`c =\mu\gamma(2(1-\eta) -\theta\omega)`,
    :math:`q =\gamma\eta (1/(2\theta) + (1+\sqrt\eta)^2/2)`.  Here theta is the one of the proof:
    1/5 at eta = 1/2 (the first phase), else :math:`\min(1 -\eta, 5/4 - 2\eta)/\omega`.
    """
    _check_scheme(scheme)
    gamma = np.asarray(gamma, float)
    eta = beta * gamma
    if (eta > 0.5 * (1 + 1e-12)).any():
        raise ValueError("the PL lemma is used for gamma <= 1 / (2 beta)")
    if scheme == "independent":
        return 2 * mu * gamma * (1 - eta), gamma * eta * (1 + (1 - eta) * mu / (2 * beta))
    omega = 1 - eta + eta**2
    theta = np.where(eta >= 0.5 * (1 - 1e-12), 0.2, np.minimum(1 - eta, 1.25 - 2 * eta) / omega)
    contraction = mu * gamma * (2 * (1 - eta) - theta * omega)
    return contraction, gamma * eta * (0.5 / theta + 0.5 * (1 + np.sqrt(eta)) ** 2)


def pl_recursion_bound(
    steps: int, gap: float, *, beta: float, mu: float, noise: float, scheme: Scheme
) -> Array:
    """The PL lemma iterated along :func:`pl_schedule`: a bound for Delta_0, ..., Delta_T."""
    gammas, _ = pl_schedule(steps, beta, mu)
    contraction, q = pl_contraction(gammas, beta, mu, scheme)
    bound = np.empty(steps + 1)
    bound[0] = gap
    for t in range(steps):
        bound[t + 1] = (1 - contraction[t]) * bound[t] + q[t] * noise
    return bound


# --- where normalized SAM stops -----------------------------------------------------------------


def normalized_counterexample(targets: ArrayLike, rho: float) -> float:
    r"""Where normalized 1-SAM ends on :math:`l_i(w) = \frac12(w - c_i)^2`: not at the minimizer.

    The step is :math:`w - \gamma\,(w - c_i + \rho\,\mathrm{sign}(w - c_i))` with i uniform, whose
    mean is the derivative of :math:`L(w) + \rho\,\frac1n\sum_i |w - c_i|`.  That function is
    strongly convex, so for gamma_t -> 0 with infinite sum w_t converges in mean square to its
    minimizer: while this lies between the same two targets as :math:`\bar c`, it is
    :math:`\bar c - \rho s`, :math:`s = \frac1n\sum_i\mathrm{sign}(\bar c - c_i)`, and there
    :math:`|L'| = \rho|s|`.  Raises ValueError for a rho so large that it does not.
    """
    c = np.sort(np.asarray(targets, float))
    mean = c.mean()
    limit = float(mean - rho * np.sign(mean - c).mean())
    if (np.sign(limit - c) != np.sign(mean - c)).any():
        raise ValueError("rho is too large: the limit is not in the gap around the mean")
    return limit
