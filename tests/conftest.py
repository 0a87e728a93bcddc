import signal

import numpy as np
import pytest
from cases import definitions

import fastgd
from fastgd import _plan
from fastgd.cli.datasets import digits
from fastgd.core.kernel import DTYPES

BACKENDS = ("numpy", "numba", "cython")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Cases of Numba in float64 are slow: it compiles every kernel for each dtype, from the loop that float32 tests."""
    for item in items:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        about = {p for p in parameters if isinstance(p, str)} | {mark.name for mark in item.iter_markers("float64")}
        if {"numba", "float64"} <= about:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(params=list(DTYPES))
def dtype(request):
    return request.param


@pytest.fixture
def own_definitions():
    """Removes a test's custom definitions after it."""
    with definitions():
        yield


@pytest.fixture
def every_step_is_shared():
    """Steps use all the threads that are requested, even where fewer would be faster."""
    _plan.fix_threads(True)
    yield
    _plan.fix_threads(False)


@pytest.fixture
def ctrl_c():
    """Makes SIGINT raise KeyboardInterrupt, even in background jobs, which ignore it by default."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def small(rng):
    """A small classifier with data: 5-8-3, 11 rows."""
    x = rng.normal(size=(11, 5)).astype(np.float32)
    y = rng.integers(0, 3, 11)
    network = fastgd.Network(5, [fastgd.Dense(8, "tanh"), fastgd.Dense(3)], loss="softmax_cross_entropy")
    return network, x, y


@pytest.fixture(scope="session")
def data():
    """Training and test rows of the handwritten digits: ((X, y), (X, y))."""
    return digits()


@pytest.fixture
def rows(rng):
    return rng.normal(size=(100, 6)).astype(np.float32), rng.integers(0, 3, 100)
