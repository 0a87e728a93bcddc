"""Every kernel of tests/cases.py, each body, at a small and a medium size, float32:

    pytest benchmarks/bench_kernels.py --benchmark-group-by=group

The name of a row is the body; the numpy body is the reference of its group.
"""

import numpy as np
import pytest
from cases import BENCHMARKED, KERNELS, benchmark_sizes

from fastgd.kernel import BODIES, plan_module
from fastgd.selfcheck import example


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
    runner = plan_module().Runner(1)
    runner.set(0, kernel.address(body, np.dtype(np.float32)), record.ctypes.data)
    runner.set_share(0, 0, sizes[kernel.range_dim])
    benchmark(runner.run, 0, 1)
