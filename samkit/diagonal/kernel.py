"""The compiled twin of :func:`samkit.diagonal.sam_step`: many steps in one call.

The same arithmetic, arranged so that a step does little and vectorizes. A group's perturbed network
is needed only through

    beta_G = (u + a v)(v + a u) = beta + a (a beta + s),   a = rho g_G,   s = u^2 + v^2,

and the update is -(A v + B u) on u and -(A u + B v) on v, with A = sum of r'_i x_i and
B = sum of r'_i x_i a_G(i) (n times the A and B of the theory chapter). For m = 1, a = rho r_i x_i,
so r'_i is a polynomial in r_i with coefficients <x_i^2, s> and <x_i^3, beta>: three matrix-vector
products for all examples at once.

Why numba: a step at n=20, d=30 is half a microsecond of arithmetic, less than one numpy call
costs, so only a compiled loop serves one long run. numba is preinstalled on Colab and needs no
compiler on the reader's machine. Without it :func:`samkit.diagonal.train` still runs.
"""

import numpy as np
from numba import njit

# Sums may be reordered (which is what makes them vectorize); inf and nan keep their meaning.
compiled = njit(
    fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy", nogil=True, cache=True
)
LANES = 8  # columns are padded with zeros to a multiple of this: no scalar tail in the loops


def advance(X, y, u, v, rho, m, step_size, batches, steps):
    """``steps`` steps of m-SAM in place on u, v; step t uses rows ``batches[t % len(batches)]``."""
    d = len(u)
    X, padded_u, padded_v = (
        np.pad(w, [(0, 0)] * (w.ndim - 1) + [(0, -d % LANES)]) for w in (X, u, v)
    )
    if m == 1 and len(batches) == 1:
        rows = batches[0]
        _one_sam(X[rows], y[rows], padded_u, padded_v, rho, step_size, steps)
    else:
        _groups(X, y, padded_u, padded_v, rho, m, step_size, batches, steps)
    u[:], v[:] = padded_u[:d], padded_v[:d]


@compiled
def _one_sam(X, y, u, v, rho, step_size, steps):
    n, d = X.shape
    columns = np.ascontiguousarray(X.T)
    r, linear, quadratic = np.empty(n), np.empty(n), np.empty(n)
    A, B = np.empty(d), np.empty(d)
    for _ in range(steps):
        r[:] = -y
        linear[:] = 0.0
        quadratic[:] = 0.0
        for j in range(d):
            beta = u[j] * v[j]
            s = u[j] * u[j] + v[j] * v[j]
            for i in range(n):
                x = columns[j, i]
                r[i] += x * beta
                linear[i] += x * x * s
                quadratic[i] += x * x * x * beta
        A[:] = 0.0
        B[:] = 0.0
        for i in range(n):
            a = rho * r[i]
            perturbed_r = r[i] + a * (linear[i] + a * quadratic[i])
            for j in range(d):
                x = X[i, j]
                A[j] += perturbed_r * x
                B[j] += perturbed_r * a * x * x
        _descend(u, v, A, B, step_size / n)


@compiled
def _groups(X, y, u, v, rho, m, step_size, batches, steps):
    d = X.shape[1]
    size = batches.shape[1]
    a, curve, A, B, A_G = np.empty(d), np.empty(d), np.empty(d), np.empty(d), np.empty(d)
    beta, s, r = np.empty(d), np.empty(d), np.empty(size)
    for t in range(steps):
        rows = batches[t % batches.shape[0]]
        for j in range(d):
            beta[j] = u[j] * v[j]
            s[j] = u[j] * u[j] + v[j] * v[j]
        A[:] = 0.0
        B[:] = 0.0
        for first in range(0, size, m):
            last = min(first + m, size)
            a[:] = 0.0
            A_G[:] = 0.0
            for k in range(first, last):
                x = X[rows[k]]
                r[k] = -y[rows[k]]
                for j in range(d):
                    r[k] += x[j] * beta[j]
                for j in range(d):
                    a[j] += r[k] * x[j] * (rho / (last - first))
            for j in range(d):
                curve[j] = a[j] * (a[j] * beta[j] + s[j])
            for k in range(first, last):
                x = X[rows[k]]
                perturbed_r = r[k]
                for j in range(d):
                    perturbed_r += x[j] * curve[j]
                for j in range(d):
                    A_G[j] += perturbed_r * x[j]
            for j in range(d):
                A[j] += A_G[j]
                B[j] += A_G[j] * a[j]
        _descend(u, v, A, B, step_size / size)


# Strict arithmetic here: where a coordinate has died out (u = -v, or u = v), it must stay so to
# the last bit, as it does in numpy. A fused multiply-add would feed it rounding noise that grows.
@njit(error_model="numpy", nogil=True, cache=True)
def _descend(u, v, A, B, scale):
    for j in range(len(u)):
        u_j, v_j = u[j], v[j]
        u[j] = u_j - scale * (A[j] * v_j + B[j] * u_j)
        v[j] = v_j - scale * (A[j] * u_j + B[j] * v_j)
