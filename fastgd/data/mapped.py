"""Arrays in memory-mapped files: checks before access, reading by rows, and release of their memory."""

import mmap
import os
import weakref

import numpy as np

from .._plan import is_in_memory, open_to_read, read_rows


def mapped(x):
    """The numpy.memmap that an array is a view of, or None."""
    while x is not None and getattr(x, "_mmap", None) is None:
        x = getattr(x, "base", None)
    return x


def leave_pages(x):
    """Releases the memory that the pages of a mapped file take. Data written to the mapping are kept."""
    x = mapped(x)
    if x is not None and x.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):
        x._mmap.madvise(mmap.MADV_DONTNEED)


def check_mapping(x):
    """Raises OSError if the file of a mapped array has become shorter than the mapping: access to a page beyond the end
    of the file would kill the process."""
    x = None if is_in_memory(x) else mapped(x)
    if x is None:
        return
    end, size = x.offset - x.offset % mmap.ALLOCATIONGRANULARITY + len(x._mmap), x._mmap.size()  # of the open file
    if size < end:
        raise OSError(f"the file of a mapped array, {x.filename}: expected {end:,} bytes, got {size:,}")


def each_once(x):
    """The elements of an array without those that its rows share: a 1-D view if x is (m, T) and its rows are windows
    of one array that overlap, as of numpy's sliding_window_view, else x."""
    if not are_overlapping(x):
        return x
    step = x.strides[0] // x.itemsize
    size = (len(x) - 1) * step + x.shape[1]
    return np.lib.stride_tricks.as_strided(x[0], (size,), x.strides[1:], subok=True, writeable=False)


def are_overlapping(x):
    """Whether the rows of x (m, T) are windows of one array that share elements, so that a copy would be larger."""
    step, *inner = x.strides
    return inner == [x.itemsize] and 0 < step < x.shape[1] * x.itemsize and step % x.itemsize == 0 and len(x) > 1


def index_in_windows(x, i):
    """The index (row, column) of element i of `each_once(x)` in the first row of x that has it."""
    step, width = x.strides[0] // x.itemsize, x.shape[1]
    row = max(0, -((width - 1 - i) // step))
    return row, i - row * step


class RowReader:
    """Gathers rows of an array (m, ...). Rows of a mapped file are read from the file where possible, since access to
    one page of a mapping may load megabytes around it into memory.

    The path of a mapped file may have come to name another file. The opened file is read only if the system confirms
    that it is the file of the mapping; otherwise rows are read through the mapping."""

    def __init__(self, x):
        self.x, self._file = x, None
        if is_in_memory(x):
            return
        mapping = mapped(x)
        row_is_whole = x.size and x[0].flags.c_contiguous and hasattr(os, "pread")
        if mapping is None or mapping.mode == "c" or mapping.filename is None or not row_is_whole:
            return
        try:
            file = open_to_read(mapping.filename)  # does not wait if it is a pipe
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
        """Returns the rows `index`: in `out`, cast to its dtype, or as a new array."""
        same = out is None or out.dtype == self.x.dtype
        if self._file is None:
            check_mapping(self.x)
        if self._file is not None:
            rows = self._read(index, out if same else None)
        elif same and self.x.flags.c_contiguous:  # np.take would copy any other array as a whole
            rows = np.take(self.x, index, axis=0, out=out, mode="clip")
        else:
            rows = self.x[index]
        leave_pages(self.x)
        if out is None or rows is out:
            return rows
        with np.errstate(all="ignore"):
            out[...] = rows
        return out


def _offset_in_file(x, file):
    """The byte offset of a mapped array in the open file, or None if that is not the file of the mapping, or if the
    system cannot tell. /proc/self/maps lists mappings by address, so the open file is mapped, too, for comparison."""
    try:
        other = np.frombuffer(mmap.mmap(file, 1, access=mmap.ACCESS_READ), np.uint8)  # closed when the array is deleted
        with open("/proc/self/maps", "rb") as maps:
            ranges = [line.split(maxsplit=5)[:5] for line in maps]
    except (OSError, ValueError):
        return None
    low, high = np.lib.array_utils.byte_bounds(x)
    found = {}
    for range_, mode, offset, device, inode in ranges:
        start, stop = (int(bound, 16) for bound in range_.split(b"-"))
        for name, address in (("x", low), ("file", other.ctypes.data)):
            if start <= address < stop:
                found[name] = device, inode
                if name == "x" and (high > stop or not mode.endswith(b"s") or inode == b"0"):
                    return None
                if name == "x":
                    first = int(offset, 16) + x.ctypes.data - start
    return first if "x" in found and found["x"] == found.get("file") else None
