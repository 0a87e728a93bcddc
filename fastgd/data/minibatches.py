"""Shuffled minibatches of arrays."""

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .._plan import fill_shuffled
from ..errors import check_flag, check_integer, shown, type_error, value_error
from .mapped import RowReader, check_mapping, leave_pages

Batches: TypeAlias = Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]


def epoch_order(rows, seed, epoch, shuffle):
    """The order of the rows in an epoch, (rows,); it depends on the seed and the epoch alone."""
    if not shuffle:
        return np.arange(rows)
    order = np.empty(rows, np.int64)
    fill_shuffled(order, seed % 2**64, epoch % 2**64)
    return order


def check_batch_size(batch_size, rows):
    """Returns the batch size: all rows for None, and at most all rows."""
    return rows if batch_size is None else min(check_integer("batch_size", batch_size, 1), rows)


def minibatches(
    X: "npt.ArrayLike",
    y: "npt.ArrayLike",
    batch_size: int | None,
    *,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
) -> "Batches":
    """Yields (X rows, y rows) of one epoch, in a random order that depends on seed and epoch alone.

    X, y: arrays (rows, ...).
    batch_size: int >= 1, or None for all rows. The last batch may be shorter; drop_last=True leaves it out.

    The batches are new arrays; of mapped files only the rows of a batch are read.

    Raises TypeError or ValueError that names the argument."""
    for name, array in (("X", X), ("y", y)):
        if isinstance(array, np.ma.MaskedArray):
            raise type_error(name, "an array without a mask", "a masked array")
    X, y = np.asarray(X), np.asarray(y)
    if X.ndim == 0 or len(X) == 0:
        raise value_error("X", "at least 1 row", shown(X))
    if y.ndim == 0 or len(y) != len(X):
        raise value_error("y", f"{len(X)} rows as in X", shown(y))
    size = check_batch_size(batch_size, len(X))
    seed, epoch = check_integer("seed", seed, 0), check_integer("epoch", epoch, 0)
    check_flag("shuffle", shuffle)
    check_flag("drop_last", drop_last)

    def batches() -> "Batches":
        order = epoch_order(len(X), seed, epoch, shuffle)
        x_reader, y_reader = (RowReader(array) if array.ndim > 1 else None for array in (X, y))
        for start in range(0, math.floor(len(X) / size) * size if drop_last else len(X), size):
            index = order[start : start + size]
            check_mapping(X)
            check_mapping(y)
            yield _taken(X, x_reader, index), _taken(y, y_reader, index)
            leave_pages(X)
            leave_pages(y)

    return batches()


def _taken(array, reader, index):
    return array[index] if reader is None else reader.take(index)
