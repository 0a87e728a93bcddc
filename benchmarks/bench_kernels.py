"""Every kernel, body and size, float32: pytest benchmarks/bench_kernels.py --benchmark-group-by=group

The name of a row is the body; the numpy body is the reference of its group.
"""

import numpy as np
import pytest

import fastgd
from fastgd.kernel import BODIES, plan_module
from fastgd.selfcheck import example

KERNELS = vars(fastgd.kernels)
# Dimensions of a small and of a medium network; parameters are counted as one long array.
SIZES = {
    "small": {"rows": 32, "n": 64, "k": 10, "n_in": 64, "n_out": 64, "one": 1},
    "medium": {"rows": 128, "n": 512, "k": 10, "n_in": 784, "n_out": 512, "one": 1},
}
PARAMETERS = {"small": 4_810, "medium": 400_000}


def sizes_of(kernel, size):
    flat = kernel.dims in (("n",), ("one", "n"))
    return SIZES[size] | ({"n": PARAMETERS[size]} if flat else {})


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", KERNELS)
def bench_kernel(benchmark, name, size, body):
    kernel = KERNELS[name]
    sizes = sizes_of(kernel, size)
    arguments = example(kernel, sizes, "float32", np.random.default_rng(0))
    benchmark.group = f"{name} {size}"
    if body == "numpy":
        benchmark(kernel.reference, *arguments)
        return
    # As the plan runs it: bound once, one native call.
    record = kernel.record(arguments, sizes)
    runner = plan_module().Runner(1)
    runner.set(0, kernel.address(body, np.dtype(np.float32)), record.ctypes.data)
    runner.set_share(0, 0, sizes[kernel.range_dim])
    benchmark(runner.run, 0, 1)
