"""``load``: one function for every data set."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

import numpy as np

from samkit.data import images, mnist1d
from samkit.data.dataset import Dataset, from_pixels, needed

NAMES = ("mnist1d", "digits", *images.PUBLISHED)


def load(name: str, *, folder: str | Path | None = None, seed: int = 0) -> Dataset:
    """The data set of that name, in parts for training, validation and test.

    =============  ==================  ======================================================
    name           inputs              train / validation / test
    =============  ==================  ======================================================
    ``mnist1d``    (n, 40)             4000 / 5000 / 1000; validation is generated in addition
    ``digits``     (n, 1, 8, 8)        1295 / 143 / 359; the test part is always the same
    ``cifar10``    (n, 3, 32, 32)      45000 / 5000 / 10000
    ``cifar100``   (n, 3, 32, 32)      45000 / 5000 / 10000
    ``svhn``       (n, 3, 32, 32)      65932 / 7325 / 26032
    =============  ==================  ======================================================

    For images, ``seed`` holds out 10 % of the training examples for validation, as the paper does.
    MNIST-1D does not depend on it, and its curves are as generated: not limited to [0, 1].

    ``folder`` (or else ``$SAMKIT_DATA``) holds the original files of CIFAR-10
    (``cifar-10-batches-py/``), CIFAR-100 (``cifar-100-python/``) or SVHN (``train_32x32.mat``,
    ``test_32x32.mat``), and nothing is downloaded. Without it they are downloaded into the user's
    cache folder, with a check of their MD5 sums. Each call returns arrays of its own.

    Raises ValueError for an unknown name, a folder where none is used, or a file that is damaged or
    not what was published; FileNotFoundError for a folder without the files; ConnectionError if
    nothing can be downloaded; OSError if a download cannot be written; ImportError if a package is
    missing. Each says what to do.
    """
    if name not in NAMES:
        raise ValueError(f"no data set {name!r}: choose one of {', '.join(NAMES)}")
    if name in images.PUBLISHED:
        folder = folder if folder is not None else os.environ.get("SAMKIT_DATA") or None
        return images.read(name, None if folder is None else Path(folder), seed)
    if folder is not None:
        raise ValueError(f"{name} is not read from a folder: leave out folder={str(folder)!r}")
    return mnist1d.read() if name == "mnist1d" else _digits(seed)


def _digits(seed: int) -> Dataset:
    """Handwritten digits, 1797 images of 16 grey levels (Alpaydin and Kaynak, UCI, 1998)."""
    digits = needed("sklearn.datasets").load_digits()
    pixels = digits.images[:, None]
    order = np.random.RandomState(0).permutation(len(pixels))
    test, train = np.split(order, [len(order) // 5])
    return from_pixels(
        (pixels[train], digits.target[train]),
        (pixels[test], digits.target[test]),
        largest=16,
        seed=seed,
        classes=tuple(str(name) for name in digits.target_names),
        source=f"digits of scikit-learn {version('scikit-learn')}",
    )
