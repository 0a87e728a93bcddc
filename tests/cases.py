"""Tables that tests and benchmarks share. Kernels, activations and losses come from the package's own tables; a new
optimizer or layer needs a line here, and so does an activation whose derivative jumps."""

import contextlib

import numpy as np

import fastgd
from fastgd.cli.self_check import GRADIENT_TOLERANCE
from fastgd.core.kernel import FIXED_SIZES, kernels


@contextlib.contextmanager
def definitions():
    """Context manager that removes all custom definitions made within it."""
    tables = fastgd.activations.ACTIVATIONS, fastgd.losses.LOSSES, fastgd.optimizers.OPTIMIZERS, vars(kernels)
    before = [dict(table) for table in tables]
    try:
        yield
    finally:
        for table, held in zip(tables, before, strict=True):
            table.clear()
            table.update(held)


KERNELS = vars(kernels)
AWKWARD = (1, 7, 8, 9, 15, 16, 17, 31, 33, 1000)

# Where the derivative of an activation jumps; gradient checks avoid these points.
KINKED_ACTIVATIONS = {"relu": 0.0, "leaky_relu": 0.0, "elu": 0.0}
OPTIMIZERS = {
    "SGD": lambda lr, **options: fastgd.SGD(lr, **options),
    "momentum": lambda lr, **options: fastgd.SGD(lr, momentum=0.9, **options),
    "Nesterov": lambda lr, **options: fastgd.SGD(lr, momentum=0.9, nesterov=True, **options),
    "AdaGrad": lambda lr, **options: fastgd.AdaGrad(lr, **options),
    "AdaDelta": lambda lr, **options: fastgd.AdaDelta(lr, **options),
    "RMSProp": lambda lr, **options: fastgd.RMSProp(lr, **options),
    "RMSProp momentum": lambda lr, **options: fastgd.RMSProp(lr, momentum=0.9, **options),
    "RMSProp centred": lambda lr, **options: fastgd.RMSProp(lr, momentum=0.9, centred=True, **options),
    "Adam": lambda lr, **options: fastgd.Adam(lr, **options),
    "AdamW": lambda lr, **options: fastgd.AdamW(lr, **options),
    "AMSGrad": lambda lr, **options: fastgd.AMSGrad(lr, **options),
    "Adamax": lambda lr, **options: fastgd.Adamax(lr, **options),
    "NAdam": lambda lr, **options: fastgd.NAdam(lr, **options),
    "RAdam": lambda lr, **options: fastgd.RAdam(lr, **options),
    "Lion": lambda lr, **options: fastgd.Lion(lr, **options),
}


def _of_images(*layers):
    return fastgd.Sequential([fastgd.Reshape((-1, 1, 1)), *layers, fastgd.Flatten()])


def _of_sequences(*layers):
    """Rows become sequences of vectors, whose elements differ, and rows of the same width again."""
    first = fastgd.Dense(4, "tanh", bias_init=np.linspace(-1, 1, 4))
    return fastgd.Sequential([fastgd.Reshape((-1, 1)), first, *layers, fastgd.Dense(1), fastgd.Flatten()])


# Layers to put between two dense ones.
LAYERS = {
    "Dense": lambda: fastgd.Dense(7, "tanh"),
    "Standardize": lambda: fastgd.Standardize(0.2, 1.5),
    "Dropout": lambda: fastgd.Dropout(0.3),
    "LayerNorm": lambda: fastgd.LayerNorm("silu", eps=0.01),
    "BatchNorm": lambda: fastgd.BatchNorm("tanh", eps=0.01, momentum=0.3),
    "Sequential": lambda: fastgd.Sequential([fastgd.Dense(7, "tanh"), fastgd.LayerNorm()]),
    "Residual": lambda: fastgd.Residual([fastgd.LayerNorm(), fastgd.Dropout(0.3), fastgd.LayerNorm("tanh")]),
    "Concatenate": lambda: fastgd.Concatenate([], [fastgd.Dense(5, "tanh"), fastgd.Dropout(0.2)], fastgd.LayerNorm()),
    "Reshape": lambda: fastgd.Reshape((-1,)),
    "Flatten": lambda: fastgd.Flatten(),
    "Activation": lambda: fastgd.Activation("gelu"),
    # Rows become images of one column.
    "Conv2D": lambda: _of_images(fastgd.Conv2D(3, (3, 1), "tanh", padding="same"), fastgd.Conv2D(2, (2, 1), "silu")),
    "MaxPool2D": lambda: _of_images(fastgd.MaxPool2D((2, 1), strides=1, padding="same")),
    "AvgPool2D": lambda: _of_images(fastgd.AvgPool2D((2, 1), padding=(1, 0))),
    "RandomFlip": lambda: _of_images(fastgd.RandomFlip(0.5, 0.5)),
    "RandomCrop": lambda: _of_images(fastgd.RandomCrop((2, 0))),
    "GlobalAvgPool2D": lambda: _of_images(fastgd.Conv2D(3, 1, "tanh"), fastgd.GlobalAvgPool2D()),
    "PositionalEmbedding": lambda: _of_sequences(fastgd.PositionalEmbedding(weight_init="glorot_normal")),
    "SelfAttention": lambda: _of_sequences(fastgd.SelfAttention(4, 0.1)),
    "CausalSelfAttention": lambda: _of_sequences(fastgd.CausalSelfAttention(4, 0.3)),
    "TransformerBlock": lambda: _of_sequences(fastgd.TransformerBlock(2, 5, "tanh", dropout=0.2)),
    "LSTM": lambda: _of_sequences(fastgd.LSTM(3, return_sequences=True)),
    "GRU": lambda: _of_sequences(fastgd.GRU(4, return_sequences=True)),
}
# Layers whose x are tokens: see test_tokens.py.
TOKEN_LAYERS = {"Embedding"}
# Sizes of dimensions at which kernels are timed, as in a small and a medium network; "parameters" is the length of a
# flat buffer.
BENCHMARKED = {
    "small": {"rows": 32, "n": 64, "k": 10, "n_in": 64, "n_out": 64, "m": 1_000, "one": 1, "parameters": 4_810},
    "medium": {"rows": 128, "n": 512, "k": 10, "n_in": 784, "n_out": 512, "m": 1_000, "one": 1, "parameters": 400_000},
}
OTHER_DIMENSION = 16


def benchmark_sizes(kernel, size):
    """Sizes of the kernel's dimensions; for a kernel of 1-D arrays n is the length of a flat buffer."""
    sizes = {dim: BENCHMARKED[size].get(dim, OTHER_DIMENSION) for dim in kernel.dims}
    if all(len(array.dims) == 1 for array in kernel.arrays.values()) and "n" in sizes:
        sizes["n"] = BENCHMARKED[size]["parameters"]
    sizes |= FIXED_SIZES
    for array in kernel.arrays.values():
        if array.per:
            sizes[array.dims[0]] = -(-sizes[kernel.range_dim] // array.per)
    return sizes


def awkward_sizes(kernel):
    """Yields sizes of the kernel's dimensions: each in turn awkward and the others 5, then all awkward."""
    counted = {array.dims[0] for array in kernel.arrays.values() if array.per}
    dims = [dim for dim in kernel.dims if dim not in ("one", *FIXED_SIZES, *counted)]
    squared = {dim for array in kernel.arrays.values() for dim in array.dims if array.dims.count(dim) > 1}
    has_images, usual = "images" in kernel.dims, 5
    if has_images and len(dims) > 4:  # convolutions and pooling, for which sizes multiply
        usual = 3
    for size in AWKWARD:
        for dim in dims:
            if size < 1000 or (usual == 5 and dim not in squared):
                yield {"one": 1} | dict.fromkeys(dims, usual) | {dim: size}
        if size < 1000 and (usual == 5 or size < 10):
            yield {"one": 1} | dict.fromkeys(dims, size)


def make(backend="auto", **options):
    return fastgd.Network(
        6, [fastgd.Dense(8, "tanh"), fastgd.Dense(3)], loss="softmax_cross_entropy", backend=backend, **options
    )


def same(one, other):
    """Whether two histories are equal except for `seconds`."""
    one, other = (h.to_dict() for h in (one, other))
    return list(one) == list(other) and all(np.array_equal(one[k], other[k]) for k in one if k != "seconds")


def check_gradient(network, x, y, **options):
    """Asserts that the gradient of a float64 network is right, by finite differences. These are slow on the numpy
    backend: its gradient must equal the cython backend's, which is compared with differences in a case of its own."""
    if network.backend != "numpy":
        assert max(fastgd.check_gradients(network, x, y, **options).values()) <= GRADIENT_TOLERANCE
        return
    twin = network.like(backend="cython")
    twin.state[...] = network.state
    training = options.get("training", False)
    got, expected = (one.loss_and_gradient(x, y, training=training, minibatch=0)[1] for one in (network, twin))
    floor = 1e-3 * np.abs(expected).max()
    for a, b in zip(network.views(got).values(), network.views(expected).values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * max(np.abs(b).max(), floor))
