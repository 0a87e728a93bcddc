"""CNNClassifier: scikit-learn's requirements, images and flat rows, models, state that perceptrons do not have."""

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import check_estimator
from test_sklearn import SKIPPED
from test_sklearn_follows import quietly

import fastgd
from fastgd import Adam, BatchNorm, Conv2D, Dense, Dropout, Flatten, Network
from fastgd.sklearn import CNNClassifier
from fastgd.sklearn import training as sklearn_training

DIGITS = load_digits()
IMAGES, LABELS = DIGITS.images.astype(np.uint8), np.array([f"digit {i}" for i in DIGITS.target])
FLAT = IMAGES.reshape(len(IMAGES), 64)
FEW = {"batch_size": 20, "max_iter": 3, "random_state": 0}


def small(shape=(8, 8, 1), outputs=10):
    """Layers with all that a perceptron lacks: filters, BatchNorm, which has statistics, and Dropout."""
    return [Conv2D(3, 3, use_bias=False), BatchNorm("relu"), Flatten(), Dropout(0.1), Dense(outputs)]


def plain(shape, outputs):
    """Layers for images of any size."""
    return [Conv2D(4, 3, "relu", padding="same"), Flatten(), Dense(outputs)]


def fitted(X=FLAT[:100], y=LABELS[:100], **options):
    return quietly(CNNClassifier(**{"model": small, **FEW, **options}).fit, X, y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "options", [pytest.param({}, marks=pytest.mark.slow), {"model": plain, "solver": "sgd", "learning_rate_init": 0.05}]
)
def test_check_estimator(options):
    results = check_estimator(CNNClassifier(**options), on_skip=None)
    assert len(results) > 50
    assert {result["check_name"] for result in results if result["status"] != "passed"} <= SKIPPED


def test_digits():
    """Bytes of images, with an axis of one channel or without, and flat rows: the same network."""
    one = fitted(IMAGES[:1000], LABELS[:1000], model="auto", batch_size=32, max_iter=10)
    assert one.score(IMAGES[1000:], LABELS[1000:]) > 0.9
    assert one.image_shape_ == (8, 8, 1)
    assert one.n_features_in_ == 64
    assert one.network_.dtype == np.float32
    assert one.network_.layers[0].scale == 1 / 255  # of bytes
    assert len(fitted(IMAGES[:100] / 16, model="auto").network_.layers) == len(one.network_.layers) - 1
    expected = one.predict_proba(FLAT[1000:])
    np.testing.assert_allclose(one.network_.predict(IMAGES[1000:]), expected, rtol=1e-6)
    assert np.array_equal(one.classes_[expected.argmax(axis=1)], one.predict(IMAGES[1000:]))
    for X in (IMAGES, IMAGES[..., None], IMAGES[:100].tolist(), np.asfortranarray(IMAGES), FLAT):
        assert np.array_equal(one.predict(X)[:100], one.predict(IMAGES[:100]))
    flat = fitted(FLAT[:1000], LABELS[:1000], model="auto", batch_size=32, max_iter=10)
    assert np.array_equal(flat.predict_proba(FLAT), one.predict_proba(FLAT))


@pytest.mark.parametrize(
    ("features", "given", "shape"),
    [
        (48, (4, 4, 3), (4, 4, 3)),
        (48, (6, 8), (6, 8, 1)),
        (49, None, (7, 7, 1)),
        (48, None, (1, 48, 1)),
        (1, None, (1, 1, 1)),
    ],
)
def test_image_shape(features, given, shape, rng):
    X, y = rng.normal(size=(30, features)), np.arange(30) % 3
    one = fitted(X, y, model="auto", image_shape=given)
    assert one.image_shape_ == one.network_.input_shape == shape
    np.testing.assert_allclose(one.network_.predict(X.reshape(30, *shape)), one.predict_proba(X), rtol=1e-12)
    assert one.network_.dtype == np.float64


def test_steps_are_those_of_fastgd():
    """A run is the same as a loop over `train_step`, from the parameters of a given network, which does not change."""
    X, y = IMAGES[:60, ..., None] / np.float32(16), np.arange(60) % 10
    start = Network((8, 8, 1), small()[:3] + small()[4:], loss="mse", seed=3)
    before = start.state.copy()
    one = fitted(X, y, model=start, solver=Adam(0.01), alpha=0.0, batch_size=60, shuffle=False)
    assert np.array_equal(before, start.state)
    twin, optimizer = start.like(loss="softmax_cross_entropy"), Adam(0.01)
    losses = [twin.train_step(X, y, optimizer) for _ in range(3)]
    np.testing.assert_allclose(one.loss_curve_, losses, rtol=1e-6)
    np.testing.assert_allclose(one.network_.state, twin.state, rtol=1e-5, atol=1e-7)
    assert not np.allclose(before, twin.state, atol=1e-3)


def test_models():
    big = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    for model, layers in (("lenet5", 8), ("mlp", 4), (lambda shape, outputs: fastgd.models.lenet5(shape, outputs), 8)):
        assert len(fitted(big, LABELS[:20], model=model, max_iter=1).network_.layers) == layers
    assert fitted(model=small((8, 8, 1), 10)).n_outputs_ == 10
    tied = [Flatten(), Dense(64, "tanh"), Dense(64, tie="w2.T"), Dense(10)]
    assert len(fitted(model=tied).coefs_) == 2
    two = fitted(y=LABELS[:100] == LABELS[0])
    assert two.predict_proba(FLAT).shape == (1797, 2)
    assert (two.n_outputs_, two.out_activation_) == (2, "softmax")
    flags = np.column_stack([DIGITS.target % 2, DIGITS.target > 4, DIGITS.target < 2])[:100]
    several = fitted(y=flags)
    assert several.predict(FLAT).shape == (1797, 3)
    assert several.out_activation_ == "logistic"


@pytest.mark.parametrize(
    ("options", "X", "match"),
    [
        ({"model": "small"}, FLAT, "'model'.*did you mean 'small_cnn'"),
        ({"model": 3}, FLAT, "'model'.*list of layers.*got 3"),
        ({"model": small(outputs=9)}, FLAT, "'model': expected 10 outputs, got outputs of shape"),
        ({"model": lambda shape, outputs: None}, FLAT, "'model'.*got None"),
        ({"model": Network((8, 7, 1), small(), loss="mse")}, FLAT, r"'model'.*\(8, 8, 1\)"),
        ({"model": "lenet5"}, FLAT, "5 pixels in each direction"),
        ({"image_shape": 8}, FLAT, "'image_shape'.*got 8"),
        ({"image_shape": (8, 0)}, FLAT, r"image_shape\[1\]"),
        ({"image_shape": (8, 8, 3)}, FLAT, "'image_shape'.*64 features"),
        ({"image_shape": (8, 7)}, IMAGES, r"'X'.*\(8, 7, 1\), got shape \(100, 8, 8\)"),
        ({"solver": "lbfgs"}, FLAT, "'solver'"),
        ({"max_iter": 0}, FLAT, "'max_iter'"),
        ({}, IMAGES[:, None, None], "dim"),
        ({}, np.where(IMAGES == 3, np.nan, 1.0), "NaN"),
    ],
)
def test_errors_leave_the_estimator_as_it_was(options, X, match):
    one = fitted()
    before, kept = one.predict_proba(FLAT), set(vars(one))
    one.set_params(**options)
    with pytest.raises((TypeError, ValueError), match=match):
        one.fit(X[:100], LABELS[:100])
    assert set(vars(one)) == kept
    assert np.array_equal(one.predict_proba(FLAT), before)


def test_images_of_another_shape_and_one_class_are_refused():
    one = fitted()
    for bad in (IMAGES[:, :7], IMAGES.reshape(-1, 4, 16), FLAT[:, :63]):
        with pytest.raises(ValueError, match="X"):
            one.predict(bad)
    with pytest.raises(ValueError, match="2 classes"):
        fitted(y=LABELS[:100] == "none")


def test_copies_pipelines_grids():
    search = GridSearchCV(
        make_pipeline(MinMaxScaler(), CNNClassifier(small, **FEW)),
        {"cnnclassifier__model": [small, "auto"], "cnnclassifier__alpha": [0.0]}, cv=2, error_score="raise",
    )  # fmt: skip
    best = quietly(search.fit, FLAT[:100], LABELS[:100]).best_estimator_
    one = fitted()
    for given, X in ((best, FLAT), (one, IMAGES)):
        for other in (copy.deepcopy(given), pickle.loads(pickle.dumps(given))):
            assert np.array_equal(other.predict_proba(X), given.predict_proba(X))
    assert clone(one).get_params() == one.get_params()
    assert not hasattr(clone(one), "coefs_")
    again = fitted()
    assert all(np.array_equal(a, b) for a, b in zip(one._arrays(), again._arrays(), strict=True))
    assert not np.array_equal(one.coefs_[0], fitted(random_state=1).coefs_[0])


def test_partial_fit_and_warm_start_continue():
    """Also the running statistics, and after a pickle."""
    X, y = FLAT[:100], LABELS[:100]
    options = {"shuffle": False, "batch_size": 30, "solver": "sgd"}
    whole = fitted(**options)
    parts = CNNClassifier(small, **{**FEW, **options})
    for i in range(3):
        parts.partial_fit(X, y, classes=np.unique(LABELS))
        if i == 1:
            parts = pickle.loads(pickle.dumps(parts))
    assert [len(arrays) for arrays in (whole.coefs_, whole.intercepts_, whole.statistics_)] == [2, 3, 2]
    for one, other in zip(whole._arrays(), parts._arrays(), strict=True):
        assert np.array_equal(one, other)
    before = [array.copy() for array in whole._arrays()]
    late = X.astype(np.float32)
    late[-1] = 3e38  # diverges in the last minibatch
    for bad, match in ((np.full((100, 64), np.nan), "NaN"), (late, "non-finite")):
        with pytest.raises(ValueError, match=match):
            whole.partial_fit(bad, y)
        assert all(np.array_equal(one, other) for one, other in zip(whole._arrays(), before, strict=True))
    whole.set_params(warm_start=True, model="auto")
    quietly(whole.fit, X, y)
    assert not any(np.array_equal(one, other) for one, other in zip(whole._arrays(), before, strict=True))
    assert len(whole.network_.layers) == len(small())


def test_early_stopping_keeps_the_best_state():
    """Parameters and statistics of the epoch with the best score."""
    X, y = FLAT[:200], LABELS[:200]
    one = fitted(X, y, early_stopping=True, max_iter=12, learning_rate_init=0.3, validation_fraction=0.5)
    best = int(np.argmax(one.validation_scores_))
    assert best < len(one.validation_scores_) - 1
    until = fitted(X, y, early_stopping=True, max_iter=best + 1, learning_rate_init=0.3, validation_fraction=0.5)
    for a, b in zip(one._arrays(), until._arrays(), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("container", [scipy.sparse.csr_matrix, scipy.sparse.coo_array])
def test_sparse_is_dense(container, monkeypatch):
    dense = fitted()
    for limit in (2**26, 10_000):
        monkeypatch.setattr(sklearn_training, "DENSE_BYTES", limit)
        sparse = fitted(container(FLAT[:100]))
        assert np.array_equal(sparse.predict_proba(container(FLAT)), dense.predict_proba(FLAT))


def test_sample_and_class_weight():
    X, y, weight = FLAT[:100], LABELS[:100], np.arange(100) % 2
    options = {"model": "auto", "batch_size": "auto", "alpha": 0.0, "shuffle": False, "max_iter": 2}
    some = fitted(X[weight > 0].astype(float), y[weight > 0], **options)
    one = CNNClassifier(**{**FEW, **options})
    quietly(one.fit, X.astype(float), y, weight)
    np.testing.assert_allclose(one.coefs_[0], some.coefs_[0], rtol=1e-9)
    is_zero, factors = y == y[0], np.where(y == y[0], 5.0, 1.0)
    by_class, plain = fitted(X, is_zero, class_weight={True: 5.0}), fitted(X, is_zero)
    by_row = CNNClassifier(small, **FEW)
    quietly(by_row.fit, X, is_zero, factors)
    np.testing.assert_allclose(by_class.coefs_[0], by_row.coefs_[0], rtol=1e-5)
    assert not np.allclose(by_class.coefs_[0], plain.coefs_[0], rtol=1e-3)
