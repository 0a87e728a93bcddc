"""The tables that tests and benchmarks share. A new kernel, activation, loss or optimizer is found by its name in the
package; its line here says with which scalars it is timed, or where a kink of it lies."""

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


def awkward_sizes(kernel):
    """Sizes of the kernel's dimensions: each in turn awkward beside small ones, then all awkward together."""
    dims = [dim for dim in kernel.dims if dim != "one"]
    for size in AWKWARD:
        for dim in dims:
            yield {"one": 1} | dict.fromkeys(dims, 5) | {dim: size}
        if size < 1000:
            yield {"one": 1} | dict.fromkeys(dims, size)
