"""Wrong labels on purpose, for the experiments with label noise (paper, Figure 12)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CONFUSED = {
    "truck": "automobile",
    "bird": "airplane",
    "deer": "horse",
    "cat": "dog",
    "dog": "cat",
}
"""Asymmetric noise on CIFAR-10: what looks like what (Patrini et al., CVPR 2017)."""


def label_noise(
    labels: np.ndarray,
    fraction: float,
    *,
    classes: Sequence[str],
    kind: str = "symmetric",
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    r"""Labels (n,) of which some are wrong, and a mask (n,) of those that are.

    ``round(fraction * n)`` examples are drawn without replacement; ``classes`` are the names of
    the classes, ``data.classes``. As in the authors' code, an example that is drawn gets

    - ``"symmetric"``: one of the other classes, each with probability 1 / (classes - 1). So all
      that are drawn are wrong.
    - ``"asymmetric"``: the class that its own is easily confused with. On CIFAR-10 truck becomes
      automobile, bird airplane, deer horse, cat dog and dog cat; the other five classes stay as
      they are, so about half of those drawn are wrong. On every other data set class c becomes
      c + 1, the last one 0.

    The mask marks labels that changed; the authors' mark those drawn, which for asymmetric noise on
    CIFAR-10 counts correct labels as noisy. With one seed, a larger fraction makes the same labels
    wrong in the same way, and more. The labels passed in stay as they are.

    Raises ValueError for a fraction outside [0, 1], an unknown kind, fewer than two classes or
    labels that are not numbers of classes; TypeError for a number in place of the names.

    >>> noisy, wrong = label_noise(np.zeros(10, dtype=int), 0.3, classes=["a", "b"])
    >>> print(wrong.sum(), noisy[wrong])
    3 [1 1 1]
    """
    labels = np.asarray(labels)
    if isinstance(classes, (int, np.integer, str)):
        raise TypeError(f"classes={classes!r}: pass the names of the classes, data.classes")
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction={fraction} of the labels: choose a number from 0 to 1")
    if len(classes) < 2:
        raise ValueError(f"classes={classes!r}: wrong labels take at least two classes")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels {labels.dtype} {labels.shape}: pass whole numbers of shape (n,)")
    if labels.size and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(
            f"labels from {labels.min()} to {labels.max()} do not fit {len(classes)} classes"
        )
    count, rng = len(labels), np.random.RandomState(seed)  # the legacy generator never changes
    drawn = rng.permutation(count)[: round(fraction * count)]
    if kind == "symmetric":
        wrong = (labels + rng.randint(1, len(classes), size=count)) % len(classes)
    elif kind == "asymmetric":
        wrong = _confusion(classes)[labels]
    else:
        raise ValueError(f"kind={kind!r}: choose 'symmetric' or 'asymmetric'")
    noisy = labels.copy()
    noisy[drawn] = wrong[drawn]
    return noisy, noisy != labels


def _confusion(classes: Sequence[str]) -> np.ndarray:
    """For each class the one that asymmetric noise puts in its place."""
    numbers = {name: number for number, name in enumerate(classes)}
    if CONFUSED.keys() <= numbers.keys():
        return np.array([numbers[CONFUSED.get(name, name)] for name in classes])
    return (np.arange(len(classes)) + 1) % len(classes)
