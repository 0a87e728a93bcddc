"""fastgd against other libraries: microseconds per whole training step (forward, loss, backward, update), float32.

    pip install '.[bench]' torch==2.13.0 jax optax scikit-learn
    python benchmarks/peers.py --threads 1 --json peers.json --plot peers.png

Every peer runs in its own process, pinned to the same processors with the same number of threads. The peers take turns,
one sample each per round; figures are medians. All start from the same weights and take the same minibatches in the
same order, and a cell counts only if their losses agree (scikit-learn draws its own weights). fastgd's `fit` and the
JAX loop run many steps per call, the others are called once per step from Python. The peers get their minibatches cut
beforehand; fastgd shuffles and gathers them within the measured time. With `--threads 2`, "fastgd 1 thread" is `fit`
with one thread.

limit: floating-point operations / rate of fused multiply-adds + bytes of parameters and optimizer state / bandwidth
of an update of that size, both measured by fastgd's kernels in the same rounds, and divided by the number of threads,
as if their bandwidths added up. "best peer / limit" is how many times faster than the best peer a trainer at the limit
would be. Below the table: the rates of bare matrix products.

`--other FOLDER` compares `fit` and `step` with those of another version in the same run: FOLDER holds its package, such
as an unpacked wheel.

Over 400 lines: nine peers, their processes, the table and the picture, which nothing else needs.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
import warnings

import numpy as np

# name: sizes, batch, activation, optimizer
CELLS = {
    "tiny_b1": ((4, 16, 1), 1, "relu", "Adam"),
    "small_b1_sgd": ((4, 32, 16, 4), 1, "tanh", "SGD"),
    "digits_b1": ((64, 64, 10), 1, "relu", "Adam"),
    "digits_b1_sgd": ((64, 64, 10), 1, "relu", "SGD"),
    "digits_b32": ((64, 64, 10), 32, "relu", "Adam"),
    "control_b32": ((17, 64, 64, 6), 32, "relu", "Adam"),
    "table_b32": ((110, 128, 64, 2), 32, "relu", "Adam"),
    "mnist_b128": ((784, 128, 10), 128, "relu", "Adam"),
    "table_b256": ((54, 256, 256, 7), 256, "relu", "Adam"),
    "mid_b128": ((784, 512, 256, 10), 128, "relu", "Adam"),
    "gelu_b128": ((784, 512, 512, 10), 128, "gelu", "AdamW"),
    "large_b512": ((1024, 2048, 2048, 1024), 512, "relu", "Adam"),
}
PRODUCTS = ((256, 256, 256), (128, 512, 784))  # rows, n_out, n_in
REGRESSION = ("tiny_b1", "small_b1_sgd")
RATE = 1e-4
CHECKED_STEPS = 10


class Task:
    """A cell's data, cut into minibatches, and the initial weights."""

    def __init__(self, name):
        self.name = name
        self.sizes, self.batch, self.activation, self.optimizer = CELLS[name]
        flops = 6 * self.batch * sum(a * b for a, b in zip(self.sizes, self.sizes[1:], strict=False))
        self.steps = int(np.clip(2e8 / flops, 4, 1000))
        rng = np.random.default_rng(0)
        rows = self.steps * self.batch
        self.X = rng.normal(size=(rows, self.sizes[0])).astype(np.float32)
        self.regression = name in REGRESSION
        if self.regression:
            self.y = rng.normal(size=(rows, self.sizes[-1])).astype(np.float32)
        else:
            self.y = rng.integers(0, self.sizes[-1], rows)
        self.weights = []
        for n_in, n_out in zip(self.sizes, self.sizes[1:], strict=False):
            limit = (6 / (n_in + n_out)) ** 0.5
            self.weights.append(rng.uniform(-limit, limit, (n_in, n_out)).astype(np.float32))

    def batches(self):
        for start in range(0, len(self.X), self.batch):
            yield self.X[start : start + self.batch], self.y[start : start + self.batch]


# ---- the peers: each a function of a task that returns (losses of the first steps, run), or None if it cannot run the
# task; run(epochs) trains for `epochs` epochs and returns when they are done


def fastgd_network(task, backend):
    import fastgd

    hidden = [fastgd.Dense(n, task.activation, weight_init=w) for n, w in zip(task.sizes[1:-1], task.weights)]  # noqa: B905
    layers = [*hidden, fastgd.Dense(task.sizes[-1], weight_init=task.weights[-1])]
    loss = "mse" if task.regression else "softmax_cross_entropy"
    optimizer = getattr(fastgd, task.optimizer)(RATE)
    return fastgd.Network(task.sizes[0], layers, loss=loss, backend=backend), optimizer


def fastgd_fit(task, backend="cython"):
    network, optimizer = fastgd_network(task, backend)
    losses = [network.train_step(*batch, optimizer) for batch, _ in zip(task.batches(), range(CHECKED_STEPS))]  # noqa: B905

    def run(epochs):
        network.fit(task.X, task.y, optimizer=optimizer, batch_size=task.batch, epochs=epochs)

    return losses, run


def fastgd_step(task):
    network, optimizer = fastgd_network(task, "cython")
    losses = [network.train_step(*batch, optimizer) for batch, _ in zip(task.batches(), range(CHECKED_STEPS))]  # noqa: B905
    batches = list(task.batches())

    def run(epochs):
        for _ in range(epochs):
            for x, y in batches:
                network.train_step(x, y, optimizer)

    return losses, run


def torch_step(task, compiled=False):
    import torch

    activation = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "gelu": torch.nn.GELU}[task.activation]
    layers = []
    for w in task.weights:
        layer = torch.nn.Linear(*w.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(w.T))
            layer.bias.zero_()
        layers += [layer, activation()]
    model = torch.nn.Sequential(*layers[:-1])
    make = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW, "SGD": torch.optim.SGD}[task.optimizer]
    optimizer = make(model.parameters(), lr=RATE, fused=True)
    criterion = torch.nn.functional.mse_loss if task.regression else torch.nn.functional.cross_entropy

    def loss_of(x, y):
        return criterion(model(x), y)

    loss_of = torch.compile(loss_of) if compiled else loss_of
    batches = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in task.batches()]

    def step(x, y):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(x, y)
        loss.backward()
        optimizer.step()
        return loss

    losses = [step(*batch).item() for batch, _ in zip(batches, range(CHECKED_STEPS))]  # noqa: B905

    def run(epochs):
        for _ in range(epochs):
            for x, y in batches:
                step(x, y)

    return losses, run


def jax_step(task, loop=False):
    import jax
    import jax.numpy as jnp
    import optax

    activation = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": lambda x: jax.nn.gelu(x, approximate=False)}
    act = activation[task.activation]
    make = {"Adam": optax.adam, "AdamW": lambda rate: optax.adamw(rate, weight_decay=1e-2), "SGD": optax.sgd}
    optimizer = make[task.optimizer](RATE)

    def loss_of(parameters, x, y):
        for w, b in parameters[:-1]:
            x = act(x @ w + b)
        z = x @ parameters[-1][0] + parameters[-1][1]
        if task.regression:
            return ((z - y) ** 2).mean()
        return optax.softmax_cross_entropy_with_integer_labels(z, y).mean()

    def step(carry, batch):
        parameters, state = carry
        loss, gradient = jax.value_and_grad(loss_of)(parameters, *batch)
        updates, state = optimizer.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), state), loss

    parameters = [(jnp.asarray(w), jnp.zeros(w.shape[1])) for w in task.weights]
    carry = (parameters, optimizer.init(parameters))
    one = jax.jit(step, donate_argnums=0)
    batches = [(jnp.asarray(x), jnp.asarray(y)) for x, y in task.batches()]
    losses = []
    for batch in batches[:CHECKED_STEPS]:
        carry, loss = one(carry, batch)
        losses.append(float(loss))
    whole = jax.jit(lambda carry, xs: jax.lax.scan(step, carry, xs), donate_argnums=0)
    stacked = tuple(jnp.stack(arrays) for arrays in zip(*batches, strict=True))

    def run_loop(epochs):
        nonlocal carry
        for _ in range(epochs):
            carry, losses = whole(carry, stacked)
        losses.block_until_ready()

    def run_steps(epochs):
        nonlocal carry
        for _ in range(epochs):
            for batch in batches:
                carry, loss = one(carry, batch)
        loss.block_until_ready()

    return losses, run_loop if loop else run_steps


def sklearn_fit(task):
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    if task.activation == "gelu":
        return None
    make = MLPRegressor if task.regression else MLPClassifier
    model = make(
        hidden_layer_sizes=task.sizes[1:-1], activation=task.activation, solver=task.optimizer.lower(), alpha=0.0,
        batch_size=task.batch,
        learning_rate_init=RATE, max_iter=1, momentum=0.0, nesterovs_momentum=False, n_iter_no_change=10**6, tol=0.0,
        warm_start=True,
    )  # fmt: skip
    y = task.y[:, 0] if task.y.ndim == 2 and task.y.shape[1] == 1 else task.y
    if not task.regression:
        y[: task.sizes[-1]] = np.arange(task.sizes[-1])[: len(y)]  # every class occurs

    def run(epochs):
        model.set_params(max_iter=epochs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(task.X, y)

    return None, run


ALONE = "fastgd 1 thread"
OTHERS = {"other fit": "fastgd fit", "other step": "fastgd step"}  # of another version: what each is compared with
PEERS = {
    "fastgd fit": fastgd_fit,
    ALONE: fastgd_fit,
    "fastgd step": fastgd_step,
    "other fit": fastgd_fit,
    "other step": fastgd_step,
    "fastgd numba": lambda task: fastgd_fit(task, "numba"),
    "numpy": lambda task: fastgd_fit(task, "numpy"),
    "torch eager": torch_step,
    "torch compile": lambda task: torch_step(task, compiled=True),
    "JAX jit": jax_step,
    "JAX scan": lambda task: jax_step(task, loop=True),
    "scikit-learn": sklearn_fit,
}
OWN = ("fastgd fit", ALONE, "fastgd step", *OTHERS, "fastgd numba", "numpy")


# ---- a peer's process: reads a line, answers with a line


def serve(peer, threads):
    """Commands: "cell NAME" answers with the losses, or null; "run SECONDS" with microseconds per step; "machine N"
    with the result of `machine`."""
    if peer.startswith("torch"):
        import torch

        torch.set_num_threads(threads)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    task = run = None
    if peer in OTHERS:
        import fastgd

        if not os.path.samefile(os.path.dirname(os.path.dirname(fastgd.__file__)), os.environ["PYTHONPATH"]):
            raise ImportError(f"--other: expected fastgd in {os.environ['PYTHONPATH']}, got {fastgd.__file__}")
    for line in sys.stdin:
        command, argument = line.split()
        if command == "cell":
            task = Task(argument)
            made = PEERS[peer](task)
            run = None if made is None else made[1]
            if run is not None:
                run(2)
            answer = None if made is None else {"losses": made[0]}
        elif command == "run":
            start = time.perf_counter()
            run(1)
            epochs = max(1, round(float(argument) / (time.perf_counter() - start)))
            start = time.perf_counter()
            run(epochs)
            answer = 1e6 * (time.perf_counter() - start) / (epochs * task.steps)
        else:
            answer = machine(int(argument))
        print(json.dumps(answer), file=answers, flush=True)


def machine(n):
    """Rate of fused multiply-adds (GFLOP/s), bandwidth (GB/s) of an update that touches n floats, but at least 8192, so
    that the cost of the call does not count, and rates of the bare PRODUCTS (GFLOP/s)."""
    import importlib

    import fastgd

    compiled = importlib.import_module(f"fastgd._kernels_{fastgd.core.kernel.variant()}_float32")
    start = time.perf_counter()
    operations = compiled.fused_multiply_adds(400_000)
    rates = [operations / (time.perf_counter() - start) / 1e9]
    half = max(n, 8192) // 2
    update = (np.zeros(half, np.float32), np.zeros(half, np.float32), 0.1, 0.0, 0.0)
    rates.append(12 * half / seconds_of(fastgd.kernels.sgd_step, update, max(1, int(1e7 / half))) / 1e9)
    for rows, n_out, n_in in PRODUCTS:
        arrays = [np.ones(shape, np.float32) for shape in ((rows, n_out), (rows, n_in), (n_in, n_out), n_out)]
        rates.append(2 * rows * n_out * n_in / seconds_of(fastgd.kernels.dense_forward, arrays, 20) / 1e9)
    return rates


def seconds_of(kernel, arguments, repeats):
    """Seconds per call of a Cython body."""
    from fastgd._plan import call_kernel

    dtype, sizes = kernel.check(arguments)
    record, address, end = kernel.record(arguments, sizes), kernel.address("cython", dtype), sizes[kernel.range_dim]
    call_kernel(address, record.ctypes.data, 0, end)
    start = time.perf_counter()
    for _ in range(repeats):
        call_kernel(address, record.ctypes.data, 0, end)
    return (time.perf_counter() - start) / repeats


class Process:
    """A peer in its own process."""

    def __init__(self, peer, threads, other=None):
        variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "FASTGD_NUM_THREADS")
        environment = os.environ | dict.fromkeys(variables, str(threads))
        environment["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
        environment["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        if peer in OTHERS:
            environment["PYTHONPATH"] = os.path.abspath(other)
        command = [sys.executable, __file__, "--serve", peer, "--threads", str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, command, argument):
        print(command, argument, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with code {self.process.wait()}")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# ---- the comparison


def compare(name, processes, rounds, seconds, threads):
    """Medians for a cell: microseconds per step of each peer, rates and bandwidth."""
    task = Task(name)
    weights = sum(w.size for w in task.weights)
    parameters = weights + sum(task.sizes[1:])
    slots = {"SGD": 0, "Adam": 2, "AdamW": 2}[task.optimizer]
    answers = {peer: process.ask("cell", name) for peer, process in processes.items()}
    ready = {peer: processes[peer] for peer, answer in answers.items() if answer is not None}
    reference = answers["numpy" if "numpy" in ready else "fastgd fit"]["losses"]
    for peer in ready:
        losses = answers[peer]["losses"]
        if losses is not None and not np.allclose(losses, reference, rtol=2e-3):
            raise RuntimeError(f"{name}: the losses of {peer} are {losses}, expected {reference}")
    samples, machines = {peer: [] for peer in ready}, []
    for _ in range(rounds):
        machines.append(processes["fastgd fit"].ask("machine", (2 + slots) * parameters))
        for peer, process in ready.items():
            samples[peer].append(process.ask("run", seconds))
    rate, bandwidth, *products = np.median(machines, axis=0)
    flops = 6 * task.batch * weights - 2 * task.batch * task.sizes[0] * task.sizes[1]
    traffic = 4 * parameters * (2 + 2 * slots)
    return {
        "microseconds": {peer: float(np.median(s)) for peer, s in samples.items()},
        "gflops": float(rate),
        "gigabytes_per_second": float(bandwidth),
        "products_gflops": [float(product) for product in products],
        "limit": float(flops / rate + traffic / bandwidth) / 1e3 / threads,
    }


def summary(result):
    """Best peer, ratio best peer / fastgd, limit / measured."""
    us = result["microseconds"]
    peers = {peer: t for peer, t in us.items() if peer not in OWN}
    best = min(peers, key=peers.get) if peers else None
    ratio = peers[best] / us["fastgd fit"] if best else float("nan")
    return best, ratio, result["limit"] / us["fastgd fit"]


def print_table(results):
    peers = [peer for peer in PEERS if any(peer in r["microseconds"] for r in results.values())]
    own = ("best peer / fastgd fit", "best peer / limit", "GFLOP/s", "GB/s", "limit / fastgd fit")
    print(f"| {' | '.join(('cell', *peers, *own))} |")
    print("|---|" + "---|" * (len(peers) + len(own)))
    for name, result in results.items():
        us, (best, ratio, share) = result["microseconds"], summary(result)
        figures = " | ".join(f"{us[p]:.3g}" if p in us else "-" for p in peers)
        machine_figures = f"{result['gflops']:.0f} | {result['gigabytes_per_second']:.0f} | {share:.2f}"
        print(f"| {name} | {figures} | {ratio:.2f} ({best}) | {ratio / share:.2f} | {machine_figures} |")
    for other, this in {ALONE: "fastgd fit", **OTHERS}.items():
        times = {name: r["microseconds"] for name, r in results.items() if {this, other} <= r["microseconds"].keys()}
        ratios = [f"{name} {us[other] / us[this]:.3f}" for name, us in times.items()]
        if ratios:
            print(f"\n{other} / {this}: {', '.join(ratios)}")
    eager = [r["microseconds"]["torch eager"] / r["microseconds"]["fastgd fit"] for r in results.values()
             if "torch eager" in r["microseconds"]]  # fmt: skip
    if eager:
        print(f"\ntorch eager / fastgd fit, geometric mean: {np.exp(np.mean(np.log(eager))):.1f}")
    shares = np.median([np.array(r["products_gflops"]) / r["gflops"] for r in results.values()], axis=0)
    named = [f"{'x'.join(map(str, sizes))} {share:.2f}" for sizes, share in zip(PRODUCTS, shares, strict=True)]
    print(f"\nbare products / fused multiply-adds: {', '.join(named)}")


def plot(results, path, threads):
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.2 + 0.62 * len(results)), layout="constrained")
    axes = figure.subplots()
    drawn = [peer for peer in PEERS if any(peer in r["microseconds"] for r in results.values())]
    height, colours = 0.85 / len(drawn), colormaps["tab20"].colors
    for i, (peer, colour) in enumerate(zip(drawn, colours, strict=False)):
        rows = [(k, r["microseconds"][peer]) for k, r in enumerate(results.values()) if peer in r["microseconds"]]
        if rows:
            axes.barh([k + i * height for k, _ in rows], [t for _, t in rows], height, color=colour, label=peer)
    axes.set_yticks([k + 0.425 for k in range(len(results))], list(results))
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel=f"microseconds a training step (float32, {threads} thread{'s' * (threads > 1)})")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper right", fontsize=8)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=",".join(CELLS), help="comma-separated names")
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated names")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="length of each sample")
    parser.add_argument("--other", help="folder with the package of another version of fastgd")
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--plot", help="file for the picture")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.threads)
        return
    if hasattr(os, "sched_setaffinity"):  # the children inherit it
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    results = {}
    with contextlib.ExitStack() as stack:
        processes = {}
        for peer in arguments.peers.split(","):
            if arguments.threads > 1 if peer == ALONE else arguments.other or peer not in OTHERS:
                processes[peer] = Process(peer, 1 if peer == ALONE else arguments.threads, arguments.other)
                stack.callback(processes[peer].close)
        for name in arguments.cells.split(","):
            results[name] = compare(name, processes, arguments.rounds, arguments.seconds, arguments.threads)
            print(name, json.dumps(results[name]["microseconds"]), file=sys.stderr, flush=True)
    print_table(results)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"threads": arguments.threads, "cells": results}, file, indent=1)
    if arguments.plot:
        plot(results, arguments.plot, arguments.threads)


if __name__ == "__main__":
    main()
