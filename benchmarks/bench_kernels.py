"""Every body of every kernel, at a small and a medium size, in float32:

    pytest benchmarks/bench_kernels.py --benchmark-group-by=group

Rows are named after the body; the numpy body is the reference of its group.
"""

import numpy as np
import pytest
from cases import BENCHMARKED, KERNELS, benchmark_sizes

from fastgd._plan import call_kernel
from fastgd.cli.self_check import example
from fastgd.core.kernel import BODIES


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("size", BENCHMARKED)
@pytest.mark.parametrize("name", KERNELS)
def bench_kernel(benchmark, name, size, body):
    kernel = KERNELS[name]
    sizes = benchmark_sizes(kernel, size)
    arguments = example(kernel, sizes, "float32", np.random.default_rng(0))
    benchmark.group = f"{name} {size}"
    if body == "numpy":
        benchmark(kernel.reference, *arguments)
        return
    # As the plan runs it: bound once, one native call.
    record = kernel.record(arguments, sizes)
    address = kernel.address(body, np.dtype(np.float32))
    benchmark(call_kernel, address, record.ctypes.data, 0, sizes[kernel.range_dim])
