import sys

import numpy as np
import pytest

from samkit.data import NAMES, load
from samkit.data.dataset import validation_part, write_whole


def rows(part):
    return {row.tobytes() for row in part}


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    data, original = load("digits"), load_digits()
    assert [len(y) for y in (data.y, data.y_validation, data.y_test)] == [1295, 143, 359]
    images = (original.images / 16).astype(np.float32)
    label = dict(zip([image.tobytes() for image in images], original.target, strict=True))
    parts = (data.x, data.y), (data.x_validation, data.y_validation), (data.x_test, data.y_test)
    assert set.union(*(rows(x) for x, _ in parts)) == label.keys()
    for x, y in parts:
        assert x.dtype == np.float32 and y.dtype == np.int64 and x.shape[1:] == (1, 8, 8)
        assert (y == [label[image.tobytes()] for image in x]).all()
    assert (data.x.min(), data.x.max()) == (0, 1)
    assert data.classes == tuple("0123456789") and data.source.startswith("digits of scikit-learn")


def test_digits_keep_their_test_part_whatever_the_seed():
    first, second = load("digits", seed=0), load("digits", seed=1)
    assert (first.x_test == second.x_test).all() and (first.y_test == second.y_test).all()
    assert rows(first.x_validation) != rows(second.x_validation)
    assert (load("digits", seed=1).x == second.x).all()


def test_arrays_of_one_call_are_its_own():
    first = load("digits")
    first.x[:] = 0
    assert load("digits").x.any()


def test_validation_is_the_first_tenth_of_the_authors_permutation():
    """Their code seeds numpy and permutes all indices before anything else."""
    for count, tenth in ((50_000, 5000), (73_257, 7325), (19, 1)):
        np.random.seed(7)
        theirs = np.random.permutation(count)[: int(0.1 * count)]
        mask = validation_part(count, seed=7)
        assert mask.sum() == tenth and mask[theirs].all()


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="no data set 'imagenet': choose one of mnist1d, digits, "):
        load("imagenet")
    assert NAMES == ("mnist1d", "digits", "cifar10", "cifar100", "svhn")


@pytest.mark.parametrize("name", ["mnist1d", "digits"])
def test_a_folder_where_none_is_read(name, tmp_path):
    with pytest.raises(ValueError, match=f"{name} is not read from a folder"):
        load(name, folder=tmp_path)


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"\(sklearn.*pip install 'samkit\[data\]'"):
        load("digits")


def test_a_failed_write_leaves_nothing(tmp_path):
    path = tmp_path / "folder" / "file"
    write_whole(path, b"before")
    with pytest.raises(TypeError):
        write_whole(path, "no bytes")
    assert path.read_bytes() == b"before" and list(path.parent.iterdir()) == [path]
