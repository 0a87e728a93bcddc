"""fastgd against other libraries: microseconds per whole training step (forward, loss, backward, update).

    pip install '.[bench]' torch==2.13.0 jax optax scikit-learn
    python benchmarks/peers.py --threads 1 --json peers.json --plot peers.png
    python benchmarks/peers.py --table avx2.json avx512.json      the table of docs/why/speed.md from saved files

Every peer runs in its own process, pinned to the same processors with the same number of threads. The peers take turns,
one sample each per round; figures are medians. All start from the same weights and take the same minibatches in the
same order, and a cell counts only if their losses agree (scikit-learn draws its own weights). torch.compile starts
afresh in each cell and must run one compiled graph; anything else is an error.

A long run is many epochs. fastgd's `fit` and the JAX loop run many steps per call, the others are called once per step
from Python. The peers get their minibatches cut beforehand; fastgd shuffles and gathers them within the measured time.

A short run (cells named "..._short") is a call for 100 steps, as a user's own loop makes it again and again. Every peer
starts from the arrays X and y: `fit` is called anew, the others cut their minibatches within the measured time. The JAX
loop is compiled before, and gets X and y reshaped.

limit: floating-point operations / rate of fused multiply-adds + bytes of parameters and optimizer state / bandwidth
of an update of that size, both measured by fastgd's kernels in the same rounds, and divided by the number of threads,
as if their bandwidths added up. "best peer / limit" is how many times faster than the best peer a trainer at the limit
would be. Below the table: the rates of bare matrix products. With `--threads 2`, "fastgd 1 thread" is `fit` with one
thread.

`--avx2` limits the peers to AVX2, by environment variables that the file of results keeps (of numpy and scikit-learn
the products only). JAX, whose products use AVX-512 whatever its options say, torch.compile, whose losses then differ,
and Numba are left out. Without `--avx2` a variable that selects instructions is an error, since users have none.

`--other FOLDER` compares `fit` and `step` with those of another version in the same run: FOLDER holds its package, such
as an unpacked wheel. (slower.py compares two versions alone, and says whether one is slower.)
"""

import argparse
import contextlib
import json
import sys
import time

import numpy as np
from cells import CELLS, Task
from peer_tables import ALONE, OTHERS, PRODUCTS, describe_run, plot, print_details, print_table
from processes import Process, check_names, choose_instructions, multiply_add_rate, pin, serve
from trainers import PEERS

# Peers that `--avx2` leaves out.
UNLIMITED = ("fastgd numba", "torch compile", "JAX jit", "JAX scan")

# ---- a peer's process


class Peer:
    """Answers "cell NAME" with the losses, or null if it cannot run the cell; "run SECONDS" with microseconds per step
    over about that time; "machine" with the result of `machine`."""

    def __init__(self, name, threads):
        self.make = PEERS[name]
        if name.startswith("torch"):
            import torch

            torch.set_num_threads(threads)

    def __call__(self, command, argument):
        if command == "cell":
            return self.cell(argument)
        if command == "run":
            return self.microseconds(float(argument))
        return machine(self.task)

    def cell(self, name):
        self.task = Task(name)
        made = self.make(self.task)
        if made is None:
            return None
        losses, self.run = made
        self.run(2)
        return {"losses": losses}

    def microseconds(self, seconds):
        start = time.perf_counter()
        self.run(1)
        epochs = max(1, round(seconds / (time.perf_counter() - start)))
        start = time.perf_counter()
        if self.task.cell.is_short:
            for _ in range(epochs):
                self.run(1)
        else:
            self.run(epochs)
        return 1e6 * (time.perf_counter() - start) / (epochs * self.task.steps)


def machine(task):
    """Rate of fused multiply-adds (GFLOP/s), bandwidth (GB/s) of an update that touches as much memory as the task's
    (but at least 8192 numbers, so that the cost of the call does not count), and rates of the bare PRODUCTS (GFLOP/s),
    all in the task's precision."""
    import fastgd

    dtype = np.dtype(task.cell.dtype)
    rates = [multiply_add_rate(dtype)]
    half = max((2 + task.slots) * task.parameters, 8192) // 2
    update = (np.zeros(half, dtype), np.zeros(half, dtype), 0.1, 0.0, 0.0)
    seconds = seconds_of(fastgd.kernels.sgd_step, update, max(1, int(1e7 / half)))
    rates.append(3 * dtype.itemsize * half / seconds / 1e9)
    for rows, n_out, n_in in PRODUCTS:
        arrays = [np.ones(shape, dtype) for shape in ((rows, n_out), (rows, n_in), (n_in, n_out), n_out)]
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


def start(peer, threads, other=None):
    """The process of a peer; `other` is the folder of another version, for OTHERS."""
    command = [__file__, "--serve", peer, "--threads", str(threads)]
    return Process(command, threads, other if peer in OTHERS else None)


# ---- the comparison


def compare(name, processes, rounds, seconds, threads):
    """Medians for a cell: microseconds per step of each peer, rates and bandwidth."""
    task = Task(name)
    answers = {peer: process.ask("cell", name) for peer, process in processes.items()}
    ready = {peer: processes[peer] for peer, answer in answers.items() if answer is not None}
    reference = answers["numpy" if "numpy" in ready else "fastgd fit"]["losses"]
    for peer in ready:
        losses = answers[peer]["losses"]
        if losses is not None and not np.allclose(losses, reference, rtol=2e-3):
            raise RuntimeError(f"{name}: the losses of {peer} are {losses}, expected {reference}")
    samples, machines = {peer: [] for peer in ready}, []
    for _ in range(rounds):
        machines.append(processes["fastgd fit"].ask("machine"))
        for peer, process in ready.items():
            samples[peer].append(process.ask("run", seconds))
    rate, bandwidth, *products = np.median(machines, axis=0)
    traffic = np.dtype(task.cell.dtype).itemsize * task.parameters * (2 + 2 * task.slots)
    return {
        "cell": task.cell._asdict() | {"steps": task.steps},
        "microseconds": {peer: float(np.median(s)) for peer, s in samples.items()},
        "gflops": float(rate),
        "gigabytes_per_second": float(bandwidth),
        "products_gflops": [float(product) for product in products],
        "limit": float(task.operations / rate + traffic / bandwidth) / 1e3 / threads,
    }


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=",".join(CELLS), help="comma-separated names")
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated names")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="length of each sample")
    parser.add_argument("--avx2", action="store_true", help="limit all peers to AVX2")
    parser.add_argument("--other", help="folder with the package of another version of fastgd")
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--plot", help="file for the picture")
    parser.add_argument("--table", nargs="+", metavar="FILE", help="print the tables of saved results; run nothing")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.serve and not arguments.table:
        for option, known in (("cells", CELLS), ("peers", PEERS)):
            check_names(parser, option, getattr(arguments, option), known)
        choose_instructions(parser, arguments.avx2)
    return arguments


def print_saved(paths):
    for path in paths:
        with open(path) as file:
            print_table(json.load(file))
        print()


def main():
    arguments = parsed()
    if arguments.serve:
        serve(lambda: Peer(arguments.serve, arguments.threads))
        return
    if arguments.table:
        print_saved(arguments.table)
        return
    pin(arguments.threads)
    run = describe_run(arguments.threads) | {"cells": {}}
    with contextlib.ExitStack() as stack:
        processes = {}
        for peer in arguments.peers.split(","):
            if arguments.avx2 and peer in UNLIMITED:
                continue
            if arguments.threads > 1 if peer == ALONE else arguments.other or peer not in OTHERS:
                processes[peer] = start(peer, 1 if peer == ALONE else arguments.threads, arguments.other)
                stack.callback(processes[peer].close)
        for name in arguments.cells.split(","):
            result = compare(name, processes, arguments.rounds, arguments.seconds, arguments.threads)
            run["cells"][name] = result
            print(name, json.dumps(result["microseconds"]), file=sys.stderr, flush=True)
    print_table(run)
    print_details(run)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(run, file, indent=1)
    if arguments.plot:
        plot(run, arguments.plot)


if __name__ == "__main__":
    main()
