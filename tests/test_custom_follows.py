"""Custom functions see current values of all they read: globals, closures, modules, arrays, functions, code."""

import sys
import types

import numpy as np
import pytest
from cases import definitions

import fastgd
from fastgd import SGD, Dense, Network, custom
from fastgd.optimizers import OPTIMIZERS

pytestmark = [pytest.mark.usefixtures("own_definitions"), pytest.mark.slow]  # each compiles a function

SCALE, ELEMENTS, FACTORS = 1.0, np.array([1.0, 2.0]), (1.0, 5.0)


def doubled(v):
    return v * 2.0


def through(v, factor=1.0):
    return factor * doubled(v)


def settings():
    """An imported module."""
    made = sys.modules.setdefault("settings_of_a_test", types.ModuleType("settings_of_a_test"))
    made.RATE = 1.0
    return made


SETTINGS = settings()


def reads(x):
    return SCALE * ELEMENTS[0] * FACTORS[0] * SETTINGS.RATE * through(x)


def reads_slope(x):
    return SCALE * ELEMENTS[0] * FACTORS[0] * SETTINGS.RATE * through(1.0)


def reads_nothing(x):
    return 2 * x


with definitions():
    READS = custom.activation(reads, derivative=reads_slope)


def by_scale(p, g, lr):
    return p - SCALE * lr * g


def by_elements(p, g, lr):
    return p - ELEMENTS[0] * lr * g


CHANGES = {
    "number": (lambda patch, own: patch.setattr(own, "SCALE", 3.0), 3.0),
    "kind of number": (lambda patch, own: patch.setattr(own, "SCALE", 3), 3.0),
    "equal number": (lambda patch, own: patch.setattr(own, "SCALE", float("1.0")), 1.0),
    "element": (lambda patch, own: patch.setitem(ELEMENTS, 0, 5.0), 5.0),
    "array": (lambda patch, own: patch.setattr(own, "ELEMENTS", np.array([7.0])), 7.0),
    "tuple": (lambda patch, own: patch.setattr(own, "FACTORS", (4.0, 5.0)), 4.0),
    "of a module": (lambda patch, own: patch.setattr(SETTINGS, "RATE", 6.0), 6.0),
    "function": (lambda patch, own: patch.setattr(own, "doubled", lambda v: v * 16.0), 8.0),
    "default value": (lambda patch, own: patch.setattr(through, "__defaults__", (7.0,)), 7.0),
    "code": (lambda patch, own: patch.setattr(reads, "__code__", reads_nothing.__code__), 1.0),
}


class Patch(pytest.MonkeyPatch):
    """pytest's MonkeyPatch, which also restores elements of arrays."""

    def setitem(self, array, index, value):
        self._arrays = [*getattr(self, "_arrays", []), (array, array.copy())]
        array[index] = value

    def undo(self):
        super().undo()
        for array, before in getattr(self, "_arrays", []):
            array[:] = before


@pytest.fixture
def patch():
    made = Patch()
    yield made
    made.undo()


@pytest.mark.parametrize("backend", ["numpy", "cython"])  # both compiled backends run the Numba body
@pytest.mark.parametrize("change", CHANGES)
def test_what_a_function_reads_counts_as_it_is_now(change, patch, backend):
    network = Network(2, [Dense(2, READS)], loss="mse", dtype="float64", backend=backend)
    x, y = np.eye(2), np.ones((2, 2))
    before, gradient = network.forward(x), network.loss_and_gradient(x, y)[1]
    run, factor = CHANGES[change]
    run(patch, sys.modules[__name__])
    np.testing.assert_allclose(network.forward(x), factor * before, rtol=1e-15)
    after = network.loss_and_gradient(x, y)[1]
    assert factor == 1 or not np.allclose(after, gradient)
    kernel, z = READS.forward, np.full((1, 3), 2.0)
    kernel.body("numba" if backend == "cython" else backend)(y := np.empty((1, 3)), z)
    np.testing.assert_array_equal(y, reads(2.0))
    patch.undo()
    np.testing.assert_array_equal(network.forward(x), before)


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_closures_are_followed(backend):
    factor = 1.0

    @custom.activation(derivative=lambda x: factor)
    def times(x):
        return factor * x

    network = Network(2, [Dense(2, times)], loss="mse", dtype="float64", backend=backend)
    before = network.predict(np.eye(2))
    factor = 36.4
    np.testing.assert_allclose(network.predict(np.eye(2)), 36.4 * before, rtol=1e-15)


def test_a_variable_without_a_value():
    factor = 1.0

    @custom.activation(derivative=lambda x: factor)
    def times(x):
        return factor * x

    def forget():
        nonlocal factor
        del factor

    network = Network(2, [Dense(2, times)], loss="mse")
    network.predict(np.eye(2))
    forget()
    with pytest.raises(ValueError, match="'factor'.*a value"):
        network.predict(np.eye(2))


@pytest.mark.parametrize("backend", ["numpy", "cython"])
@pytest.mark.parametrize("rule", [by_scale, by_elements])
def test_each_step_uses_current_values(rule, patch, backend):
    """Fast steps, which skip the preparation, too."""
    made = custom.optimizer(rule)
    network = Network(2, [Dense(2)], loss="mse", dtype="float64", backend=backend)
    x, y, optimizer, alone = np.eye(2), np.ones((2, 2)), made(0.1), made(0.1)
    p, g = np.zeros(3), np.ones(3)

    def factors():
        before = network.parameters.copy(), p.copy()
        network.train_step(x, y, optimizer)
        alone.step(p, g, backend=backend)
        return (before[0] - network.parameters) / (0.1 * network.gradient), (before[1] - p) / 0.1

    for factor in (1.0, 1.0, 1.0, 4.0, 4.0, 4.0, 1.0):
        if rule is by_scale:
            patch.setattr(sys.modules[__name__], "SCALE", factor)
        else:
            patch.setitem(ELEMENTS, 0, factor)
        for found in factors():
            np.testing.assert_allclose(found, factor, rtol=1e-12)


def test_a_callback_changes_what_is_read(patch):
    custom.optimizer(by_scale)
    ends, own = [], sys.modules[__name__]
    for backend in ("numpy", "cython"):
        patch.setattr(own, "SCALE", 1.0)
        network = Network(2, [Dense(2)], loss="mse", dtype="float64", backend=backend)

        def double(run):
            patch.setattr(own, "SCALE", 2 * SCALE)

        calls = [fastgd.callbacks.every(3, double)]
        optimizer = OPTIMIZERS["by_scale"](0.01)
        network.fit(np.eye(2), np.ones((2, 2)), optimizer=optimizer, batch_size=1, epochs=5, callbacks=calls)
        ends.append(network.parameters.copy())
    np.testing.assert_allclose(*ends, rtol=1e-12)


def test_what_has_not_changed_is_not_compiled_anew():
    network = Network(2, [Dense(2, READS)], loss="mse")
    network.predict(np.eye(2))
    plan, loop = network.executor.evaluation_plan(), READS.forward.numba_loop(np.float32)
    network.predict(np.eye(2))
    assert network.executor.evaluation_plan() is plan
    assert READS.forward.numba_loop(np.float32) is loop


SOURCE = """
def half(x):
    return 0.5 * x
"""


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_functions_of_any_origin(tmp_path, backend):
    """From text, and from a file that changed after its import: the function in memory counts."""
    names = {}
    exec(SOURCE, names)
    path = tmp_path / "module_of_a_test.py"
    path.write_text(SOURCE.replace("half", "halved"))
    made = types.ModuleType("module_of_a_test")
    exec(compile(path.read_text(), str(path), "exec"), vars(made))
    path.write_text(SOURCE.replace("half", "halved").replace("0.5", "5.0"))
    for function in (names["half"], made.halved):
        activation = custom.activation(function, derivative=lambda x: 0.5)
        network = Network(1, [Dense(1, activation)], loss="mse", dtype="float64", backend=backend)
        network.parameters[:] = 1.0
        np.testing.assert_array_equal(network.predict([[3.0]]), [[2.0]])


def test_built_in_networks_watch_nothing():
    network = Network(2, [Dense(2)], loss="mse")
    network.train_step(np.eye(2, dtype="f4"), np.eye(2, dtype="f4"), SGD(0.1))
    assert network.executor.plan.watched() == []
    assert network.executor.plan.users_links == []
