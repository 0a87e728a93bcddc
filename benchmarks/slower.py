"""Is this version slower than an older one? Compares them cell by cell; exit code 1 if a cell takes over 5 % longer.

    python benchmarks/slower.py old.whl                        or an unpacked wheel
    python benchmarks/slower.py old.whl --cells 'fit,predict'  cells whose names contain one of these

This version is the installed fastgd, or --new, which is a wheel or a folder, too. Each version runs in its own process,
on the same core, with one thread. They take turns, some tens of short samples each; a sample is the median of bursts of
calls. The ratio of a cell is the median of the ratios of neighbouring samples. Time that a process waits for its core,
because others use it, is left out where the system says how long that was (Linux); time asleep counts.

A new process may be a few percent faster or slower than the last, since its memory lies elsewhere. What depends on the
order of allocations would be the same in every process, so each allocates a random amount before it makes a cell. A
cell that looks slower (by over 3 %) is measured again with --repeats new processes, and the median of these counts. To
fail, a cell must be slower by over 5 % three times in a row.

Cells that the older version cannot run are left out, and the output says why.
"""

import argparse
import contextlib
import os
import random
import sys
import tempfile
import time
import zipfile

import numpy as np
from processes import Process, pin, serve
from slower_cells import CELLS

LIMIT = 1.05  # slower by more fails
LOOKS_SLOWER = 1.03
CONFIRMATIONS = 3
BURST, SAMPLE = 1e-3, 5e-3  # seconds
WAITED = "/proc/thread-self/schedstat"


# ---- the process of a version


def clock():
    """Seconds, without those in which this thread waited for a processor."""
    waited = 0
    if os.path.exists(WAITED):
        with open(WAITED) as file:
            waited = int(file.read().split()[1])
    return time.perf_counter() - waited / 1e9


def timed(call, repeats):
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


class Version:
    """Answers "package" with the folder and the compiled kernels of fastgd; "cell NAME" with the number of calls for a
    burst, or with the error, since an older version may not have what the cell needs; "sample N" with the median
    seconds of a call in bursts of N calls."""

    def __call__(self, command, argument):
        return getattr(self, command)(argument)

    def package(self, _):
        import fastgd

        fastgd.Network(2, [fastgd.Dense(1)], loss="mse").predict(np.zeros((1, 2), np.float32))
        modules = sorted(name for name in sys.modules if name.startswith("fastgd._kernels_"))
        return {"folder": os.path.dirname(fastgd.__file__), "modules": modules}

    def cell(self, name):
        self.blocks = [bytearray(random.randrange(8000)) for _ in range(random.randrange(1000))]
        try:
            self.call = CELLS[name]()
            self.call()
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}
        repeats = 1
        while timed(self.call, repeats) < BURST / 2 / repeats:
            repeats *= 2
        return {"repeats": repeats}

    def sample(self, repeats):
        repeats = int(repeats)
        if repeats > 1:
            timed(self.call, repeats // 2)  # the other process had the caches
        bursts, end = [], time.perf_counter() + SAMPLE
        while not bursts or time.perf_counter() < end:
            bursts.append(timed(self.call, repeats))
        return float(np.median(bursts))


# ---- the comparison


class Pair:
    """A process for each of two folders, old and new; None is the installed package."""

    def __init__(self, folders):
        self.processes = [Process([__file__, "--serve"], 1, folder) for folder in folders]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.close()

    def ask(self, command, argument=""):
        return [process.ask(command, argument) for process in self.processes]


def measure(pair, cell, rounds):
    """(Seconds of the old version, of this one, ratio), or the error of the old version if it cannot run the cell."""
    old, new = pair.ask("cell", cell)
    if "error" in new:
        raise RuntimeError(f"{cell}: {new['error']}")
    if "error" in old:
        return old["error"]
    repeats, samples = old["repeats"], np.empty((rounds, 2))
    pair.ask("sample", repeats)
    for i in range(rounds):
        for version in (0, 1) if i % 2 else (1, 0):
            samples[i, version] = pair.processes[version].ask("sample", repeats)
    return *np.median(samples, axis=0), float(np.median(samples[:, 1] / samples[:, 0]))


def is_slower(first, again):
    """Whether a cell is slower, given the ratio new / old in the first processes, and a function that measures it in
    new processes and returns a list of ratios."""
    return first > LOOKS_SLOWER and all(np.median(again()) > LIMIT for _ in range(CONFIRMATIONS))


def compare(folders, cells, rounds, repeats):
    """Prints the table of two folders, old and new; returns the names of the cells that are slower."""
    slower, skipped = [], []

    def again():
        ratios = []
        for _ in range(repeats):
            with Pair(folders) as pair:
                ratios.append(measure(pair, cell, rounds)[2])
        print(f"    again: {', '.join(f'{ratio:.3f}' for ratio in ratios)}", flush=True)
        return ratios

    with Pair(folders) as pair:
        check_packages(*pair.ask("package"))
        print(f"{'microseconds a call':<44}{'old':>12}{'new':>12}{'new / old':>12}")
        for cell in cells:
            result = measure(pair, cell, rounds)
            if isinstance(result, str):
                skipped.append(f"{cell} ({result})")
                continue
            *times, ratio = result
            print(f"{cell:<44}{1e6 * times[0]:>12.2f}{1e6 * times[1]:>12.2f}{ratio:>12.3f}", flush=True)
            if is_slower(ratio, again):
                slower.append(cell)
    if skipped:
        print("\nThe old version cannot run:", *skipped, sep="\n  ")
    return slower


def check_packages(old, new):
    """Prints where the versions come from; both must use kernels for the same instruction set."""
    print(f"old: {old['folder']}\nnew: {new['folder']}\n")
    if old["modules"] != new["modules"]:
        raise SystemExit(
            f"expected kernels for one instruction set, got {old['modules']} (old) and {new['modules']} (new): "
            "set FASTGD_ISA to one that both versions have, such as v3"
        )


def unpacked(name, path, stack):
    """The folder that holds the package: a path, or where its wheel was unpacked."""
    if os.path.isfile(path):
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        with zipfile.ZipFile(path) as wheel:
            wheel.extractall(folder)
        path = folder
    if not os.path.exists(os.path.join(path, "fastgd", "__init__.py")):
        raise SystemExit(f"{name}: expected a wheel of fastgd, or a folder with the package, got {path}")
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", metavar="OLD", help="older version: a wheel, or the folder of an unpacked one")
    parser.add_argument("--new", help="newer version (default: the installed one)")
    parser.add_argument("--cells", default="", help="comma-separated parts of the names of cells")
    parser.add_argument("--rounds", type=int, default=24, help="samples of each version")
    parser.add_argument("--repeats", type=int, default=5, help="new processes each time that a cell is measured again")
    arguments = parser.parse_args()
    pin(1)
    cells = [cell for cell in CELLS if any(part in cell for part in arguments.cells.split(","))]
    if not cells:
        parser.error(f"--cells: expected parts of {', '.join(CELLS)}, got {arguments.cells!r}")
    with contextlib.ExitStack() as stack:
        new = arguments.new and unpacked("--new", arguments.new, stack)
        folders = unpacked("OLD", arguments.old, stack), new
        slower = compare(folders, cells, arguments.rounds, arguments.repeats)
    print(f"\nslower by over {LIMIT - 1:.0%}: {', '.join(slower) or 'none'}")
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve(Version)
    else:
        main()
