"""Training steps laid out beforehand, as tables, so that the native runner goes from one to the next by itself."""

import ctypes
import dataclasses

import numpy as np


@dataclasses.dataclass
class Steps:
    """Training steps to run: step s takes rows[s] rows of x and y, those at order[starts[s]:], or with `in_place`
    those from starts[s] on. `scalars` and `limits` (of the gradient, of the peak) have a row for each step, and the
    losses go to `totals`. `ends` are steps after which the time is noted in `times`; `rates` are learning rates."""

    x: np.ndarray
    y: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    order: np.ndarray | None
    rates: np.ndarray
    scalars: np.ndarray
    limits: np.ndarray
    totals: np.ndarray
    ends: np.ndarray
    times: np.ndarray

    @classmethod
    def of(cls, plan, optimizer, x, y, *, rows, starts, order=None, ends=()):
        """The next steps of an optimizer. A gradient within the square root of the largest number has squares that do
        not overflow, nor do updates at a learning rate above 1; it is that where its factors are within the peak."""
        rows, starts = np.asarray(rows, np.int64), np.asarray(starts, np.int64)
        rates, scalars = optimizer.table(len(rows), plan.dtype)
        gradient = float(np.finfo(plan.dtype).max) ** 0.5 / np.maximum(1.0, rates)
        limits = np.stack([gradient, np.sqrt(gradient / rows)], axis=1)
        ends = np.asarray(ends, np.int64)
        return cls(x, y, rows, starts, order, rates, scalars, limits, np.zeros(len(rows)), ends, np.zeros(len(ends)))

    @property
    def in_place(self):
        return self.order is None

    def __len__(self):
        return len(self.rows)


class Feeds:
    """What the runner puts into slots of records before each step: a row of a table for every step."""

    def __init__(self):
        self._rows, self._tables = [], []

    def add(self, slots, table, column=0):
        """Feeds the slots at these addresses from a column of 8-byte numbers; a number that stays is put there now."""
        values = table.reshape(len(table), -1)[:, column].view(np.int64)
        if (values == values[0]).all():
            for slot in slots:
                ctypes.c_int64.from_address(slot).value = int(values[0])
            return
        self._tables.append(table)  # kept alive
        self._rows += [(slot, table.ctypes.data + 8 * column, table.strides[0] // 8) for slot in slots]

    def table(self):
        return np.array(self._rows, np.int64).reshape(-1, 3)


def addresses(array, rows):
    """Addresses of rows of an array."""
    return array.ctypes.data + array.strides[0] * np.asarray(rows, np.int64)
