"""Emulated networks for bench_distributed.py, and the model of the time of a step on many ranks.

`play` makes one process a rank of many: it runs the product's own code with the share of one rank, and each sum over
ranks ends no earlier than a link of a given latency and bandwidth would allow. Such a rank needs no second core, and
has its core for itself as it would in a cluster."""

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

    def Test(self):
        return time.perf_counter() >= self.done


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
    """Seconds of a step on many ranks: computing takes fixed + per_row * rows of a rank's share; a sum ends no earlier
    than its last piece after that, and hiding * per_row * rows of it pass meanwhile.

    size, last: bytes of the gradient, and of the piece that is computed last. pieces: number of sums."""

    fixed: float
    per_row: float
    hiding: float
    size: int
    last: int
    pieces: int

    def computing(self, rows):
        return self.fixed + self.per_row * rows

    def exposed(self, rows, ranks, link):
        """Time of the sums that passes after everything is computed."""
        if ranks == 1 or link is None:
            return 0.0
        latencies = (self.pieces - 1) * link.seconds(0, ranks)
        hidden = self.hiding * self.per_row * rows
        return max(link.seconds(self.last, ranks), link.seconds(self.size, ranks) + latencies - hidden)

    def step(self, rows, ranks, link):
        return self.computing(rows) + self.exposed(rows, ranks, link)

    def communication(self, rows, ranks, link, between):
        """Time of communication per step: of gradients, or of a sum of the parameters every so many steps, which hides
        nothing."""
        return self.exposed(rows, ranks, link) if between == 1 else link.seconds(self.size, ranks) / between


def fitted(alone, linked, size, last, pieces):
    """A model of measured seconds: of steps without a link, `alone` by rows; of sums after the last gradient, `linked`
    by (rows, ranks, link), where the sums take longer than what hides them."""
    rows, seconds = np.array(list(alone)), np.array(list(alone.values()))
    # Least squares of relative errors.
    columns = np.column_stack([1 / seconds, rows / seconds])
    (fixed, per_row), *_ = np.linalg.lstsq(columns, np.ones(len(rows)), rcond=None)
    if fixed < 0 or per_row < 0:  # none of it, within the errors of the measurement
        fixed, per_row = (0.0, np.mean(seconds / rows)) if fixed < 0 else (np.mean(seconds), 1e-12)
    bare = Model(float(fixed), float(per_row), 0.0, size, last, pieces)
    shares = [(bare.exposed(*setting) - taken) / (per_row * setting[0]) for setting, taken in linked.items()]
    return bare._replace(hiding=float(np.clip(np.median(shares), 0.0, 1.0)))
