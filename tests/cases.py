"""The tables that tests and benchmarks share. A new kernel, activation or loss is found by its name in the package;
an optimizer has a line here, and so has an activation whose derivative jumps."""

import fastgd
from fastgd.kernel import kernels

KERNELS = vars(kernels)
AWKWARD = (1, 7, 8, 9, 15, 16, 17, 31, 33, 1000)

# Where the derivative of an activation or loss jumps: gradient checks stay clear of it.
KINKED_ACTIVATIONS = {"relu": 0.0, "leaky_relu": 0.0, "elu": 0.0}
OPTIMIZERS = {
    "SGD": lambda lr: fastgd.SGD(lr),
    "momentum": lambda lr: fastgd.SGD(lr, momentum=0.9),
    "Nesterov": lambda lr: fastgd.SGD(lr, momentum=0.9, nesterov=True),
    "AdaGrad": lambda lr: fastgd.AdaGrad(lr),
    "RMSProp": lambda lr: fastgd.RMSProp(lr),
    "Adam": lambda lr: fastgd.Adam(lr),
    "AdamW": lambda lr: fastgd.AdamW(lr),
}
# Dimensions of a small and of a medium network to time kernels at; "parameters" is the length of a flat buffer.
BENCHMARKED = {
    "small": {"rows": 32, "n": 64, "k": 10, "n_in": 64, "n_out": 64, "m": 1_000, "one": 1, "parameters": 4_810},
    "medium": {"rows": 128, "n": 512, "k": 10, "n_in": 784, "n_out": 512, "m": 1_000, "one": 1, "parameters": 400_000},
}


def benchmark_sizes(kernel, size):
    """Sizes of the kernel's dimensions; n is the length of a flat buffer where the arrays are one-dimensional."""
    sizes = BENCHMARKED[size]
    flat = all(len(array.dims) == 1 for array in kernel.arrays.values())
    return sizes | ({"n": sizes["parameters"]} if flat else {})


def awkward_sizes(kernel):
    """Sizes of the kernel's dimensions: each in turn awkward beside small ones, then all awkward together."""
    dims = [dim for dim in kernel.dims if dim != "one"]
    for size in AWKWARD:
        for dim in dims:
            yield {"one": 1} | dict.fromkeys(dims, 5) | {dim: size}
        if size < 1000:
            yield {"one": 1} | dict.fromkeys(dims, size)
