"""Rows of data: checks at the door, shuffling, and minibatches."""

import math
import mmap
import os
import weakref

import numpy as np

from ._plan import fill_shuffled, open_to_read, read_rows
from .errors import check_flag, check_integer, shown, type_error, value_error
from .kernel import In, InOut, Out, kernel


@kernel
def count_exceeding(count: Out("one", dtype="int64"), x: In("rows", "n"), limit: float):
    """count <- how many elements of x are not |x| <= limit: too large, infinite or NaN."""
    count[0] = np.count_nonzero(~(np.abs(x) <= limit))


@count_exceeding.loop
def count_exceeding(count, x, limit):
    bound = x.dtype.type(limit)
    total = 0
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            total += not abs(x[i, j]) <= bound
    count[0] = total


@kernel
def gather_rows(
    out: Out("rows", "n"), source: In("m", "n"), index: In("rows", dtype="int64", domain="labels", below="m")
):
    """out <- the rows of source that index names; an index beyond them means the nearest."""
    np.take(source, index, axis=0, out=out, mode="clip")


@gather_rows.loop
def gather_rows(out, source, index):
    for i in range(index.size):
        row = min(max(index[i], 0), source.shape[0] - 1)
        for j in range(out.shape[1]):
            out[i, j] = source[row, j]


@kernel
def gather_labels(
    out: Out("rows", "n", dtype="int64"),
    source: In("m", "n", dtype="int64"),
    index: In("rows", dtype="int64", domain="labels", below="m"),
):
    """out <- the rows of source, labels, that index names; an index beyond them means the nearest."""
    np.take(source, index, axis=0, out=out, mode="clip")


@gather_labels.loop
def gather_labels(out, source, index):
    for i in range(index.size):
        row = min(max(index[i], 0), source.shape[0] - 1)
        for j in range(out.shape[1]):
            out[i, j] = source[row, j]


@kernel
def fill_rows(out: Out("rows"), value: float):
    """out <- value."""
    out.fill(value)


@fill_rows.loop
def fill_rows(out, value):
    for i in range(out.size):
        out[i] = value


@kernel
def max_abs_of_rows(max_abs: Out("rows"), x: In("rows", "n")):
    """max_abs <- the largest magnitude in each row of x, NaN if one is NaN."""
    np.max(np.abs(x), axis=1, out=max_abs)


@max_abs_of_rows.loop
def max_abs_of_rows(max_abs, x):
    for i in range(x.shape[0]):
        top = abs(x[i, 0])
        for j in range(x.shape[1]):
            v = abs(x[i, j])
            if v > top or v != v:
                top = v
        max_abs[i] = top


@kernel
def raise_max_abs_of_rows(max_abs: InOut("rows", domain="nonnegative"), x: In("rows", "n")):
    """max_abs <- the larger of max_abs >= 0 and the largest magnitude in each row of x, NaN if one is NaN."""
    np.maximum(max_abs, np.max(np.abs(x), axis=1), out=max_abs)


@raise_max_abs_of_rows.loop
def raise_max_abs_of_rows(max_abs, x):
    for i in range(x.shape[0]):
        top = max_abs[i]
        for j in range(x.shape[1]):
            v = abs(x[i, j])
            if v > top or v != v:
                top = v
        max_abs[i] = top


@kernel
def largest_max_abs(largest: Out("one", dtype="float64"), max_abs: In("rows", domain="nonnegative")):
    """largest <- the largest of the numbers max_abs >= 0, NaN if one is NaN."""
    largest[0] = np.max(max_abs)


@largest_max_abs.loop
def largest_max_abs(largest, max_abs):
    top = 0.0
    for i in range(max_abs.size):
        v = max_abs[i]
        if v > top or v != v:
            top = v
    largest[0] = top


def mapped(x):
    """The mapping of a file that an array lies in, or None."""
    while x is not None and getattr(x, "_mmap", None) is None:
        x = getattr(x, "base", None)
    return x


def leave_pages(x):
    """Gives back the memory that the pages of a mapped file take; what was written to it stays."""
    x = mapped(x)
    if x is not None and x.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
        x._mmap.madvise(mmap.MADV_DONTNEED)


def check_mapping(x):
    """Raises OSError if the file that an array lies in has become shorter than its mapping: to touch a page beyond the
    end ends the process."""
    x = mapped(x)
    if x is None:
        return
    end, size = x.offset - x.offset % mmap.ALLOCATIONGRANULARITY + len(x._mmap), x._mmap.size()  # of its own descriptor
    if size < end:
        raise OSError(f"the file of a mapped array, {x.filename}: expected {end:,} bytes, got {size:,} by now")


class RowReader:
    """Gathers rows of an array (m, ...). Those of a mapped file are read from the file where that is possible: a page
    that is touched may bring megabytes around it into memory.

    By now the name of a mapped file may stand for another one. What it opens is read only if the system says that it is
    the file of the mapping; else rows come out of the mapping itself."""

    def __init__(self, x):
        self.x, self._file = x, None
        mapping = mapped(x)
        row_is_whole = x.size and x[0].flags.c_contiguous and hasattr(os, "pread")
        if mapping is None or mapping.mode == "c" or mapping.filename is None or not row_is_whole:
            return
        try:
            file = open_to_read(mapping.filename)  # it may be a pipe
        except OSError:
            return
        close = weakref.finalize(self, file.close)
        self._offset = _offset_in_file(x, file.fileno())
        if self._offset is None:
            close()
        else:
            self._file = file

    def _read(self, index, out=None):
        rows = np.empty((len(index), *self.x.shape[1:]), self.x.dtype) if out is None else out
        flat = rows.reshape(len(index), -1).view(np.uint8)
        read_rows(self._file.fileno(), self._offset, self.x.strides[0], index, flat)
        return rows

    def take(self, index, out=None):
        """The rows `index`, written to `out` and cast to its dtype, or as an array of their own."""
        same = out is None or out.dtype == self.x.dtype
        if self._file is None:
            check_mapping(self.x)
        if self._file is not None:
            rows = self._read(index, out if same else None)
        elif same:
            rows = np.take(self.x, index, axis=0, out=out, mode="clip")
        else:
            rows = self.x[index]
        leave_pages(self.x)
        if same:
            return rows
        with np.errstate(all="ignore"):
            out[...] = rows
        return out


def _offset_in_file(x, file):
    """Where the first element of a mapped array lies in its file, if that is the open one, or None if it is not, or if
    the system does not tell. It knows mappings by address, so one of the open file is made to compare."""
    try:
        other = np.frombuffer(mmap.mmap(file, 1, access=mmap.ACCESS_READ), np.uint8)  # is closed with the array
        with open("/proc/self/maps", "rb") as maps:
            ranges = [line.split(maxsplit=5)[:5] for line in maps]
    except (OSError, ValueError):
        return None
    low, high = np.lib.array_utils.byte_bounds(x)
    found = {}
    for range_, mode, offset, device, inode in ranges:
        start, stop = (int(bound, 16) for bound in range_.split(b"-"))
        for name, at in (("x", low), ("file", other.ctypes.data)):
            if start <= at < stop:
                found[name] = device, inode
                if name == "x" and (high > stop or not mode.endswith(b"s") or inode == b"0"):
                    return None
                if name == "x":
                    first = int(offset, 16) + x.ctypes.data - start
    return first if "x" in found and found["x"] == found.get("file") else None


def epoch_order(rows, seed, epoch, shuffle):
    """The order of the rows in an epoch: a function of the seed and the epoch alone."""
    if not shuffle:
        return np.arange(rows)
    order = np.empty(rows, np.int64)
    fill_shuffled(order, seed % 2**64, epoch % 2**64)
    return order


def check_batch_size(batch_size, rows):
    """None is all rows; more than all rows is all rows."""
    return rows if batch_size is None else min(check_integer("batch_size", batch_size, 1), rows)


def minibatches(X, y, batch_size, *, seed=0, epoch=0, shuffle=True, drop_last=False):
    """Yields (X rows, y rows) of one epoch, in a random order that depends on seed and epoch alone.

    X: (rows, ...), y: (rows, ...), arrays. batch_size: int >= 1, or None for all rows. The last batch may be shorter;
    drop_last=True leaves it out. The batches are arrays of their own; of mapped files their rows are read, and no more.
    """
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

    def batches():
        order = epoch_order(len(X), seed, epoch, shuffle)
        readers = [RowReader(array) if array.ndim > 1 else None for array in (X, y)]
        for start in range(0, math.floor(len(X) / size) * size if drop_last else len(X), size):
            index = order[start : start + size]
            check_mapping(X)
            check_mapping(y)
            yield tuple(a[index] if r is None else r.take(index) for a, r in zip((X, y), readers, strict=True))
            leave_pages(X)
            leave_pages(y)

    return batches()
