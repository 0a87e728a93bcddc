"""Samples: checked rows of data with their targets and weights; and the checks."""

import collections.abc
import dataclasses
import math
import os

import numpy as np

from .._plan import all_between, all_finite, all_labels, divide_by_mean, is_in_memory
from ..core.domains import DOMAINS, domain_of
from ..core.types import HasTargets
from ..errors import check_number, shown, type_error, value_error
from . import advice
from .mapped import RowReader, are_overlapping, check_mapping, each_once, index_in_windows, leave_pages, mapped
from .minibatches import epoch_order

# At most so many numbers, and rows, are checked at a time, which bounds the memory that a check takes.
CHECK_SIZE, CHECK_ROWS = 2**20, 4096
# Arrays of at most so many numbers are checked natively, without a look at signals.
NATIVE_SIZE = 2**23
LABELS = DOMAINS["labels"]
# The largest finite number, by the size of a dtype.
MOST = {np.dtype(dtype).itemsize: float(np.finfo(dtype).max) for dtype in (np.float32, np.float64)}
# Stands for the number of the epoch in the random order that chooses held-out rows.
SPLIT_EPOCH = 2**64 - 1
# Rows of a mapped file, evenly spread, that enter its digest.
DIGEST_ROWS = 256


@dataclasses.dataclass(eq=False)
class Samples:
    """Checked rows of data.

    x, y                (m, ...) each, of any dtype and layout
    kernel              the loss kernel that takes such targets
    rows                gathers rows of x
    target_rows         gathers rows of y if a cast of all of y would take much memory, else None
    weight              (m, ...) factors of the losses, 1 on average if `is_scaled`, or None for 1
    index               indices of the rows that belong to the samples, or None for all
    shifts              if above 1, an epoch of a training run takes the rows index + s, where s is a random number in
                        [0, shifts)"""

    x: np.ndarray
    y: np.ndarray
    kernel: object
    rows: RowReader
    target_rows: RowReader | None = None
    weight: np.ndarray | None = None
    index: np.ndarray | None = None
    shifts: int = 1
    is_scaled: bool = True

    def __len__(self):
        return len(self.x if self.index is None else self.index)

    def part(self, start, stop):
        """x, y and weight of rows start ... stop - 1."""
        rows = slice(start, stop) if self.index is None else self.index[start:stop]
        check_mapping(self.x)
        x = self.x[rows] if self.index is None else self.rows.take(rows)
        return x, self._targets(rows), None if self.weight is None else self.weight[rows]

    def _targets(self, rows):
        """Targets of the rows of x that a slice or an array of indices names."""
        if self.target_rows is None or isinstance(rows, slice):
            check_mapping(self.y)
            return self.y[rows]
        return self.target_rows.take(rows)

    def y_dtype(self, dtype):
        """The dtype in which the kernel takes targets, in a network of `dtype`."""
        return self.kernel.arrays["y"].dtype or np.dtype(dtype)

    def targets(self, start=0, stop=None):
        """y and weight of rows start ... stop - 1."""
        check_mapping(self.y)
        rows = slice(start, stop) if self.index is None else self.index[start:stop]
        return self.y[rows], None if self.weight is None else self.weight[rows]

    def digest(self, dtype):
        """A text that differs for different samples. It covers arrays in memory wholly, mapped files by some rows."""
        import hashlib  # slow

        digest = hashlib.sha256()
        some = np.linspace(0, len(self) - 1, min(len(self), DIGEST_ROWS)).astype(np.int64)
        for values, kind in ((self.x, dtype), (self.y, self.y_dtype(dtype)), (self.weight, np.float64)):
            if values is None:
                continue
            if self.index is None and mapped(values) is None:
                values = each_once(values)
            rows = len(values) if self.index is None else len(self)
            covered, step = np.arange(rows) if mapped(values) is None else some, block_rows(values)
            for start in range(0, len(covered), step):
                rows = covered[start : start + step]
                check_mapping(values)
                with np.errstate(all="ignore"):
                    digest.update(np.require(values[rows if self.index is None else self.index[rows]], kind, "C"))
                leave_pages(values)
        return digest.hexdigest()[:16]

    @np.errstate(all="ignore")
    def split(self, fraction, seed):
        """Returns (rest, part): a `fraction` of the rows, chosen by the seed, is the part."""
        parts = []
        for index in split_rows("validation_fraction", len(self.x), fraction, seed):
            weight = self.weight
            if weight is not None and self.is_scaled:
                weight = weight / _mean_weight("sample_weight", weight[index])
            parts.append(dataclasses.replace(self, weight=weight, index=index))
        return parts


def split_rows(argument, rows, fraction, seed):
    """Returns the indices of the rows to train on, and of those to hold out, a `fraction` of all, chosen by the seed.
    Raises ValueError if no row is left to train on."""
    order = epoch_order(rows, seed, SPLIT_EPOCH, True)
    held_out = max(1, round(fraction * rows))
    if held_out == rows:
        raise value_error(argument, "a row left to train on", f"{rows} rows in all")
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def with_targets(argument, network, data):
    """(x, y) of data that have both, such as images and windows of a text; None of others. Raises ValueError if they
    were read for another network, TypeError for the path of a file."""
    if isinstance(data, (str, os.PathLike)):
        raise type_error(argument, "arrays, or data that were read", f"{shown(data)}; {advice.READERS}")
    if not isinstance(data, HasTargets) or hasattr(data, "__array__"):  # a table may have columns x and y
        return None
    if hasattr(data, "check_network"):
        data.check_network(argument, network)
    return data.x, data.y


def check_samples(
    network, x, y, sample_weight=None, *, names=("X", "y", "sample_weight"), finite=True, allow_negative=False,
    share=None,
):  # fmt: skip
    """The arrays as `Samples` for a network; nothing is copied. finite: whether to check that x is finite.
    allow_negative: as in `check_weights`. share: (a, b, n) checks the values of the n-ths [a, b) of the rows of mapped
    files only, since other processes check the others.

    Raises TypeError or ValueError that names the argument."""
    shape = network.output_shape
    x = check_rows(names[0], x, network.input_shape)
    y, kernel = check_targets(names[1], y, len(x), network.loss_function, shape)
    weight = None
    if sample_weight is not None:
        weight = check_weights(
            names[2], sample_weight, (len(x), *shape[:-1]), network.dtype, allow_negative=allow_negative
        )
    if finite:
        first, checked = _own(x, share)
        check_values(names[0], checked, network.dtype, network.input_spec, network.vocabulary, first=first)
    first, checked = _own(y, share)
    check_values(names[1], checked, network.dtype, kernel.arrays["y"], shape[-1], first=first)
    rows = RowReader(y) if _are_cast_by_rows(network, x, y, kernel) else None
    return Samples(x, y, kernel, RowReader(x), rows, weight, is_scaled=not allow_negative)


def _own(values, share):
    """(number of the first row, rows) of the values that this process checks: see `check_samples`."""
    if share is None or mapped(values) is None:
        return 0, values
    begin, end, parts = share
    first = len(values) * begin // parts
    return first, values[first : len(values) * end // parts]


def _are_cast_by_rows(network, x, y, kernel):
    """Whether targets are cast a minibatch at a time, since all at once would take more memory than the data."""
    if y[0].size == 1 or (is_in_memory(y) and y.flags.c_contiguous and y.dtype == kernel.arrays["y"].dtype):
        return False
    return mapped(y) is not None or are_overlapping(y) or x.dtype != network.dtype


def check_weights(argument, weight, shape, dtype, *, scaled=True, allow_negative=False):
    """Returns a factor for each loss, an array of `shape`: (rows,), or (rows, ...) with a factor for each position. A
    weight (rows,) counts for all positions of a row. scaled: whether to divide the weights by their mean.
    allow_negative: whether they may be below 0; then they are not scaled, since their mean may be 0."""
    weight, rows = as_array(argument, weight), shape[:1]
    if weight.shape not in (rows, shape):
        other = "" if rows == shape else f", or one for each position {shape}"
        raise value_error(argument, f"an array of shape {rows}, one number for each row{other}", shown(weight))
    given, weight = weight, np.array(weight, np.float64, order="C")
    flat = weight.reshape(-1)
    most = MOST[dtype.itemsize]
    if not all_between(flat, -most if allow_negative else 0.0, most):
        check_values(argument, given, dtype)
        index = tuple(int(i) for i in np.unravel_index(np.argmin(given), given.shape))
        expected = "numbers >= 0 (fit, train_step, loss and loss_and_gradient take others with allow_negative=True)"
        raise value_error(argument, expected, f"{given[index]} at index {index if len(index) > 1 else index[0]}")
    if scaled and not allow_negative and not divide_by_mean(flat):
        raise value_error(argument, "a number above 0 among the rows", f"0 in all {weight.size}")
    if weight.shape != shape:
        weight = np.broadcast_to(weight.reshape(*weight.shape, *[1] * (len(shape) - weight.ndim)), shape)
    return weight


def _mean_weight(argument, weight):
    mean = weight.mean()
    if mean == 0:
        raise value_error(argument, "a number above 0 among the rows", f"0 in all {weight.size}")
    return mean


@np.errstate(all="ignore")
def check_class_weight(class_weight, samples, n_outputs, dtype):
    """Returns the samples with each weight multiplied by the weight of its class. class_weight: {label: weight}, or
    "balanced" for rows / (classes x rows of the class)."""
    name = "class_weight"
    domain = samples.kernel.arrays["y"].domain
    labels = samples.y if domain == "labels" else samples.y[..., 0]
    if domain not in ("labels", "unit") or (domain == "unit" and samples.y.shape[-1] != 1):
        raise value_error(name, "None for targets other than labels", shown(class_weight))
    known, counts = np.unique(labels if samples.index is None else labels[samples.index], return_counts=True)
    if domain == "unit" and not set(known.tolist()) <= {0, 1}:
        raise value_error(name, "None for targets other than 0 and 1", shown(class_weight))
    if isinstance(class_weight, str) and class_weight == "balanced":
        factors = dict(zip(known.tolist(), counts.sum() / (len(known) * counts), strict=True))
    elif isinstance(class_weight, collections.abc.Mapping):
        classes = max(2, n_outputs)  # one output stands for two classes, 0 and 1
        strange = [label for label in class_weight if label not in range(classes)]
        if strange:
            raise value_error(name, f"integer labels in [0, {classes - 1}]", shown(strange[0]))
        factors = {label: check_number(f"{name}[{label!r}]", value, 0.0) for label, value in class_weight.items()}
    else:
        raise type_error(name, "a dict {label: weight} or 'balanced'", shown(class_weight))
    classes, of_row = np.unique(labels, return_inverse=True)
    weight = np.array([factors.get(label, 1.0) for label in classes.tolist()])[of_row].reshape(labels.shape)
    if samples.weight is not None:
        weight = weight * samples.weight
    weight = check_weights(name, weight, labels.shape, dtype)
    trained = weight if samples.index is None else weight[samples.index]
    return dataclasses.replace(samples, weight=weight / _mean_weight(name, trained))


def check_rows(argument, x, shape):
    """Returns x as an array (rows, *shape) of real numbers, of any dtype and layout; nothing is copied. Images of one
    channel may lack that axis. Raises TypeError or ValueError that names the argument."""
    x = as_array(argument, x)
    if len(shape) == 3 and shape[-1] == 1 and x.shape[1:] == shape[:-1]:
        x = x[..., np.newaxis]
    if x.ndim != 1 + len(shape):
        expected = f"a {1 + len(shape)}-D array (rows, {', '.join(map(str, shape))})"
        raise value_error(argument, expected, f"{shown(x)}{advice.on_rows(argument, x, shape)}")
    if x.shape[0] == 0:
        raise value_error(argument, "at least 1 row", shown(x))
    if x.shape[1:] != shape:
        if len(shape) == 1:
            raise value_error(argument, f"{shape[0]} features (columns)", x.shape[1])
        raise value_error(argument, f"rows of shape {shape}", x.shape[1:])
    return x


def check_targets(argument, y, rows, loss, output_shape):
    """Returns y as an array, and the kernel of the loss that takes it: integer labels (rows, *positions) if the loss
    takes labels, else values (rows, *loss.target_shape(output_shape)); one column may lack the last axis."""
    given = y = as_array(argument, y)
    *positions, n_outputs = output_shape
    target_shape = loss.target_shape(output_shape)
    if loss.takes_labels and y.ndim == 1 + len(positions):
        if y.dtype.kind not in "iu":
            hint = "; use y.astype(int) for class labels" if y.dtype.kind in "bf" else ""
            raise type_error(argument, f"integer labels in [0, {n_outputs - 1}]", f"{shown(y)}{hint}")
        shape, kernel = (rows, *positions), loss.kernels[0]
    else:
        if y.ndim == 1 + len(positions) and target_shape[-1] == 1:
            y = y[..., None]
        shape, kernel = (rows, *target_shape), loss.kernels[-1]
    if y.shape != shape:
        labels = f"integer labels of shape {(rows, *positions)} or " if loss.takes_labels else ""
        hint = advice.on_targets(argument, given, rows, loss, output_shape)
        raise value_error(argument, f"{labels}values of shape {(rows, *target_shape)}", f"{shown(given)}{hint}")
    return y, kernel


def check_inputs(argument, x, network):
    """Raises ValueError unless every element of x is finite in the network's dtype, or a token of its vocabulary."""
    check_values(argument, x, network.dtype, network.input_spec, network.vocabulary)


def check_values(argument, values, dtype, spec=None, classes=None, *, first=0):
    """Raises ValueError unless every element is finite in `dtype` and lies in the domain of a kernel's array, `spec`.
    first: the number of the first row, for the message."""
    domain, below = domain_of(spec), math.inf if classes is None else classes
    if domain.contains is None and values.dtype.kind in "biu":
        return  # every integer is finite
    if _are_soon_valid(values, dtype, domain, below):
        return
    given = values
    if domain.is_whole or domain.contains is None:  # not domains of whole rows
        values = each_once(values)
    rows = block_rows(values)
    for start in range(0, len(values), rows):
        check_mapping(values)
        block = values[start : start + rows]
        if not domain.is_whole:
            with np.errstate(all="ignore"):
                block = np.asarray(block, dtype)
        good = domain.belonging(block, below)
        if not good.all():
            index = tuple(int(i) for i in np.argwhere(~good)[0])
            got = block[index] if good.shape == block.shape else block[index[:-1]]
            where = index[0] + start, *index[1:]
            if values is not given:
                where = index_in_windows(given, where[0])
            where = where[0] + first, *where[1:]
            expected = domain.expected.format(highest=below - 1)
            at = where if len(where) > 1 else where[0]
            hint = "" if good.shape != block.shape else advice.on_value(argument, got, values)
            raise value_error(argument, expected, f"{shown(got)} at index {at}{hint}")
        leave_pages(values)


def _are_soon_valid(values, dtype, domain, below):
    """Whether native code finds quickly that all values are valid; if not, they may be."""
    flags = values.flags
    if values.size > NATIVE_SIZE or not (flags.c_contiguous and flags.aligned and is_in_memory(values)):
        return False
    if domain.contains is None and values.dtype.kind == "f" and values.dtype.isnative:
        if values.dtype == dtype:
            return all_finite(values)
        with np.errstate(all="ignore"):
            return values.size <= CHECK_SIZE and all_finite(values.astype(dtype))
    return domain is LABELS and values.dtype == np.int64 and all_labels(values, below)


def block_rows(x):
    """The number of rows of x that are checked at a time."""
    return CHECK_SIZE if x.ndim == 1 else max(1, min(CHECK_ROWS, CHECK_SIZE // max(1, x[0].size)))


def as_array(argument, values):
    """Returns values as an array of real numbers, of any dtype and layout. An array is returned itself."""
    if isinstance(values, np.ma.MaskedArray):
        raise type_error(argument, "an array without a mask", "a masked array")
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise type_error(argument, "an array of real numbers", f"{type(values).__name__} ({error})") from None
    check_mapping(array)
    if array.dtype.kind not in "biuf":
        got = f"{type(values).__name__} of dtype {array.dtype}{advice.on_type(argument, values, array)}"
        raise type_error(argument, "an array of real numbers", got)
    return array


@np.errstate(all="ignore")
def scale_of(mean, variance, rows, otherwise=1.0):
    """1 / standard deviation; `otherwise` where the variance is no larger than rounding makes it for equal numbers."""
    rounding = (rows * np.abs(mean) * np.finfo(np.float64).eps) ** 2
    varies = variance > rounding
    return np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1.0)), otherwise)


def moments(argument, x):
    """Mean and variance of each feature, (n_features,) each, in float64. x: (rows, ..., n_features). Works a block of
    rows at a time (Chan, Golub & LeVeque 1979)."""
    x = as_array(argument, x)
    if x.ndim < 2 or 0 in x.shape:
        raise value_error(argument, "an array (rows, ..., n_features) of at least 1 row", shown(x))
    count, mean, squares = 0, np.zeros(x.shape[-1]), np.zeros(x.shape[-1])
    rows = block_rows(x)
    for start in range(0, len(x), rows):
        check_values(argument, x[start : start + rows], np.float64, first=start)
        block = np.asarray(x[start : start + rows], np.float64).reshape(-1, x.shape[-1])
        with np.errstate(all="ignore"):
            n, block_mean = len(block), block.mean(axis=0)
            difference = block_mean - mean
            squares += ((block - block_mean) ** 2).sum(axis=0) + difference**2 * (count * n / (count + n))
            mean += difference * (n / (count + n))
        count += n
        leave_pages(x)
    if not np.isfinite(squares).all():
        i = int(np.argmin(np.isfinite(squares)))
        raise value_error(argument, "features whose squares are finite", f"larger numbers in column {i}")
    return mean, squares / count
