"""`Optimizer.step` on bare arrays, against torch's optimizers and against the bandwidth of memory.

    taskset -c 0 python benchmarks/bench_optimizers.py        the tables
    pytest benchmarks/bench_optimizers.py                     every optimizer under pytest-benchmark

float32, one thread, whole calls from Python: `step(p, g)` against `optimizer.step()`, in turn within one run, medians.
torch's Adam is the fused one; its RMSprop and NAdam have no fused form on the CPU. `stream` reads p, m, v and g and
writes p, m and v as Adam does, with hardly any arithmetic. "mine" is Lion as a custom rule in Python. If torch is not
installed, its columns are left out.
"""

import argparse
import functools
import importlib
import importlib.util
import json
import os
import time

import numpy as np
import pytest

import fastgd
from fastgd.optimizers.base import optimizers_of_minibatches

SIZES = (1_000, 30_000, 1_000_000, 30_000_000)
LIST = 200, 64  # arrays, elements of each
FRESH = 100_000  # elements: arrays up to this size are made anew for each round
OPTIMIZERS = {name: (lambda kind=kind: kind(1e-3)) for name, kind in optimizers_of_minibatches().items()} | {
    "momentum": lambda: fastgd.SGD(1e-3, momentum=0.9),
    "Adam bfloat16": lambda: fastgd.Adam(1e-3, state_dtype="bfloat16"),
    "Adam 8bit": lambda: fastgd.Adam(1e-3, state_dtype="8bit"),
    "Adam clip_norm": lambda: fastgd.Adam(1e-3, clip_norm=1.0),
    "mine": lambda: mine()(1e-3),
}
TORCH = {
    "torch Adam": ("Adam", {"fused": True}),
    "torch RMSprop": ("RMSprop", {}),
    "torch NAdam": ("NAdam", {}),
}
# Optimizers and their counterparts in torch.
RATIOS = {"Adam": "torch Adam", "RMSProp": "torch RMSprop", "NAdam": "torch NAdam"}


def mine():
    """Lion as a custom rule."""
    if "mine" not in fastgd.optimizers.OPTIMIZERS:

        @fastgd.custom.optimizer(state=["m"])
        def mine(p, g, m, lr, beta1=0.9, beta2=0.99):
            update = np.sign(beta1 * m + (1 - beta1) * g)
            return p - lr * update, beta2 * m + (1 - beta2) * g

    return fastgd.optimizers.OPTIMIZERS["mine"]


def arrays(count, n):
    rng = np.random.default_rng(0)
    return [rng.normal(size=n).astype(np.float32) for _ in range(count)]


def fastgd_step(name, params, grads):
    return functools.partial(OPTIMIZERS[name]().step, params, grads)


def torch_step(name, params, grads):
    import torch

    torch.set_num_threads(1)
    tensors = [torch.from_numpy(p).requires_grad_() for p in params]
    for tensor, g in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(g)
    kind, options = TORCH[name]
    return getattr(torch.optim, kind)(tensors, lr=1e-3, **options).step


def stream_step(n):
    compiled = importlib.import_module(f"fastgd._kernels_{fastgd.core.kernel.variant()}_float32")
    _, held = fastgd.core.buffers.aligned_zeros([n] * 4, np.float32, eighth=0)
    addresses = [array.ctypes.data for array in held]
    return lambda: compiled.stream(*addresses, n) or held


def steps_of(n, names):
    """Functions that make one step, by name."""
    steps = {}
    for name in names:
        if name == "stream":
            steps[name] = stream_step(n)
        elif name in TORCH:
            steps[name] = torch_step(name, *([a] for a in arrays(2, n)))
        else:
            steps[name] = fastgd_step(name, *arrays(2, n))
    return steps


def sample(steps, seconds):
    """Seconds per call of each step, timed one after the other."""
    times = {}
    for name, step in steps.items():
        step()
        step()
        start = time.perf_counter()
        step()
        repeats = max(1, int(seconds / (time.perf_counter() - start)))
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        times[name] = (time.perf_counter() - start) / repeats
    return times


def medians(make, n, rounds, seconds):
    """Median seconds per call of the steps that `make` returns for arrays of n elements. Small arrays are new in each
    round: pairs with the same offset in their pages are a few times slower, and the offset is chance."""
    made, samples = [], []
    for _ in range(rounds):
        if n <= FRESH or not made:
            made.append(make())  # beside the old ones, whose addresses they would reuse otherwise
        samples.append(sample(made[-1], seconds))
    return {name: float(np.median([times[name] for times in samples])) for name in samples[0]}


def compare(sizes, rounds, seconds):
    """Nanoseconds per parameter by size and name, and microseconds per step of the list."""
    peers = list(TORCH) if importlib.util.find_spec("torch") else []
    results = {}
    for n in sizes:
        make = functools.partial(steps_of, n, [*OPTIMIZERS, *peers, "stream"])
        results[n] = {name: 1e9 / n * value for name, value in medians(make, n, rounds, seconds).items()}
    count, n = LIST

    def listed_steps():
        steps = {"Adam": fastgd_step("Adam", arrays(count, n), arrays(count, n))}
        if peers:
            steps["torch Adam"] = torch_step("torch Adam", arrays(count, n), arrays(count, n))
        return steps

    listed = {name: 1e6 * value for name, value in medians(listed_steps, n, rounds, seconds).items()}
    return results, listed


def print_tables(results, listed):
    names = list(dict.fromkeys(name for row in results.values() for name in row))
    print("nanoseconds a parameter")
    print(f"| parameters | {' | '.join(names)} |")
    print("|---|" + "---|" * len(names))
    for n, row in results.items():
        print(f"| {n:,} | {' | '.join(f'{row[name]:.3f}' for name in names)} |")
    print("\nratios")
    for n, row in results.items():
        shares = [f"{peer} / {name} {row[peer] / row[name]:.2f}" for name, peer in RATIOS.items() if peer in row]
        shares += [f"stream / Adam {row['stream'] / row['Adam']:.2f}", f"mine / Lion {row['mine'] / row['Lion']:.2f}"]
        shares += [f"Adam / Adam {kind} {row['Adam'] / row[f'Adam {kind}']:.2f}" for kind in ("bfloat16", "8bit")]
        print(f"{n:>12,}: {', '.join(shares)}")
    figures = ", ".join(f"{name} {value:.1f} us" for name, value in listed.items())
    ratio = f": {listed['torch Adam'] / listed['Adam']:.1f} times" if "torch Adam" in listed else ""
    print(f"\na list of {LIST[0]} arrays of {LIST[1]}: {figures}{ratio}")


@pytest.mark.parametrize("n", SIZES[:3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def bench_optimizer(benchmark, name, n):
    benchmark.group = f"{n:,} parameters"
    benchmark(fastgd_step(name, *arrays(2, n)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="comma-separated numbers of parameters")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.1, help="length of each sample")
    parser.add_argument("--json", help="file for the results")
    arguments = parser.parse_args()
    os.environ["FASTGD_NUM_THREADS"] = "1"
    results, listed = compare([int(n) for n in arguments.sizes.split(",")], arguments.rounds, arguments.seconds)
    print_tables(results, listed)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"nanoseconds a parameter": results, "microseconds a list": listed}, file, indent=1)


if __name__ == "__main__":
    main()
