"""The ranks of a training run: what they tell each other, and how they notice that one of them failed.

No call waits within MPI: a rank that waits looks for messages of failure, and after a while asks whether the others are
alive, which a thread of each answers. That thread also goes on with large sums while the main one computes: over 2
Gbit/s a step then takes 0.94 of the time."""

import atexit
import collections
import pickle
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI

from ..core.interrupts import Interrupted
from ..core.types import Array
from ..errors import RankError, raised_by_all, value_error, warn_user
from .sums import MOST_RANKS, Sum

# While an array of so many bytes is being added, the thread that answers looks so often (s), and goes on with the sum.
LARGE_BYTES, SHORT_LOOK = 2**20, 1e-3
# A smaller array is added in fewer messages than a `Sum` sends.
LEAST_BYTES = 16 * 1024
# Tags of the messages on the communicator `_alarms`.
FAILED, ASKED, ANSWERED = 1, 2, 3
# Tests of a request between two looks at messages; seconds of busy waiting; of each sleep after that.
TESTS, BUSY, NAP = 64, 2e-3, 5e-5
# Seconds within which a living rank answers; within which it does when mpiexec is about to end it, after a quarter of a
# second; which one that failed gives the others to learn it; between two looks of the thread that answers.
ANSWER, HURRY, FAREWELL, LOOK = 3.0, 0.1, 1.0, 0.01
# Seconds after which a rank that waits for the others to come says so.
LATE = 20.0

# An address in the repr of a function, which differs between processes.
ADDRESS = re.compile(r" at 0x[0-9a-f]+")

# What helps if an argument differs between ranks.
ADVICE = {
    "data": " (seed random numbers alike, or give sharded=True for rows of its own; these are digests)",
    "rows": " (with sharded=True each rank brings as many)",
}


class Ranks:
    """rank, size: the number of this process, and of all. It serves for one run."""

    def __init__(self, comm: "MPI.Intracomm", timeout: float) -> None:
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise RuntimeError("MPI: expected the thread level MPI_THREAD_MULTIPLE, since a thread of each answers the "
                               f"others, got level {MPI.Query_thread()} (see mpi4py.rc.thread_level)")  # fmt: skip
        self.rank, self.size = comm.rank, comm.size
        self.comm, self._alarms, self._timeout = _duplicate(comm), _duplicate(comm), timeout
        self.has_agreed = False  # whether `agree` was called
        self.signals: Sequence[Any] = ()  # deferred ones, which end a wait
        self._sent: list[Any] = []
        self._answered: set[int] = set()
        self._sums = 0
        self._large: collections.deque[Sum] = collections.deque()  # those that the thread goes on with
        self._buffers: dict[Any, Array] = {}
        self._lock, self._end = threading.Lock(), threading.Event()
        self._failure: RankError | None = None
        self._aborts = False
        self._thread = threading.Thread(target=self._answer, name="fastgd ranks", daemon=True)
        self._thread.start()

    # ---- messages

    def start_sum(self, array: "Array") -> Any:
        """Begins to add an array over all ranks, in place; returns a request."""
        if self.size > MOST_RANKS or array.nbytes < LEAST_BYTES or self.size == 1:
            return self.comm.Iallreduce(MPI.IN_PLACE, array)
        self._sums += 1
        started = Sum(self.comm, array, self._sums, self._buffers)
        if array.nbytes >= LARGE_BYTES:
            self._large.append(started)
        return started

    def go_on(self, requests: Sequence[Any]) -> list[Any]:
        """Lets requests go on as far as they can, and returns those that are not done."""
        return [request for request in requests if not request.Test()]

    def gather(self, value: object) -> list[Any]:
        """The values of all ranks, on each of them."""
        own = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = np.zeros(self.size, np.int64)
        self.wait([self.comm.Iallgather(np.array([own.size]), sizes)])
        parts = np.zeros(sizes.sum(), np.uint8)
        starts = np.cumsum(sizes) - sizes
        self.wait([self.comm.Iallgatherv(own, [parts, sizes, starts, MPI.UINT8_T])])
        return [pickle.loads(parts[a : a + n].tobytes()) for a, n in zip(starts, sizes, strict=True)]

    def gather_arrays(self, arrays: Sequence["Array"]) -> list[list["Array"]]:
        """Lists of arrays of one size, of all ranks, on each of them."""
        counts = np.array(self.gather(len(arrays)))
        size, own = arrays[0].size, np.concatenate(arrays)
        parts = np.empty(counts.sum() * size, own.dtype)
        sizes = counts * size
        self.wait([self.comm.Iallgatherv(own, [parts, sizes, np.cumsum(sizes) - sizes, None])])
        rows, ends = parts.reshape(-1, size), np.cumsum(counts)
        return [list(rows[end - n : end]) for end, n in zip(ends, counts, strict=True)]

    def gather_array(self, array: "Array") -> "Array":
        """The arrays of all ranks, of one shape and dtype, as one (ranks, ...) on each of them."""
        arrays = np.empty((self.size, *array.shape), array.dtype)
        self.wait([self.comm.Iallgather(array, arrays)])
        return arrays

    def from_root(self, function: Callable[[], Any]) -> Any:
        """What a function returns on rank 0, on all ranks. If it raises there, the others raise RankError."""
        value = function() if self.rank == 0 else None
        size, own = np.zeros(1, np.int64), b""
        if self.rank == 0:
            own = pickle.dumps(value)
            size[0] = len(own)
        self.wait([self.comm.Ibcast(size, 0)])
        data = np.frombuffer(own, np.uint8).copy() if self.rank == 0 else np.empty(size[0], np.uint8)
        self.wait([self.comm.Ibcast(data, 0)])
        return value if self.rank == 0 else pickle.loads(data.tobytes())

    def share_from_root(self, array: "Array") -> None:
        """Copies an array of rank 0 to all ranks."""
        self.wait([self.comm.Ibcast(array, 0)])

    def agree(self, failure: str | None) -> None:
        """Ends what each rank does for itself before they work together; all call it. failure: why this rank cannot go
        on, or None. If any cannot, it raises RankError on the others."""
        self.has_agreed = True
        for rank, text in enumerate(self.gather(failure)):
            if text is not None and failure is None:
                raise raised_by_all(RankError(f"rank {rank}: {text}", rank, is_told=True))

    def check_same(self, named: dict[str, Any]) -> None:
        """Raises ValueError on all ranks, which names what differs, unless all have the same values."""
        values = self.gather({name: ADDRESS.sub("", repr(value)) for name, value in named.items()})
        for name, first in values[0].items():
            for rank, own in enumerate(values):
                if own.get(name) != first:
                    expected = f"the same on all ranks{ADVICE.get(name, '')}: {first} on rank 0"
                    raise raised_by_all(value_error(name, expected, f"{own[name]} on rank {rank}"))

    # ---- waiting, and failures

    def wait(self, requests: Sequence[Any]) -> None:
        """Waits until requests are done. Raises RankError if another rank has failed or does not answer, Interrupted if
        one of `signals` has come."""
        started, tests, asked = time.monotonic(), 0, 0.0
        while requests := self.go_on(requests):
            tests += 1
            if tests % TESTS:
                continue
            self._listen()
            waited = time.monotonic() - started
            if waited > BUSY:
                time.sleep(NAP)
            if not asked and waited > self._timeout:
                self._answered.clear()
                self._send(ASKED, None)
                asked = waited
            elif asked and waited > asked + ANSWER:
                silent = sorted(set(range(self.size)) - self._answered - {self.rank})
                if silent:
                    ranks = ", ".join(map(str, silent))
                    raise self._broken(f"rank {ranks}: no answer for {waited:.0f} s; it hangs or has died", silent[0])
                asked, started = 0.0, time.monotonic()

    def tell_failure(self, message: str) -> None:
        """Tells all other ranks that this one fails."""
        self._send(FAILED, message)
        self._abort_at_exit()

    def close(self, *, is_failure: bool = False) -> None:
        """Ends the thread that answers, once all ranks have come here, unless one of them has failed."""
        if not is_failure:
            self.wait([self.comm.Ibarrier()])
        self._end.set()
        self._thread.join()
        if not is_failure:
            self.comm.Free()
            self._alarms.Free()

    def _send(self, tag, message):
        with self._lock:
            others = [rank for rank in range(self.size) if rank != self.rank]
            self._sent += [self._alarms.isend(message, rank, tag) for rank in others]

    def _listen(self):
        """Raises what another rank has told, or Interrupted."""
        if self.signals:
            raise Interrupted
        if self._failure is not None:
            raise self._failure

    def _answer(self):
        """The thread that looks for messages."""
        status = MPI.Status()
        while not self._end.wait(SHORT_LOOK if self._large else LOOK):
            try:
                while self._large and self._large[0].Test():
                    self._large.popleft()
            except MPI.Exception:  # the main thread, which waits for the sum, meets it as well
                self._large.clear()
            with self._lock:
                while self._alarms.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG, status):
                    source, tag = status.Get_source(), status.Get_tag()
                    message = self._alarms.recv(source=source, tag=tag)
                    if tag == ASKED:
                        self._sent.append(self._alarms.isend(None, source, ANSWERED))
                    elif tag == ANSWERED:
                        self._answered.add(source)
                    elif self._failure is None:
                        self._failure = self._broken(f"rank {source}: {message}", source, is_told=True)

    def _broken(self, message, rank, *, is_told=False):
        self._abort_at_exit()
        return RankError(message, rank, is_told=is_told)

    def dead(self) -> list[int]:
        """The other ranks that do not answer in a hurry. Raises what another one has told. All living ranks must call
        it at about the same time, and are answered meanwhile."""
        self._answered.clear()
        self._send(ASKED, None)
        end = time.monotonic() + HURRY
        while time.monotonic() < end:
            time.sleep(LOOK)
        self._listen()
        return sorted(set(range(self.size)) - self._answered - {self.rank})

    def _abort_at_exit(self):
        """MPI's own end waits for all ranks, which would be for ever. mpiexec then ends the others, which first have
        the time to learn why."""
        if not self._aborts:
            self._aborts = True
            atexit.register(self._abort, time.monotonic() + FAREWELL)

    def _abort(self, earliest):
        time.sleep(max(0.0, earliest - time.monotonic()))
        self.comm.Abort(1)


def _duplicate(comm):
    """A communicator of the same ranks, for messages of its own. It waits outside of MPI, where signals are handled,
    until all ranks have come."""
    made, request = comm.Idup()
    started, is_told = time.monotonic(), False
    while not request.Test():
        waited = time.monotonic() - started
        if waited > BUSY:
            time.sleep(NAP)
        if waited > LATE and not is_told:
            is_told = True
            warn_user(f"rank {comm.rank} waits for the others to call fit: have they ended?")
    return made
