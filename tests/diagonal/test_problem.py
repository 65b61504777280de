import numpy as np
import pytest

from samkit.diagonal import SparseRegression


def test_the_default_is_the_authors_data_bit_for_bit():
    # Their recipe, on numpy's global legacy generator.
    np.random.seed(0)
    X = np.random.multivariate_normal(np.zeros(30), np.eye(30), 20)
    X_test = np.random.multivariate_normal(np.zeros(30), np.eye(30), 1000)
    theta = np.random.randn(30)
    theta[3:] = 0
    theta = np.abs(theta) / np.linalg.norm(theta)

    problem = SparseRegression.sample()
    assert (problem.X == X).all()
    assert (problem.X_test == X_test).all()
    assert (problem.beta_star == theta).all()
    assert (problem.y == X @ theta).all()
    assert (problem.y_test == X_test @ theta).all()


def test_sizes_and_sparsity():
    problem = SparseRegression.sample(n=5, d=8, sparsity=2, n_test=7, seed=3)
    assert (problem.n, problem.d) == (5, 8)
    assert problem.X_test.shape == (7, 8)
    assert np.count_nonzero(problem.beta_star) == 2
    assert np.linalg.norm(problem.beta_star) == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": np.zeros(3)}, "X has shape"),
        ({"X": np.zeros((0, 2))}, "X has shape"),
        ({"y": np.zeros(4)}, "one target per row of X"),
        ({"y": np.array([0.0, np.nan, 0.0])}, "y has inf or nan"),
        ({"X_test": np.zeros((4, 3))}, "same features in both"),
        ({"y_test": np.zeros(3)}, "one target per row of X_test"),
        ({"beta_star": np.zeros(3)}, "one coefficient per column"),
    ],
)
def test_bad_data_is_refused_in_words(changes, message):
    good = {
        "X": np.ones((3, 2)),
        "y": np.zeros(3),
        "X_test": np.ones((4, 2)),
        "y_test": np.zeros(4),
        "beta_star": np.zeros(2),
    }
    SparseRegression(**good)
    with pytest.raises(ValueError, match=message):
        SparseRegression(**{**good, **changes})


@pytest.mark.parametrize("sizes", [{"n": 0}, {"sparsity": 31}, {"sparsity": 0}, {"n_test": -1}])
def test_impossible_sizes(sizes):
    with pytest.raises(ValueError, match="sparsity from 1 to d"):
        SparseRegression.sample(**sizes)
