"""What peers.py prints and draws: tables in Markdown, of a run or of a saved one, and the picture."""

import importlib.metadata
import os
import platform
import shlex
import sys

import numpy as np

ALONE = "fastgd 1 thread"
OTHERS = {"other fit": "fastgd fit", "other step": "fastgd step"}  # of another version: what each is compared with
OWN = ("fastgd fit", ALONE, "fastgd step", *OTHERS, "fastgd numba", "numpy")
PRODUCTS = ((256, 256, 256), (128, 512, 784))  # rows, n_out, n_in
LIBRARIES = ("numpy", "numba", "torch", "jax", "jaxlib", "optax", "scikit-learn")
INSTRUCTION_SETS = {"v2": "SSE4.2", "v3": "AVX2", "v4": "AVX-512"}
# Environment variables that choose instruction sets, or change how a peer runs.
PREFIXES = ("FASTGD_", "OPENBLAS_", "MKL_", "ONEDNN_", "ATEN_", "DNNL_", "NPY_", "XLA_", "JAX_", "TORCH", "OMP_")


def processor():
    """Model name of the processor, and on x86 its family and model, since some virtual machines hide the name."""
    if not os.path.exists("/proc/cpuinfo"):
        return platform.processor()
    with open("/proc/cpuinfo") as file:
        pairs = (line.partition(":") for line in file)
        fields = {key.strip(): value.strip() for key, _, value in pairs}
    name = fields.get("model name", platform.machine())
    return f"{name} (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else name


def installed(packages):
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def describe_run(threads):
    """Machine, versions, threads and command of a run, for its file."""
    import fastgd

    return {
        "command": shlex.join(["python", *sys.argv]),
        "machine": processor(),
        "instruction set": fastgd.core.kernel.variant(),
        "system": platform.platform(),
        "processors": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": threads,
        "versions": {"fastgd": fastgd.__version__, "python": platform.python_version()} | installed(LIBRARIES),
        "environment": {name: value for name, value in sorted(os.environ.items()) if name.startswith(PREFIXES)},
    }


def title(cell):
    """A cell in words, such as "64-64-10 tanh, 32, SGD, 100 steps"."""
    activation = "" if cell["activation"] == "relu" else f" {cell['activation']}"
    words = ["-".join(map(str, cell["sizes"])) + activation, str(cell["batch"])]
    words += [cell[key] for key, usual in (("optimizer", "Adam"), ("dtype", "float32")) if cell[key] != usual]
    return ", ".join([*words, *([f"{cell['steps']} steps"] if cell["is_short"] else [])])


def summary(result):
    """Best peer, ratio best peer / fastgd, limit / measured."""
    us = result["microseconds"]
    peers = {peer: t for peer, t in us.items() if peer not in OWN}
    best = min(peers, key=peers.get) if peers else None
    ratio = peers[best] / us["fastgd fit"] if best else float("nan")
    return best, ratio, result["limit"] / us["fastgd fit"]


def shown(number):
    return f"{number:,.0f}" if number >= 999.5 else f"{number:.3g}"


def geometric_mean(ratios):
    return np.exp(np.mean(np.log(ratios)))


def print_table(run):
    """A line about the machine, the table of a run, and a line that names the rows in which a peer is faster."""
    results = run["cells"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items() if version)
    rate = np.median([r["gflops"] for r in results.values() if r["cell"]["dtype"] == "float32"] or np.nan)
    plural = "s" * (run["threads"] > 1)
    name = INSTRUCTION_SETS.get(run["instruction set"], run["instruction set"])
    print(f"{run['machine']}, {name}, {rate:.0f} GFLOP/s a core, {run['threads']} thread{plural}; {versions}:\n")
    peers = list(dict.fromkeys(peer for r in results.values() for peer in r["microseconds"]))
    columns = ("network, batch", *peers, "best peer / fit", "best peer / limit", "limit / fit")
    print(f"| {' | '.join(columns)} |")
    print("|---" * len(columns) + "|")
    lost = []
    for result in results.values():
        us, (best, ratio, share) = result["microseconds"], summary(result)
        figures = " | ".join(shown(us[p]) if p in us else "-" for p in peers)
        text = f"{ratio:.2f} ({best})" if best else "-"
        if ratio < 1:
            lost.append(f"{title(result['cell'])} ({best}, {ratio:.2f})")
            text = f"**{text}**"
        limit = f"{ratio / share:.2f}" if best else "-"
        print(f"| {title(result['cell'])} | {figures} | {text} | {limit} | {share:.2f} |")
    if any(summary(r)[0] for r in results.values()):
        print(f"\nRows in which a peer is faster than `fit`: {'; '.join(lost) or 'none'}.")


def print_details(run):
    """Ratios of versions and of numbers of threads, geometric means, and the rates of bare products."""
    results = run["cells"]
    for other, this in {ALONE: "fastgd fit", **OTHERS}.items():
        times = {name: r["microseconds"] for name, r in results.items() if {this, other} <= r["microseconds"].keys()}
        ratios = [f"{name} {us[other] / us[this]:.3f}" for name, us in times.items()]
        if ratios:
            print(f"\n{other} / {this}: {', '.join(ratios)}")
    eager = [r["microseconds"]["torch eager"] / r["microseconds"]["fastgd fit"] for r in results.values()
             if "torch eager" in r["microseconds"]]  # fmt: skip
    if eager:
        print(f"\ntorch eager / fastgd fit, geometric mean: {geometric_mean(eager):.1f}")
    best = [summary(r)[1] for r in results.values() if summary(r)[0]]
    if best:
        print(f"\nbest peer / fastgd fit, geometric mean: {geometric_mean(best):.2f}")
    shares = np.median([np.array(r["products_gflops"]) / r["gflops"] for r in results.values()], axis=0)
    named = [f"{'x'.join(map(str, sizes))} {share:.2f}" for sizes, share in zip(PRODUCTS, shares, strict=True)]
    print(f"\nbare products / fused multiply-adds: {', '.join(named)}")
    print("\nGB/s of an update: " + ", ".join(f"{name} {r['gigabytes_per_second']:.0f}" for name, r in results.items()))


def plot(run, path):
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    results, threads = run["cells"], run["threads"]
    figure = Figure(figsize=(11, 1.2 + 0.62 * len(results)), layout="constrained")
    axes = figure.subplots()
    drawn = list(dict.fromkeys(peer for r in results.values() for peer in r["microseconds"]))
    height, colours = 0.85 / len(drawn), colormaps["tab20"].colors
    for i, (peer, colour) in enumerate(zip(drawn, colours, strict=False)):
        rows = [(k, r["microseconds"][peer]) for k, r in enumerate(results.values()) if peer in r["microseconds"]]
        axes.barh([k + i * height for k, _ in rows], [t for _, t in rows], height, color=colour, label=peer)
    axes.set_yticks([k + 0.425 for k in range(len(results))], list(results))
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel=f"microseconds a training step ({threads} thread{'s' * (threads > 1)})")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper right", fontsize=8)
    figure.savefig(path, dpi=120)
