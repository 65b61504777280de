"""What can be measured of a trained network: how sharp its loss is, and what lies between two.

- :mod:`~samkit.measure.flatness`: worst-case sharpness over groups of m, average-case sharpness,
  the top eigenvalue and the trace of the Hessian
- :mod:`~samkit.measure.paths`: the loss on the line and in the plane through solutions

Nothing here changes a network: weights, buffers, modes and the global random states are bit for bit
what they were.
"""

from samkit.measure.flatness import average_sharpness, hessian_trace, sharpness, top_eigenvalue
from samkit.measure.paths import on_line, on_plane, plane_through

__all__ = [
    "average_sharpness",
    "hessian_trace",
    "on_line",
    "on_plane",
    "plane_through",
    "sharpness",
    "top_eigenvalue",
]
