"""Activations, losses, gradients and optimizer steps of every body, in float64 and float32, against float64 values of
torch 2.13 or optax (golden/make.py)."""

import importlib.util
import itertools
import pathlib

import numpy as np
import pytest

import fastgd
from fastgd.optimizers.base import optimizers_of_minibatches

GOLDEN = np.load(pathlib.Path(__file__).with_name("golden") / "peers.npz")
# Relative to the largest element.
TOLERANCES = {"float64": 1e-13, "float32": 2e-6}


def cases(kind, quantity):
    prefix, suffix = f"{kind}.", f".{quantity}"
    return [key[len(prefix) : -len(suffix)] for key in GOLDEN if key.startswith(prefix) and key.endswith(suffix)]


def evaluate(text, module):
    """Evaluates text such as `leaky_relu(negative_slope=0.3)` with the names of a module."""
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
    y, expected = GOLDEN[f"loss.{name}.y"], GOLDEN[f"loss.{name}.dz"]
    z = GOLDEN["loss.z"][:, : expected.shape[1]].astype(dtype)
    kernel = loss.kernels[0] if y.ndim == 1 else loss.kernels[-1]
    y = y.astype(kernel.arrays["y"].dtype or dtype)
    value, dz = np.empty(len(z), dtype), np.empty_like(z)
    shape = z.shape if loss.outputs_per_target == 1 else (len(z), loss.outputs_per_target, y.shape[1])
    weight = np.full(len(z), 1 / len(z), dtype)
    kernel.body(backend)(value, dz.reshape(shape), z.reshape(shape), y, weight, *loss.parameters.values())
    close(value.sum(), GOLDEN[f"loss.{name}.value"], dtype)
    close(dz, expected, dtype)


def test_network_gradient(backend, dtype):
    layers = [fastgd.Dense(7, "gelu"), fastgd.Dense(5, "tanh"), fastgd.Dense(4)]
    network = fastgd.Network(6, layers, loss="softmax_cross_entropy", dtype=dtype, backend=backend)
    for name, view in network.views().items():
        view[...] = GOLDEN[f"network.{name}"]
    loss, gradient = network.loss_and_gradient(GOLDEN["network.x"], GOLDEN["network.y"])
    close(loss, GOLDEN["network.loss"], dtype)
    for name, part in network.views(gradient).items():
        close(part, GOLDEN[f"network.d{name}"], dtype)


@pytest.mark.parametrize("mode", ["evaluation", "training"])
@pytest.mark.parametrize("name", cases("layer", "evaluation.loss"))
def test_layer(name, mode, backend, dtype):
    layers = [fastgd.Dense(7, "tanh"), evaluate(name, fastgd), fastgd.Dense(4)]
    network = fastgd.Network(6, layers, loss="softmax_cross_entropy", dtype=dtype, backend=backend)
    for key, view in {**network.views(), **network.statistics}.items():
        view[...] = GOLDEN[f"layer.{name}.{key}"]
    x, y = GOLDEN["layer.x"], GOLDEN["layer.y"]
    loss, gradient = network.loss_and_gradient(x, y, training=mode == "training")
    close(loss, GOLDEN[f"layer.{name}.{mode}.loss"], dtype)
    # The true gradient of a bias is 0 where the next layer subtracts the mean.
    floor = np.abs(gradient).max() * np.finfo(dtype).eps
    for key, part in network.views(gradient).items():
        expected = GOLDEN[f"layer.{name}.{mode}.d{key}"]
        assert np.abs(part - expected).max() <= TOLERANCES[dtype] * np.abs(expected).max() + floor, key
    for key, view in network.statistics.items():
        np.testing.assert_array_equal(view, GOLDEN[f"layer.{name}.{key}"].astype(dtype))
    network.train_step(x, y, fastgd.SGD(0.1))
    for key, view in network.statistics.items():
        close(view, GOLDEN[f"layer.{name}.next.{key}"], dtype)


SEQUENCES = {
    "causal": lambda: [fastgd.CausalSelfAttention(2), fastgd.Dense(4)],
    "padding": lambda: [fastgd.SelfAttention(2, padding=0), fastgd.Dense(4)],
    "gpt": None,
}


@pytest.mark.parametrize("name", cases("sequence", "loss"))
def test_language_models(name, backend, dtype):
    """Embeddings, attention, blocks, and an output that shares the matrix of the embedding."""
    options = {"dtype": dtype, "backend": backend}
    if name == "gpt":
        network = fastgd.models.gpt(11, 7, 2, 2, 6, **options)
    else:
        layers = [fastgd.Embedding(11, 6), fastgd.PositionalEmbedding(), *SEQUENCES[name]()]
        network = fastgd.Network(7, layers, loss="softmax_cross_entropy", **options)
    for key, view in network.views().items():
        view[...] = GOLDEN[f"sequence.{name}.{key}"]
    x, y = GOLDEN["sequence.x"], GOLDEN[f"sequence.{name}.y"]
    close(network.forward(x), GOLDEN[f"sequence.{name}.logits"], dtype)
    loss, gradient = network.loss_and_gradient(x, y)
    close(loss, GOLDEN[f"sequence.{name}.loss"], dtype)
    floor = np.abs(gradient).max() * np.finfo(dtype).eps  # the true gradient of the biases of k is 0
    for key, part in network.views(gradient).items():
        expected = GOLDEN[f"sequence.{name}.d{key}"]
        assert np.abs(part - expected).max() <= TOLERANCES[dtype] * np.abs(expected).max() + floor, key


OPTIMIZERS = cases("optimizer", "path")
# Of the parameters along 1,000 steps, and of one step from the same state.
PATH_TOLERANCES = {"float64": 1e-9, "float32": 1e-5}
STEP_TOLERANCE = 1e-12


def spread(columns):
    """The columns repeated up to 37: more than a SIMD vector, and a remainder."""
    return np.concatenate([columns] * 4, axis=-1)[..., :37]


# The numpy bodies in float32 are those in float64, rounded: test_kernels.py compares them.
@pytest.mark.parametrize(
    ("backend", "dtype"), [("numpy", "float64"), *itertools.product(("numba", "cython"), TOLERANCES)]
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_thousand_steps(name, backend, dtype):
    optimizer = evaluate(name, fastgd)
    p, recorded = spread(GOLDEN["optimizer.start"]).astype(dtype), GOLDEN["optimizer.looks"].tolist()
    for t, g in enumerate(spread(GOLDEN["optimizer.gradients"]).astype(dtype)):
        if t in recorded:
            expected = spread(GOLDEN[f"optimizer.{name}.path"][recorded.index(t)])
            assert np.abs(p - expected).max() <= PATH_TOLERANCES[dtype] * np.abs(expected).max(), f"after {t} steps"
        optimizer.step(p, g, backend=backend)


@pytest.mark.float64
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_step_from_the_same_state(name, backend):
    for i, t in enumerate(GOLDEN["optimizer.looks"].tolist()):
        optimizer = evaluate(name, fastgd)
        p, g = spread(GOLDEN[f"optimizer.{name}.path"][i]), spread(GOLDEN["optimizer.gradients"][t])
        if t:
            optimizer.allocate([p])
            optimizer.minibatches = t
            for slot in optimizer.slots:
                if f"optimizer.{name}.{slot}" not in GOLDEN:  # momentum 0: its state does not matter
                    continue
                optimizer.state[slot][0][...] = spread(GOLDEN[f"optimizer.{name}.{slot}"][i])
        optimizer.step(p, g, backend=backend)
        expected = spread(GOLDEN[f"optimizer.{name}.step"][i])
        assert np.abs(p - expected).max() <= STEP_TOLERANCE * np.abs(expected).max(), f"step {t + 1}"


def test_everything_of_the_package_has_golden_values():
    """A new function needs a line in golden/make.py, with its counterpart of torch or optax."""

    def named(*kinds):
        return {name.split("(")[0].split(" ")[0] for kind in kinds for name in cases(*kind)}

    tables = fastgd.activations.ACTIVATIONS, fastgd.losses.LOSSES, optimizers_of_minibatches()
    for table, *kinds in zip(tables, (("activation", "dy"), ("loss", "value"), ("optimizer", "path")), strict=True):
        assert named(*kinds) == {name for name in table if name != "identity"}


def peers():
    """golden/make.py as a module."""
    spec = importlib.util.spec_from_file_location("make", pathlib.Path(__file__).with_name("golden") / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    return make


PEERS = peers() if importlib.util.find_spec("torch") else None


@pytest.mark.skipif(PEERS is None, reason="needs torch")
@pytest.mark.parametrize("name", PEERS.TORCH_OPTIMIZERS if PEERS else [])
def test_against_torch_itself(name):
    """With other numbers, and on the memory of torch's tensors."""
    import torch

    rng = np.random.default_rng(1)
    start = rng.normal(size=40)
    peer, optimizer, p = PEERS.Torch(name, start), evaluate(name, fastgd), torch.tensor(start, requires_grad=True)
    for _ in range(100):
        g = rng.normal(size=40)
        peer.step(g)
        optimizer.step(p, torch.tensor(g))
    expected = peer.snapshot()[0]
    assert np.abs(p.detach().numpy() - expected).max() <= PATH_TOLERANCES["float64"] * np.abs(expected).max()


def test_golden_values_catch_a_dropped_term():
    """Without the bias correction or the decay, for example, Adam leaves the golden path at once."""
    name = "Adam(0.01, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.01)"
    expected = GOLDEN[f"optimizer.{name}.step"][0]
    right = evaluate(name, fastgd)
    start, g = GOLDEN["optimizer.start"], GOLDEN["optimizer.gradients"][0]
    scalars = dict(zip(right.kernel.scalars, (*right.scalars(0.01, 1), 0.01, 0.0), strict=True))
    spoilt = ({"rate": 0.01}, {"weight_decay": 0.0}, {"eps": 1e-3}, {"beta2": 0.9 + 1e-6}, {"shrink": 1e-6})
    for change in ({}, *spoilt):
        p, m, v = start.copy(), np.zeros(len(g)), np.zeros(len(g))
        right.kernel(p, m, v, g, *(scalars | change).values())
        assert (np.abs(p - expected).max() > STEP_TOLERANCE * np.abs(expected).max()) == bool(change)
