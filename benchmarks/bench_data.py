"""Training on a file too large to load: rows per second and resident memory.

    python benchmarks/bench_data.py                 a file of 4 GB
    python benchmarks/bench_data.py --gigabytes 0.1

Writes a file of random rows (784 columns, in float32 and in uint8) and trains a 784-128-10 network on it for an epoch,
mapped by numpy, in a separate process; then on as many rows as fit into --memory GB, mapped and in memory in turn.
Resident memory is the peak of the process minus its memory before it opened the rows; it includes resident pages of the
file."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

from fastgd import Dense, Network, Standardize

COLUMNS, BATCH = 784, 128


def write(path, rows, dtype):
    """Writes a file of random rows, block by block."""
    rng = np.random.default_rng(0)
    block = rng.integers(0, 256, (4096, COLUMNS)).astype(dtype)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": np.lib.format.dtype_to_descr(block.dtype), "fortran_order": False, "shape": (rows, COLUMNS)}
        )
        for start in range(0, rows, len(block)):
            file.write(block[: rows - start].tobytes())


def network():
    layers = [Standardize(scale=1 / 255), Dense(128, "relu"), Dense(10)]
    return Network(COLUMNS, layers, loss="softmax_cross_entropy", num_threads=1)


def megabytes(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field)) / 1024


def train(path, way, rows):
    """Trains for an epoch; prints seconds and megabytes as JSON."""
    net = network()
    warm = np.zeros((BATCH, COLUMNS), np.float32)
    net.fit(warm, np.zeros(BATCH, int), batch_size=BATCH, epochs=1)
    before = megabytes("VmRSS")
    X = np.load(path, mmap_mode="r")[:rows]
    if way == "memory":
        X = np.array(X)
    y = np.arange(len(X)) % 10
    start = time.perf_counter()
    history = net.fit(X, y, batch_size=BATCH, epochs=1)
    seconds = time.perf_counter() - start
    result = {
        "seconds": seconds,
        "trained": history.seconds[-1],
        "megabytes": megabytes("VmHWM") - before,
        "rows": len(X),
    }
    print(json.dumps(result))


def in_a_process(path, way, rows):
    done = subprocess.run(
        [sys.executable, __file__, "--train", path, way, str(rows)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def bench_mapped_rows(benchmark, dtype, tmp_path):
    path = str(tmp_path / "rows.npy")
    write(path, 20_000, dtype)
    X, y, net = np.load(path, mmap_mode="r"), np.arange(20_000) % 10, network()
    benchmark(lambda: net.fit(X, y, batch_size=BATCH, epochs=1))


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--gigabytes", type=float, default=4.0, help="size of the file")
    options.add_argument("--memory", type=float, default=1.0, help="gigabytes of rows for the comparison")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--folder", help="folder for the file (default: a temporary folder)")
    options.add_argument("--train", nargs=3, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.train:
        path, way, rows = arguments.train
        train(path, way, int(rows))
        return
    for dtype in ("float32", "uint8"):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            path = os.path.join(folder, "rows.npy")
            row = COLUMNS * np.dtype(dtype).itemsize
            rows = int(arguments.gigabytes * 1e9) // row
            write(path, rows, dtype)
            whole = in_a_process(path, "mapped", rows)
            print(
                f"{dtype}, {rows * row / 1e9:.2f} GB, {rows:,} rows, mapped: {rows / whole['trained']:,.0f} rows/s "
                f"({whole['seconds']:.1f} s with the check of the values), {whole['megabytes']:.0f} MB more resident"
            )
            some = min(rows, int(arguments.memory * 1e9) // row)
            results = {way: [] for way in ("mapped", "memory")}
            for _ in range(arguments.rounds):
                for way, samples in results.items():
                    samples.append(in_a_process(path, way, some))
            times = {way: np.median([r["trained"] for r in samples]) for way, samples in results.items()}
            ratio = np.median([
                a["trained"] / b["trained"] for a, b in zip(results["mapped"], results["memory"], strict=True)
            ])  # fmt: skip
            print(
                f"  {some:,} rows: mapped {some / times['mapped']:,.0f} rows/s, in memory "
                f"{some / times['memory']:,.0f} rows/s, time mapped / in memory {ratio:.2f}"
            )


if __name__ == "__main__":
    main()
