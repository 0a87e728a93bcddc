"""Whole training steps and epochs of seven networks on the three backends.

    python benchmarks/bench_step.py                 the table of ratios to the numpy reference
    pytest benchmarks/bench_step.py                 the same cells under pytest-benchmark

A cell is a network and a batch size, with Adam, in float32, on one thread. The table interleaves the backends and takes
medians. A step is one `train_step` from Python; an epoch is one `fit` over rows for 20 steps, divided by the steps.
"""

import argparse
import json
import os
import time

import numpy as np
import pytest
from cells import CELLS

from fastgd import Adam, Dense, Network

BACKENDS = ("numpy", "numba", "cython")
NAMES = ("tiny_b1", "digits_b1", "digits_b32", "mnist_b128", "table_b256", "mid_b128", "large_b512")
STEPS_PER_EPOCH = 20


class Cell:
    """A network with data for an epoch, ready to be timed."""

    def __init__(self, name, backend):
        sizes, self.batch = CELLS[name].sizes, CELLS[name].batch
        rng = np.random.default_rng(0)
        rows = self.batch * (2 if name.startswith("large") else STEPS_PER_EPOCH)
        self.X = rng.normal(size=(rows, sizes[0])).astype(np.float32)
        classes = sizes[-1] > 1
        self.y = rng.integers(0, sizes[-1], rows) if classes else rng.normal(size=rows).astype(np.float32)
        layers = [*(Dense(n, "relu") for n in sizes[1:-1]), Dense(sizes[-1])]
        loss = "softmax_cross_entropy" if classes else "mse"
        self.network = Network(sizes[0], layers, loss=loss, backend=backend)
        self.optimizer = Adam(1e-4)
        self.steps = rows // self.batch
        self.step()

    def step(self):
        self.network.train_step(self.X[: self.batch], self.y[: self.batch], self.optimizer)

    def epoch(self):
        self.network.fit(self.X, self.y, optimizer=self.optimizer, batch_size=self.batch, epochs=1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def bench_step(benchmark, name, backend):
    benchmark.group = f"step {name}"
    benchmark(Cell(name, backend).step)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def bench_epoch(benchmark, name, backend):
    benchmark.group = f"epoch {name}"
    benchmark(Cell(name, backend).epoch)


def median_microseconds(cells, what, rounds, seconds):
    """Median microseconds per step of each backend, over `rounds` rounds that time every backend once."""
    samples = {backend: [] for backend in cells}
    for _ in range(rounds):
        for backend, cell in cells.items():
            run, steps = (cell.step, 1) if what == "step" else (cell.epoch, cell.steps)
            count, start = 0, time.perf_counter()
            while count == 0 or time.perf_counter() - start < seconds / rounds:
                run()
                count += 1
            samples[backend].append(1e6 * (time.perf_counter() - start) / (count * steps))
    return {backend: float(np.median(s)) for backend, s in samples.items()}


def main():
    parser = argparse.ArgumentParser(description="Microseconds per training step, and ratios to the numpy reference.")
    parser.add_argument("--cells", default=",".join(NAMES), help="comma-separated names")
    parser.add_argument("--backends", default=",".join(BACKENDS), help="comma-separated names")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="in all, for each backend of a cell")
    parser.add_argument("--json", help="file for the results")
    arguments = parser.parse_args()
    backends = arguments.backends.split(",")
    results = {}
    titles = [f"{b} us" for b in backends] + [f"numpy/{b}" for b in backends if b != "numpy"]
    print(f"{'cell':<14}{'':<7}" + "".join(f"{title:>14}" for title in titles))
    for name in arguments.cells.split(","):
        cells = {backend: Cell(name, backend) for backend in backends}
        for what in ("step", "epoch"):
            medians = median_microseconds(cells, what, arguments.rounds, arguments.seconds)
            results[f"{name} {what}"] = medians
            ratios = [medians["numpy"] / medians[b] for b in backends if b != "numpy"] if "numpy" in medians else []
            figures = [f"{medians[b]:>14.1f}" for b in backends] + [f"{r:>14.2f}" for r in ratios]
            print(f"{name:<14}{what:<7}" + "".join(figures), flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(variable) != "1":
            print(f"warning: set {variable}=1, or the numpy reference uses more threads than fastgd")
    main()
