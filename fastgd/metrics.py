"""Metrics: figures computed from targets and predictions (the results of `predict`), with a weight for each row or
None."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .core.aliases import named
from .core.choice import AT_LEAST_ONE, AT_LEAST_ZERO, Choice, Range
from .core.domains import sum_to_one
from .core.types import Number
from .errors import shown, type_error, value_error

__all__ = [
    "Metric", "accuracy", "auc", "average_precision", "balanced_accuracy", "binary_accuracy", "confusion_matrix",
    "f1", "mae", "mse", "own", "precision", "r2", "recall", "rmse", "top_k",
]  # fmt: skip

# A function of the user: of targets and predictions, or of targets, predictions and weights.
MetricFunction: TypeAlias = (
    Callable[[npt.NDArray[Any], npt.NDArray[Any]], Number]
    | Callable[[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.float64] | None], Number]
)


@dataclasses.dataclass(frozen=True, repr=False)
class Metric(Choice):
    """A metric: function(y, prediction, weight, **parameters) -> float.

    y                   targets as given to the network: labels (rows,) or values (rows, n_out)
    prediction          (rows, n_out)
    weight              (rows,) or None
    greater_is_better   whether greater values are better, for `fit(monitor=...)`; None if unknown

    Where rows of the output have positions, (T, n_out), the shapes are (rows, T), (rows, T, n_out) and (rows, T)."""

    function: Callable[..., Number]
    greater_is_better: bool | None = None

    __hash__ = Choice.__hash__

    @property
    def column(self) -> str:
        """Its name in a history: the metric's name, with its parameters if they are not the default ones."""
        default = METRICS.get(self.name)
        if default is None or default.parameters == self.parameters:
            return self.name
        return f"{self.name}({', '.join(f'{name}={value:g}' for name, value in self.parameters.items())})"

    def value(
        self, y: "npt.NDArray[Any]", prediction: "npt.NDArray[Any]", weight: "npt.ArrayLike | None" = None
    ) -> float:
        """Computes the metric. Raises TypeError if the function does not return a real number."""
        weight = None if weight is None else np.asarray(weight, np.float64)
        value = self.function(y, prediction, weight, **self.parameters)
        if not isinstance(value, (int, float, np.number)) or isinstance(value, complex):
            raise type_error(f"metrics ({self.name})", "a function that returns a number", shown(value))
        return float(value)


def _metric(
    greater_is_better: bool, ranges: dict[str, Range] | None = None, **parameters: float | None
) -> Callable[[Callable[..., Number]], Metric]:
    """Decorator: a `Metric` of a function of rows, which merges positions into rows. parameters: their default values;
    ranges: their ranges."""

    def make(function):
        @np.errstate(all="ignore")  # the user's error state may be "raise"
        def by_positions(y, prediction, weight, **values):
            flat = prediction.reshape(-1, prediction.shape[-1])
            y = y.reshape(-1, y.shape[-1]) if y.ndim == prediction.ndim else y.reshape(-1)
            return function(y, flat, None if weight is None else weight.reshape(-1), **values)

        by_positions.__doc__ = function.__doc__
        return Metric(function.__name__, by_positions, greater_is_better, parameters=parameters, ranges=ranges or {})

    return make


@_metric(True)
def accuracy(y, prediction, weight):
    """Share of rows whose most probable class is the class of y (labels, or rows of probabilities). As in numpy's
    argmax, the first of equally probable classes counts, and NaN is the largest number. With one output: share of rows
    where y and prediction are on the same side of 0.5; 0.5 itself belongs to the lower side."""
    if prediction.shape[1] == 1:
        right = (prediction[:, 0] > 0.5) == _sides("accuracy", y)
    else:
        right = prediction.argmax(axis=1) == _labels("accuracy", y)
    return np.average(right, weights=weight)


@_metric(True)
def binary_accuracy(y, prediction, weight):
    """Share of outputs that are on the same side of 0.5 as y, for one or several yes-or-no outputs. 0.5 itself belongs
    to the lower side."""
    _check_values_of("binary_accuracy", y, prediction)
    return np.average(((prediction > 0.5) == (y > 0.5)).mean(axis=1), weights=weight)


@_metric(True, ranges={"k": AT_LEAST_ONE}, k=5)
def top_k(y, prediction, weight, k):
    """Share of rows where the class of y is among the k most probable classes. Of equally probable classes the one with
    the smaller index counts as more probable, so `accuracy` is the case k = 1. (Probabilities of a confident network
    may be equal: very small ones are rounded to 0.)"""
    labels = _labels("top_k", y)[:, None]
    own, missing = np.take_along_axis(prediction, labels, axis=1), np.isnan(prediction)
    own_is_missing = np.isnan(own)
    before = (prediction > own) | (missing & ~own_is_missing)
    before |= ((prediction == own) | (missing & own_is_missing)) & (np.arange(prediction.shape[1]) < labels)
    return np.average(before.sum(axis=1) < k, weights=weight)


@_metric(False)
def mae(y, prediction, weight):
    """Mean of |prediction - y| over rows and outputs."""
    _check_values_of("mae", y, prediction)
    return np.average(np.abs(prediction.astype(np.float64) - y).mean(axis=1), weights=weight)


@_metric(False)
def mse(y, prediction, weight):
    """Mean of (prediction - y)^2 over rows and outputs."""
    _check_values_of("mse", y, prediction)
    return np.average(((prediction.astype(np.float64) - y) ** 2).mean(axis=1), weights=weight)


@_metric(False)
def rmse(y, prediction, weight):
    """Square root of `mse`."""
    return np.sqrt(mse.value(y, prediction, weight))


@_metric(True)
def r2(y, prediction, weight):
    """Coefficient of determination: the mean over the outputs of 1 - sum (y - prediction)^2 / sum (y - mean of y)^2. An
    output whose y is constant counts as 1 if all its predictions are exact, else as 0, as in scikit-learn."""
    _check_values_of("r2", y, prediction)
    if weight is not None:
        counts = weight > 0
        y, prediction, weight = y[counts], prediction[counts], weight[counts]
    y = y.astype(np.float64)
    left = np.average((y - prediction) ** 2, axis=0, weights=weight)
    spread = np.average((y - np.average(y, axis=0, weights=weight)) ** 2, axis=0, weights=weight)
    varies = (y != y[0]).any(axis=0) & (spread > 0)  # by rounding, the mean of equal numbers may differ from them
    return np.where(varies, 1 - left / np.where(varies, spread, 1), left == 0).mean()


@_metric(True, ranges={"label": AT_LEAST_ZERO}, label=None)
def recall(y, prediction, weight, label):
    """Share of the rows of a class that are predicted as it: TP / (TP + FN). Of class `label`; without one, of class 1
    if the network has one output, else the mean over the classes that occur in y or are predicted, where one that does
    not occur counts as 0 (scikit-learn's average="macro"). Of a single class without rows it is NaN."""
    return _of_classes("recall", y, prediction, weight, label)


@_metric(True, ranges={"label": AT_LEAST_ZERO}, label=None)
def precision(y, prediction, weight, label):
    """Share of the rows predicted as a class that belong to it: TP / (TP + FP). Of class `label`, or, as in `recall`,
    of class 1 or the mean over classes, where one that is never predicted counts as 0. Of a single class that is never
    predicted it is NaN."""
    return _of_classes("precision", y, prediction, weight, label)


@_metric(True, ranges={"label": AT_LEAST_ZERO}, label=None)
def f1(y, prediction, weight, label):
    """Harmonic mean of recall and precision of a class: 2 TP / (2 TP + FP + FN). Of class `label`, or, as in `recall`,
    of class 1 or the mean over classes. Of a single class that neither occurs nor is predicted it is NaN. van
    Rijsbergen 1979, Information Retrieval, chapter 7."""
    return _of_classes("f1", y, prediction, weight, label)


@_metric(True)
def balanced_accuracy(y, prediction, weight):
    """Mean of the recall over the classes that occur in y (with a weight above 0): 1 / (number of classes) if the same
    class is always predicted, however frequent. Brodersen et al. 2010, doi:10.1109/ICPR.2010.764."""
    counts = _counts("balanced_accuracy", y, prediction, weight)
    rows = counts.sum(axis=1)
    return (counts.diagonal()[rows > 0] / rows[rows > 0]).mean()


@_metric(True)
def auc(y, prediction, weight):
    """Area under the receiver operating characteristic: the probability that a random row of a class has a greater
    prediction for it than a random row of another class; equal predictions count as half. Of class 1 if there are one
    or two outputs, else the mean over the classes, each against the rest, or over several yes-or-no outputs. Classes
    that no row has, or all rows have, are left out; NaN if none is left or a prediction is NaN. Hanley & McNeil 1982,
    doi:10.1148/radiology.143.1.7063747."""
    return _mean_of_curves("auc", _area, y, prediction, weight)


@_metric(True)
def average_precision(y, prediction, weight):
    """Area under the curve of precision P over recall R as a sum of steps, sum_n (R_n - R_(n-1)) P_n, over the
    thresholds from the greatest prediction down; equal predictions are one threshold. Of class 1, or the mean over
    classes or outputs, as in `auc`; classes without rows are left out. Zhu 2004, "Recall, precision and average
    precision"."""
    return _mean_of_curves("average_precision", _steps, y, prediction, weight)


def confusion_matrix(
    y: "npt.ArrayLike", prediction: "npt.ArrayLike", weight: "npt.ArrayLike | None" = None
) -> "npt.NDArray[np.float64]":
    """The number of rows (or the sum of their weights) of each true class (axis 0) for which each class is predicted
    (axis 1): (k, k), where one output stands for the classes 0 and 1. Classes are found as in `accuracy`.

    y: labels, or rows of probabilities. prediction: (rows, k), the results of `predict`. weight: (rows,) or None.
    Raises ValueError for other arrays."""
    y, prediction = np.asarray(y), np.asarray(prediction)
    if prediction.ndim != 2:
        raise value_error("prediction", "an array (rows, k)", shown(prediction))
    if y.ndim not in (1, 2) or len(y) != len(prediction):
        raise value_error("y", f"targets of {len(prediction)} rows", shown(y))
    if weight is not None and np.shape(weight) != (len(y),):
        raise value_error("weight", f"{len(y)} numbers, or None", shown(weight))
    counts: npt.NDArray[np.float64] = _counts("confusion_matrix", y, prediction, weight)
    return counts


def _counts(name, y, prediction, weight=None):
    """`confusion_matrix` for a metric of this name, of arrays that are checked."""
    labels, predicted, k = _classes(name, y, prediction)
    if labels.size and not 0 <= labels.min() <= labels.max() < k:
        raise value_error("y", f"labels in [0, {k - 1}], for {name}", f"labels in [{labels.min()}, {labels.max()}]")
    return np.bincount(labels * k + predicted, weight, k * k).reshape(k, k).astype(np.float64)


def _classes(name, y, prediction):
    """(true classes, predicted classes, number of classes); raises as `accuracy` does."""
    if prediction.shape[1] > 1:
        labels = _labels(name, y)
        if not (labels == labels.astype(np.int64)).all():
            raise value_error("y", f"integer labels or rows of probabilities, for {name}", shown(y))
        return labels.astype(np.int64), prediction.argmax(axis=1), prediction.shape[1]
    return _sides(name, y).astype(np.int64), (prediction[:, 0] > 0.5).astype(np.int64), 2


def _sides(name, y):
    """Whether y (rows,) or (rows, 1) in [0, 1] is above 0.5, (rows,)."""
    strange = (y < 0) | (y > 1)
    if strange.any():
        got = f"{shown(y[strange][0].item())}; for other numbers there are 'mae' and 'r2'"
        raise value_error("y", f"numbers in [0, 1], for {name}", got)
    return y.reshape(len(y)) > 0.5


def _of_classes(name, y, prediction, weight, label):
    """Recall, precision or f1."""
    counts = counted = _counts(name, y, prediction)
    if weight is not None:  # classes whose rows all have the weight 0 are averaged over, too
        counts = _counts(name, y, prediction, weight)
    k = len(counts)
    if label is not None and (label != int(label) or label >= k):
        raise value_error("label", f"an integer in [0, {k - 1}], for {name}", f"{label:g}")
    right, true, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    whole = {"recall": true, "precision": predicted, "f1": (true + predicted) / 2}[name]
    shares = np.where(whole > 0, right / np.where(whole > 0, whole, 1), np.nan)
    if label is not None or prediction.shape[1] == 1:
        return shares[1 if label is None else int(label)]
    return np.nan_to_num(shares[(counted.sum(axis=0) > 0) | (counted.sum(axis=1) > 0)]).mean()


def _mean_of_curves(name, curve, y, prediction, weight):
    """The mean of curve(belongs, scores, weight) over the classes or outputs where it is not None."""
    if prediction.shape[1] == 1:
        belongs = _sides(name, y)[:, None]
    elif y.ndim == 2 and y.shape == prediction.shape and ((y == 0) | (y == 1)).all():
        belongs = y == 1
    else:
        belongs = _labels(name, y)[:, None] == np.arange(prediction.shape[1])
    if prediction.shape[1] == 2 and (belongs.sum(axis=1) == 1).all():  # of two classes, the second
        belongs, prediction = belongs[:, 1:], prediction[:, 1:]
    weight = np.ones(len(prediction)) if weight is None else weight
    areas = [curve(*column, weight) for column in zip(belongs.T, prediction.T, strict=True)]
    areas = [area for area in areas if area is not None]
    return np.mean(areas) if areas and not np.isnan(prediction).any() else np.nan


def _by_threshold(belongs, scores, weight):
    """(weight of the rows of the class, of other rows) for each of the different scores, from the greatest down."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(order) - 1)
    sums = (np.cumsum((weight * part)[order])[ends] for part in (belongs, ~belongs))
    return tuple(np.diff(part, prepend=0.0) for part in sums)


def _area(belongs, scores, weight):
    of_class, others = _by_threshold(belongs, scores, weight)
    if not of_class.sum() > 0 or not others.sum() > 0:
        return None
    below = others.sum() - np.cumsum(others) + others / 2
    return (of_class * below).sum() / (of_class.sum() * others.sum())


def _steps(belongs, scores, weight):
    of_class, others = _by_threshold(belongs, scores, weight)
    if not of_class.sum() > 0:
        return None
    counted = np.cumsum(of_class + others)
    precisions = np.cumsum(of_class) / np.where(counted > 0, counted, 1)
    return (of_class * precisions).sum() / of_class.sum()


def _labels(name, y):
    """The class of each row of y: labels, or rows of probabilities. Raises ValueError for other targets."""
    if y.ndim == 1:
        return y
    if y.shape[1] == 1 or not sum_to_one(y).all():
        hint = "; for several yes-or-no outputs there is 'binary_accuracy'"
        raise value_error("y", f"labels or rows of probabilities, for {name}", f"{shown(y)}{hint}")
    return y.argmax(axis=1)


def _check_values_of(name, y, prediction):
    if y.shape != prediction.shape:
        raise value_error("y", f"values of shape {prediction.shape}, for {name}", shown(y))


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        accuracy, binary_accuracy, balanced_accuracy, top_k, recall, precision, f1, auc, average_precision, mae, mse,
        rmse, r2,
    )
}  # fmt: skip


def own(function: "MetricFunction", *, greater_is_better: bool | None = None, name: str | None = None) -> Metric:
    """Returns a `Metric` of your own function(y, prediction) -> float, or function(y, prediction, weight), with weight
    (rows,) or None. A two-argument function ignores weights.

    greater_is_better: whether greater values are better; `fit(monitor=...)` needs to know. name: None is the function's
        name."""
    if not callable(function):
        raise type_error("function", "a function of (y, prediction)", shown(function))
    name = getattr(function, "__name__", type(function).__name__) if name is None else name
    if not isinstance(name, str):
        raise type_error("name", "a text", shown(name))
    given: Callable[..., Number] = function
    if _takes_weights(function):
        return Metric(name, given, greater_is_better)
    return Metric(name, lambda y, prediction, weight: given(y, prediction), greater_is_better)


def _takes_weights(function):
    """Whether a function requires three positional arguments."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some builtins have no signature
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters) == 3


# Metrics as a user gives them.
MetricLike: TypeAlias = str | Metric | MetricFunction
Metrics: TypeAlias = MetricLike | Sequence[MetricLike]

# Columns of a history, and other names that logs use: no metric may have one of them.
COLUMNS = ("loss", "validation_loss", "learning_rate", "rows", "seconds")
RESERVED = ("step", "epoch", "stopped", *COLUMNS)


def _named(argument, text):
    """The metric for a name, such as "recall", or a name with a parameter, as a history has it: "recall(label=2)"."""
    parts = re.fullmatch(r"(\w+)\((\w+)=(\d+(?:\.\d+)?)\)", text)
    if parts is None:
        return named(argument, text, METRICS, "Metric")
    name, parameter, value = parts.groups()
    return named(argument, name, METRICS, "Metric")(**{parameter: float(value)})


def check_metrics(argument: str, metrics: "Metrics") -> list[Metric]:
    """Returns a list of `Metric`. metrics: a list of names, `Metric`s and functions of (y, prediction), or one function
    or name. Raises TypeError or ValueError that names the element."""
    if isinstance(metrics, str) or callable(metrics):
        metrics = [metrics]
    if not isinstance(metrics, (list, tuple)):
        expected = f"a list of names ({', '.join(map(repr, METRICS))}) or functions of (y, prediction)"
        raise type_error(argument, expected, shown(metrics))
    checked: list[Metric] = []
    for i, metric in enumerate(metrics):
        if isinstance(metric, str):
            metric = _named(f"{argument}[{i}]", metric)
        elif not isinstance(metric, Metric):
            if not callable(metric):
                expected = f"one of {', '.join(map(repr, METRICS))}, or a function of (y, prediction)"
                raise type_error(f"{argument}[{i}]", expected, shown(metric))
            metric = own(metric)
        taken = metric.column in RESERVED or metric.column.startswith("validation_")
        if taken or metric.column in [known.column for known in checked]:
            raise value_error(f"{argument}[{i}]", "a unique name that logs do not use", repr(metric.column))
        checked.append(metric)
    return checked
