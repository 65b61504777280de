"""The law in m, as pictures: the factor itself, and what it predicts of the error of m-SAM."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from samkit.diagonal import SparseRegression, flow
from samkit.diagonal.prediction import first_order_shrinkage, residual_moments
from samkit.paper import figures
from samkit.theory import recovery
from samkit.theory.objectives import variance_factor


def factor(multiplies: str, n: int = 8) -> figures.Picture:
    r"""The small picture beside an equation in which :math:`\frac{n-m}{(n-1)m}` stands.

    ``multiplies`` says in a word or two what the factor multiplies there; n examples.
    """
    sizes = np.arange(1, n + 1)
    figure, axis = figures.subplots(figsize=(3.4, 1.5))
    axis.bar(sizes, variance_factor(n, sizes), color=figures.COLORS["m-SAM"], width=0.7)
    axis.set(xticks=sizes, yticks=[0, 1], xlabel="$m$")
    axis.set_title(rf"$\frac{{n-m}}{{(n-1)\,m}}$ times {multiplies}", fontsize=10)
    axis.grid(False)
    return figures.show(
        figure,
        alt=f"Bars of (n - m) / ((n - 1) m) for n = {n} and m = 1 to {n}: 1 at m = 1, "
        f"{float(variance_factor(n, 2)):.2f} at m = 2, falling to 0 at m = {n}. "
        f"It multiplies {multiplies}.",
    )


@dataclass(frozen=True)
class Gain:
    """log10 of SAM's squared error over that of gradient flow; negative is a gain.

    ``sizes`` (k,): the m of the runs; ``measured``, ``predicted`` (problems, k), of the same fixed
    groups; ``law`` (problems, n): the prediction for groups that are redrawn, m = 1 to n, and
    ``off`` its part off the support, which is a gain, where the rest of it is a loss;
    ``theta`` (problems,): the null-space constants; ``rho`` the radius.
    """

    sizes: np.ndarray
    measured: np.ndarray
    predicted: np.ndarray
    law: np.ndarray
    off: np.ndarray
    theta: np.ndarray
    rho: float


def gain(problems: list[SparseRegression], *, rho: float = 0.05, init: float = 0.1) -> Gain:
    r"""Measured by running the flow of m-SAM; predicted from the path of gradient flow and b alone.

    The prediction is :math:`-4\rho\,(\langle|g_{\rm off}|,\Delta\rangle - \langle\gamma,
    \Delta_S\rangle)/\log 10`, to first order in rho and to leading order for small alpha: see
    :mod:`samkit.theory.recovery`. b is the problem's ``beta_star``. All problems need the same n.
    """
    n = problems[0].n
    sizes = np.array([m for m in range(1, n + 1) if n % m == 0])
    unit = -4 * rho / np.log(10)
    measured, predicted, law, off, theta = [], [], [], [], []
    for problem in problems:
        truth = problem.beta_star
        constants = recovery.null_space(problem.X, truth)
        moments = residual_moments(problem, init=init)

        def error(rho, m=1, problem=problem, truth=truth):
            return np.linalg.norm(flow(problem, rho=rho, m=m, init=init).beta - truth)

        without = error(0.0)
        measured.append([2 * np.log10(error(rho, int(m)) / without) for m in sizes])
        shrinkage = [first_order_shrinkage(problem, moments, m, groups="fixed") for m in sizes]
        predicted.append(unit * constants.tilt(shrinkage))
        redrawn = [first_order_shrinkage(problem, moments, m) for m in range(1, n + 1)]
        law.append(unit * constants.tilt(redrawn))
        off.append(unit * constants.tilt(np.where(constants.support, 0.0, redrawn)))
        theta.append(constants.theta)
    return Gain(
        sizes,
        measured=np.array(measured),
        predicted=np.array(predicted),
        law=np.array(law),
        off=np.array(off),
        theta=np.array(theta),
        rho=rho,
    )


def gain_picture(found: Gain) -> figures.Picture:
    """Dots: measured, the geometric mean over problems with its standard error. Line: the law."""
    figure, axis = figures.subplots(figsize=(7.2, 3.4))
    axis.axhline(1, **figures.line("ERM", label=None, linewidth=2))
    every = np.arange(1, found.law.shape[1] + 1)
    predicted = 10 ** found.law.mean(0)
    axis.plot(every, predicted, color=figures.INK, lw=1.5, label="predicted from plain training")
    mean = found.measured.mean(0)
    spread = found.measured.std(0, ddof=1) / np.sqrt(len(found.measured))
    axis.errorbar(
        found.sizes,
        10**mean,
        [10**mean - 10 ** (mean - spread), 10 ** (mean + spread) - 10**mean],
        fmt="o",
        color=figures.COLORS["m-SAM"],
        capsize=3,
        label="measured, SAM was run",
    )
    ticks = [int(m) for m in found.sizes]
    axis.set(xscale="log", yscale="log", xlabel="$m$", ylabel="squared error / plain training's")
    axis.set_xticks(ticks, [str(m) for m in ticks])
    levels = np.arange(0.5, 1.21, 0.1)
    levels = levels[(levels > axis.get_ylim()[0]) & (levels < axis.get_ylim()[1])]
    axis.set_yticks(levels, [f"{level:.1f}" for level in levels])
    axis.minorticks_off()
    axis.legend(loc="lower right")
    pairs = ", ".join(
        f"{value:.2f} and {predicted[m - 1]:.2f} at m = {m}"
        for m, value in zip(ticks, 10**mean, strict=True)
    )
    return figures.show(
        figure,
        alt=f"m-SAM's squared error over that of gradient flow against m, measured and predicted: "
        f"{pairs}. Below one SAM gains.",
    )
