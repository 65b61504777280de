import numpy as np
import pytest

from samkit.data import label_noise
from samkit.data.noise import CONFUSED

CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
DIGITS = "0123456789"


def balanced(classes, each=100):
    return np.random.RandomState(1).permutation(np.repeat(np.arange(len(classes)), each))


@pytest.mark.parametrize("fraction", [0.0, 0.29, 0.6, 1.0])
def test_symmetric_noise_makes_exactly_that_fraction_wrong(fraction):
    labels = balanced(CIFAR10)
    before = labels.copy()
    noisy, changed = label_noise(labels, fraction, classes=CIFAR10, seed=3)
    assert changed.sum() == round(1000 * fraction)
    assert ((noisy != labels) == changed).all()
    assert (labels == before).all() and noisy.dtype == np.int64 and changed.dtype == bool


def test_symmetric_noise_is_uniform_over_the_other_classes():
    labels = balanced(tuple(DIGITS), each=10_000)
    noisy, _ = label_noise(labels, 1.0, classes=tuple(DIGITS), seed=0)
    counts = np.zeros((10, 10))
    np.add.at(counts, (labels, noisy), 1)
    assert (np.diag(counts) == 0).all()
    shares = counts[~np.eye(10, dtype=bool)] / 10_000
    assert abs(shares - 1 / 9).max() < 5 * (8 / 81 / 10_000) ** 0.5  # five standard errors


def test_asymmetric_noise_on_cifar10():
    """Written out by number, as in the literature: 9->1, 2->0, 4->7, 3<->5."""
    labels = balanced(CIFAR10)
    noisy, changed = label_noise(labels, 1.0, kind="asymmetric", classes=CIFAR10)
    assert (noisy == np.array([0, 1, 0, 5, 7, 3, 6, 7, 8, 1])[labels]).all()
    assert changed.sum() == 500
    half, changed = label_noise(labels, 0.4, kind="asymmetric", classes=CIFAR10)
    assert (half[changed] == noisy[changed]).all() and (half[~changed] == labels[~changed]).all()
    assert abs(changed.sum() - 200) < 5 * (400 * 0.25) ** 0.5


def test_asymmetric_noise_elsewhere_is_the_next_class():
    for classes in (tuple(DIGITS), tuple(f"class {c}" for c in range(100))):
        labels = balanced(classes)
        noisy, changed = label_noise(labels, 0.3, kind="asymmetric", classes=classes)
        assert changed.sum() == round(0.3 * len(labels))
        assert (noisy[changed] == (labels[changed] + 1) % len(classes)).all()


def test_the_names_decide_not_the_order():
    classes = [*reversed(CIFAR10)]
    noisy, _ = label_noise(np.arange(10), 1.0, kind="asymmetric", classes=classes)
    assert {classes[c]: classes[noisy[c]] for c in range(10) if noisy[c] != c} == CONFUSED


def test_a_larger_fraction_adds_to_a_smaller_one():
    labels = balanced(CIFAR10)
    few, few_changed = label_noise(labels, 0.2, classes=CIFAR10, seed=5)
    many, many_changed = label_noise(labels, 0.6, classes=CIFAR10, seed=5)
    assert many_changed[few_changed].all() and (many[few_changed] == few[few_changed]).all()


def test_the_seed_decides():
    labels = balanced(CIFAR10)
    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    first, _ = label_noise(labels, 0.5, classes=CIFAR10, seed=1)
    again, _ = label_noise(labels, 0.5, classes=CIFAR10, seed=1)
    other, _ = label_noise(labels, 0.5, classes=CIFAR10, seed=2)
    assert (first == again).all() and (first != other).any()
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan")])
def test_a_fraction_that_cannot_be(fraction):
    with pytest.raises(ValueError, match="choose a number from 0 to 1"):
        label_noise(balanced(CIFAR10), fraction, classes=CIFAR10)


@pytest.mark.parametrize(
    ("labels", "classes", "kind", "error", "message"),
    [
        ([0, 1], CIFAR10, "uniform", ValueError, "choose 'symmetric' or 'asymmetric'"),
        ([0, 0], ["one"], "symmetric", ValueError, "at least two classes"),
        ([0, 10], CIFAR10, "symmetric", ValueError, "labels from 0 to 10 do not fit 10"),
        ([-1, 1], CIFAR10, "symmetric", ValueError, "labels from -1 to 1 do not fit 10"),
        ([0.0, 1.0], CIFAR10, "symmetric", ValueError, "pass whole numbers"),
        ([[0], [1]], CIFAR10, "symmetric", ValueError, "pass whole numbers"),
        ([0, 1], 10, "asymmetric", TypeError, "pass the names of the classes"),
    ],
)
def test_bad_input(labels, classes, kind, error, message):
    with pytest.raises(error, match=message):
        label_noise(np.array(labels), 0.5, classes=classes, kind=kind)
