"""Custom functions that raise: every public call passes the exception on, and everything works afterwards."""

import dataclasses
import math
import threading

import numpy as np
import pytest
from cases import definitions

import fastgd
from fastgd import SGD, Dense, Network, custom
from fastgd.engine.program import Program

pytestmark = [pytest.mark.usefixtures("own_definitions"), pytest.mark.slow]  # each compiles a function


def picky(z, y, dz, top=50.0):
    total = 0.0
    for j in range(z.size):
        if abs(z[j]) > top:
            raise ValueError("output above top")
        dz[j] = z[j] - y[j]
        total += dz[j] ** 2 / 2
    return total


def bounded(x, top=50.0):
    if abs(x) > top:
        raise ValueError("x above top")
    return x


def timid(p, g, m, lr=1e-3, top=50.0):
    if g > top:
        raise ValueError("g above top")
    return p - lr * g, m + g


# Compiled once for all tests.
with definitions():
    LOSS, RULE = custom.loss(picky), custom.optimizer(timid, state=["m"])
    ACTIVATION = custom.activation(bounded, derivative=lambda x, top: 1.0)


def network_of(part, backend, dtype="float64", **options):
    """A network and its optimizer, with a custom `part` that raises at row 77 of `rows_of`."""
    layers, loss = [Dense(2)] if part == "loss" else [Dense(3, "tanh"), Dense(2)], LOSS if part == "loss" else "mse"
    if part == "activation":
        layers[0] = Dense(3, ACTIVATION)
    optimizer = RULE() if part == "rule" else SGD(1e-3)
    return Network(4, layers, loss=loss, dtype=dtype, backend=backend, **options), optimizer


def rows_of(part, dtype="float64"):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(100, 4)), rng.normal(size=(100, 2))
    (y if part == "rule" else X)[77] *= -1e6
    return X.astype(dtype), y.astype(dtype)


BACKENDS = ("numpy", "cython")  # both compiled backends run the Numba body of a custom function
PARTS = ("loss", "activation", "rule")
RAISED = "output above top|x above top|g above top"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("part", PARTS)
def test_fit_stops_at_the_step(part, backend, dtype):
    network, optimizer = network_of(part, backend, dtype, num_threads=2)
    twin, its = network_of(part, backend, dtype)
    X, y = rows_of(part, dtype)
    with pytest.raises(ValueError, match=RAISED) as caught:
        network.fit(X, y, optimizer=optimizer, batch_size=10, epochs=2, shuffle=False)
    names = {"loss": "custom_picky_loss", "activation": "bounded_forward", "rule": "custom_timid_step"}
    assert caught.value.__notes__[0] == f"raised in kernel {names[part]}"
    assert caught.traceback[-1].frame.code.name in ("picky", "bounded", "timid")
    assert (optimizer.steps, network.history.steps, network.history.stopped) == (7, 7, "error")
    twin.fit(X[:70], y[:70], optimizer=its, batch_size=10, epochs=1, shuffle=False)
    if part == "rule":
        assert "The update had begun" in caught.value.__notes__[1]
    else:
        np.testing.assert_array_equal(network.parameters, twin.parameters)
    network.fit(X[:70], y[:70], optimizer=optimizer, batch_size=10, epochs=1)
    assert optimizer.steps == 14


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("part", PARTS)
def test_steps_one_at_a_time(part, backend):
    """The first step, fast steps, and fast steps after a failed one."""
    network, optimizer = network_of(part, backend)
    X, y = rows_of(part)
    for failed in (70, 70):
        for start in (0, 10, 20):
            network.train_step(X[start : start + 10], y[start : start + 10], optimizer)
        steps, before = optimizer.steps, network.parameters.copy()
        with pytest.raises(ValueError, match=RAISED):
            network.train_step(X[failed : failed + 10], y[failed : failed + 10], optimizer)
        assert optimizer.steps == steps
        assert part == "rule" or np.array_equal(network.parameters, before)
    network, optimizer = network_of(part, backend)
    with pytest.raises(ValueError, match=RAISED):
        network.train_step(X[70:].tolist(), y[70:].tolist(), optimizer)
    assert optimizer.steps == 0


def test_ctrl_c_while_a_failed_update_is_repeated_saves_nothing(tmp_path, monkeypatch):
    """A part of the parameters has changed."""

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Program, "raise_in_update", interrupt)
    network, _ = network_of("rule", "cython")
    saved = custom.optimizer(timid, state=["m"])()  # its name is known, so the run can be saved
    with pytest.raises(KeyboardInterrupt) as caught:
        network.fit(*rows_of("rule"), optimizer=saved, batch_size=10, shuffle=False, checkpoint=tmp_path / "m")
    assert "within a step" in caught.value.__notes__[0]
    assert not (tmp_path / "m").exists()


CALLS = {
    "loss": lambda net, X, y: net.loss(X, y),
    "evaluate": lambda net, X, y: net.evaluate(X, y, metrics=["mae"]),
    "gradient": lambda net, X, y: net.loss_and_gradient(X, y),
    "gradient of training": lambda net, X, y: net.loss_and_gradient(X, y, training=True),
    "check": lambda net, X, y: fastgd.check_gradients(net, X, y),
    "validation": lambda net, X, y: net.fit(X[:50], y[:50], optimizer=SGD(1e-3), epochs=1, validation_data=(X, y)),
    "iterable": lambda net, X, y: net.fit([(X[:50], y[:50]), (X, y)], optimizer=SGD(1e-3), epochs=1),
    "range test": lambda net, X, y: fastgd.find_learning_rate(net, X, y, steps=20),
    "sweep": lambda net, X, y: fastgd.sweep(net, X, y, {"seed": [0, 1]}, epochs=1),
    "surface": lambda net, X, y: fastgd.plots.loss_surface(net, X, y, directions="random", resolution=3),
    "large blocks": lambda net, X, y: net.loss(np.tile(X, (9, 1)), np.tile(y, (9, 1))),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("part", ["loss", "activation"])
def test_every_method_and_function(part, call, backend):
    network, _ = network_of(part, backend)
    X, y = rows_of(part)
    with pytest.raises(ValueError, match=RAISED) as caught:
        CALLS[call](network, X, y)
    if call == "sweep":
        assert any("in the training of {'seed': " in note for note in caught.value.__notes__)
    assert np.isfinite(network.loss(X[:50], y[:50]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("call", ["forward", "predict"])
def test_outputs(call, backend):
    network, _ = network_of("activation", backend)
    with pytest.raises(ValueError, match="x above top"):
        getattr(network, call)(rows_of("activation")[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_link(backend):
    link = custom.activation(strict, derivative=lambda x: 1.0).forward
    network = Network(4, [Dense(2)], loss=dataclasses.replace(LOSS, link=link), dtype="float64", backend=backend)
    X, y = rows_of("loss")
    network.predict(X[:50] / 100)
    for run in (network.predict, lambda X: network.evaluate(X, y[: len(X)], metrics=["mae"])):
        with pytest.raises(ValueError, match="above one"):
            run(X[:50] * 5)


def strict(x):
    if abs(x) > 1:
        raise ValueError("above one")
    return x


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", [{}, {"clip_value": 60.0}, {"state_dtype": "8bit"}, {"state_dtype": "bfloat16"}])
def test_arrays(options, backend):
    optimizer = RULE(**options)
    p, g = np.zeros(3000), np.ones(3000)
    bad = g.copy()
    bad[2500] = 100
    for _ in range(2):
        optimizer.step([p], [g], backend=backend)
    for _ in range(2):  # a fast step, and another after it failed
        with pytest.raises(ValueError, match="g above top") as caught:
            optimizer.step([p], [bad], backend=backend)
        assert "The update had begun" in caught.value.__notes__[1]
        assert optimizer.steps == 2
    np.testing.assert_allclose(p[2500], -0.002)
    optimizer.step([p], [g], backend=backend)
    assert optimizer.steps == 3
    with pytest.raises(ValueError, match="g above top"):
        RULE(**options).step([p, p.copy()], [g, bad], backend=backend)


def test_a_kernel_by_its_name():
    for body in ACTIVATION.forward.bodies():
        y, x = np.empty((1, 3)), np.array([[1.0, 60.0, 2.0]])
        with pytest.raises(ValueError, match="x above top") as caught:
            ACTIVATION.forward.body(body)(y, x, 50.0)
        assert caught.value.__notes__ == ["raised in kernel bounded_forward"]
        ACTIVATION.forward.body(body)(y, np.ones((1, 3)), 50.0)


def test_errors_of_compiled_code_alone_name_the_function():
    @custom.loss
    def wide(z, y, dz):
        n = 10
        for _ in range(20):
            n *= 10
        dz[0] = z[0] - y[0]
        return dz[0] ** 2 * (n / n)

    network = Network(4, [Dense(1)], loss=wide, dtype="float64")
    with pytest.raises(RuntimeError, match="custom_wide_loss.*'wide'.*64-bit"):
        network.loss(np.ones((1, 4)), np.ones((1, 1)))
    assert np.isfinite(Network(4, [Dense(1)], loss=wide, backend="numpy").loss(np.ones((1, 4)), np.ones((1, 1))))


def index(z, y, dz):
    dz[z.size] = 0.0
    return 0.0


def zero(z, y, dz):
    return 1 / (z.size - 1)


def domain(z, y, dz):
    dz[0] = 0.0
    return math.log(-abs(z[0]))


def unbound(z, y, dz):
    if z[0] > 1e9:
        value = 1.0
    return value


OWN = {index: IndexError, zero: ZeroDivisionError, domain: ValueError, unbound: UnboundLocalError}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("function", OWN)
def test_exceptions_of_python_s_own(function, backend):
    network = Network(1, [Dense(1)], loss=custom.loss(function), dtype="float64", backend=backend)
    for call in (network.loss, lambda x, y: network.train_step(x, y, SGD(0.1))):
        with pytest.raises(OWN[function]):
            call(np.ones((1, 1)), np.ones((1, 1)))


def test_faults_stay_with_their_network():
    """Two threads use the same loss; only the network whose loss raises stops."""
    X, y = rows_of("loss")
    good, bad = (network_of("loss", "cython")[0] for _ in range(2))
    raised, stop = [], threading.Event()

    def fail():
        while not stop.is_set():
            try:
                bad.loss(X, y)
            except ValueError:
                raised.append(1)

    thread = threading.Thread(target=fail)
    thread.start()
    try:
        good.fit(X[:70], y[:70], optimizer=SGD(1e-3), batch_size=1, epochs=20)
    finally:
        stop.set()
        thread.join()
    assert raised
    assert good.history.stopped == "epochs"


def test_a_network_on_tokens(backend):
    """Of which each kind of plan gives memory to others in its own way."""
    layers = [fastgd.Embedding(5, 4), fastgd.Residual([Dense(4, "gelu"), Dense(4, ACTIVATION)]), Dense(5)]
    network = Network(3, layers, loss="softmax_cross_entropy", backend=backend, dtype="float64")
    x = np.ones((2, 3), int)
    network.loss_and_gradient(x, x)
    network.parameters[:] = 30
    calls = (
        lambda: network.loss_and_gradient(x, x), lambda: network.forward(x, training=True),
        lambda: network.forward(x, record=True), lambda: network.train_step(x, x, SGD(0.1)), lambda: network.predict(x),
        lambda: network.generate([1], 2),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match="x above top"):
            call()
