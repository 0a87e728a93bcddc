"""Gradients of whole networks against fourth-order central differences, for every activation and loss."""

import dataclasses

import numpy as np
import pytest
from cases import KINKED_ACTIVATIONS

import fastgd
from fastgd.activations import ACTIVATIONS
from fastgd.cli.self_check import GRADIENT_TOLERANCE
from fastgd.core.domains import domain_of
from fastgd.core.kernel import Kernel
from fastgd.losses import LOSSES
from fastgd.network import Network

ROWS, SIZES = 6, (4, 5, 5, 4)
STEP = 1e-3


def make(activation, loss, backend="cython", **options):
    layers = [
        fastgd.Dense(SIZES[1], activation),
        fastgd.Dense(SIZES[2], activation, bias_init=np.full(SIZES[2], 0.1)),
        fastgd.Dense(SIZES[3]),
    ]
    return Network(SIZES[0], layers, loss=loss, dtype="float64", backend=backend, seed=3, **options)


def targets(kernel, rng):
    per_target = 2 if "two" in kernel.dims else 1
    spec, sizes = kernel.arrays["y"], {"rows": ROWS, "k": SIZES[-1] // per_target}
    return domain_of(spec).example(rng, tuple(sizes[dim] for dim in spec.dims), sizes.get(spec.below))


def distance_to_kinks(network, x, y):
    """Smallest distance of a pre-activation from the kink of its activation, and of |z - y| from the kinks of the
    loss, by the numpy formulas."""
    views, a, distance = network.views(), x, np.inf
    for i, layer in enumerate(network.layers, 1):
        z = a @ views[f"w{i}"] + views[f"b{i}"]
        if layer.activation.name in KINKED_ACTIVATIONS:
            distance = min(distance, np.abs(z - KINKED_ACTIVATIONS[layer.activation.name]).min())
        a = z.copy()
        if layer.activation.forward is not None:
            layer.activation.forward.reference(a, z, *layer.activation.parameters.values())
    if network.loss_function.name == "hinge":
        return min(distance, np.abs(1 - a * y).min())
    if network.loss_function.name == "cosine_similarity":  # a direction jumps at 0
        return min(distance, np.linalg.norm(a, axis=1).min() / 8)
    kink = {"mae": 0.0, "huber": network.loss_function.parameters.get("delta")}.get(network.loss_function.name)
    return distance if kink is None else min(distance, np.abs(np.abs(a - y) - kink).min())


def case(activation, loss, backend="cython", kernel=None, **options):
    """A network and data whose loss is smooth within the reach of the differences."""
    network = make(activation, loss, backend, **options)
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(ROWS, SIZES[0]))
        y = targets(kernel or network.loss_function.kernels[-1], rng)
        if distance_to_kinks(network, x, y) > 20 * STEP * max(1.0, np.abs(x).max()):
            return network, x, y
    raise AssertionError("no data clear of the kinks")


def worst_error(network, x, y):
    return max(fastgd.check_gradients(network, x, y, step=STEP).values())


@pytest.mark.float64
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_and_loss(activation, loss, backend):
    network, x, y = case(activation, loss, backend)
    assert worst_error(network, x, y) <= GRADIENT_TOLERANCE


@pytest.mark.float64
def test_labels_smoothing_and_penalties(backend):
    loss = LOSSES["softmax_cross_entropy"](label_smoothing=0.1)
    network, x, y = case("tanh", loss, backend, loss.kernels[0], l1=0.01, l2=0.1)
    assert worst_error(network, x, y) <= GRADIENT_TOLERANCE


@pytest.mark.float64
def test_activation_on_the_last_layer(backend, rng):
    network = Network(3, [fastgd.Dense(2, "sigmoid")], loss="mse", dtype="float64", backend=backend)
    x, y = rng.normal(size=(5, 3)), rng.uniform(0, 1, (5, 2))
    assert worst_error(network, x, y) <= GRADIENT_TOLERANCE


@pytest.mark.float64
def test_float32_gradient_is_the_float64_one_rounded(backend, rng):
    x, y = rng.normal(size=(64, 20)).astype(np.float32), rng.integers(0, 10, 64)
    gradients = {}
    for dtype in ("float64", "float32"):
        layers = [fastgd.Dense(50, "tanh"), fastgd.Dense(10)]
        network = Network(20, layers, loss="softmax_cross_entropy", dtype=dtype, backend=backend)
        network.parameters[:] = Network(20, layers, loss="softmax_cross_entropy").parameters
        gradients[dtype] = network.loss_and_gradient(x, y)[1]
    error = np.abs(gradients["float32"] - gradients["float64"]).max()
    assert error <= 1e-6 * np.abs(gradients["float64"]).max()


# ---- negative controls: seeded mutants must fail the check


def wrong(kernel, change):
    """A copy of the kernel whose numpy body runs the right one and then `change`."""
    mutant = Kernel(kernel.reference)

    def reference(*arguments):
        kernel.reference(*arguments)
        change(*arguments)

    mutant.reference = reference
    return mutant


def scaled(index, factor):
    def change(*arguments):
        arguments[index][...] *= factor

    return change


def last_row_skipped(db, dy):
    db -= dy[-1]


def sign_of_one_unit(db, dy):
    db[0] *= -1


def penalty_on_biases(db, dy):
    db += 0.1


MUTANTS = {
    "factor 1 + 1e-6 in dw": ("layers.dense", "dense_backward_weights", scaled(0, 1 + 1e-6)),
    "factor 1 + 1e-6 in dx": ("layers.dense", "dense_backward_input", scaled(0, 1 + 1e-6)),
    "factor 1 + 1e-6 in the activation": (None, "tanh_backward", scaled(0, 1 + 1e-6)),
    "missing 1/batch": (None, "mse_loss", scaled(1, ROWS)),
    "last row skipped": ("layers.dense", "dense_backward_bias", last_row_skipped),
    "sign of one unit": ("layers.dense", "dense_backward_bias", sign_of_one_unit),
    "penalty on biases": ("layers.dense", "dense_backward_bias", penalty_on_biases),
    "missing penalty": ("engine.plan", "penalty_gradient", lambda g, w, l1, l2: g.__isub__(l2 * w)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_gradient_check_catches_mutants(name, monkeypatch):
    module, kernel_name, change = MUTANTS[name]
    mutant = wrong(getattr(fastgd.kernels, kernel_name), change)
    activation, loss = ACTIVATIONS["tanh"], LOSSES["mse"]
    network, x, y = case(activation, loss, "numpy", l2=0.1)
    assert worst_error(network, x, y) <= GRADIENT_TOLERANCE
    if module is not None:
        monkeypatch.setattr(f"fastgd.{module}.{kernel_name}", mutant)
    else:
        activation = dataclasses.replace(activation, backward=mutant) if kernel_name == "tanh_backward" else activation
        loss = dataclasses.replace(loss, kernels=(mutant,)) if kernel_name == "mse_loss" else loss
    spoiled = make(activation, loss, "numpy", l2=0.1)
    assert worst_error(spoiled, x, y) > GRADIENT_TOLERANCE


def test_check_gradients_names_the_wrong_array(monkeypatch):
    monkeypatch.setattr(
        fastgd.layers.dense, "dense_backward_bias", wrong(fastgd.kernels.dense_backward_bias, sign_of_one_unit)
    )
    network, x, y = case(ACTIVATIONS["tanh"], LOSSES["mse"], "numpy")
    errors = fastgd.check_gradients(network, x, y)
    assert list(errors) == list(network.views())
    assert {name[0] for name, error in errors.items() if error > 1e-6} == {"b"}


def test_check_gradients_of_single_precision(rng):
    """The gradient is in float32, the differences in float64; the network is unchanged."""
    network = Network(4, [fastgd.Dense(5, "gelu"), fastgd.Dense(3)], loss="softmax_cross_entropy")
    before = network.parameters.copy()
    errors = fastgd.check_gradients(network, rng.normal(size=(6, 4)), rng.integers(0, 3, 6))
    assert 1e-9 < max(errors.values()) < 1e-4
    np.testing.assert_array_equal(network.parameters, before)


def test_check_gradients_of_large_parameters():
    """The step is in proportion to the parameter."""
    network = Network(1, [fastgd.Dense(1)], loss="mse", dtype="float64")
    network.parameters[:] = 1e6, 0
    assert max(fastgd.check_gradients(network, np.full((1, 1), 1e-6), np.zeros((1, 1))).values()) < 1e-8


def test_check_gradients_of_bad_input(rng):
    network = Network(4, [fastgd.Dense(3)], loss="mse")
    with pytest.raises(TypeError, match="'network'.*3"):
        fastgd.check_gradients(3, np.ones((1, 4)), np.ones((1, 3)))
    with pytest.raises(ValueError, match="'x'.*4 features.*5"):
        fastgd.check_gradients(network, np.ones((1, 5)), np.ones((1, 3)))
    with pytest.raises(ValueError, match="'step'"):
        fastgd.check_gradients(network, np.ones((1, 4)), np.ones((1, 3)), step=0.0)


@pytest.mark.float64
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "use",
    [
        lambda net, x, y: net.forward(x[:1]),
        lambda net, x, y: net.predict(x),
        lambda net, x, y: net.loss(x, y),
        lambda net, x, y: net.evaluate(x, y, metrics=["mse"]),
        lambda net, x, y: net.describe(),
    ],
    ids=["forward", "predict", "loss", "evaluate", "describe"],
)
def test_evaluation_between_forward_and_backward_changes_nothing(use, training, backend):
    """Also the first evaluation of a network, which makes a plan."""
    rng = np.random.default_rng(0)
    x, y, dy = (rng.normal(size=(5, columns)) for columns in (SIZES[0], SIZES[-1], SIZES[-1]))
    net, other = (make("tanh", "mse", backend) for _ in range(2))
    flag = {"training": True} if training else {"record": True}
    net.forward(x, **flag)
    other.forward(x, **flag)
    expected = other.backward(dy)
    for _ in range(2):
        use(net, x, y)
        assert np.array_equal(net.backward(dy), expected)
        assert np.array_equal(net.gradient, other.gradient)
