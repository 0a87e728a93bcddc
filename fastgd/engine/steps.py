"""Training steps as tables, from which the native runner takes the values of each step without calling Python."""

import ctypes
import dataclasses
import functools
import time

import numpy as np


@dataclasses.dataclass
class StepValues:
    """What the next n steps of an optimizer take besides their data.

    optimizer           the optimizer
    begin, changes      its minibatches before the first step, and its changes by the user
    trained             the network's minibatches before the first step
    rates               (n,) learning rates
    active              (n,) whether the step updates the parameters
    values              (n,) per-step values of scalars, by key
    gradient_limits     (n,) largest magnitude allowed in the gradient
    parameter_limits    (n,) largest magnitude allowed in the parameters; None if no check is needed
    totals              (n,) result: losses
    table, binding      the runner's table of the values, once it is made (see `PerStepValues`), and the binding of a
                        plan's operations whose addresses it has"""

    optimizer: object
    begin: int
    changes: int
    trained: int
    rates: np.ndarray
    active: np.ndarray
    values: dict
    gradient_limits: np.ndarray
    parameter_limits: np.ndarray | None
    totals: np.ndarray
    table: "PerStepValues | None" = None
    binding: object = None

    @classmethod
    @np.errstate(all="ignore")
    def of(cls, plan, optimizer, count):
        """The values of the next `count` steps, or of fewer if learning rates are not known that far.

        Limits of magnitudes, where M is the largest finite number, and lr the learning rate times the largest of 1 and
        `learning_rate_factors`:

            gradient <= sqrt(M) / max(1, lr)    so that neither squares nor updates overflow; M if `clip_value` or
                                                `clip_norm` is at most this limit
            parameters <= sqrt(M) / f           f = max(1, lr) max(1, weight_decay): weight decay may multiply them by
                                                f; no limit without weight decay, or where f is 1"""
        before = *optimizer.counter.tolist(), plan.network.minibatches
        rates, active, values = optimizer.table(count, plan.dtype, plan.groups)
        count = len(rates)
        values["minibatch"] = before[2] + np.arange(count, dtype=np.float64)
        largest = optimizer.largest_factor * (rates[0] if rates.strides == (0,) else rates)
        most = float(np.finfo(plan.dtype).max)
        gradient = most**0.5 / np.maximum(1.0, largest)
        if optimizer.clip_limit is not None:
            gradient = np.where(optimizer.clip_limit <= gradient, most, gradient)
        limits = np.array(np.broadcast_to(gradient, count))
        decay, growth = optimizer.hyper.get("weight_decay", 0.0), None
        factors = np.maximum(1.0, largest) * max(1.0, decay)
        if decay and (factors != 1).any():
            factors = np.broadcast_to(factors, count)
            growth = np.where(factors == 1, np.inf, most**0.5 / factors)
        return cls(optimizer, *before, rates, active, values, limits, growth, np.zeros(count))

    def __len__(self):
        return len(self.rates)

    def first_of_next(self, optimizer, network):
        """The index of the optimizer's next step in the network, or None if its values are not here."""
        minibatches, changes = optimizer.counter.tolist()
        first = minibatches - self.begin
        known = optimizer is self.optimizer and changes == self.changes and 0 <= first <= len(self.rates)
        return first if known and network.counter.item() - self.trained == first else None


@dataclasses.dataclass
class Steps:
    """Inputs and results of n training steps.

    known, first        the `StepValues` of these and other steps, and the index of the first one there
    rates, parameter_limits, totals     the parts of them for these steps
    x, y                the data, (m, ...) each
    rows, starts        (n,) step s takes rows[s] rows: those named by order[starts[s]:] or, without `order`, those from
                        starts[s] on
    order               (k,) indices of rows of x and y in the order of the steps; None if each step's rows are adjacent
    weights             (rows of all steps, ...) factors of the losses, which include 1 / (losses in the step); None for
                        that factor alone
    weight_starts       (n,) index in `weights` of each step's first weight
    ends                (e,) numbers of steps after which an epoch ends
    times               (e,) result: time at which the epoch ended
    losses              (e,) result: mean loss of the epoch's rows
    sums                (2,) sum of the rows' losses in the current epoch, and number of its rows
    penalties           (n,) l2 per step where it differs from the network's, by phase: "total" for the loss, "penalty"
                        for the gradient"""

    known: StepValues
    first: int
    x: np.ndarray
    y: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    order: np.ndarray | None
    weights: np.ndarray | None
    weight_starts: np.ndarray | None
    ends: np.ndarray
    times: np.ndarray
    losses: np.ndarray
    sums: np.ndarray
    penalties: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        known, part = self.known, slice(self.first, self.first + len(self.rows))
        self.rates, self.totals = known.rates[part], known.totals[part]
        self.parameter_limits = None if known.parameter_limits is None else known.parameter_limits[part]

    @classmethod
    def of(cls, plan, optimizer, x, y, *, rows, starts, order=None, weights=None, ends=(), sums=None):
        """The next steps of an optimizer: as many as `rows` has, or fewer if learning rates are not known that far."""
        rows, starts, ends = np.asarray(rows, np.int64), np.asarray(starts, np.int64), np.asarray(ends, np.int64)
        known, first = plan.values_of_steps(optimizer, len(rows))
        count = len(known) - first
        if count < len(rows):
            rows, starts, ends = rows[:count], starts[:count], ends[ends <= count]
            weights = None if weights is None else weights[: rows.sum()]
        weight_starts = None if weights is None else np.cumsum(rows) - rows
        found = np.zeros(len(ends)), np.zeros(len(ends)), np.zeros(2) if sums is None else sums
        return cls(known, first, x, y, rows, starts, order, weights, weight_starts, ends, *found)

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
        """Records that step s is done, as the native runner does for its steps."""
        self.sums += self.rows[s] * self.totals[s], self.rows[s]
        end = np.searchsorted(self.ends, s + 1)
        if end < len(self.ends) and self.ends[end] == s + 1:
            self.times[end], self.losses[end] = time.monotonic(), self.sums[0] / self.sums[1]
            self.sums[:] = 0


class PerStepValues:
    """Values that the runner writes to slots of records before each step."""

    def __init__(self):
        self._rows, self._values = [], []

    def add(self, slots, values):
        """Adds slots, by address, and their values, an array with one 8-byte number per step. A value that is the same
        in all steps is written now."""
        bits = values[:1].view(np.int64)[0]
        if values.strides == (0,) or (values.view(np.int64) == bits).all():
            for slot in slots:
                ctypes.c_int64.from_address(slot).value = int(bits)
            return
        self._values.append(values)  # kept alive
        self._rows += [(slot, values.ctypes.data) for slot in slots]

    @functools.cached_property
    def table(self):
        """The runner's table."""
        return np.array(self._rows, np.int64).reshape(-1, 2)


def addresses(array, rows):
    """Addresses of rows of an array."""
    return array.ctypes.data + array.strides[0] * np.asarray(rows, np.int64)
