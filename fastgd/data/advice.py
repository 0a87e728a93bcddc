"""What helps against arrays of the wrong shape or type, for the ends of messages."""

import math
import os

import numpy as np

# What reads files, or tables that have columns of text.
READERS = "fastgd.tables.read, fastgd.images.read and fastgd.text.read read files"


def on_type(argument, values, array):
    """Advice on values that are not real numbers; array: the array of another dtype that they make."""
    if isinstance(values, (str, os.PathLike)):
        return f"; {READERS}"
    if isinstance(values, dict):
        return "; predict_table takes rows of a table"
    if hasattr(values, "columns") or hasattr(values, "column_names"):
        return "; fastgd.tables.Preprocessing makes numbers of the columns of a table"
    if argument.endswith(("y", "[1]")) and array.ndim == 1 and array.size and isinstance(array[0], str):
        return "; np.unique(y, return_inverse=True) gives the classes and labels of texts"
    return ""


def on_value(argument, value, values):
    """Advice on a value of an array that is not valid."""
    is_table = argument in ("X", "x", "validation_data[0]") and values.ndim == 2
    return "; fastgd.tables fills in the missing values of tables" if is_table and value != value else ""


def on_rows(argument, x, shape):
    """Advice on an array x whose rows do not have the shape `shape`."""
    if x.ndim == 1 and shape == (1,):
        return f"; use {argument}.reshape(-1, 1) for rows of one feature"
    if x.ndim and x.shape == shape:
        sizes = "-1" if len(shape) == 1 else ", ".join(map(str, shape))
        return f"; use {argument}.reshape(1, {sizes}) for one row"
    if x.ndim > 1 and math.prod(x.shape[1:]) == math.prod(shape):
        return f"; use {argument}.reshape(-1, {', '.join(map(str, shape))})"
    return ""


def on_targets(argument, y, rows, loss, output_shape):
    """Advice on targets y of another shape than the loss takes."""
    *positions, n_outputs = output_shape
    if positions and y.shape[:1] == (rows,) and y.ndim <= 2:
        recurrent = ", or a last LSTM or GRU without return_sequences," if len(positions) == 1 else ""
        return f"; the output has positions {tuple(positions)}: Flatten(){recurrent} leads to one target for each row"
    if y.shape == (rows, 1) and loss.takes_labels and not positions:
        return f"; use {argument}.ravel()"
    if y.shape == (rows,) and np.issubdtype(y.dtype, np.integer) and n_outputs > 1 and not loss.takes_labels:
        is_own = any(kernel.functions for kernel in loss.kernels)
        takes = "custom.loss(labels=True)" if is_own else "the loss softmax_cross_entropy"
        return f"; labels of classes are for {takes}"
    return ""
