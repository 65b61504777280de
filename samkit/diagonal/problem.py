"""Sparse linear regression, the task of the paper's diagonal-network experiments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SparseRegression:
    """A linear regression problem with a known solution.

    Fields: ``X`` (n, d) and ``y`` (n,) to train on, ``X_test`` (n_test, d) and ``y_test``
    (n_test,) to test on, ``beta_star`` (d,) the coefficients behind ``y``. Your own data may
    be passed directly; it is converted to float64.

    Raises ValueError if shapes do not fit each other or a value is not finite.
    """

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    beta_star: np.ndarray

    def __post_init__(self) -> None:
        for name, ndim in (("X", 2), ("y", 1), ("X_test", 2), ("y_test", 1), ("beta_star", 1)):
            value = np.ascontiguousarray(getattr(self, name), dtype=np.float64)
            if value.ndim != ndim or value.size == 0:
                raise ValueError(
                    f"{name} has shape {value.shape}: pass a non-empty {ndim}-dimensional array"
                )
            if not np.isfinite(value).all():
                raise ValueError(f"{name} has inf or nan entries: pass finite numbers")
            object.__setattr__(self, name, value)
        for name, length, other in (
            ("y", len(self.X), "one target per row of X"),
            ("y_test", len(self.X_test), "one target per row of X_test"),
            ("beta_star", self.X.shape[1], "one coefficient per column of X"),
        ):
            if len(getattr(self, name)) != length:
                raise ValueError(
                    f"{name} has length {len(getattr(self, name))}, expected {length}: pass {other}"
                )
        if self.X_test.shape[1] != self.X.shape[1]:
            raise ValueError(
                f"X_test has {self.X_test.shape[1]} columns, X has {self.X.shape[1]}: "
                "pass the same features in both"
            )

    @property
    def n(self) -> int:
        """Number of training examples."""
        return self.X.shape[0]

    @property
    def d(self) -> int:
        """Number of features."""
        return self.X.shape[1]

    @classmethod
    def sample(
        cls, n: int = 20, d: int = 30, sparsity: int = 3, n_test: int = 1000, seed: int = 0
    ) -> SparseRegression:
        """Standard Gaussian features, a non-negative ``sparsity``-sparse unit vector behind y.

        The defaults give the data of the authors' notebook bit for bit: numpy's legacy
        generator, drawn in their order (X, X_test, coefficients).

        Raises ValueError if a size is not positive or sparsity is larger than d.
        """
        if min(n, d, n_test) < 1 or not 1 <= sparsity <= d:
            raise ValueError(
                f"n={n}, d={d}, sparsity={sparsity}, n_test={n_test}: "
                "pass sizes of at least 1 and a sparsity from 1 to d"
            )
        rng = np.random.RandomState(seed)  # the legacy generator: its stream is fixed for ever
        X = rng.multivariate_normal(np.zeros(d), np.eye(d), n)
        X_test = rng.multivariate_normal(np.zeros(d), np.eye(d), n_test)
        beta = rng.randn(d)
        beta[sparsity:] = 0.0
        beta = np.abs(beta) / np.linalg.norm(beta)
        return cls(X, X @ beta, X_test, X_test @ beta, beta)


def check_group_size(m: int | None, n: int, of: str) -> int:
    """m as an int from 1 to n (None means n), or a ValueError that says what to pass."""
    m = n if m is None else m
    if int(m) != m or not 1 <= m <= n:
        raise ValueError(f"m={m}: pass a group SIZE, a whole number from 1 to {n} ({of})")
    return int(m)
