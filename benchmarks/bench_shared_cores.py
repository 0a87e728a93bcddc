"""Training beside busy loops that compete for the cores: microseconds per step with one thread and with several.

    python benchmarks/bench_shared_cores.py                                       fastgd alone
    python benchmarks/bench_shared_cores.py --peers 'fastgd fit,torch eager,JAX scan'   needs the extra `bench`

Processes, cells and minibatches are those of peers.py; none is pinned, as on a laptop or in a container. For each
number of busy loops (one process each, at the same priority) every peer runs with one thread and with --threads in
turn; figures are means, since barriers cost few but long waits. "n / 1" is the time with all threads divided by the
time with one: below 1 the threads help, and well above 1 they wait for each other.
"""

import argparse
import contextlib
import subprocess
import sys
import time

import numpy as np
from cells import CELLS
from peers import start
from trainers import PEERS

BUSY = "while True: pass"


@contextlib.contextmanager
def busy_loops(count):
    """Context manager that runs `count` processes in busy loops."""
    loops = [subprocess.Popen([sys.executable, "-S", "-c", BUSY]) for _ in range(count)]
    try:
        time.sleep(0.5 if count else 0)  # until they have started
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def measure(processes, cell, load, rounds, seconds):
    """Mean microseconds per step of each (peer, threads)."""
    samples = {key: [] for key in processes}
    for process in processes.values():
        process.ask("cell", cell)
    with busy_loops(load):
        for _ in range(rounds):
            for key, process in processes.items():
                samples[key].append(process.ask("run", seconds))
    return {key: float(np.mean(values)) for key, values in samples.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default="table_b32,mnist_b128,mid_b128", help=f"from {', '.join(CELLS)}")
    parser.add_argument("--peers", default="fastgd fit", help=f"from {', '.join(PEERS)}")
    parser.add_argument("--loads", default="0,1,2,4", help="numbers of busy loops")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=0.1, help="length of each sample")
    arguments = parser.parse_args()
    peers, counts = arguments.peers.split(","), (1, arguments.threads)
    with contextlib.ExitStack() as stack:
        processes = {}
        for peer in peers:
            for threads in counts:
                processes[peer, threads] = start(peer, threads)
                stack.callback(processes[peer, threads].close)
        columns = [f"{peer}: 1 thread | {arguments.threads} | n / 1" for peer in peers]
        print(f"| cell | busy loops | {' | '.join(columns)} |")
        print("|---|---|" + "---|---|---|" * len(peers))
        for cell in arguments.cells.split(","):
            for load in map(int, arguments.loads.split(",")):
                us = measure(processes, cell, load, arguments.rounds, arguments.seconds)
                figures = []
                for peer in peers:
                    one, many = (us[peer, threads] for threads in counts)
                    figures.append(f"{one:.4g} | {many:.4g} | {many / one:.2f}")
                print(f"| {cell} | {load} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
