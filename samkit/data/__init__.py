"""Data sets that need no download.

- :mod:`~samkit.data.mnist1d`: MNIST-1D, ten classes of 40-point curves, generated on this machine

Arrays are numpy; importing this package imports neither torch nor the generator.
"""

from samkit.data.mnist1d import Dataset, load_mnist1d

__all__ = ["Dataset", "load_mnist1d"]
