"""fastgd against other libraries on networks for images and on GPTs: milliseconds per whole training step, with Adam on
images, AdamW on tokens.

    pip install '.[bench]' torch==2.13.0 jax
    python benchmarks/peers_models.py --threads 1 --json models.json

Every peer runs in its own process, pinned to the same processors with the same number of threads; the peers take turns,
and figures are medians. All start from the same weights and take the same minibatches, cut beforehand, in the same
order; a cell counts only if the losses of the first steps agree. "fit" is many steps in one call, on shuffled rows that
it gathers within the measured time; the others are called once per step. JAX is jitted with donated buffers: a step per
call on images (in a scan its convolutions are several times slower), a scan over all steps on tokens.

limit: floating-point operations of the products / rate of fused multiply-adds, measured in the same rounds. Methods
that need fewer operations than direct sums can go below it. Of causal attention half is counted.
"""

import argparse
import contextlib
import json
import sys
import time

import numpy as np
import twins_gpt
from peer_tables import describe_run
from processes import Process, check_names, choose_instructions, multiply_add_rate, pin, serve

FIRST = 3  # steps whose losses are compared
RATE, DECAY = 1e-3, 1e-2


def lenet():
    import fastgd

    return fastgd.models.lenet5(seed=1)


def fashion():
    import fastgd
    from fastgd import Conv2D, Dense, Flatten, MaxPool2D

    layers = [
        Conv2D(32, 3, "relu", padding="same"), Conv2D(32, 3, "relu", padding="same"), MaxPool2D(2),
        Conv2D(64, 3, "relu", padding="same"), Conv2D(64, 3, "relu", padding="same"), MaxPool2D(2),
        Flatten(), Dense(128, "relu"), Dense(10),
    ]  # fmt: skip
    return fastgd.Network((28, 28, 1), layers, loss="softmax_cross_entropy", seed=1)


def cifar():
    import fastgd
    from fastgd import Conv2D, Dense, Flatten, MaxPool2D

    layers = [one for filters in (16, 32, 64) for one in (Conv2D(filters, 3, "relu", padding="same"), MaxPool2D(2))]
    return fastgd.Network((32, 32, 3), [*layers, Flatten(), Dense(10)], loss="softmax_cross_entropy", seed=1)


def resnet():
    import fastgd

    return fastgd.models.resnet20(seed=1)


def gpt(*sizes):
    import fastgd

    return fastgd.models.gpt(*sizes, seed=1)


CELLS = {
    "lenet5_b128": (lenet, 128),
    "lenet5_b32": (lenet, 32),
    "fashion_cnn_b64": (fashion, 64),
    "cifar_cnn_b32": (cifar, 32),
    "resnet20_b128": (resnet, 128),
}
# vocabulary, context, layers, heads, width; sequences in a minibatch; minibatches
GPTS = {
    "gpt_char": ((65, 64, 4, 4, 128), 12, 8),
    "gpt_6x384": ((65, 256, 6, 6, 384), 8, 3),
    "gpt2_124m": ((50257, 64, 12, 12, 768), 4, 3),
}


class Task:
    """A cell's network and its minibatches of images."""

    def __init__(self, name):
        make, self.batch = CELLS[name]
        self.network = make()
        self.steps = 8
        rng = np.random.default_rng(0)
        rows = self.steps * self.batch
        self.X = rng.normal(size=(rows, *self.network.input_shape)).astype(np.float32)
        self.y = rng.integers(0, 10, rows)

    def optimizer(self):
        import fastgd

        return fastgd.Adam(RATE)

    def batches(self):
        for i in range(0, len(self.X), self.batch):
            yield self.X[i : i + self.batch], self.y[i : i + self.batch]

    def operations(self):
        """Floating-point operations of the products in a step."""
        total, first = 0, True
        for path, layer, shape in self.network.body.leaves("", self.network.input_shape):
            made = layer.output_shape(shape)
            weights = self.network.views().get(f"w{path}")
            if weights is not None:
                pixels = made[0] * made[1] if len(made) == 3 else 1
                valid = valid_taps(layer, shape) if len(made) == 3 else 1
                total += (4 if first else 6) * pixels * weights.size * valid
                first = False
        return self.batch * total


class Tokens(Task):
    """A cell's GPT and its minibatches of tokens."""

    def __init__(self, name):
        self.sizes, self.batch, self.steps = GPTS[name]
        self.network = gpt(*self.sizes)
        vocabulary, context, *_ = self.sizes
        self.X, self.y = np.random.default_rng(0).integers(0, vocabulary, (2, self.steps * self.batch, context))

    def optimizer(self):
        import fastgd

        return fastgd.AdamW(RATE, weight_decay=DECAY)

    def operations(self):
        vocabulary, t, layers, _, n = self.sizes
        products = 6 * t * (12 * layers * n + vocabulary) * n
        return self.batch * (products + 6 * layers * t * (t + 1) * n)


def valid_taps(layer, shape):
    """The share of the terms of a convolution that are within the image."""
    from fastgd.layers.windows import window, windows

    counts, before = windows(layer, shape, layer.kernel_size, layer.strides, layer.padding)
    shares = []
    for n, k, stride, count, first in zip(shape, layer.kernel_size, layer.strides, counts, before, strict=False):
        inside = sum(stop - start for start, stop in (window(tap, stride, first, n, count) for tap in range(k)))
        shares.append(inside / (k * count))
    return shares[0] * shares[1]


# ---- peers: functions of a task that return a function step(i) -> loss, and one that runs an epoch


def fastgd_step(task):
    optimizer, batches = task.optimizer(), list(task.batches())

    def step(i):
        return task.network.train_step(*batches[i], optimizer)

    return step, lambda: [step(i) for i in range(task.steps)]


def fastgd_fit(task):
    step, _ = fastgd_step(task)
    optimizer = task.optimizer()
    return step, lambda: task.network.fit(task.X, task.y, optimizer=optimizer, batch_size=task.batch, epochs=1)


def torch_step(task, *, channels_last=False, compiled=False):
    import torch
    from twins import torch_module

    module = torch_module(task.network)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = module.to(memory_format=layout)
    optimizer, loss_of = torch.optim.Adam(module.parameters(), RATE, fused=True), torch.nn.CrossEntropyLoss()
    batches = [
        (torch.from_numpy(x.transpose(0, 3, 1, 2)).contiguous(memory_format=layout), torch.from_numpy(y))
        for x, y in task.batches()
    ]
    model = torch.compile(module, fullgraph=True) if compiled else module

    def step(i):
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model(batches[i][0]), batches[i][1])
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, lambda: [step(i) for i in range(task.steps)]


def jax_step(task):
    import jax
    from jax import numpy as jnp
    from twins import jax_adam, jax_function

    parameters, function = jax_function(task.network)
    batches = [(jnp.asarray(x), jnp.asarray(y)) for x, y in task.batches()]

    def loss_of(parameters, x, y):
        z = jax.nn.log_softmax(function(parameters, x))
        return -jnp.take_along_axis(z, y[:, None], 1).mean()

    state, adam = jax_adam(parameters, loss_of, RATE)
    update = jax.jit(adam, donate_argnums=0)

    def step(i):
        state[:], loss = update(list(state), batches[i])
        return float(loss)

    return step, lambda: [step(i) for i in range(task.steps)]


PEERS = {
    "fastgd fit": fastgd_fit,
    "fastgd step": fastgd_step,
    "torch eager": torch_step,
    "torch channels_last": lambda task: torch_step(task, channels_last=True),
    "torch compile": lambda task: torch_step(task, compiled=True),
    "JAX jit": jax_step,
}
PEERS_OF_TOKENS = {
    "fastgd fit": fastgd_fit,
    "fastgd step": fastgd_step,
    "torch eager": lambda task: twins_gpt.torch_steps(task, RATE, DECAY),
    "torch compile": lambda task: twins_gpt.torch_steps(task, RATE, DECAY, compiled=True),
    "JAX scan": lambda task: twins_gpt.jax_steps(task, RATE, DECAY),
}


def peers_of(cell):
    return PEERS_OF_TOKENS if cell in GPTS else PEERS


def task_of(cell):
    return (Tokens if cell in GPTS else Task)(cell)


class Peer:
    """Answers "cell NAME" with the losses of the first steps; "run SECONDS" with milliseconds per step over about that
    time; "rate" with GFLOP/s of fused multiply-adds."""

    def __init__(self, name, threads):
        self.name = name
        if name.startswith("torch"):
            import torch

            torch.set_num_threads(threads)

    def __call__(self, command, argument):
        if command == "cell":
            self.task = task_of(argument)
            step, self.run = peers_of(argument)[self.name](self.task)
            losses = [step(i) for i in range(FIRST)]
            self.run()
            return losses
        if command == "rate":
            return multiply_add_rate()
        return self.milliseconds(float(argument))

    def milliseconds(self, seconds):
        start, epochs = time.perf_counter(), 0
        while not epochs or time.perf_counter() - start < seconds:
            self.run()
            epochs += 1
        return 1e3 * (time.perf_counter() - start) / (epochs * self.task.steps)


def compare(name, processes, rounds, seconds, threads):
    processes = {peer: process for peer, process in processes.items() if peer in peers_of(name)}
    losses = {peer: process.ask("cell", name) for peer, process in processes.items()}
    reference = losses[next(iter(losses))]
    for peer, found in losses.items():
        if not np.allclose(found, reference, rtol=2e-3):
            raise RuntimeError(f"{name}: the losses of {peer} are {found}, expected {reference}")
    samples, rates = {peer: [] for peer in processes}, []
    for _ in range(rounds):
        rates.append(processes[next(iter(processes))].ask("rate"))
        for peer, process in processes.items():
            samples[peer].append(process.ask("run", seconds))
    limit = task_of(name).operations() / np.median(rates) / 1e6 / threads
    return {
        "milliseconds": {peer: float(np.median(s)) for peer, s in samples.items()},
        "gflops": float(np.median(rates)),
        "limit": float(limit),
    }


def print_table(run, peers):
    others = [peer for peer in peers if not peer.startswith("fastgd")]
    print(
        f"{'milliseconds per step':<18}"
        + "".join(f"{peer:>21}" for peer in peers)
        + f"{'limit':>9}{'best peer / fit':>17}"
    )
    for name, cell in run["cells"].items():
        times = cell["milliseconds"]
        mine = times[peers[0]]
        best = min((times[peer] for peer in others if peer in times), default=np.nan)
        row = "".join(f"{times[peer]:>21.3f}" if peer in times else f"{'-':>21}" for peer in peers)
        print(f"{name:<18}{row}{cell['limit']:>9.3f}{best / mine:>17.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=",".join(CELLS | GPTS), help="comma-separated names")
    parser.add_argument("--peers", default=",".join(PEERS | PEERS_OF_TOKENS), help="comma-separated names")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of each sample")
    parser.add_argument("--avx2", action="store_true", help="limit all peers to AVX2; without JAX and torch.compile")
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(lambda: Peer(arguments.serve, arguments.threads))
        return
    for option, known in (("cells", CELLS | GPTS), ("peers", PEERS | PEERS_OF_TOKENS)):
        check_names(parser, option, getattr(arguments, option), known)
    choose_instructions(parser, arguments.avx2)
    pin(arguments.threads)
    wide = ("torch compile", "JAX jit", "JAX scan") if arguments.avx2 else ()
    peers = [peer for peer in arguments.peers.split(",") if peer not in wide]
    run = describe_run(arguments.threads) | {"cells": {}}
    with contextlib.ExitStack() as stack:
        processes = {}
        for peer in peers:
            command = [__file__, "--serve", peer, "--threads", str(arguments.threads)]
            processes[peer] = Process(command, arguments.threads)
            stack.callback(processes[peer].close)
        for name in arguments.cells.split(","):
            run["cells"][name] = compare(name, processes, arguments.rounds, arguments.seconds, arguments.threads)
            print(name, json.dumps(run["cells"][name]["milliseconds"]), file=sys.stderr, flush=True)
    print_table(run, peers)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(run, file, indent=1)


if __name__ == "__main__":
    main()
