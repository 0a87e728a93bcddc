"""The column to predict: classes or numbers."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.for_users import ForUsers
from ..errors import check_number, shown, value_error
from .categories import FEW
from .errors import pyarrow_modules
from .numbers import check_no_numbers, check_scaled, fitted_scale, numbers_of
from .text import written
from .values import MISSING, as_text, decoded, index_of, is_text, is_valid, pieces_of, value_of

# Integer targets with at most so many different values are classes, if the task is "auto".
MAX_CLASSES = 20
TASKS = ("auto", "classification", "regression")


@dataclasses.dataclass(frozen=True)
class Target(ForUsers):
    """The column to predict: labels by `classes` for classification, (y - shift) scale for regression."""

    _internal = frozenset({"class_array", "from_config"})

    name: str
    classes: tuple[str, ...] | tuple[bool, ...] | tuple[int, ...] | None
    shift: float = 0.0
    scale: float = 1.0

    def class_array(self) -> "npt.NDArray[Any]":
        """The classes as an array. Text is of dtype object, since numpy's text cannot end with a NUL character."""
        if self.classes is None:
            raise value_error("target", "one that has classes", shown(self))
        return np.array(self.classes, object if isinstance(self.classes[0], str) else None)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Target":
        """The target of a `Preprocessing.config`."""
        classes = config["classes"]
        if classes is not None:
            kinds = {type(value) for value in classes}
            if (
                not isinstance(classes, list)
                or len(set(classes)) != len(classes)
                or kinds not in ({str}, {bool}, {int})
            ):
                raise value_error("classes", "a list of different texts, truth values or integers", shown(classes))
            classes = tuple(classes)
        numbers = {name: check_number(name, config[name]) for name in ("shift", "scale")}
        return cls(str(config["name"]), classes, **numbers)


def fitted_target(column, where, task, rows, drop_missing):
    """The `Target` of a column. rows: the index of the training rows, None is all. drop_missing: rows without a value
    are accepted, and not trained on."""
    types = pyarrow_modules().types
    present = has_value(column, where)
    if not drop_missing or not present.any():
        check_present(~present, where, np.arange(len(column)))
    rows = np.flatnonzero(present) if rows is None else rows[present[rows]]
    if len(rows) == 0:
        raise where.error("a value in some of the rows that are trained on", "none")
    classes = is_text(column.type) or types.is_boolean(column.type) or types.is_dictionary(column.type)
    column = _classes(column, where)
    if task == "auto" and not classes and types.is_integer(column.type):
        classes = len(column.unique().drop_null()) <= MAX_CLASSES
    if task == "classification" and types.is_floating(column.type):
        column = _labels_of(column)
    if task == "classification" or (task == "auto" and classes):
        if not (is_text(column.type) or types.is_boolean(column.type) or types.is_integer(column.type)):
            raise where.error("text, truth values or integers for classes", f"{column.type}")
        if types.is_integer(column.type):
            column = _codes(column, where)
        values = column.unique().drop_null().to_pylist()
        if len(values) < 2:
            raise where.error("at least 2 classes", f"only {values[0]!r} in all rows")
        if task == "auto" and is_text(column.type):
            check_no_numbers(column, where, " (or the task 'classification')")
            if len(values) > max(FEW, len(column) / 2):
                expected = "classes that come more than once (or the task 'classification')"
                raise where.error(expected, f"{len(values)} different ones in {len(column)} rows")
        return Target(where.column, tuple(sorted(values)))
    if types.is_temporal(column.type) and not types.is_duration(column.type):
        raise where.error("numbers, text or truth values for a target", f"{column.type}")
    return Target(where.column, None, *fitted_scale(numbers_of(column, where)[rows], where))


def has_value(column, where):
    """Which values of a column are not missing, as an array of bool: neither null nor NaN nor empty text."""
    column = decoded(column)
    if is_text(column.type):
        return is_valid(as_text(column, where))
    if pyarrow_modules().types.is_floating(column.type):
        return ~np.isnan(numbers_of(column, where))
    return is_valid(column)


def _labels_of(column):
    """A column of floating-point numbers as integers, NaN as null, if all are integers, else unchanged."""
    arrow = pyarrow_modules()
    try:
        present = arrow.compute.invert(arrow.compute.is_nan(column))
        return arrow.compute.if_else(present, column, arrow.scalar(None, column.type)).cast(arrow.int64())
    except arrow.ArrowInvalid:
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
    return text if any(isinstance(value_of(value), str) for value in text.unique().drop_null().to_pylist()) else column


def check_present(absent, where, rows):
    """Raises TableError if a target is missing. absent: which are; rows: their rows."""
    if absent.any():
        expected = (
            "a value in every row of the target (drop_missing_target=True or --drop-missing-target leaves out rows)"
        )
        n = f"a missing one, {int(absent.sum())} in {len(absent)} rows" if len(absent) > 1 else "a missing one"
        raise where.error(expected, n, int(rows[np.argmax(absent)]))


def encoded_target(target, column, where, rows=None):
    """A column as targets: integer labels, or standardised numbers. rows: the index of the rows that are wanted, None
    is all. Raises TableError that names the row."""
    rows = np.arange(len(column)) if rows is None else rows
    if target.classes is None:
        values = numbers_of(column, where)[rows]
        check_present(np.isnan(values), where, rows)
        with np.errstate(all="ignore"):
            scaled = (values - target.shift) * target.scale
        check_scaled(values, scaled, where, rows)
        return scaled
    kind = type(target.classes[0])
    if kind is int and is_text(column.type):
        numbers_of(column, where)  # raises at the first text that is not a number
    found = index_of(column, tuple(map(str, target.classes)), kind is not str, where)[rows]
    check_present(found == MISSING, where, rows)
    if found.min() < 0:
        row = int(rows[np.argmin(found)])
        got, value = as_text(column.slice(row, 1), where)[0].as_py(), column[row].as_py()
        got = value if kind is not str and value_of(got) == value else got
        raise where.error(f"one of the classes {shown(list(target.classes))}", shown(got), row)
    return found
