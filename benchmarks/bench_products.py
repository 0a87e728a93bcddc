"""The matrix products of a dense layer, float32, beside numpy's OpenBLAS and torch's MKL or oneDNN:

    pip install '.[bench]' torch==2.13.0 threadpoolctl
    python benchmarks/bench_products.py --json products.json --plot products.png

Forms, for x (rows, in), w (in, out), dy (rows, out): forward y = x w + b; dx = dy w^T; dW = x^T dy. Only fastgd adds b,
and only fastgd sums dW in blocks whose relative error is below 1e-6; the peers compute the bare products, with `out=`.

Every peer runs in its own process with one thread, all pinned to the same processor. They take turns, one sample each
per round; figures are medians over the rounds. The time of a call is that of many calls in a row less that of a product
of 2x2 matrices, in CPU time of the thread, which other processes do not lengthen. The arrays of all peers begin at
multiples of 64 bytes. share: floating-point operations per second / those of fused multiply-adds in registers with the
vectors that fastgd uses. ratio: time of the peer with the best median / time of fastgd.

`--avx2` limits all peers to AVX2, by environment variables. Without it a variable that selects instructions is an
error, since users have none. `--other FOLDER` adds another version of fastgd: FOLDER holds its package, such as an
unpacked wheel. Peers that are not installed are left out.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import re
import time

import numpy as np
from peer_tables import describe_run
from processes import Process, check_names, choose_instructions, multiply_add_rate, pin, serve

SHAPES = (  # rows, in, out
    (32, 17, 64), (32, 64, 6), (32, 64, 10), (32, 64, 64), (64, 64, 64), (96, 96, 96), (100, 100, 100),
    (64, 200, 50), (128, 128, 10), (128, 128, 128), (256, 54, 256), (256, 256, 7), (192, 192, 192),
    (1000, 50, 100), (128, 784, 128), (200, 300, 100), (250, 250, 250), (256, 256, 256), (128, 512, 256),
    (128, 512, 512), (128, 784, 512), (384, 384, 384), (100, 1000, 500), (64, 1024, 1024), (513, 511, 257),
    (128, 1024, 1024), (512, 512, 512), (256, 1000, 1000), (777, 555, 333), (32, 2048, 2048), (1024, 1024, 1024),
    (512, 1024, 2048), (2048, 2048, 2048),
)  # fmt: skip
FORMS = ("forward", "dx", "dW")
NO_WORK = (2, 2, 2)  # the time of a call


def aligned(*shape):
    """Normal numbers in an array that begins at a multiple of 64 bytes."""
    size = int(np.prod(shape))
    memory = np.empty(size + 16, np.float32)
    array = memory[-memory.ctypes.data % 64 // 4 :][:size].reshape(shape)
    array[...] = np.random.default_rng(0).normal(size=shape)
    return array


def operands(form, rows, n_in, n_out):
    """(out, a, b) with out = a b, views of row-major arrays."""
    x, w, dy = aligned(rows, n_in), aligned(n_in, n_out), aligned(rows, n_out)
    return {"forward": (dy, x, w), "dx": (x, dy, w.T), "dW": (w, x.T, dy)}[form]


# ---- the peers: functions of (form, shape) that return a function which runs the product


def fastgd_product(form, shape):
    import fastgd
    from fastgd._plan import call_kernel

    names = {"forward": "dense_forward", "dx": "dense_backward_input", "dW": "dense_backward_weights"}
    kernel = getattr(fastgd.kernels, names[form])
    out, a, b = operands(form, *shape)
    arrays = {"forward": (out, a, b, aligned(out.shape[1])), "dx": (out, a, b.T), "dW": (out, a.T, b)}[form]
    dtype, sizes = kernel.check(arrays)
    record, address, end = kernel.record(arrays, sizes), kernel.address("cython", dtype), sizes[kernel.range_dim]
    at = record.ctypes.data
    return lambda: call_kernel(address, at, 0, end), (record, arrays)


def openblas_product(form, shape):
    out, a, b = operands(form, *shape)
    return lambda: np.matmul(a, b, out=out), None


def torch_product(form, shape):
    import torch

    out, a, b = map(torch.from_numpy, operands(form, *shape))
    return lambda: torch.mm(a, b, out=out), None


def fastgd_about():
    import fastgd

    return f"{fastgd.__version__}, {fastgd.core.kernel.variant()}"


def openblas_about():
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return f"numpy {np.__version__}; threadpoolctl would name the BLAS"
    found = [f"{d['internal_api']} {d['version']} {d.get('architecture', '')}" for d in threadpool_info()]
    return f"numpy {np.__version__}, {', '.join(found)}"


def torch_about():
    import torch

    mkl = "with MKL" if torch.backends.mkl.is_available() else "without MKL"
    return f"{torch.__version__}, {mkl}, {torch.backends.cpu.get_cpu_capability()}"


PEERS = {
    "fastgd": (fastgd_product, fastgd_about, "fastgd"),
    "other": (fastgd_product, fastgd_about, "fastgd"),
    "OpenBLAS": (openblas_product, openblas_about, "numpy"),
    "torch": (torch_product, torch_about, "torch"),
}  # fmt: skip
OWN = ("fastgd", "other")


# ---- a peer's process


class Peer:
    """Answers "about"; "peak" with GFLOP/s; "form" and (form, shape, seconds) as JSON with seconds per call."""

    def __init__(self, name):
        self.product, self.about, module = PEERS[name]
        self.made = {}
        if module == "torch":
            import torch

            torch.set_num_threads(1)

    def __call__(self, command, argument):
        if command == "about":
            return self.about()
        if command == "peak":
            return multiply_add_rate(clock=time.thread_time)
        form, shape, seconds = json.loads(argument)
        if (form, *shape) not in self.made:
            self.made = {(form, *s): self.product(form, tuple(s)) for s in (shape, NO_WORK)}
        call, empty = (seconds_of(self.made[form, *s][0], seconds) for s in (shape, NO_WORK))
        return call - empty


def seconds_of(call, seconds):
    """Seconds of the thread per call, of calls that take about `seconds`."""
    start = time.thread_time()
    call()
    call()
    repeats = max(1, min(20_000, int(2 * seconds / (time.thread_time() - start))))
    start = time.thread_time()
    for _ in range(repeats):
        call()
    return (time.thread_time() - start) / repeats


# ---- the comparison


def compare(form, shape, processes, rounds, seconds):
    """Medians over the rounds: microseconds, share of the peak of each peer, ratio of the best peer to fastgd."""
    samples, rates = {peer: [] for peer in processes}, []
    for _ in range(rounds):
        rates.append(processes["fastgd"].ask("peak"))
        for peer, process in processes.items():
            samples[peer].append(process.ask("form", json.dumps((form, shape, seconds))))
    times, rates = {peer: np.array(s) for peer, s in samples.items()}, np.array(rates)
    peers = [peer for peer in processes if peer not in OWN]
    best = min(peers, key=lambda peer: np.median(times[peer])) if peers else "fastgd"
    operations = 2e-9 * float(np.prod(shape))
    return {
        "form": form,
        "shape": shape,
        "peak_gflops": float(np.median(rates)),
        "microseconds": {peer: float(np.median(1e6 * t)) for peer, t in times.items()},
        "share": {peer: float(np.median(operations / t / rates)) for peer, t in times.items()},
        "best_peer": best,
        "ratio": float(np.median(times[best] / times["fastgd"])),
    }


def print_tables(results, peers):
    for form in FORMS:
        rows = [r for r in results if r["form"] == form]
        if not rows:
            continue
        print(f"\n| {form}: rows x in x out | {' | '.join(peers)} | best peer / fastgd | fastgd, us | peak, GFLOP/s |")
        print("|---|" + "---|" * (len(peers) + 3))
        for r in rows:
            shares = " | ".join(f"{r['share'][peer]:.2f}" for peer in peers)
            us, rate = r["microseconds"]["fastgd"], r["peak_gflops"]
            print(f"| {'x'.join(map(str, r['shape']))} | {shares} | {r['ratio']:.2f} | {us:.4g} | {rate:.0f} |")
    print()
    for form in FORMS:
        rows = [r for r in results if r["form"] == form]
        if not rows:
            continue
        worst = min(rows, key=lambda r: r["ratio"])
        means = [f"{peer} {np.exp(np.mean([np.log(r['share'][peer]) for r in rows])):.3f}" for peer in peers]
        mean = np.exp(np.mean([np.log(r["ratio"]) for r in rows]))
        print(f"{form}: geometric means of the shares: {', '.join(means)}; of best peer / fastgd: {mean:.3f}; "
              f"worst {worst['ratio']:.3f} ({'x'.join(map(str, worst['shape']))})")  # fmt: skip


def plot(results, peers, path, title):
    from matplotlib.figure import Figure

    forms = [form for form in FORMS if any(r["form"] == form for r in results)]
    shapes = list(dict.fromkeys(r["shape"] for r in results))
    figure = Figure(figsize=(5 * len(forms) + 1, 1.5 + 0.24 * len(shapes)), layout="constrained")
    columns = figure.subplots(1, len(forms), sharey=True, squeeze=False)[0]
    for axes, form in zip(columns, forms, strict=True):
        share = {r["shape"]: r["share"] for r in results if r["form"] == form}
        for peer, marker in zip(peers, "oxs^", strict=False):
            axes.plot([share[s][peer] for s in shapes], range(len(shapes)), marker, label=peer, markersize=6)
        axes.set(title=form, xlim=(0, 1), xlabel="share of the rate of fused multiply-adds")
        axes.grid(alpha=0.3)
    columns[0].set_yticks(range(len(shapes)), ["x".join(map(str, s)) for s in shapes])
    columns[0].set_ylabel("rows x in x out")
    columns[0].invert_yaxis()
    columns[0].legend(loc="lower left")
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=120)


def shapes_of(text):
    names = text.split(",")
    for name in names:
        if not re.fullmatch("[1-9][0-9]*(x[1-9][0-9]*){2}", name):
            raise argparse.ArgumentTypeError(f"expected rows x in x out, such as 128x784x512, got {name!r}")
    return [tuple(map(int, name.split("x"))) for name in names]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--shapes", type=shapes_of, default=SHAPES, help="comma-separated, such as 128x784x512 (rows x in x out)"
    )
    parser.add_argument("--forms", default=",".join(FORMS), help="comma-separated names")
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated names")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.005, help="length of each sample")
    parser.add_argument("--avx2", action="store_true", help="limit all peers to AVX2")
    parser.add_argument("--other", help="folder with the package of another version of fastgd")
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--plot", help="file for the picture")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(functools.partial(Peer, arguments.serve))
        return
    check_names(parser, "peers", arguments.peers, PEERS)
    check_names(parser, "forms", arguments.forms, FORMS)
    if "fastgd" not in arguments.peers.split(","):
        parser.error(f"--peers: expected fastgd among them, got {arguments.peers!r}")
    choose_instructions(parser, arguments.avx2)
    pin(1)
    results = []
    with contextlib.ExitStack() as stack:
        processes = {}
        for peer in arguments.peers.split(","):
            if peer == "other" and not arguments.other:
                continue
            if peer not in OWN and not importlib.util.find_spec(PEERS[peer][2]):
                print(f"{peer}: not installed")
                continue
            package = arguments.other if peer == "other" else None
            processes[peer] = Process([__file__, "--serve", peer], 1, package)
            stack.callback(processes[peer].close)
        about = {peer: process.ask("about") for peer, process in processes.items()}
        for peer, text in about.items():
            print(f"{peer}: {text}", flush=True)
        for shape in arguments.shapes:
            for form in arguments.forms.split(","):
                results.append(compare(form, shape, processes, arguments.rounds, arguments.seconds))
    print_tables(results, list(processes))
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(describe_run(1) | {"about": about, "results": results}, file, indent=1)
    if arguments.plot:
        plot(results, list(processes), arguments.plot, "; ".join(f"{peer}: {text}" for peer, text in about.items()))


if __name__ == "__main__":
    main()
