"""What the workers of a sweep's executor get: pickled, with the memory of arrays apart, in a file or as bytes."""

import contextlib
import copyreg
import functools
import mmap
import os
import pickle
import tempfile
from collections import ChainMap
from io import BytesIO

import numpy as np

from ..data.mapped import are_overlapping, each_once
from ..errors import shown, type_error

ALIGNMENT = 64  # of arrays in the file


def pickled(values, *, apart=False):
    """A dict as parts: bytes, and with apart=True the memory of its arrays, uncopied. Raises TypeError that names the
    first value that cannot be pickled."""
    try:
        return _parts(values, apart)
    except Exception as error:
        for name, value in values.items():
            try:
                _parts(value, apart)
            except Exception as reason:
                expected = "what pickle can send to the workers of the executor"
                advice = "" if _has_cloudpickle() else "; with cloudpickle installed, functions may be sent"
                raise type_error(name, expected, f"{shown(value)}: {reason}{advice}") from error
        raise


def _parts(value, apart):
    file, buffers = BytesIO(), []
    _pickler()(file, protocol=5, buffer_callback=buffers.append if apart else None).dump(value)
    return [file.getvalue(), *(buffer.raw() for buffer in buffers)]


@functools.cache
def _has_cloudpickle():
    try:
        import cloudpickle  # noqa: F401
    except ImportError:
        return False
    return True


@functools.cache
def _pickler():
    """The class of cloudpickle if it is installed, which loky and Dask need: it sends functions, too. Else pickle's.
    Arrays whose rows overlap, as of sliding_window_view, are sent as the array that they are views of."""
    base, table = pickle.Pickler, copyreg.dispatch_table
    if _has_cloudpickle():
        from cloudpickle import Pickler as base

        table = base.dispatch_table
    return type("Pickler", (base,), {"dispatch_table": ChainMap({np.ndarray: _reduced, np.memmap: _reduced}, table)})


def _reduced(array):
    array = array.view(np.ndarray)  # of a numpy.memmap
    if array.ndim == 2 and are_overlapping(array):
        return _windows, (each_once(array).view(np.ndarray), array.shape, array.strides)
    return array.__reduce_ex__(5)


def _windows(array, shape, strides):
    return np.lib.stride_tricks.as_strided(array, shape, strides, writeable=False)


@contextlib.contextmanager
def written(parts):
    """Writes the parts to a temporary file; yields its path, the offset and size of each part in it, and the parts."""
    handle, path = tempfile.mkstemp(prefix="fastgd-sweep-")
    try:
        places = []
        try:
            with open(handle, "wb") as file:
                for part in parts:
                    file.write(bytes(-file.tell() % ALIGNMENT))
                    places.append((file.tell(), len(part)))
                    file.write(part)
        except OSError as error:
            error.add_note(f"X and y are written to {path} for the workers; TMPDIR may name another folder")
            raise
        yield path, places, parts
    finally:
        with contextlib.suppress(OSError):
            os.remove(path)


def values_for(executor, parts):
    """What workers without the file get: the parts as bytes. For Dask futures of them, which every worker has once: its
    scheduler would hold a copy for each task."""
    values = [bytes(part) for part in parts]
    client = getattr(executor, "_client", None)
    return values if client is None else client.scatter(values, broadcast=True, hash=False)


def read(data):
    """The dict of `pickled`, from (path, places) of a file or from its parts. Raises FileNotFoundError."""
    if isinstance(data[0], str):
        path, places = data
        with open(path, "rb") as file:
            mapping = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        data = [mapping[begin : begin + size] for begin, size in places]
    return pickle.loads(data[0], buffers=data[1:])
