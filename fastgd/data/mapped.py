"""Arrays that lie in mapped files: checked before they are touched, read by rows, and their memory given back."""

import mmap
import os
import weakref

import numpy as np

from .._plan import open_to_read, read_rows


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
