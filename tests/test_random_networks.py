"""Gradients of random networks against differences of the outputs and of the loss.

Backends, threads and passes share the plan, so comparing them does not show that an operation overwrites what another
still needs. Differences do: here for layers in random order and nesting, on images, sequences and vectors."""

import collections

import numpy as np
import pytest
from cases import KERNELS

import fastgd
from fastgd import (
    GRU,
    LSTM,
    Activation,
    AvgPool2D,
    BatchNorm,
    CausalSelfAttention,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalAvgPool2D,
    LayerNorm,
    MaxPool2D,
    Network,
    PositionalEmbedding,
    RandomCrop,
    RandomFlip,
    Residual,
    SelfAttention,
    Sequential,
    TransformerBlock,
)
from fastgd.engine.plan import Plan

SEEDS = range(24)
# Rounding makes errors of up to 1e-6. A step across a kink, such as that of relu, makes larger ones: another direction
# and a shorter step do not.
STEPS, TOLERANCE = (1e-7, 1e-7, 1e-8, 1e-9), 1e-5
# relu is part of the kernels of convolutions and of BatchNorm on images; gelu and silu keep their slope.
ACTIVATIONS = "identity", "relu", "tanh", "gelu", "silu"
DEPTH = 2  # of containers


def one_of(rng, options):
    return options[rng.integers(len(options))]


def several(rng, most, make, *arguments):
    """Up to `most` layers."""
    return [make(rng, *arguments) for _ in range(rng.integers(most + 1))]


def alike(rng, shape, depth=0):
    """A layer that keeps the shape of its rows."""
    n, activation = shape[-1], one_of(rng, ACTIVATIONS)
    options = [
        lambda: Dense(n, activation),
        lambda: LayerNorm(activation, eps=0.1),
        lambda: Activation(activation),
        lambda: Dropout(0.3),
    ]
    if depth < DEPTH:
        options += 2 * [
            lambda: Residual(several(rng, 3, alike, shape, depth + 1)),
            lambda: Residual(
                several(rng, 2, alike, shape, depth + 1),
                several(rng, 2, alike, shape, depth + 1),
            ),
            lambda: Sequential(several(rng, 2, alike, shape, depth + 1)),
        ]
    normalization = BatchNorm(activation, eps=0.1)
    if len(shape) == 2:
        heads, rate = one_of(rng, (1, 2)), one_of(rng, (0.0, 0.3))
        options += [
            lambda: SelfAttention(heads, rate),
            lambda: CausalSelfAttention(heads, rate),
            lambda: TransformerBlock(heads, 3, dropout=rate, causal=bool(rng.integers(2))),
            lambda: PositionalEmbedding(),
            lambda: LSTM(n, return_sequences=True),
            lambda: GRU(n, return_sequences=True),
            lambda: normalization,
        ]
    elif len(shape) == 1:
        options += [lambda: normalization, lambda: Dense(n, activation, tie=one_of(rng, ("w1", "w1.T")))]
    else:  # more layers on blocks of images than on rows
        pool, groups = one_of(rng, (MaxPool2D, AvgPool2D)), one_of(rng, [g for g in (1, 2, n) if n % g == 0])
        options += [
            lambda: Conv2D(n, one_of(rng, (1, 2, 3)), activation, padding="same", groups=groups),
            lambda: Sequential([Conv2D(n, 3, padding=1, use_bias=False), normalization]),
            lambda: Sequential([pool(2, strides=1, padding="same"), normalization, Conv2D(n, 1)]),
            lambda: Residual([Conv2D(n, 2, padding="same"), normalization], [Conv2D(n, 1), normalization]),
            lambda: pool(one_of(rng, (2, 3)), strides=1, padding="same"),
        ]
    return one_of(rng, options)()


def resizing(rng, shape, n, windows):
    """Layers on images that make n channels, with these windows."""
    before, after = (several(rng, 1, alike, shape, 1) for shape in (shape, (*shape[:-1], n)))
    kind = one_of(rng, (Conv2D, Conv2D, MaxPool2D, AvgPool2D))
    if kind is not Conv2D:
        return [*before, kind(**windows), one_of(rng, (Conv2D(n, 1), Dense(n, "tanh")))]
    groups = one_of(rng, [g for g in (1, 2, 4) if shape[-1] % g == 0 and n % g == 0])
    options = {"strides": windows["strides"], "padding": windows["padding"], "groups": groups}
    first = Conv2D(n, windows["pool_size"], one_of(rng, ACTIVATIONS), **options)
    return [*before, first, *after[: len(before)]]


def of_images(rng):
    """Shape of the input, and layers: some that keep the shape of their input, among some that change it."""
    shape = tuple(rng.integers(4, 8, 2)), one_of(rng, (1, 2, 3, 8))
    shape = (*map(int, shape[0]), shape[1])
    layers, now = several(rng, 1, one_of, (RandomFlip(0.5, 0.5), RandomCrop(1))), shape
    for _ in range(rng.integers(1, 4)):
        layers += several(rng, 2, alike, now)
        n = one_of(rng, (2, 4, 8, 9))
        size = int(min(now[:2]))
        windows = {"pool_size": one_of(rng, (1, 2, 3)[:size]), "strides": one_of(rng, (1, 2)), "padding": "valid"}
        windows["padding"] = one_of(rng, ("valid", "same", windows["pool_size"] - 1))
        branches = [resizing(rng, now, n, windows) for _ in range(2)]
        kind = one_of(rng, ("one", "residual", "concatenate"))
        made = {"one": Sequential, "residual": Residual, "concatenate": Concatenate}[kind]
        layers.append(made(*branches[: 1 if kind == "one" else 2]))
        now = layers[-1].output_shape(now)
    ends = [Conv2D(2, 1)], [GlobalAvgPool2D(), Dense(2)], [Flatten(), Dense(3, "tanh"), Dense(2)]
    return shape, [*layers, *several(rng, 1, alike, now), *one_of(rng, ends)]


def of_sequences(rng):
    """On tokens, whose matrix the last layer may share, or on numbers."""
    shape, vocabulary = (int(rng.integers(2, 6)), one_of(rng, (2, 4, 6))), int(rng.integers(3, 7))
    layers = [alike(rng, shape) for _ in range(rng.integers(1, 5))]
    if rng.integers(4) == 0:
        return shape, [*layers, Dense(2)]
    padding = one_of(rng, (None, 0))
    first = [Embedding(vocabulary, shape[1]), PositionalEmbedding(), SelfAttention(2, padding=padding)]
    return shape[:1], [*first, *layers, Dense(vocabulary, tie=one_of(rng, (None, "w1.T")), use_bias=False)]


def of_vectors(rng):
    n = int(rng.integers(2, 6))
    layers = [Dense(n, one_of(rng, ACTIVATIONS)), *(alike(rng, (n,)) for _ in range(rng.integers(1, 5)))]
    if rng.integers(2):
        layers.append(Concatenate([], several(rng, 2, alike, (n,), 1), Dense(3, "tanh")))
    return (n,), [*layers, Dense(2)]


def case(make, seed):
    """A network, a generator of numbers and a minibatch. Its plans have room for more rows, and have had other ones."""
    rng = np.random.default_rng(seed)
    shape, layers = make(rng)
    net = Network(shape, layers, loss="mse", dtype="float64", seed=seed, num_threads=1)
    net.parameters[:] += 0.1 * rng.normal(size=net.n_parameters)
    for name, values in net.statistics.items():
        values[...] = rng.uniform(0.5, 2, values.shape) if "variance" in name else rng.normal(size=values.shape)
    rows = int(rng.integers(3, 25))
    tokens = net.vocabulary and rng.integers(0, net.vocabulary, (rows + 10, *shape)).astype(float)
    x = tokens if net.vocabulary else rng.normal(size=(rows + 10, *shape))
    y = rng.normal(size=(rows + 10, *net.output_shape))
    for training in (False, True):
        net.loss_and_gradient(x, y, training=training)
        net.forward(x, training=training, record=not training)
    return net, rng, x[:rows], y[:rows]


def error(rng, arrays, gradients, value):
    """How far the derivative of a value along a random direction of all arrays is from the gradients', relative to the
    largest gradient. In this direction arrays with gradients down to a tenth of it contribute as much as it does."""
    scales = [np.linalg.norm(gradient) for gradient in gradients]
    largest = max(scales)
    originals, smallest = [array.copy() for array in arrays], np.inf
    for step in STEPS:
        directions = [
            rng.normal(size=array.shape) * largest / max(scale, largest / 10)
            for array, scale in zip(arrays, scales, strict=True)
        ]
        values = []
        for h in (step, -step):
            for array, original, direction in zip(arrays, originals, directions, strict=True):
                array[...] = original + h * direction
            values.append(value())
        for array, original in zip(arrays, originals, strict=True):
            array[...] = original
        expected = sum(np.sum(g * direction) for g, direction in zip(gradients, directions, strict=True))
        smallest = min(smallest, abs((values[0] - values[1]) / (2 * step) - expected) / largest)
        if smallest <= TOLERANCE:
            break
    return smallest


def errors(net, rng, x, y):
    """Errors of every way to a gradient: of the loss, and of a sum of the outputs by a recorded forward pass, which
    also gives that of x; and of a training step."""
    found, views = {}, list(net.views().values())
    for training in (False, True):
        options = {"training": training, "minibatch": 0}
        _, flat = net.loss_and_gradient(x, y, **options)
        gradient = list(net.views(flat).values())
        found["loss", training] = error(
            rng, views, gradient, lambda options=options: net.loss_and_gradient(x, y, **options)[0]
        )
        recorded = {"training": training, "record": not training}
        statistics, x_here = {name: a.copy() for name, a in net.statistics.items()}, x.copy()
        net.forward(x_here, **recorded)
        net.backward(y, input_gradient=False)
        first = net.gradient.copy()
        dx = [] if net.vocabulary else [net.backward(y)]  # tokens have no gradient
        if not dx:
            net.backward(y, input_gradient=False)
        found["again", training] = np.abs(net.gradient - first).max()
        found["outputs", training] = error(
            rng, [*([x_here] if dx else []), *views], [*dx, *net.views(first).values()],
            lambda recorded=recorded, x_here=x_here: np.sum(net.forward(x_here, **recorded) * y),
        )  # fmt: skip
        for name, values in statistics.items():
            net.statistics[name][...] = values
    before = net.parameters.copy()
    _, flat = net.loss_and_gradient(x, y, training=True)
    net.train_step(x, y, fastgd.SGD(1.0))
    found["step"] = np.linalg.norm(before - net.parameters - flat) / np.linalg.norm(flat)
    return found


KINDS = pytest.mark.parametrize("make", [of_images, of_sequences, of_vectors])


@KINDS
@pytest.mark.parametrize("seed", SEEDS)
def test_gradient(make, seed):
    found = errors(*case(make, seed))
    assert max(found.values()) <= TOLERANCE, found


def test_every_kernel_of_layers_is_in_some_of_the_networks():
    """In training, which does without running statistics, and without kernels for generation (test_generation.py)."""
    count = collections.Counter()
    for make in (of_images, of_sequences, of_vectors):
        for seed in SEEDS:
            shape, layers = make(np.random.default_rng(seed))
            plan = Network(shape, layers, loss="mse", dtype="float64").executor.training_plan(1)
            count.update({link.kernel.name for operation in plan.operations for link in operation.links})
    of_layers = {name for name, kernel in KERNELS.items() if kernel.__module__.startswith("fastgd.layers")}
    rare = {name for name in of_layers if count[name] < 3}
    of_generation = {"add_positions", "append_to_cache", "cached_attention", "gru_continue", "lstm_continue"}
    assert rare == {"inverse_deviation", "standardize_forward", "standardize_backward"} | of_generation


# ---- negative controls


def is_noticed(make):
    """Whether a gradient of one of the networks is quite wrong."""
    return any(max(errors(*case(make, seed)).values()) > 1e-3 for seed in SEEDS)


@KINDS
def test_gradients_that_are_overwritten_are_noticed(make, monkeypatch):
    """Without the copy of a gradient that both branches of a Residual need."""
    monkeypatch.setattr(Plan, "keep", lambda plan, name, mark, result: result)
    assert is_noticed(make)


@pytest.mark.parametrize("make", [of_images, of_sequences])
def test_memory_that_is_used_again_too_early_is_noticed(make, monkeypatch):
    assign = Plan._assign_pieces

    def too_early(plan, sizes):
        """The first and the last buffer that have the same size share their memory."""
        piece_of, pieces = assign(plan, sizes)
        of_size = {}
        for name in sizes:
            of_size.setdefault((sizes[name], plan.is_in_blocks(name)), []).append(name)
        for names in of_size.values():
            piece_of[names[-1]] = piece_of[names[0]]
        return piece_of, pieces

    monkeypatch.setattr(Plan, "_assign_pieces", too_early)
    assert is_noticed(make)


def test_buffers_share_memory():
    """Of a step of a GPT: what the backward pass needs only for a moment, and the gradient in front of gelu."""
    network = fastgd.models.gpt(65, 16, 4, 2, 32)
    plan = network.executor.training_plan(3)
    buffers = {name: plan.buffers[name] for name in plan.row_shapes if name in plan.buffers}
    apart = sum(buffer.size for name, buffer in buffers.items() if name not in plan.own)
    assert plan.workspace.size < 0.75 * apart
    assert np.shares_memory(buffers["dx4.2.3"], buffers["dx7.2.3"])
    assert not np.shares_memory(buffers["z4.2.2"], buffers["z7.2.2"])
