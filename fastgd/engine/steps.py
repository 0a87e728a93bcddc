"""Training steps laid out beforehand, as tables, so that the native runner goes from one to the next by itself."""

import ctypes
import dataclasses
import time

import numpy as np


@dataclasses.dataclass
class Steps:
    """n training steps to run, and what comes of them.

    x, y                the data: (m, ...) each
    rows, starts        (n,) step s takes rows[s] rows: at order[starts[s]:], or without `order` from starts[s] on
    order               indices of rows of x and y in the order of the steps, or None: the rows lie side by side
    weights             (rows of all steps, ...) factors of the losses, 1 / (losses in the step) included; None is that
                        alone
    weight_starts       (n,) where those of each step begin
    rates               (n,) learning rates
    active              (n,) whether the parameters are updated
    values              (n,) each: values of scalars by key
    gradient_limits     (n,) what no element of the gradient may exceed,
    parameter_limits    (n,) what no parameter may exceed, or None: they cannot
    totals              (n,) receives the losses
    ends                numbers of steps after which an epoch ends:
    times, losses       receive when it does, and the mean loss of its rows
    sums                (2,) the sum of the rows' losses in the current epoch, and the number of rows
    penalties           (n,) each: l2 where it is not the network's, in the phases "total" (the loss) and "penalty" (the
                        gradient)"""

    x: np.ndarray
    y: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    order: np.ndarray | None
    weights: np.ndarray | None
    weight_starts: np.ndarray | None
    rates: np.ndarray
    active: np.ndarray
    values: dict
    gradient_limits: np.ndarray
    parameter_limits: np.ndarray | None
    totals: np.ndarray
    ends: np.ndarray
    times: np.ndarray
    losses: np.ndarray
    sums: np.ndarray
    penalties: dict = dataclasses.field(default_factory=dict)

    @classmethod
    @np.errstate(all="ignore")
    def of(cls, plan, optimizer, x, y, *, rows, starts, order=None, weights=None, ends=(), sums=None):
        """The next steps of an optimizer, or as many of them as it can tell the learning rates of. A gradient within
        the square root of the largest number has squares that do not overflow, nor do updates at a learning rate above
        1; it is that where its factors are within the peak. One that is clipped to such a length before it is used need
        only be finite.
        Weight decay shrinks the parameters as long as neither it nor the learning rate is above 1; above, they may grow
        by a factor."""
        rows, starts, ends = (np.asarray(numbers, np.int64) for numbers in (rows, starts, ends))
        rates, active, values = optimizer.table(len(rows), plan.dtype, plan.kinds)
        rows, starts, ends = rows[: len(rates)], starts[: len(rates)], ends[ends <= len(rates)]
        if weights is not None:
            weights = weights[: rows.sum()]
        values["minibatch"] = plan.network.minibatches + np.arange(len(rows), dtype=np.float64)
        largest = optimizer.largest_factor * (rates[0] if rates.strides == (0,) else rates)
        most = float(np.finfo(plan.dtype).max)
        gradient = most**0.5 / np.maximum(1.0, largest)
        if optimizer.clip_limit is not None:
            gradient = np.where(optimizer.clip_limit <= gradient, most, gradient)
        limits = np.broadcast_to(gradient, len(rows))
        decay, growth = optimizer.hyper.get("weight_decay", 0.0), None
        factors = np.maximum(1.0, largest) * max(1.0, decay)
        if decay and (factors != 1).any():
            factors = np.broadcast_to(factors, len(rows))
            growth = np.where(factors == 1, np.inf, most**0.5 / factors)
        sums = np.zeros(2) if sums is None else sums
        found = np.zeros(len(rows)), ends, np.zeros(len(ends)), np.zeros(len(ends)), sums
        weight_starts = None if weights is None else np.cumsum(rows) - rows
        return cls(x, y, rows, starts, order, weights, weight_starts, rates, active, values, limits, growth, *found)

    @property
    def in_place(self):
        return self.order is None

    def __len__(self):
        return len(self.rows)

    def minibatch(self, s):
        """The rows of x and y of step s."""
        start, rows = int(self.starts[s]), int(self.rows[s])
        chosen = slice(start, start + rows) if self.in_place else self.order[start : start + rows]
        return self.x[chosen], self.y[chosen]

    def count(self, s):
        """Notes that step s is done: what the native runner does by itself."""
        self.sums += self.rows[s] * self.totals[s], self.rows[s]
        end = np.searchsorted(self.ends, s + 1)
        if end < len(self.ends) and self.ends[end] == s + 1:
            self.times[end], self.losses[end] = time.monotonic(), self.sums[0] / self.sums[1]
            self.sums[:] = 0


class PerStepValues:
    """What the runner puts into slots of records before each step."""

    def __init__(self):
        self._rows, self._values = [], []

    def add(self, slots, values):
        """Sets, before each step, the slots at these addresses from an array of 8-byte numbers, one for each step; a
        number that stays is put there now."""
        bits = values[:1].view(np.int64)[0]
        if values.strides == (0,) or (values.view(np.int64) == bits).all():
            for slot in slots:
                ctypes.c_int64.from_address(slot).value = int(bits)
            return
        self._values.append(values)  # kept alive
        self._rows += [(slot, values.ctypes.data) for slot in slots]

    def table(self):
        return np.array(self._rows, np.int64).reshape(-1, 2)


def addresses(array, rows):
    """Addresses of rows of an array."""
    return array.ctypes.data + array.strides[0] * np.asarray(rows, np.int64)
