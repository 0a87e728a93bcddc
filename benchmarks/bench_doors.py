"""What a call from Python costs: microseconds of a whole call on a network 64-64-10 in float32, on one pinned core.

    python benchmarks/bench_doors.py                # torch takes part if it is installed

numpy is a forward pass by hand, torch a Sequential module. Where no rows are named, there are 32. A call with other
rows, cast or weighted differs from the last one of its kind. "beside 8 steps" is what a call of `fit` costs beside its
steps, at the rate of a long one. Rounds are interleaved, figures are medians.
"""

import argparse
import functools
import statistics
import time

import numpy as np
from cells import Task, fastgd_network
from processes import pin

ROWS, FIT_ROWS, SAMPLE_SECONDS = 32, 256, 0.003


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def own_loop(network, optimizer, x, dy):
    network.forward(x, training=True)
    network.backward(dy)
    optimizer.step(network)


def fastgd_calls():
    """Calls by name."""
    import fastgd

    task = Task("digits_b32")
    (network, optimizer), (own, own_optimizer), (fitted, of_fit), (again, _) = (fastgd_network(task) for _ in range(4))
    x, y, X, Y = task.X[:ROWS], task.y[:ROWS], task.X[:FIT_ROWS], task.y[:FIT_ROWS]
    row, dy, out = x[:1].copy(), np.ones((ROWS, 10), np.float32), np.empty((1, 10), np.float32)
    cast, weights, target = x.astype(np.float64), np.ones(ROWS), network.like()
    p, g, other = np.zeros(1000, np.float32), np.ones(1000, np.float32), fastgd.Adam(1e-4)
    fit = functools.partial(fitted.fit, X, Y, optimizer=of_fit, batch_size=32, epochs=1)
    return {
        "predict, 1 row": lambda: network.predict(row),
        "predict, 1 row, out=": lambda: network.predict(row, out=out),
        "forward, 1 row": lambda: network.forward(row),
        "predict, 1 row of float64": lambda: network.predict(cast[:1]),
        "predict, 1 row, then 32: both": lambda: (network.predict(row), network.predict(x)),
        "predict, 32 rows": lambda: network.predict(x),
        "loss": lambda: network.loss(x, y),
        "loss, weighted": lambda: network.loss(x, y, sample_weight=weights),
        "loss_and_gradient": lambda: network.loss_and_gradient(x, y),
        "train_step": lambda: network.train_step(x, y, optimizer),
        "train_step, float64": lambda: network.train_step(cast, y, optimizer),
        "train_step, weighted": lambda: network.train_step(x, y, optimizer, sample_weight=weights),
        "forward, backward, step": lambda: own_loop(own, own_optimizer, x, dy),
        "copy_from": lambda: target.copy_from(network, 0.01),
        "kernel relu_forward, 1 x 10": lambda: fastgd.kernels.relu_forward(out, out),
        "Adam.step, 1000 numbers": lambda: other.step(p, g),
        "fit of 8 steps": fit,
        "fit of 8 steps, validation": lambda: fit(validation_data=(x, y)),
        "fit of 8 steps, early stopping": lambda: fit(patience=100),
        "fit of 8 steps, a callback": lambda: fit(callbacks=lambda run: None),
        "fit of 8 steps, a metric": lambda: fit(metrics="accuracy"),
        "fit of 8 steps, new optimizer": lambda: again.fit(X, Y, optimizer=fastgd.Adam(1e-4), batch_size=32, epochs=1),
        "fit of 168 steps": lambda: fit(epochs=21),
    }


def other_calls():
    """Calls of numpy and torch by name: (what is compared, call)."""
    task = Task("digits_b32")
    (w1, w2), row = task.weights, task.X[:1].copy()
    calls = {"numpy predict, 1 row": lambda: softmax(np.maximum(row @ w1, 0) @ w2)}
    try:
        import torch
    except ImportError:
        return calls
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10), torch.nn.Softmax(1))
    tensor = torch.from_numpy(row)

    def predict():
        with torch.no_grad():
            return model(tensor)

    return calls | {"torch predict, 1 row": predict}


def microseconds(call, count):
    start = time.perf_counter()
    for _ in range(count):
        call()
    return 1e6 * (time.perf_counter() - start) / count


def measure(calls, rounds):
    """Medians by name."""
    counts = {}
    for name, call in calls.items():
        microseconds(call, 50)
        counts[name] = max(1, round(1e6 * SAMPLE_SECONDS / microseconds(call, 20)))
    samples = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            samples[name].append(microseconds(call, counts[name]))
    return {name: statistics.median(values) for name, values in samples.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=31)
    rounds = parser.parse_args().rounds
    pin(1)
    found = measure(fastgd_calls() | other_calls(), rounds)
    step = (found["fit of 168 steps"] - found["fit of 8 steps"]) / 160
    print("64-64-10, float32, 32 rows unless named, one core. Beside 8 steps: what fit costs beside its steps.\n")
    print("| call | microseconds | beside 8 steps |\n|---|---|---|")
    for name, value in found.items():
        beside = f"{value - 8 * step:.1f}" if name.startswith("fit of 8") else ""
        print(f"| {name} | {value:.2f} | {beside} |")
    print(f"A step of a long fit takes {step:.2f} microseconds.")


if __name__ == "__main__":
    main()
