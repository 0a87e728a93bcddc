"""A plain call of `fit` that is like an earlier one: it skips everything that could only have the same result.

A loop that calls `fit` for a few steps at a time, such as one that trains on what arrives, pays for each call's checks,
layout and history. A call is plain if it does nothing but train on arrays that kernels read in place: no validation,
callbacks, weights or files."""

import bisect
import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from .._plan import LONG_WORK, fill_shuffled, is_in_memory
from ..core.kernel import Kernel
from ..data.samples import check_inputs, check_values
from ..engine.steps import Steps
from ..errors import reason
from ..optimizers.base import Optimizer
from ..schedules import Schedule
from .history import History
from .run import Run
from .sampling import Minibatches

if TYPE_CHECKING:
    from ..network import Network

# A network remembers at most so many calls.
REMEMBERED = 16
TOLERANCE = 1e-4  # the default of `fit`
# The options of `fit` after `shuffle`, in its order, in a plain call: their defaults.
PLAIN = (None, None, None, None, (), None, TOLERANCE, None, False, (), False, None, None, False, False, None)


def key_of_plain(
    X: object, y: object, optimizer: object, batch_size: object, epochs: object, shuffle: object,
    options: tuple[object, ...],
) -> tuple[object, ...] | None:  # fmt: skip
    """What identifies a plain call with these arguments of `fit`, or None if it is not plain."""
    if not (type(X) is type(y) is np.ndarray and isinstance(optimizer, Optimizer) and type(epochs) is int):
        return None
    if optimizer.takes_all_rows:
        return None
    if type(shuffle) is not bool or not (batch_size is None or type(batch_size) is int):
        return None
    if not all(option is default for option, default in zip(options, PLAIN, strict=True)):
        return None
    return batch_size, epochs, shuffle, X.shape, y.shape


@dataclasses.dataclass(eq=False)
class Repeated:
    """What a plain call leaves for the next one like it.

    x_dtype, y_dtype    of the arrays
    kernel              of the loss
    size                rows of a minibatch
    rows, ends          as in `Steps`
    starts              likewise, in the order of the rows, or in the data if that is not random
    pauses              the number of steps, as an array
    is_shuffled         whether the order of the rows is random"""

    x_dtype: np.dtype
    y_dtype: np.dtype
    kernel: Kernel
    size: int
    rows: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    pauses: np.ndarray
    is_shuffled: bool

    def serves(self, executor, optimizer, X, y):
        """Whether the executor and the optimizer are prepared, and kernels can read the arrays in place."""
        plan, schedule, x_flags, y_flags = executor.plan, optimizer.schedule, X.flags, y.flags
        if plan is None or plan.capacity < self.size or plan.loss_kernel is not self.kernel or not plan.is_current():
            return False
        if plan.optimizer is not optimizer or executor.lock.disturbed or optimizer.lock.disturbed:
            return False
        if not isinstance(schedule, Schedule) or schedule.observes_loss:
            return False
        if plan.users_links:  # a user's rule may raise halfway
            return False
        if X.dtype is not self.x_dtype or y.dtype is not self.y_dtype:
            return False
        if not (x_flags.c_contiguous and x_flags.aligned and y_flags.c_contiguous and y_flags.aligned):
            return False
        return bool(is_in_memory(X) and is_in_memory(y))


class RepeatedCalls:
    """The plain calls of `fit` of a network that may be repeated."""

    def __init__(self) -> None:
        self._calls: dict[tuple[object, ...], Repeated] = {}

    def keep(self, key: tuple[object, ...], run: Run) -> None:
        """Remembers a call, whose arguments `key` identifies, if it can be repeated."""
        source, plan = run.source, run.network.executor.plan
        if not isinstance(source, Minibatches) or not source.is_in_place or plan is None or plan.runner is None:
            return
        steps = source.per_epoch * run.epochs
        if not 0 < steps <= source.limit or source.rows * run.epochs * plan.work > LONG_WORK:
            return
        rows, starts, _, ends = source.lengths(0, run.epochs)
        if not source.is_shuffled:  # each epoch begins at the first row
            starts = starts % source.rows
        if len(self._calls) >= REMEMBERED:
            self._calls.clear()
        self._calls[key] = Repeated(
            source.samples.x.dtype, source.y.dtype, source.samples.kernel, source.size, rows, starts, ends,
            np.array([steps]), source.is_shuffled,
        )  # fmt: skip

    def repeat(
        self, network: "Network", X: Any, y: Any, optimizer: Any, key: tuple[object, ...]
    ) -> "History | tuple[Steps, int] | None":
        """Trains if the call is remembered. Returns the history; or the steps, and how many were done, if a `Run` must
        go on; or None if it did nothing."""
        kept, executor = self._calls.get(key), network.executor
        if kept is None or not kept.serves(executor, optimizer, X, y):
            return None
        started = time.monotonic()
        check_inputs("X", X, network)
        check_values("y", y, network.dtype, kept.kernel.arrays["y"], network.output_shape[-1])
        with executor.lock, optimizer.lock:
            if not kept.serves(executor, optimizer, X, y):  # another thread came first
                return None
            plan: Any = executor.plan
            steps = _lay_out(network, plan, kept, optimizer, X, y)
            if steps.parameter_limits is not None or len(steps) < kept.pauses[0]:
                return None
            history, begun = History(), optimizer.minibatches
            try:
                s, is_done = executor.train_at_once(steps, kept.pauses)
                if not is_done:
                    return steps, s
                _record(network, history, steps, optimizer, started, s, "epochs")
            except BaseException as error:
                if network.history is not history:
                    done = optimizer.minibatches - begun
                    _record(network, history, steps, optimizer, started, done, reason(error))
                raise
            return history


def _lay_out(network, plan, kept, optimizer, X, y):
    """The `Steps` of a repeated call."""
    rows, epochs = len(X), len(kept.ends)
    starts, order = kept.starts, None
    if kept.is_shuffled:
        order = np.empty(rows * epochs, np.int64)
        for i in range(epochs):
            fill_shuffled(order[i * rows : (i + 1) * rows], network.seed % 2**64, network.epochs + i)
        if len(starts) == len(order):  # rows of a step of one row lie side by side
            starts, order = order, None
    return Steps.of(plan, optimizer, X, y, rows=kept.rows, starts=starts, order=order, ends=kept.ends)


def _record(network, history, steps, optimizer, started, done, stopped):
    """Fills the history of a repeated call, of which so many steps are done, and gives it to the network."""
    epochs, minibatches, accumulate = bisect.bisect_right(steps.ends, done), optimizer.minibatches, optimizer.accumulate
    history.loss = steps.losses[:epochs].tolist()
    history.learning_rate = steps.rates[steps.ends[:epochs] - 1].tolist()
    history.rows = [len(steps.x) * (i + 1) for i in range(epochs)]
    history.seconds = (steps.times[:epochs] - started).tolist()
    history.steps = minibatches // accumulate - (minibatches - done) // accumulate
    history.stopped = stopped
    # Both or nothing: Python handles signals at calls and jumps, and here there are none.
    network.epochs += epochs
    network.history = history
