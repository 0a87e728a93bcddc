"""Activations, losses, gradients and optimizer steps against what torch 2.13 computed (golden/make.py), in float64
and, rounded, in float32, with every body."""

import pathlib

import numpy as np
import pytest
from conftest import BACKENDS

import fastgd

GOLDEN = np.load(pathlib.Path(__file__).with_name("golden") / "torch.npz")
# Relative to the largest element.
TOLERANCES = {"float64": 1e-13, "float32": 2e-6}


def cases(kind, quantity):
    prefix, suffix = f"{kind}.", f".{quantity}"
    return [key[len(prefix) : -len(suffix)] for key in GOLDEN if key.startswith(prefix) and key.endswith(suffix)]


def evaluate(text, module):
    """`leaky_relu(negative_slope=0.3)` in the names of a module."""
    return eval(text, {"__builtins__": {}}, vars(module))


def close(got, expected, dtype, slack=1.0):
    scale = np.abs(expected).max()
    assert np.abs(got - expected).max() <= slack * TOLERANCES[dtype] * scale


@pytest.mark.parametrize("name", cases("activation", "dy"))
def test_activation(name, backend, dtype):
    activation = evaluate(name, fastgd.activations)
    x = GOLDEN["activation.x"].astype(dtype).reshape(1, -1)
    y, dy = np.empty_like(x), np.ones_like(x)
    scalars = activation.parameters.values()
    activation.forward.body(backend)(y, x, *scalars)
    if activation.keeps == "output":
        activation.backward.body(backend)(dy, y, *scalars)
    else:
        activation.backward.body(backend)(dy, x)
    close(y, GOLDEN[f"activation.{name}.y"], dtype)
    close(dy, GOLDEN[f"activation.{name}.dy"], dtype)


@pytest.mark.parametrize("name", cases("loss", "value"))
def test_loss(name, backend, dtype):
    loss = evaluate(name.removesuffix(" rows"), fastgd.losses)
    z, y = GOLDEN["loss.z"].astype(dtype), GOLDEN[f"loss.{name}.y"]
    kernel = loss.kernels[0] if y.ndim == 1 else loss.kernels[-1]
    y = y.astype(kernel.arrays["y"].dtype or dtype)
    value, dz = np.empty(len(z), dtype), np.empty_like(z)
    kernel.body(backend)(value, dz, z, y, np.full(len(z), 1 / len(z), dtype), *loss.parameters.values())
    close(value.sum(), GOLDEN[f"loss.{name}.value"], dtype)
    close(dz, GOLDEN[f"loss.{name}.dz"], dtype)


def test_network_gradient(backend, dtype):
    layers = [fastgd.Dense(7, "gelu"), fastgd.Dense(5, "tanh"), fastgd.Dense(4)]
    network = fastgd.Network(6, layers, loss="softmax_cross_entropy", dtype=dtype, backend=backend)
    for name, view in network.views().items():
        view[...] = GOLDEN[f"network.{name}"]
    loss, gradient = network.loss_and_gradient(GOLDEN["network.x"], GOLDEN["network.y"])
    close(loss, GOLDEN["network.loss"], dtype)
    for name, part in network.views(gradient).items():
        close(part, GOLDEN[f"network.d{name}"], dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", cases("optimizer", "path"))
def test_optimizer(name, backend, dtype):
    optimizer = evaluate(name, fastgd)
    p = GOLDEN["optimizer.start"].astype(dtype)
    optimizer.allocate([p])
    step = optimizer.kernel.body(backend)
    path = GOLDEN[f"optimizer.{name}.path"]
    for t, (g, expected) in enumerate(zip(GOLDEN["optimizer.gradients"], path, strict=True), 1):
        state = [optimizer.state[slot][0] for slot in optimizer.slots]
        step(p, *state, g.astype(dtype), *(values[0] for values in optimizer.table(1, dtype)[1]))
        optimizer.steps = t
        close(p, expected, dtype, slack=t)


def test_golden_values_catch_a_dropped_term():
    """Without the bias correction, or without the decay, Adam leaves the golden path at once."""
    expected = GOLDEN["optimizer.Adam(0.01, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.01).path"][0]
    right = fastgd.Adam(0.01, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.01)
    start, g = GOLDEN["optimizer.start"], GOLDEN["optimizer.gradients"][0]
    for spoil in ({"rate": 0.01}, {"weight_decay": 0.0}, {"eps": 1e-3}, {"beta2": 0.9 + 1e-6}):
        p, m, v = start.copy(), np.zeros(30), np.zeros(30)
        scalars = dict(zip(right.kernel.scalars, right.scalars(0.01, 1), strict=True)) | spoil
        right.kernel(p, m, v, g, *scalars.values())
        assert np.abs(p - expected).max() > TOLERANCES["float64"] * np.abs(expected).max()
