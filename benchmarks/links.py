"""Emulated networks for bench_distributed.py, and the model of the time of a step on many ranks.

`play` makes one process a rank of many: it runs the product's own code with the share of one rank, and each sum over
ranks ends no earlier than a link of a given latency and bandwidth would allow. Such a rank needs no second core, and has
its core for itself as it would in a cluster."""

import contextlib
import math
import time
import typing

import numpy as np


class Link(typing.NamedTuple):
    """latency: seconds of a message. bandwidth: bytes per second of a rank in each direction."""

    latency: float
    bandwidth: float

    def seconds(self, size, ranks):
        """Time of a sum of `size` bytes over ranks: a reduce-scatter by halving and an all-gather by doubling, the
        fewest messages with which each rank sends no more than 2 (p - 1) / p of the bytes (Rabenseifner 2004)."""
        return 2 * math.ceil(math.log2(ranks)) * self.latency + 2 * (ranks - 1) / ranks * size / self.bandwidth


LINKS = {
    "10 GbE": Link(20e-6, 1.25e9),
    "100 GbE": Link(10e-6, 12.5e9),
    "InfiniBand 200 Gb/s": Link(2e-6, 25e9),
}


class Request(typing.NamedTuple):
    """A sum on the link: its size, and when it was asked for and is done."""

    size: int
    asked: float
    done: float


@contextlib.contextmanager
def play(ranks, link):
    """Context manager in which `fit` is rank 0 of so many, all of which have its gradient; the link None takes no time.
    Yields the list of the requests. A sum multiplies by the number of ranks, on the rank's own core as MPI's additions
    are; the link serves one request after the other, meanwhile."""
    from fastgd.training import ranks as module

    requests = []

    class Played(module.Ranks):
        def __init__(self, comm, timeout):
            super().__init__(comm, timeout)
            self.size = ranks

        def start_sum(self, array):
            now = time.perf_counter()
            begin = max(now, requests[-1].done if requests else now)
            requests.append(Request(array.nbytes, now, begin + (link.seconds(array.nbytes, ranks) if link else 0)))
            array *= ranks
            return requests[-1]

        def wait(self, waited):
            if not all(isinstance(request, Request) for request in waited):
                return super().wait(waited)
            end = max(request.done for request in waited)
            while (left := end - time.perf_counter()) > 0:
                time.sleep(left - 1e-3 if left > 2e-3 else 0)

        def gather(self, value):
            return [value] * ranks

        def share_from_root(self, array):
            pass

        def _send(self, tag, message):
            pass

    original, module.Ranks = module.Ranks, Played
    try:
        yield requests
    finally:
        module.Ranks = original


class Model(typing.NamedTuple):
    """Seconds of a step: fixed + per_row * rows of the share without communication, of which `hiding` * per_row * rows
    can pass beside the sums, except for the last bucket's.

    size: bytes of the gradient. buckets: number of sums."""

    fixed: float
    per_row: float
    hiding: float
    size: int
    buckets: int

    def step(self, rows, ranks, link):
        compute = self.fixed + self.per_row * rows
        if ranks == 1:
            return compute
        communication = link.seconds(self.size, ranks) + 2 * (self.buckets - 1) * math.ceil(math.log2(ranks)) * link.latency
        return compute + max(0.0, communication - self.hiding * self.per_row * rows)

    def local_step(self, rows, ranks, link, between):
        """A step of local SGD: one sum of the parameters, which hides nothing, for so many steps."""
        return self.fixed + self.per_row * rows + (link.seconds(self.size, ranks) / between if ranks > 1 else 0.0)


def fitted(alone, linked, size, buckets):
    """A model of measured seconds: `alone` by rows, without a link; `linked` by (rows, ranks, link)."""
    rows, seconds = np.array(list(alone)), np.array(list(alone.values()))
    # Relative errors count.
    fixed, per_row = np.linalg.lstsq(np.column_stack([1 / seconds, rows / seconds]), np.ones(len(rows)), rcond=None)[0]
    bare = Model(max(0.0, fixed), per_row, 0.0, size, buckets)
    shares = [(bare.step(*setting) - taken) / (per_row * setting[0]) for setting, taken in linked.items()]
    return bare._replace(hiding=max(0.0, float(np.median(shares))))
