r"""The PAC-Bayes bound behind "flat minima generalize" (theorem T4; chapter "PAC-Bayes").

Foret et al. (2021), Theorem 1, proved in the chapter with every constant written out.  Setting: n
examples drawn independently from D, a loss with values in [0, 1], k parameters w, a standard
deviation s > 0 and a centre w_0 (say the initialization) chosen before the data are seen.  With
probability at least 1 - delta over the sample, for ALL w at once,

.. math::

    E_\epsilon L_D(w + \epsilon) \le E_\epsilon L_S(w + \epsilon)
      + \sqrt{\frac{k\log(1 + v) + 1 + 2\log(n/\delta) + 2\log((j+1)(j+2))}{4(n-1)}},
    \qquad \epsilon \sim N(0, s^2 I),

with :math:`v = \|w - w_0\|^2 / (k s^2)` and :math:`j = \lceil k\log(1+v)\rceil`.  That the left
side may be replaced by L_D(w) is an assumption (random noise does not lower the test loss), and
not a theorem.  The worst-case form follows by throwing information away, see
:func:`worst_case_bound`.

Losses here are numbers between 0 and 1, for example error rates; all functions broadcast.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def gaussian_kl(
    distance: ArrayLike, k: int, posterior_std: ArrayLike, prior_std: ArrayLike
) -> Array:
    r"""KL(N(w, s^2 I) || N(w_0, t^2 I)) in nats, with distance = ||w - w_0|| in k dimensions.

    :math:`\frac12\bigl[(k s^2 + \|w - w_0\|^2)/t^2 - k + k\log(t^2/s^2)\bigr]`.
    """
    ratio = np.square(posterior_std) / np.square(prior_std)
    return 0.5 * (k * (ratio - 1 - np.log(ratio)) + np.square(distance) / np.square(prior_std))


def prior_index(distance: ArrayLike, k: int, std: ArrayLike) -> Array:
    r"""Which prior of the grid :math:`t_j^2 = s^2 e^{j/k}`, j = 0, 1, 2, ..., the bound uses.

    The smallest j with :math:`t_j^2 \ge s^2 (1 + v)`, that is :math:`\lceil k\log(1 + v)\rceil`.
    """
    return np.ceil(k * np.log1p(np.square(distance) / (k * np.square(std))))


def complexity(distance: ArrayLike, k: int, n: int, std: ArrayLike, delta: float) -> Array:
    r"""The square root of the random-perturbation bound: what is added to the noisy train loss.

    Prior j gets the share :math:`\delta/((j+1)(j+2))` of the failure probability (these sum to
    delta), and its KL is at most :math:`\frac12(1 + k\log(1+v))`.
    """
    _check(n, delta)
    if k < 1 or (np.asarray(std) <= 0).any():
        raise ValueError("k must be at least 1 and std positive")
    v = np.square(distance) / (k * np.square(std))
    j = prior_index(distance, k, std)
    union = np.log((j + 1) * (j + 2))
    return np.sqrt((k * np.log1p(v) + 1 + 2 * np.log(n / delta) + 2 * union) / (4 * (n - 1)))


def random_bound(
    noisy_loss: ArrayLike, distance: ArrayLike, *, k: int, n: int, std: ArrayLike, delta: float
) -> Array:
    r"""Average-case bound: noisy_loss = :math:`E_\epsilon L_S(w+\epsilon)`, eps ~ N(0, std^2 I).

    Bounds :math:`E_\epsilon L_D(w+\epsilon)` with probability 1 - delta, for all w at once.  If
    the expectation is itself estimated from M draws, add :func:`monte_carlo_slack`.
    """
    return _loss(noisy_loss) + complexity(distance, k, n, std, delta)


def worst_case_bound(
    max_loss: ArrayLike, distance: ArrayLike, *, k: int, n: int, rho: ArrayLike, delta: float
) -> Array:
    r"""Worst-case bound: max_loss = :math:`\max_{\|\epsilon\|\le\rho} L_S(w+\epsilon)`.

    With :math:`s = \rho/(\sqrt k + \sqrt{\log n})` noise leaves the ball with probability at most
    :math:`n^{-1/2}`, so :math:`E_\epsilon L_S(w+\epsilon) \le (1 - n^{-1/2})\max L_S + n^{-1/2}`;
    insert this in :func:`random_bound`.  In terms of rho,
    :math:`v = (\|w-w_0\|^2/\rho^2)\,(1 + \sqrt{\log(n)/k})^2`.

    A maximum found by ascent is only a lower estimate of max L_S, and then so is this number.

    >>> print(f"{worst_case_bound(0.1, 1.0, k=100, n=1000, rho=1.0, delta=0.05):.3f}")
    0.312
    """
    miss = n**-0.5
    return (
        (1 - miss) * _loss(max_loss)
        + miss
        + complexity(distance, k, n, noise_std(rho, k, n), delta)
    )


def published_form(
    max_loss: ArrayLike,
    distance: ArrayLike,
    *,
    k: int,
    n: int,
    rho: ArrayLike,
    delta: float,
    factor: float = 4.0,
    constant: float = 5.0,
) -> Array:
    r"""Theorem 1 as printed, its factor 4 and its O(1) as parameters:

    .. math:: \max_{\|\epsilon\|\le\rho} L_S(w+\epsilon)
       + \sqrt{\frac{k\log\bigl(1 + \frac{\|w-w_0\|^2}{\rho^2}(1+\sqrt{\log(n)/k})^2\bigr)
         + 4\log(n/\delta) + O(1)}{n-1}}.

    Never below :func:`worst_case_bound`, not even with factor 1 and O(1) = 5 (proved in the
    chapter).
    """
    _check(n, delta)
    v = np.square(distance) / (k * np.square(noise_std(rho, k, n)))
    inside = k * np.log1p(v) + factor * np.log(n / delta) + constant
    return _loss(max_loss) + np.sqrt(inside / (n - 1))


def noise_std(rho: ArrayLike, k: int, n: int) -> Array:
    r""":math:`s = \rho/(\sqrt k+\sqrt{\log n})`, for which P(||eps|| > rho) <= n^(-1/2).

    Laurent and Massart (2000): :math:`P(\|\epsilon\|^2/s^2 > k + 2\sqrt{kx} + 2x) \le e^{-x}`;
    take :math:`x = \frac12\log n` and note
    :math:`k + \sqrt{2k\log n} + \log n \le (\sqrt k + \sqrt{\log n})^2`.
    """
    return np.asarray(rho, float) / (np.sqrt(k) + np.sqrt(np.log(n)))


def monte_carlo_slack(draws: int, delta: float) -> float:
    r"""Hoeffding: :math:`\sqrt{\log(1/\delta)/(2M)}`, for a mean of M draws in [0, 1]."""
    return float(np.sqrt(np.log(1 / delta) / (2 * draws)))


def _loss(value: ArrayLike) -> Array:
    loss = np.asarray(value, float)
    if (loss < 0).any() or (loss > 1).any():
        raise ValueError("the bound needs losses in [0, 1]: use an error rate or clip the loss")
    return loss


def _check(n: int, delta: float) -> None:
    if n < 2 or not 0 < delta < 1:
        raise ValueError("the bound needs n >= 2 examples and 0 < delta < 1")
