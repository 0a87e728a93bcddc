"""Training steps laid out beforehand, as tables, so that the native runner goes from one to the next by itself."""

import ctypes
import dataclasses

import numpy as np


@dataclasses.dataclass
class Steps:
    """Training steps to run: step s takes rows[s] rows of x and y, those at order[starts[s]:], or with `in_place`
    those from starts[s] on. Each of `rates` (learning rates), `active` (whether the parameters are updated), `values`
    (of what is fed, by key), `gradient_limits` and `peak_limits` has an element for each step, and the losses go to
    `totals`. `ends` are steps after which the time is noted in `times`."""

    x: np.ndarray
    y: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    order: np.ndarray | None
    rates: np.ndarray
    active: np.ndarray
    values: dict
    gradient_limits: np.ndarray
    peak_limits: np.ndarray
    totals: np.ndarray
    ends: np.ndarray
    times: np.ndarray

    @classmethod
    def of(cls, plan, optimizer, x, y, *, rows, starts, order=None, ends=()):
        """The next steps of an optimizer. A gradient within the square root of the largest number has squares that do
        not overflow, nor do updates at a learning rate above 1; it is that where its factors are within the peak."""
        rows, starts = np.asarray(rows, np.int64), np.asarray(starts, np.int64)
        rates, active, values = optimizer.table(len(rows), plan.dtype, plan.kinds)
        largest = optimizer.largest_factor * (rates[0] if rates.strides == (0,) else rates)
        gradient = float(np.finfo(plan.dtype).max) ** 0.5 / np.maximum(1.0, largest)
        limits = np.broadcast_to(gradient, len(rows)), np.sqrt(gradient / rows)
        ends = np.asarray(ends, np.int64)
        totals, times = np.zeros(len(rows)), np.zeros(len(ends))
        return cls(x, y, rows, starts, order, rates, active, values, *limits, totals, ends, times)

    @property
    def in_place(self):
        return self.order is None

    def __len__(self):
        return len(self.rows)


class Feeds:
    """What the runner puts into slots of records before each step."""

    def __init__(self):
        self._rows, self._values = [], []

    def add(self, slots, values):
        """Feeds the slots at these addresses from an array of 8-byte numbers, one for each step; a number that stays is
        put there now."""
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
