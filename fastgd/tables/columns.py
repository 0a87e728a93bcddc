"""Columns of tables: numbers, categories and the target; what is learnt from them, and how they are encoded."""

import dataclasses
import difflib
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..core.types import Array
from ..data.samples import scale_of
from ..errors import shown, value_error
from .errors import Where, pyarrow_modules
from .text import written
from .values import (
    LONG_TEXT,
    MISSING,
    UNKNOWN,
    as_text,
    check_encoding,
    decoded,
    index_of,
    is_text,
    number_of,
    pieces_of,
    value_of,
    words_of,
)

if TYPE_CHECKING:
    import pyarrow

    from ..onnx import Graph

# A column of text of which more than this fraction are numbers is taken for a column of numbers with errors.
MOSTLY = 0.5
# Integer targets with at most so many different values are classes, if the task is "auto".
MAX_CLASSES = 20
TASKS = ("auto", "classification", "regression")
# Squares of larger numbers may overflow.
LARGEST = 1e150


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A column of numbers, encoded as (x - shift) scale, where x is `fill` for missing numbers."""

    name: str
    fill: float
    shift: float
    scale: float

    width: ClassVar[int] = 1
    onnx_input: ClassVar[tuple[type, str]] = np.float64, "a number; missing ones are NaN"

    def encode(self, column: "pyarrow.ChunkedArray", out: "Array", where: Where, unknown: str) -> None:
        """Encodes a column into `out` (rows, 1). Raises TableError that names the row."""
        values = _numbers(column, where)
        with np.errstate(all="ignore"):
            out[:, 0] = (np.where(np.isnan(values), self.fill, values) - self.shift) * self.scale
        _check_finite(values, out[:, 0], where)

    @staticmethod
    def onnx(graph: "Graph", columns: list["Numbers"]) -> str:
        """Adds nodes that encode columns of numbers to an ONNX graph; returns the name of their output."""
        fill, shift, scale = (np.array([getattr(c, name) for c in columns]) for name in ("fill", "shift", "scale"))
        x = graph.add("Concat", *(column.name for column in columns), axis=1)
        x = graph.add("Where", graph.add("IsNaN", x), fill, x)
        return graph.cast(graph.add("Mul", graph.add("Sub", x, shift), scale), graph.dtype)


@dataclasses.dataclass(frozen=True)
class Categories:
    """A column of categories, encoded one-hot: one feature for each of `values`, which are text; all are 0 where the
    category is missing. by_value: the column holds numbers, truth values or dates, so "1" and "1.0" are equal."""

    name: str
    values: tuple[str, ...]
    by_value: bool = dataclasses.field(default=False, compare=False)

    onnx_input: ClassVar[tuple[type, str]] = object, "a text; missing ones are empty"

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self.values)

    def encode(self, column: "pyarrow.ChunkedArray", out: "Array", where: Where, unknown: str) -> None:
        """Encodes a column into `out` (rows, width). unknown: as in `Preprocessing.encode`. Raises TableError that
        names the row."""
        index = index_of(column, self.values, self.by_value, where)
        if unknown == "error" and (index == UNKNOWN).any():
            row = int(np.argmax(index == UNKNOWN))
            got = as_text(column.slice(row, 1), where)[0].as_py()
            near = difflib.get_close_matches(got, self.values, n=1) if len(got) < LONG_TEXT else []
            hint = f"; did you mean {near[0]!r}?" if near else ""
            others = "unknown='zeros', or --unknown zeros, accepts others"
            expected = f"one of {shown(list(self.values))}, the categories it was trained on ({others})"
            raise where.error(expected, f"{shown(got)}{hint}", row)
        out[...] = 0
        rows = np.flatnonzero(index >= 0)
        out[rows, index[rows]] = 1

    @staticmethod
    def onnx(graph: "Graph", columns: list["Categories"]) -> str:
        """As `Numbers.onnx`, for columns of categories."""
        parts = []
        for column in columns:
            # Empty text, a missing category, must not count as unknown: it gets a feature, which is cut off again.
            text = graph.add("Squeeze", column.name, np.array([1]))
            part = graph.add(
                "OneHotEncoder", text, domain="ai.onnx.ml", of=column.name,
                cats_strings=[*column.values, ""], zeros=int(graph.unknown == "zeros"),
            )  # fmt: skip
            parts.append(graph.add("Slice", part, np.array([0]), np.array([-1]), np.array([1])))
        return graph.cast(graph.add("Concat", *parts, axis=1), graph.dtype)


def missing(column):
    """The number of missing values in a column."""
    if not is_text(decoded(column).type):
        return column.null_count
    return as_text(column, Where(None, None)).null_count


def _valid(text):
    """Which values of a column of text are not missing, as an array of bool."""
    return text.is_valid().to_numpy(zero_copy_only=False)


def _is_number(kind):
    types = pyarrow_modules().types
    return any(
        is_kind(kind)
        for is_kind in (types.is_null, types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    )


def _numbers(column, where, otherwise=""):
    """A column as float64, NaN where it is missing. Raises TableError for values that are not numbers; otherwise: an
    alternative that its message offers."""
    arrow = pyarrow_modules()
    column = decoded(column)
    if is_text(column.type):
        text = as_text(column, where)
        column = _parsed(text)
        wrong = np.isnan(column) & _valid(text)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise where.error(f"a number{otherwise}", shown(text[row].as_py()), row)
        values = column
    elif _is_number(column.type):
        values = column.cast(arrow.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
    else:
        check_encoding(column, where)
        raise where.error(
            "numbers or text (leave the column out with drop= or --drop, or convert it)", f"{column.type}"
        )
    if np.isinf(values).any():
        row = int(np.argmax(np.isinf(values)))
        raise where.error("a finite number", repr(float(values[row])), row)
    return values


def _check_finite(values, scaled, where):
    """Raises TableError if a standardised number overflows in the precision of the features."""
    if not np.isfinite(scaled).all():
        row = int(np.argmin(np.isfinite(scaled)))
        raise where.error(f"numbers that {scaled.dtype} holds once they are standardised", f"{values[row]:g}", row)


def _parsed(text):
    """Text as float64, NaN where it is missing or not a number."""
    words, codes = words_of(text)
    return np.array([*map(number_of, words), np.nan], np.float64)[codes]


@dataclasses.dataclass(frozen=True)
class Target:
    """The column to predict: labels by `classes` for classification, (y - shift) scale for regression."""

    name: str
    classes: tuple[str, ...] | tuple[bool, ...] | tuple[int, ...] | None
    shift: float = 0.0
    scale: float = 1.0

    def class_array(self) -> "npt.NDArray[Any]":
        """The classes as an array. Text is of dtype object, since numpy's text cannot end with a NUL character."""
        if self.classes is None:
            raise value_error("target", "one that has classes", shown(self))
        return np.array(self.classes, object if isinstance(self.classes[0], str) else None)


def fitted_categories(name, column, where, max_categories, is_categorical):
    """The `Categories` of a column. is_categorical: the user says so, so numbers and rare values are accepted."""
    text = as_text(column, where)
    values = sorted(value for value in text.unique().to_pylist() if value is not None)
    if not is_categorical:
        _check_no_numbers(text, where, " (or the column among the categorical ones)")
        if len(values) > max(MAX_CLASSES, len(column) / 2):
            expected = "categories that come more than once (or the column left out, or among the categorical ones)"
            raise where.error(expected, f"{len(values)} different ones in {len(column)} rows")
    if len(values) > max_categories:
        raise where.error(f"at most {max_categories} categories (or the column left out)", f"{len(values)}")
    meanings = set(map(value_of, values))  # a code such as "007" means itself, as text
    is_one_to_one = len(meanings) == len(values) and str not in set(map(type, meanings))
    by_value = not is_text(decoded(column).type) and is_one_to_one
    return Categories(name, tuple(values), by_value)


def _check_no_numbers(text, where, otherwise=""):
    """Raises TableError if most values of a column of text are numbers; it names the first that is not."""
    values = [value for value in text.unique().to_pylist() if value is not None]
    numbers = [value for value in values if not np.isnan(number_of(value))]
    if len(numbers) > MOSTLY * len(values):
        _numbers(text, where, otherwise)


@np.errstate(all="ignore")
def fitted_numbers(name, column, where, missing, rows):
    """The `Numbers` of a column; rows: the index of the training rows, None is all."""
    values = _numbers(column, where)
    values = values if rows is None else values[rows]
    if np.isnan(values).all():
        raise where.error("values (or the column left out)", "none among the rows that are trained on")
    mean, scale = _fitted_scale(values, where)
    return Numbers(name, mean if missing == "mean" else float(np.nanmedian(values)), mean, scale)


@np.errstate(all="ignore")
def _fitted_scale(values, where):
    """Mean and 1 / standard deviation of the numbers that are not missing."""
    largest = float(np.nanmax(np.abs(values)))
    if largest > LARGEST:
        raise where.error(f"numbers up to {LARGEST:g} in size", f"{largest:g}")
    values = values[~np.isnan(values)]
    mean = float(np.mean(values))
    return mean, float(scale_of(mean, np.var(values), len(values)))


def fitted_target(column, where, task, rows):
    """The `Target` of a column; rows: the index of the training rows, None is all."""
    types = pyarrow_modules().types
    classes = is_text(column.type) or types.is_boolean(column.type) or types.is_dictionary(column.type)
    column = _classes(column, where)
    if task == "auto" and not classes and types.is_integer(column.type):
        classes = len(column.unique()) <= MAX_CLASSES
    if task == "classification" and types.is_floating(column.type):
        column = _labels_of(column)
    if task == "classification" or (task == "auto" and classes):
        if not (is_text(column.type) or types.is_boolean(column.type) or types.is_integer(column.type)):
            raise where.error("text, truth values or integers for classes", f"{column.type}")
        _check_present(column.is_null().to_numpy(zero_copy_only=False), where)
        if types.is_integer(column.type):
            column = _codes(column, where)
        values = column.unique().to_pylist()
        if len(values) < 2:
            raise where.error("at least 2 classes", f"only {values[0]!r} in all rows")
        if task == "auto" and is_text(column.type):
            _check_no_numbers(column, where, " (or the task 'classification')")
            if len(values) > max(MAX_CLASSES, len(column) / 2):
                expected = "classes that come more than once (or the task 'classification')"
                raise where.error(expected, f"{len(values)} different ones in {len(column)} rows")
        return Target(where.column, tuple(sorted(values)))
    values = _numbers(column, where)
    _check_present(np.isnan(values), where)
    return Target(where.column, None, *_fitted_scale(values if rows is None else values[rows], where))


def _labels_of(column):
    """A column of floating-point numbers as integers if all are integers, else unchanged."""
    try:
        return column.cast(pyarrow_modules().int64())
    except pyarrow_modules().ArrowInvalid:
        return column


def _classes(column, where):
    """A target, without dictionary encoding; empty text is missing."""
    column = decoded(column)
    return as_text(column, where) if is_text(column.type) else column


def _codes(column, where):
    """A column of integers as text if the file wrote a code such as "01", else unchanged."""
    if any(written(piece) is None or written(piece) is False for piece in pieces_of(column)):
        return column
    text = as_text(column, where)
    return text if any(isinstance(value_of(value), str) for value in text.unique().to_pylist()) else column


def _check_present(absent, where):
    if absent.any():
        raise where.error("a value in every row of the target", "a missing one", int(np.argmax(absent)))


def encoded_target(target, column, where):
    """A column as targets: integer labels, or standardised numbers. Raises TableError that names the row."""
    if target.classes is None:
        values = _numbers(column, where)
        _check_present(np.isnan(values), where)
        with np.errstate(all="ignore"):
            scaled = (values - target.shift) * target.scale
        _check_finite(values, scaled, where)
        return scaled
    kind = type(target.classes[0])
    if kind is int and is_text(column.type):
        _numbers(column, where)  # raises at the first text that is not a number
    found = index_of(column, tuple(map(str, target.classes)), kind is not str, where)
    _check_present(found == MISSING, where)
    if found.min() < 0:
        row = int(np.argmin(found))
        got, value = as_text(column.slice(row, 1), where)[0].as_py(), column[row].as_py()
        got = value if kind is not str and value_of(got) == value else got
        raise where.error(f"one of the classes {shown(list(target.classes))}", shown(got), row)
    return found
