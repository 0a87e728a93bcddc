"""Cheap proofs that arguments are what scikit-learn's checks, which take most of a short call, would accept as they
are. Where they prove nothing, scikit-learn checks, converts, warns and raises."""

import operator

import numpy as np

from .._plan import all_finite
from ..data.mapped import check_mapping
from ..data.samples import NATIVE_SIZE

FLOATS = np.dtype(np.float32), np.dtype(np.float64)


def same(one, other):
    """Whether two tuples hold the very same objects."""
    return len(one) == len(other) and all(map(operator.is_, one, other))


def items_of(value):
    """What a proof has to compare of an argument that is one value, or a list that may be changed in place."""
    return (type(value), *value) if isinstance(value, (list, tuple, np.ndarray)) else (value,)


def are_rows(X, n_features):
    """Whether X is an array (rows, n_features) of real numbers, which may not be finite."""
    if type(X) is not np.ndarray or X.ndim != 2 or X.dtype.kind not in "biuf":
        return False
    check_mapping(X)
    return X.shape[0] > 0 and X.shape[1] == n_features


def finite_rows(X, n_features):
    """X if it is an array (rows, n_features) of finite float32 or float64 numbers; a copy if it is not C-contiguous.
    None if that is not proven."""
    if not are_rows(X, n_features) or X.dtype not in FLOATS or X.size > NATIVE_SIZE or not X.flags.aligned:
        return None
    X = np.ascontiguousarray(X)
    return X if all_finite(X) else None


def are_numbers(y, rows, n_outputs):
    """Whether y is an array of finite numbers, (rows,) or (rows, n_outputs) for two outputs or more."""
    if type(y) is not np.ndarray or y.dtype.kind not in "biuf":
        return False
    check_mapping(y)
    return y.shape == ((rows,) if n_outputs == 1 else (rows, n_outputs)) and bool(np.isfinite(y).all())


def are_labels(y, rows, classes):
    """Whether y is an array of labels (rows,) that are all among these classes."""
    if type(y) is not np.ndarray or y.shape != (rows,) or y.dtype.kind not in "biufU":
        return False
    check_mapping(y)
    return y.dtype.kind == classes.dtype.kind and bool((y[:, None] == classes).any(axis=1).all())


def are_flags(y, rows, n_labels):
    """Whether y is an array (rows, n_labels) of 0 and 1, for two labels or more."""
    if type(y) is not np.ndarray or y.shape != (rows, n_labels) or n_labels < 2 or y.dtype.kind not in "biu":
        return False
    check_mapping(y)
    return bool(((y == 0) | (y == 1)).all())


def arrays_of(network):
    """Views of the parameters of a network, the weights first, and of its statistics."""
    return [*network.views().values(), *network.statistics.values()]


class Kept:
    """The network of an estimator, and what has been proven of the estimator's attributes.

    network     the network
    made_from   what it was made from: the hidden layers, and for training also the output activation, dtype and alpha
    views       its parameters and statistics, in the order of the estimator's lists of arrays
    layers      the arguments from which the hidden layers follow, when that was last checked
    checked     all arguments, when they were last checked
    generator   a RandomState that can be seeded again, or None; making one takes longer than a step"""

    def __init__(self, network, made_from, layers):
        self.network, self.made_from, self.layers = network, made_from, layers
        self.views = tuple(arrays_of(network))
        self.shapes = [view.shape for view in self.views]
        self.checked, self.generator = (), None

    def has(self, arrays):
        """Whether these are the network's own arrays, so that changes made in place take effect."""
        return same(arrays, self.views) and [array.shape for array in arrays] == self.shapes
