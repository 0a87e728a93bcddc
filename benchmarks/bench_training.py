"""The cost of observing a training run: bare fit, and callbacks, validation, early stopping, logs, checkpoints.

    taskset -c 0 python benchmarks/bench_training.py      the table of ratios to the bare run
    pytest benchmarks/bench_training.py                   the same ways under pytest-benchmark

A 64-64-10 relu network, batches of 32, Adam, float32, one thread, 1,438 rows, as in the digits. All ways run in turn; a
ratio is the median over the turns."""

import argparse
import os
import tempfile
import time

import numpy as np
import pytest

from fastgd import Adam, Dense, Network, callbacks

ROWS, EPOCHS = 1438, 100
FOLDER = tempfile.mkdtemp()
rng = np.random.default_rng(0)
X, y = rng.normal(size=(ROWS, 64)).astype(np.float32), rng.integers(0, 10, ROWS)
held_out = X[:359], y[:359]
weight = rng.uniform(size=ROWS)


def nothing(run):
    pass


WAYS = {
    "bare": {},
    "a callback each epoch": {"callbacks": [nothing]},
    "a callback each 10 minibatches": {"callbacks": [callbacks.every(10, nothing)]},
    "a callback each minibatch": {"callbacks": [callbacks.every(1, nothing)]},
    "early stopping, best parameters": {"patience": EPOCHS, "restore_best": True},
    "progress bar": {"progress": True},
    "a line of JSON each epoch": {"callbacks": [callbacks.json_lines(os.path.join(FOLDER, "log.jsonl"))]},
    "validation on a quarter as many rows": {"validation_data": held_out},
    "... and its accuracy": {"validation_data": held_out, "metrics": "accuracy"},
    "weights of rows": {"sample_weight": weight},
    "checkpoint, in time": {"checkpoint": os.path.join(FOLDER, "run")},
    "checkpoint every 10 epochs": {"checkpoint": os.path.join(FOLDER, "run"), "checkpoint_every": 450},
}


class Trainee:
    """A network and the options of its steps, after a short training that makes its plan."""

    def __init__(self, options):
        layers = [Dense(64, "relu"), Dense(10)]
        self.network = Network(64, layers, loss="softmax_cross_entropy", num_threads=1)
        self.optimizer, self.options = Adam(1e-5), options
        self.fit(3)

    def fit(self, epochs=EPOCHS):
        self.network.fit(X, y, optimizer=self.optimizer, epochs=epochs, **self.options)


@pytest.mark.parametrize("way", WAYS)
def bench_fit(benchmark, way):
    benchmark(Trainee(WAYS[way]).fit, 5)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=21)
    arguments = options.parse_args()
    trainees, times = {way: Trainee(options) for way, options in WAYS.items()}, {way: [] for way in WAYS}
    for _ in range(arguments.rounds):
        for way, trainee in trainees.items():
            start = time.perf_counter()
            trainee.fit()
            times[way].append((time.perf_counter() - start) / EPOCHS * 1e6)
    bare = np.array(times["bare"])
    print(f"{'':<40}{'us an epoch':>12}{'ratio':>9}")
    for way, taken in times.items():
        print(f"{way:<40}{np.median(taken):>12.1f}{np.median(np.array(taken) / bare):>9.3f}")


if __name__ == "__main__":
    main()
