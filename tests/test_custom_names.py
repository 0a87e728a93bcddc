"""Custom functions whose names have been redefined: copies, pickles, files."""

import copy
import pickle
import sys

import numpy as np
import pytest

import fastgd
from fastgd import Dense, Network, custom
from fastgd.activations import ACTIVATIONS
from fastgd.core.kernel import In, Kernel, Out, kernels
from fastgd.losses import LOSSES
from fastgd.optimizers import OPTIMIZERS

pytestmark = [pytest.mark.usefixtures("own_definitions"), pytest.mark.slow]  # each compiles a function


def renamed(function, name):
    return type(function)(function.__code__, function.__globals__, name, function.__defaults__, function.__closure__)


def define(factor, name="scaled"):
    """Defines a loss, an activation and a rule, under the same names each time."""

    def loss(z, y, dz, q=1.0):
        d = z[0] - y[0]
        dz[0] = factor * q * d
        return factor * q * d * d / 2

    def activation(x, s=1.0):
        return factor * s * x

    def rule(p, g, m, lr=0.1):
        return p - factor * lr * g, m + g

    made = custom.optimizer(renamed(rule, f"{name}_rule"), state=["m"])
    slope = custom.activation(renamed(activation, f"{name}_activation"), derivative=lambda x, s: factor * s)
    return custom.loss(renamed(loss, f"{name}_loss")), slope, made


ONE = np.ones((3, 2)), np.zeros((3, 1))


def made_network(backend="numpy"):
    network = Network(
        2, [Dense(2, "scaled_activation"), Dense(1)], loss="scaled_loss", dtype="float64", backend=backend
    )
    optimizer = OPTIMIZERS["scaled_rule"]()
    network.train_step(*ONE, optimizer)
    return network, optimizer


@pytest.mark.parametrize("backend", ["numpy", "cython"])
def test_copies_keep_the_function_in_hand(backend):
    define(1.0)
    network, optimizer = made_network(backend)
    before = network.loss(*ONE)
    define(2.0)
    twin, its = copy.deepcopy((network, optimizer))
    assert network.loss(*ONE) == twin.loss(*ONE) == before
    assert twin.loss_function == network.loss_function
    assert copy.copy(network.loss_function.kernels[0]) is network.loss_function.kernels[0]
    network.train_step(*ONE, optimizer)
    twin.train_step(*ONE, its)
    np.testing.assert_array_equal(network.parameters, twin.parameters)
    table = fastgd.sweep(network, *ONE, {"seed": [0]}, optimizer=optimizer, epochs=1)
    assert table.networks[0].loss_function == network.loss_function
    other, _ = made_network(backend)
    other.parameters[:] = network.parameters
    other.views()["b2"][:] = network.views()["b2"][:] = 0
    assert other.loss(*ONE) == pytest.approx(8 * network.loss(*ONE))


def test_pickles_are_of_the_function_that_a_name_means():
    define(1.0)
    network, _ = made_network()
    dumped = pickle.dumps(network)
    assert pickle.loads(dumped).loss(*ONE) == network.loss(*ONE)
    define(1.0)  # the same function, anew
    assert pickle.loads(dumped).loss(*ONE) == network.loss(*ONE)
    with pytest.raises(pickle.PicklingError, match="scaled_.*not the same object"):
        pickle.dumps(network)
    define(2.0)
    with pytest.raises(pickle.UnpicklingError, match="kernel .*scaled_.*another one of its name"):
        pickle.loads(dumped)


def of_module(p, g, lr=0.1):
    return p - FACTOR * lr * g


FACTOR = 1.0


def test_pickled_optimizers_are_of_the_rule_that_a_name_means(monkeypatch):
    function = of_module
    made = custom.optimizer(function)
    monkeypatch.setattr(sys.modules[__name__], "of_module", made)
    optimizer, p = made(0.5), np.zeros(3)
    dumped = pickle.dumps(optimizer)
    for twin in (pickle.loads(dumped), copy.deepcopy(optimizer)):
        twin.step(p, np.ones(3), backend="numpy")
    np.testing.assert_array_equal(p, -1.0)
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 2.0)
    with pytest.raises(pickle.UnpicklingError, match="of_module.*another"):
        pickle.loads(dumped)


@pytest.mark.parametrize("field", ["loss", "layer 1", "optimizer"])
def test_files_are_of_the_function_that_a_name_means(field, tmp_path):
    define(1.0)
    network, optimizer = made_network()
    network.save(tmp_path / "m", optimizer=optimizer)
    define(1.0)
    twin, its = fastgd.load(tmp_path / "m", backend="numpy")
    assert twin.loss(*ONE) == network.loss(*ONE)
    assert type(its) is OPTIMIZERS["scaled_rule"]
    kept = {"loss": LOSSES["scaled_loss"], "layer 1": ACTIVATIONS["scaled_activation"], "optimizer": type(its)}
    define(1 + 1e-4)
    if field != "loss":
        LOSSES["scaled_loss"] = kept["loss"]
    if field == "optimizer":
        ACTIVATIONS["scaled_activation"] = kept["layer 1"]
    name = {"loss": "scaled_loss", "layer 1": "scaled_activation", "optimizer": "scaled_rule"}[field]
    with pytest.raises(fastgd.CheckpointError, match=f"field '{field}'.*'{name}'.*another function"):
        fastgd.load(tmp_path / "m")
    with pytest.raises(ValueError, match="means now"):
        network.save(tmp_path / "other")


def test_a_file_records_what_a_function_reads(tmp_path):
    factor = 1.0

    @custom.activation(derivative=lambda x: factor)
    def by_factor(x):
        return factor * x

    Network(2, [Dense(1, by_factor)], loss="mse", backend="numpy").save(tmp_path / "m")
    factor = 2.0
    with pytest.raises(fastgd.CheckpointError, match="'layer 1'.*'by_factor'"):
        fastgd.load(tmp_path / "m")
    factor = 1.0
    fastgd.load(tmp_path / "m")


@pytest.mark.parametrize(
    ("nest", "path"),
    [
        (lambda layer: [fastgd.Residual([layer])], "1.1"),
        (lambda layer: [Dense(2), fastgd.Sequential([Dense(3), layer])], "2.2"),
        (lambda layer: [fastgd.Concatenate([], [fastgd.Residual([Dense(2), layer])])], "1.2.1.2"),
        (lambda layer: [fastgd.BatchNorm(layer.activation), Dense(1)], "1"),
    ],
)
def test_a_file_records_the_functions_in_containers(nest, path, tmp_path):
    define(1.0)
    Network(2, nest(Dense(2, "scaled_activation")), loss="mse", backend="numpy").save(tmp_path / "m")
    fastgd.load(tmp_path / "m", backend="numpy")
    define(2.0)
    with pytest.raises(fastgd.CheckpointError, match=f"field 'layer {path}'.*'scaled_activation'.*another function"):
        fastgd.load(tmp_path / "m")
    del ACTIVATIONS["scaled_activation"]
    with pytest.raises(fastgd.CheckpointError, match="field 'network.activation'.*your own, defined again.*scaled_act"):
        fastgd.load(tmp_path / "m")


def test_functions_that_draw_numbers_are_saved(tmp_path):
    @custom.optimizer
    def noisy(p, g, lr=0.1):
        return p - lr * (g + 0.1 * np.random.standard_normal())  # noqa: NPY002

    network, optimizer = Network(2, [Dense(1)], loss="mse", backend="numpy"), noisy()
    network.train_step(*ONE, optimizer)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    network.save(tmp_path / "m", optimizer=optimizer)
    assert isinstance(fastgd.load(tmp_path / "m")[1], noisy)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_kernels_of_the_package_keep_their_names():
    softmax, mine = kernels.softmax_forward, renamed(lambda x: x, "softmax")
    with pytest.raises(ValueError, match="'function'.*softmax_forward.*softmax"):
        custom.activation(mine, derivative=lambda x: 1.0)
    assert kernels.softmax_forward is softmax
    assert "softmax" not in ACTIVATIONS


def test_a_kernel_of_a_name_of_the_package_runs_its_own_body():
    def relu_forward(y: Out("rows", "n"), x: In("rows", "n")):
        np.multiply(x, 3, out=y)

    mine = Kernel(relu_forward)
    assert mine.bodies() == ("numpy",)
    y = np.empty((1, 2))
    mine.body("numpy")(y, np.ones((1, 2)))
    np.testing.assert_array_equal(y, 3.0)
