import random
import sys

import mnist1d.data as generator
import numpy as np
import pytest

from samkit.data import load
from samkit.data import mnist1d as module


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The real generator on 50 curves, with a cache file of its own; counts its runs."""
    settings = generator.get_dataset_args
    runs = []

    def of_fifty():
        runs.append(1)
        arguments = settings()
        arguments.num_samples = 50
        return arguments

    monkeypatch.setattr(generator, "get_dataset_args", of_fifty)
    monkeypatch.setattr(module, "_cache_path", lambda: tmp_path / "folder" / "kept.npz")
    return runs


def test_shapes_types_and_balance():
    data = load("mnist1d")
    assert data.x.shape == (4000, 40) and data.y.shape == (4000,)
    assert data.x_validation.shape == (5000, 40) and data.y_validation.shape == (5000,)
    assert data.x_test.shape == (1000, 40) and data.y_test.shape == (1000,)
    assert data.x.dtype == np.float32 and data.y.dtype == np.int64
    assert (np.bincount(np.concatenate([data.y, data.y_test])) == 500).all()
    assert (np.bincount(data.y_validation) == 500).all()
    rows = np.concatenate([data.x, data.x_validation, data.x_test])
    assert len(np.unique(rows, axis=0)) == 10_000  # no example in two parts
    assert data.classes == tuple("0123456789") and "mnist1d 0.0.2" in data.source


def test_it_is_the_published_set(small):
    """Against the generator called as its authors call it."""
    published = generator.make_dataset(generator.get_dataset_args())
    data = load("mnist1d")
    assert (data.x == published["x"].astype(np.float32)).all()
    assert (data.y_test == published["y_test"]).all()
    assert len(data.y_validation) == 50


def test_a_second_process_reads_what_the_first_kept(small):
    first = load("mnist1d")
    second = load("mnist1d")
    assert len(small) == 1
    assert (first.x == second.x).all() and (first.y_validation == second.y_validation).all()
    assert [path.name for path in module._cache_path().parent.iterdir()] == ["kept.npz"]


def test_a_damaged_copy_is_made_anew(small):
    first = load("mnist1d")
    path = module._cache_path()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert (load("mnist1d").x == first.x).all() and len(small) == 2
    path.write_bytes(b"")
    assert (load("mnist1d").x == first.x).all() and len(small) == 3


def test_a_cache_folder_that_cannot_be_made_is_no_obstacle(small, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(module, "_cache_path", lambda: tmp_path / "file" / "kept.npz")
    assert len(load("mnist1d").y) == 40


def test_the_global_generators_are_left_alone(small):
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.rand()
    random.seed(1)
    np.random.seed(1)
    load("mnist1d")
    assert (random.random(), np.random.rand()) == expected


def test_a_missing_generator_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "mnist1d.data", None)
    with pytest.raises(ImportError, match=r"pip install 'samkit\[data\]'"):
        module._generate()
