"""Sums of arrays over a few ranks, by messages between each two of them."""

import itertools
import threading
from typing import Any

import numpy as np
from mpi4py import MPI

from ..core.types import Array

# The most ranks whose arrays are added so: each sends two messages to every other one.
MOST_RANKS = 16
# Tags of messages: twice the number of the sum, of those that may be under way at a time.
TAGS = 2**13


class Sum:
    """An array that is being added over ranks, in place. Each rank adds one part of it, in the order of the ranks, and
    sends the result to all: 2 (p - 1) / p of the array each way, and the same bits on all ranks. Open MPI's
    `Iallreduce` copies more between ranks of a machine, and takes five times as long for large arrays.

    buffers: for what is received, by array: kept, since new memory costs more than the sum."""

    def __init__(self, comm: "MPI.Intracomm", array: "Array", number: int, buffers: dict[Any, "Array"]) -> None:
        self._comm, self._array, self._tag = comm, array, 2 * (number % TAGS)
        ends = [array.size * rank // comm.size for rank in range(comm.size + 1)]
        self._parts = [array[a:b] for a, b in itertools.pairwise(ends)]
        self._others = [rank for rank in range(comm.size) if rank != comm.rank]
        own = self._parts[comm.rank]
        key = array.ctypes.data, array.size, array.dtype
        if key not in buffers:
            buffers[key] = np.empty((comm.size, own.size), array.dtype)
        self._received = buffers[key]
        self._requests = [comm.Irecv(self._received[rank], rank, self._tag) for rank in self._others]
        self._requests += [comm.Isend(self._parts[rank], rank, self._tag) for rank in self._others]
        self._is_added, self._lock = False, threading.Lock()

    def Test(self) -> bool:
        """Goes on as far as the messages that have come allow; returns whether the sum is done, False while another
        thread looks."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            return self._go_on()
        finally:
            self._lock.release()

    def _go_on(self) -> bool:
        if not MPI.Request.Testall(self._requests):
            return False
        if self._is_added:
            return True
        own, rank = self._parts[self._comm.rank], self._comm.rank
        terms: list[Any] = [*self._received[:rank], own, *self._received[rank + 1 :]]
        total = terms[0]
        for term in terms[1:-1]:
            total = np.add(total, term, self._received[rank])
        np.add(total, terms[-1], own)
        self._is_added, tag = True, self._tag + 1
        self._requests = [self._comm.Irecv(self._parts[other], other, tag) for other in self._others]
        self._requests += [self._comm.Isend(own, other, tag) for other in self._others]
        return bool(MPI.Request.Testall(self._requests))
