"""The compiled twin of :func:`samkit.training.relu1d.advance_slowly`: many steps in one call.

A step is some thousand operations, less than what calling numpy costs.
"""

import numpy as np
from numba import njit

# Sums may be reordered; inf and nan keep their meaning.
compiled = njit(
    fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy", nogil=True, cache=True
)


@compiled
def _add_gradient(w, b, a, x, y, first, last, gw, gb, ga):
    """Adds the gradient of the examples first, ..., last - 1; returns their loss."""
    loss = 0.0
    for i in range(first, last):
        xi, f = x[i], 0.0
        for k in range(len(w)):
            f += a[k] * max(w[k] * xi + b[k], 0.0)
        r = f - y[i]
        loss += 0.5 * r * r
        rx = r * xi
        for k in range(len(w)):
            h = w[k] * xi + b[k]
            on = 1.0 if h > 0 else 0.0
            gw[k] += on * rx
            gb[k] += on * r
            ga[k] += on * h * r
    for k in range(len(w)):
        gw[k] *= a[k]
        gb[k] *= a[k]
    return loss


@compiled
def advance(net, x, y, rho, m, step_size, decay, steps, first, last, until):
    n, width = len(x), net.shape[1]
    uphill, down, total = np.empty((3, width)), np.empty((3, width)), np.empty((3, width))
    moved = np.empty((3, width))
    loss = np.inf
    for t in range(first, last):
        loss = 0.0
        total[:] = 0.0
        for start in range(0, n, m):
            stop = min(start + m, n)
            uphill[:] = 0.0
            loss += _add_gradient(
                net[0], net[1], net[2], x, y, start, stop, uphill[0], uphill[1], uphill[2]
            )
            squares = 0.0
            for j in range(3):
                for k in range(width):
                    squares += uphill[j, k] * uphill[j, k]
            if rho == 0.0 or squares == 0.0:
                total += uphill
                continue
            s = rho / np.sqrt(squares)
            for j in range(3):
                for k in range(width):
                    moved[j, k] = net[j, k] + s * uphill[j, k]
            down[:] = 0.0
            _add_gradient(
                moved[0], moved[1], moved[2], x, y, start, stop, down[0], down[1], down[2]
            )
            total += down
        if loss <= until or not np.isfinite(loss):
            return t, loss
        rate = step_size * (1.0 - t / steps) if decay else step_size
        for j in range(3):
            for k in range(width):
                net[j, k] -= rate * total[j, k]
    return last, loss
