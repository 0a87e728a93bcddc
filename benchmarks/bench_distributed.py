"""Training on several ranks: `fit(parallel="mpi")` beside one rank, and beside torch's DistributedDataParallel (gloo).

    python benchmarks/bench_distributed.py                       needs the extra `mpi`, and torch
    python benchmarks/bench_distributed.py --peers none          fastgd alone

Starts itself under mpiexec; every rank has one thread and is pinned to a core. Adam, float32. Groups of ranks take
turns, one sample each per round; figures are medians.

ranks: steps per second of 1 and 2 ranks on the same global batch. efficiency: time of one / (2 * time of two). limit:
the efficiency if sums took no time: two processes at once, each with the share of a rank. 4 ranks share the two cores,
and only show that it works. torch gets its minibatches cut beforehand; fastgd shuffles and gathers them within the
measured time.

overlap, of the first cell: one process computes the share of a rank, and sums over ranks pass on a link that is
emulated (links.py). hidden: the part of the link's time that passes before the last gradient is computed.

model: the time of a step fitted on the shares of 1, 2 and 4 ranks, computed alone on a core (four ranks on two cores
would compete), and on a slow link; its error on others; what it predicts for many ranks, all with the same global
batch. Measured are the computing and the overlap; links are ideal, and the copies of a network's driver, which take a
core's time, and ranks that wait for the slowest are not in it.

network: the same model beside two real ranks that talk TCP over the loopback interface of a network namespace of their
own, slowed down by a token bucket (tc-tbf). Computing takes as long as in two processes at once, which is measured.
Needs root and the tools ip, tc and unshare."""

import argparse
import contextlib
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time

import numpy as np
from links import LINKS, Link, fitted, play

# Name: network, global batch.
CELLS = {
    "large": ("1024-2048-2048-1024", 512),
    "lenet5": ("lenet5", 256),
    "medium": ("784-512-256-10", 256),
    "small": ("64-256-10", 128),
}
STEPS = 4  # of an epoch
BATCH = 8192  # global batch of the predictions
RANKS = 8, 32, 128, 512, 1024
METHODS = {"every step": 1, "local steps, 16": 16, "DiLoCo, 500": 500}
# Slow networks of two real ranks: bytes per second in each direction.
TCP = {"2 Gbit/s": 0.25e9, "5 Gbit/s": 0.625e9, "10 Gbit/s": 1.25e9}
# Both directions pass through one loopback interface.
NAMESPACE = 'ip link set lo up && tc qdisc add dev lo root tbf rate {}bit burst 1mb latency 100ms && exec "$@"'
VARIABLES = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "FASTGD_NUM_THREADS"

# ---- a rank


def network_of(name):
    import fastgd

    if name == "lenet5":
        return fastgd.models.lenet5(seed=1)
    inputs, *hidden, classes = (int(n) for n in name.split("-"))
    layers = [*(fastgd.Dense(n, "relu") for n in hidden), fastgd.Dense(classes)]
    return fastgd.Network(inputs, layers, loss="softmax_cross_entropy", seed=1)


def data_of(network, batch):
    rng, rows = np.random.default_rng(0), batch * STEPS
    return rng.normal(size=(rows, *network.input_shape)).astype(np.float32), rng.integers(0, 10, rows)


def answer_of(times, requests=()):
    """Seconds per step, from the times of the ends of epochs; of sums on a link (size, start, end) for each of the last
    step, and the median time that passes after the last one has begun."""
    seconds = (times[-1] - times[0]) / (len(times) - 1) / STEPS
    of_epoch = [request for request in requests if times[-2] < request.asked < times[-1]]
    n = len(of_epoch) // STEPS
    if n == 0:
        return {"seconds": seconds}
    steps = [of_epoch[i * n : (i + 1) * n] for i in range(STEPS)]
    exposed = statistics.median(step[-1].done - step[-1].asked for step in steps)
    trace = [(r.size, r.asked - times[-1], r.done - times[-1]) for r in steps[-1]]
    return {"seconds": seconds, "trace": trace, "exposed": exposed}


def run_fastgd(name, batch, epochs, plays=None, link=None, bucket=None):
    import fastgd

    network, times = network_of(name), []
    x, y = data_of(network, batch)
    parallel = fastgd.distributed.mpi(bucket_bytes=bucket)
    playing = play(plays, link and Link(*link)) if plays else contextlib.nullcontext(())
    with playing as requests:
        parallel.size = plays or parallel.size
        network.fit(
            x, y, optimizer=fastgd.Adam(1e-4), batch_size=batch, epochs=epochs, parallel=parallel,
            callbacks=[lambda run: times.append(time.perf_counter())],
        )  # fmt: skip
    return answer_of(times, requests) if times else None


def run_torch(name, batch, epochs):
    import torch
    from torch import distributed, nn

    torch.set_num_threads(1)
    if not distributed.is_initialized():
        distributed.init_process_group("gloo")
    network, times = network_of(name), []
    x, y = data_of(network, batch)
    if x.ndim == 4:
        x = x.transpose(0, 3, 1, 2).copy()
        layers = [
            nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
        ]  # fmt: skip
    else:
        sizes = [int(n) for n in name.split("-")]
        pairs = itertools.pairwise(sizes)
        layers = [layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())][:-1]
    model = nn.parallel.DistributedDataParallel(nn.Sequential(*layers))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    share = batch // distributed.get_world_size()
    starts = range(share * distributed.get_rank(), len(x), batch)
    minibatches = [(torch.from_numpy(x[a : a + share]), torch.from_numpy(y[a : a + share])) for a in starts]
    for _ in range(epochs):
        for a, b in minibatches:
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(a), b).backward()
            optimizer.step()
        times.append(time.perf_counter())
    return answer_of(times)


def serve(first):
    """Answers the questions that rank 0 reads; ranks that wait for one leave their core alone. first: the core of rank
    0."""
    from mpi4py import MPI

    comm, cores = MPI.COMM_WORLD.Dup(), sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, [cores[(first + comm.rank) % len(cores)]])
    os.environ |= {"RANK": str(comm.rank), "WORLD_SIZE": str(comm.size)}
    while True:
        line = np.zeros(1000, np.uint8)
        if comm.rank == 0:
            text = sys.stdin.readline().encode()
            line[: len(text)] = list(text)
        request = comm.Ibcast(line)
        while not request.Test():
            time.sleep(1e-3)
        peer, options = json.loads(line.tobytes().rstrip(b"\0") or "[null, null]")
        if peer is None:
            return
        answer = {"torch": run_torch, "fastgd": run_fastgd}[peer](**options)
        if comm.rank == 0:
            print("ANSWER", json.dumps(answer), flush=True)


# ---- the groups of ranks


class Group:
    """So many ranks that answer questions. bandwidth: of TCP between them, in bytes per second in each direction."""

    def __init__(self, ranks, peer="fastgd", core=0, bandwidth=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = os.environ | dict.fromkeys(VARIABLES, "1")
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self.peer = peer
        command = ["mpiexec", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]
        if bandwidth is not None:
            namespace = NAMESPACE.format(round(2 * 8 * bandwidth))
            command = ["unshare", "--net", "sh", "-c", namespace, "sh", *command]
            environment |= {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "tcp,self"}
            environment |= {"OMPI_MCA_btl_tcp_if_include": "lo", "PRTE_MCA_prte_if_include": "lo"}
        self.process = subprocess.Popen(
            [*command, sys.executable, __file__, "--serve", str(core)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def ask(self, **options):
        print(json.dumps((self.peer, options)), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("ANSWER"):
                return json.loads(line.removeprefix("ANSWER"))
        raise RuntimeError(f"{self.process.args} ended with code {self.process.wait()}")

    def close(self):
        with contextlib.suppress(BrokenPipeError):
            # mpiexec may keep the end of its input to itself.
            print("[null, null]", file=self.process.stdin, flush=True)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


class Pair:
    """Two groups that answer the same question at the same time; the slower answer counts."""

    def __init__(self, *groups):
        self.groups = groups

    def ask(self, **options):
        answers = []
        threads = [threading.Thread(target=lambda g=g: answers.append(g.ask(**options))) for g in self.groups]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return max(answers, key=lambda answer: answer["seconds"])


def measure(questions, rounds, seconds):
    """Median seconds per step, and all answers, for each question by name: (group, options). They take turns."""
    found = {name: [] for name in questions}
    epochs = {}
    for name, (group, options) in questions.items():
        epochs[name] = 1 + max(1, round(seconds / STEPS / group.ask(epochs=2, **options)["seconds"]))
    for _ in range(rounds):
        for name, (group, options) in questions.items():
            found[name].append(group.ask(epochs=epochs[name], **options))
    return {name: statistics.median(a["seconds"] for a in answers) for name, answers in found.items()}, found


# ---- the parts


def compare_ranks(cells, groups, rounds, seconds):
    print("steps/s      batch  1 rank  2 ranks  efficiency  limit  torch, 2  2 ranks / torch  4 ranks on 2 cores")
    for cell in cells:
        name, batch = CELLS[cell]
        options = {"name": name, "batch": batch}
        questions = {key: (groups[key], options) for key in ("1", "2", "torch", "4") if key in groups}
        questions["limit"] = groups["pair"], options | {"plays": 2}
        s, _ = measure(questions, rounds, seconds)
        torch = f"{1 / s['torch']:>10.4g}{s['torch'] / s['2']:>17.2f}" if "torch" in s else f"{'-':>10}{'-':>17}"
        efficiency, limit = s["1"] / 2 / s["2"], s["1"] / 2 / s["limit"]
        print(f"{cell:<13}{batch:>5}{1 / s['1']:>8.4g}{1 / s['2']:>9.4g}{efficiency:>12.2f}{limit:>7.2f}{torch}"
              f"{1 / s['4']:>20.4g}", flush=True)  # fmt: skip


def show_overlap(cell, group, rounds, seconds):
    name, batch = CELLS[cell]
    link = LINKS["10 GbE"]
    sizes = {"default": None, "1 MiB": 2**20, "4 MiB": 2**22, "16 MiB": 2**24, "one": 2**40}
    options = {"name": name, "batch": batch, "plays": 2}
    questions = {"none": (group, options)}
    questions |= {key: (group, options | {"link": link, "bucket": size}) for key, size in sizes.items()}
    s, answers = measure(questions, rounds, seconds)
    print(f"\n{cell}, batch {batch}, a rank of 2 on 10 GbE; without a link {s['none'] * 1e3:.4g} ms")
    print("buckets   sums  link ms  step ms  hidden   MB of each: asked for, done (ms before the end of the step)")
    for key in sizes:
        trace = answers[key][-1]["trace"]
        busy = sum(link.seconds(size, 2) for size, _, _ in trace)
        hidden = 1 - statistics.median(answer["exposed"] for answer in answers[key]) / busy
        moments = ", ".join(f"{n / 1e6:.2g}: {a * 1e3:.0f} {b * 1e3:.0f}" for n, a, b in trace if n > 1e4)
        print(f"{key:<8}{len(trace):>6}{busy * 1e3:>9.4g}{s[key] * 1e3:>9.4g}{hidden:>8.0%}   {moments}", flush=True)


def fit_model(cell, group, networks, rounds, seconds, *, is_shown):
    """A `Model` of a cell; prints its errors on what it was not fitted on. networks: groups of two ranks, by name of
    `TCP`, and the `Pair` "both" that computes the same without sums; or nothing."""
    name, batch = CELLS[cell]

    def question(ranks, link=None, batch=batch):
        return group, {"name": name, "batch": batch} | ({"plays": ranks, "link": link} if ranks > 1 else {})

    first, answers = measure({ranks: question(ranks) for ranks in (1, 2, 4)}, rounds, seconds)
    sizes = [size for size, *_ in answers[2][-1]["trace"]]
    size = sum(sizes)
    # Sums that take about as long as the step: nothing is left of what could hide them.
    slow = Link(20e-6, 1.5 * size / first[4])
    held_out = {
        "4 ranks, half of its bandwidth": (4, Link(20e-6, slow.bandwidth / 2), batch),
        "2 ranks, 10 GbE": (2, LINKS["10 GbE"], batch),
        "4 ranks, 10 GbE": (4, LINKS["10 GbE"], batch),
        "8 ranks, 10 GbE": (8, LINKS["10 GbE"], batch),
        "4 ranks, 10 GbE, twice the batch": (4, LINKS["10 GbE"], 2 * batch),
    }
    questions = {ranks: question(ranks) for ranks in (1, 2, 4)} | {"slow": question(4, slow)}
    if is_shown:
        questions |= {key: question(*setting) for key, setting in held_out.items()}
        if networks:
            questions["both"] = networks.pop("both"), question(2)[1]
        for key, real in networks.items():
            held_out[f"2 real ranks, {key}"] = (2, Link(20e-6, TCP[key]), batch)
            questions[f"2 real ranks, {key}"] = real, {"name": name, "batch": batch}
    s, answers = measure(questions, rounds, seconds)
    exposed = statistics.median(answer["exposed"] for answer in answers["slow"])
    alone = {batch // ranks: s[ranks] for ranks in (1, 2, 4)}
    last = next(n for n in reversed(sizes) if n > size / 20)
    model = fitted(alone, {(batch // 4, 4, slow): exposed}, size, last, len(sizes))
    if is_shown:
        print(f"\n{cell}: {model.fixed * 1e3:.3g} ms + {model.per_row * 1e6:.4g} us per row, of which "
              f"{model.hiding:.0%} can hide sums; {size / 1e6:.4g} MB\npredicted ms  measured  error")  # fmt: skip
        for key, (ranks, link, rows) in held_out.items():
            predicted = model.step(rows / ranks, ranks, link)
            if "real" in key:
                predicted += s["both"] - model.computing(rows / ranks)
            print(f"{predicted * 1e3:>12.4g}{s[key] * 1e3:>10.4g}{predicted / s[key] - 1:>+7.0%}   {key}", flush=True)
    return model


def end_of_scaling(model, link, between):
    """The number of ranks from which twice as many make less than 1.5 times the steps, and what then takes most."""

    def parts(ranks):
        rows = BATCH / ranks
        return model.per_row * rows, model.fixed, model.communication(rows, ranks, link, between)

    ranks = 2
    while ranks < BATCH and sum(parts(ranks)) > 1.5 * sum(parts(2 * ranks)):
        ranks *= 2
    _, fixed, communication = parts(2 * ranks)
    if ranks >= BATCH:
        return f"{ranks}: one row each"
    return f"{ranks}: {'the sum' if communication > fixed else 'update, calls'}"


def predict(models):
    print(f"\nGlobal batch {BATCH}: steps/s, efficiency")
    print("network  link                method          " + "".join(f"{p:>14}" for p in RANKS) + "   scaling ends at")
    for cell, model in models.items():
        for key, link in LINKS.items():
            for method, between in METHODS.items():
                figures = []
                for p in RANKS:
                    taken = model.computing(BATCH / p) + model.communication(BATCH / p, p, link, between)
                    figures.append(f"{1 / taken:>8.4g}{model.computing(BATCH) / p / taken:>6.0%}")
                end = end_of_scaling(model, link, between)
                print(f"{cell:<9}{key:<20}{method:<16}{''.join(figures)}   {end}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default="large,lenet5,medium", help=f"from {', '.join(CELLS)}")
    parser.add_argument("--peers", default="torch", choices=("torch", "none"))
    parser.add_argument("--parts", default="ranks,overlap,model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of each sample")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        serve(arguments.serve)
        return
    cells, parts, length = arguments.cells.split(","), arguments.parts.split(","), (arguments.rounds, arguments.seconds)
    with contextlib.ExitStack() as stack:
        groups = {"1": Group(1)}
        stack.callback(groups["1"].close)
        if "ranks" in parts:
            other = Group(1, core=1)
            groups |= {"2": Group(2), "4": Group(4)}
            if arguments.peers == "torch":
                groups["torch"] = Group(2, "torch")
            for group in (other, *(groups[key] for key in groups if key != "1")):
                stack.callback(group.close)
            groups["pair"] = Pair(groups["1"], other)
            compare_ranks(cells, groups, *length)
        if "overlap" in parts:
            show_overlap(cells[0], groups["1"], *length)
        if "model" in parts:
            networks = {key: Group(2, bandwidth=bandwidth) for key, bandwidth in TCP.items() if "network" in parts}
            if networks:
                other = Group(1, core=1)
                for group in (other, *networks.values()):
                    stack.callback(group.close)
                networks["both"] = Pair(groups["1"], other)
            shown = {"networks": networks, "rounds": arguments.rounds, "seconds": arguments.seconds}
            predict({cell: fit_model(cell, groups["1"], **shown, is_shown=cell == cells[0]) for cell in cells})


if __name__ == "__main__":
    main()
