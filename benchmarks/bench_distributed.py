import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time

import numpy as np
from links import LINKS, Link, fitted, play

# ---- the ranks


def network_of(name):
    import fastgd

    if name == "lenet5":
        return fastgd.models.lenet5(seed=1)
    *hidden, classes = (int(n) for n in name.split("-"))
    layers = [*(fastgd.Dense(n, "relu") for n in hidden[1:]), fastgd.Dense(classes)]
    return fastgd.Network(hidden[0], layers, loss="softmax_cross_entropy", seed=1)


def data_of(shape, rows):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, *shape)).astype(np.float32), rng.integers(0, 10, rows)


def run_fastgd(task):
    import fastgd

    network = network_of(task["network"])
    x, y = data_of(network.input_shape, task["batch"] * task["steps"])
    times = []
    ranks, link = task.get("plays"), task.get("link")
    parallel = fastgd.distributed.mpi(bucket_bytes=task.get("bucket"), steps_between_syncs=task.get("between", 1))
    requests = []
    with play(ranks, Link(*link) if link else None) if ranks else contextlib.nullcontext() as requests:
        if ranks:
            parallel.size = ranks
        network.fit(x, y, optimizer=fastgd.Adam(1e-4), batch_size=task["batch"], epochs=task["epochs"], parallel=parallel,
            callbacks=[lambda run: times.append(time.perf_counter())])
    if not times:
        return None
    answer = {"seconds": (times[-1] - times[0]) / (len(times) - 1) / task["steps"]}
    if ranks:
        last = [r for r in requests if r.asked > times[-2]]
        last = last[-len(last) // task["steps"]:]
        answer["trace"] = [(r.size, r.asked - times[-1], r.done - times[-1]) for r in last]
    return answer


def run_torch(task):
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    torch.set_num_threads(1)
    network = network_of(task["network"])
    model = DistributedDataParallel(torch_twin(network))
    x, y = data_of(network.input_shape, task["batch"] * task["steps"])
    if x.ndim == 4:
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    rank, size = dist.get_rank(), dist.get_world_size()
    share = task["batch"] // size
    starts = range(rank * share, len(x), task["batch"])
    minibatches = [(torch.from_numpy(x[a:a+share]), torch.from_numpy(y[a:a+share])) for a in starts]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    times = []
    for _ in range(task["epochs"]):
        for a, b in minibatches:
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(model(a), b).backward()
            optimizer.step()
        times.append(time.perf_counter())
    return {"seconds": (times[-1] - times[0]) / (len(times) - 1) / task["steps"]}


def torch_twin(network):
    from torch import nn
    if len(network.input_shape) == 1:
        sizes = [*network.input_shape, *(layer.units for layer in network.layers)]
        layers = [l for a, b in zip(sizes, sizes[1:]) for l in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers[:-1])
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10))


def serve():
    """Answers the tasks that rank 0 reads, on all ranks; those that wait leave the core alone."""
    from mpi4py import MPI
    comm = MPI.COMM_WORLD.Dup()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, [cores[comm.rank % len(cores)]])
    os.environ |= {"RANK": str(comm.rank), "WORLD_SIZE": str(comm.size)}
    while True:
        line = np.zeros(1000, np.uint8)
        if comm.rank == 0:
            text = sys.stdin.readline().encode()
            line[:len(text)] = list(text)
        request = comm.Ibcast(line)
        while not request.Test():
            time.sleep(1e-3)
        text = line.tobytes().rstrip(b"\0").decode()
        if not text.strip():
            return
        task = json.loads(text)
        answer = (run_torch if task["peer"] == "torch" else run_fastgd)(task)
        if comm.rank == 0:
            print("ANSWER", json.dumps(answer), flush=True)

class Group:
    """A script under mpiexec"""
    def __init__(self, ranks):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "FASTGD_NUM_THREADS"), "1")
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        self.process = subprocess.Popen(["mpiexec", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def ask(self, **task):
        print(json.dumps(task), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("ANSWER"):
                return json.loads(line[7:])
        raise RuntimeError("ended")
    def close(self):
        self.process.stdin.close()
        self.process.wait()

if __name__ == "__main__":
    if "--serve" in sys.argv:
        serve()
    else:
        from proto import main
        main()
