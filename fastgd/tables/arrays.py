"""Reads npz files of arrays: rows and their targets."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import shown
from .errors import TableError
from .files import decoding, open_file

ARRAYS = ".npz"
# Larger integers are not accepted as labels, unless there are as many rows.
MOST_CLASSES = 1000


def read_arrays(path: str, target: str, *, needs_target: bool) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """X and y of an npz file: y is the array `target`, X is "X" or the only other array. Raises TableError unless they
    are arrays of finite numbers with as many rows."""
    with open_file(path) as opened, decoding(path, "an npz file of arrays"):
        file = np.load(opened, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise ValueError("a single array")
        with file:
            arrays = {name: file[name] for name in file.files}
    others = [name for name in arrays if name != target]
    name = "X" if "X" in others else others[0] if len(others) == 1 else None
    if name is None:
        raise TableError(path, None, None, f"an array 'X' beside {target!r}", shown(list(arrays)))
    if needs_target and target not in arrays:
        raise TableError(path, target, None, "such an array (--target)", shown(list(arrays)))
    X, y = arrays[name], arrays.get(target)
    for column, array in ((name, X), (target, y)):
        if array is not None and (array.ndim == 0 or array.dtype.kind not in "biuf" or len(array) != len(X)):
            expected = f"an array of {len(X) if X.ndim else 'some'} rows of numbers"
            raise TableError(path, column, None, expected, shown(array))
        if array is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            raise TableError(path, column, index[0] + 1, "a finite number", f"{array[index]} at index {index}")
    if len(X) == 0:
        raise TableError(path, name, None, "at least 1 row", "none")
    return X, y
