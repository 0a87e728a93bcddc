"""Columns of numbers."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from ..core.for_users import ForUsers
from ..core.types import Array
from ..data.samples import scale_of
from ..errors import check_flag, check_number, shown
from .errors import Where, pyarrow_modules
from .values import as_text, check_encoding, decoded, has_no_values, is_text, is_valid, number_of, words_of

if TYPE_CHECKING:
    import pyarrow

    from ..onnx import Graph

# Squares of larger numbers may overflow.
LARGEST = 1e150
# Standardised numbers from this size on are left to `encode`, which checks that the precision holds them.
LARGEST_IN_ROW = 1e30
# A column of text of which more than this fraction are numbers is taken for a column of numbers with errors.
MOSTLY = 0.5
# What helps against text among numbers.
OTHERWISE = " (or the column in categorical= or drop=, or the text in na_values=; --categorical, --drop, --na-values)"
# Types of single values that are numbers.
PLAIN = frozenset((float, int, bool, np.float64, np.float32, np.int64, np.int32, np.bool_))


@dataclasses.dataclass(frozen=True)
class Numbers(ForUsers):
    """A column of numbers, encoded as (x - shift) scale, where x is `fill` for missing numbers. missing: True adds a
    feature that is 1 where the number is missing, else 0."""

    _internal = frozenset({"details", "encode", "from_config", "kind", "of", "onnx", "onnx_input", "row_encoder"})

    name: str
    fill: float
    shift: float
    scale: float
    missing: bool = False

    kind: ClassVar[str] = "numbers"
    onnx_input: ClassVar[tuple[type, str]] = np.float64, "a number; missing ones are NaN"

    @property
    def width(self) -> int:
        """Number of features."""
        return 1 + self.missing

    @property
    def feature_names(self) -> list[str]:
        """Names of the features."""
        return [self.name, *[f"{self.name} (missing)"] * self.missing]

    @property
    def details(self) -> list[str]:
        """What a summary says of the column besides its name."""
        return []

    def encode(self, column: "pyarrow.ChunkedArray", out: "Array", where: Where, unknown: str) -> None:
        """Encodes a column into `out` (rows, width). Raises TableError that names the row."""
        values = numbers_of(column, where)
        absent = np.isnan(values)
        with np.errstate(all="ignore"):
            out[:, 0] = (np.where(absent, self.fill, values) - self.shift) * self.scale
        check_scaled(values, out[:, 0], where)
        if self.missing:
            out[:, 1] = absent

    def row_encoder(self, start: int) -> "Callable[[Any, memoryview], bool]":
        """A function (value, out) that does for one value what `encode` does for a column: it writes the features into
        `out`, zeros at first, from `start` on. It returns False if the value needs the checks of `encode`."""
        shift, scale, has_indicator, fill = self.shift, self.scale, self.missing, (self.fill - self.shift) * self.scale

        def put(value, out):
            kind = type(value)
            if kind in PLAIN:
                value = float(value)
            elif value is None or (kind is str and not value):
                value = np.nan
            elif kind is str:
                value = number_of(value)
                if value != value:
                    return False
            else:
                return False
            if value == value:
                out[start] = x = (value - shift) * scale
                return -LARGEST_IN_ROW < x < LARGEST_IN_ROW
            out[start] = fill
            if has_indicator:
                out[start + 1] = 1.0
            return True

        return put

    @staticmethod
    def onnx(graph: "Graph", columns: list["Numbers"]) -> str:
        """Adds nodes that encode columns of numbers to an ONNX graph; returns the name of their output."""
        fill, shift, scale = (np.array([getattr(c, name) for c in columns]) for name in ("fill", "shift", "scale"))
        x = graph.add("Concat", *(column.name for column in columns), axis=1)
        absent = graph.add("IsNaN", x)
        x = graph.add("Where", absent, fill, x)
        x = graph.cast(graph.add("Mul", graph.add("Sub", x, shift), scale), graph.dtype)
        if not any(column.missing for column in columns):
            return x
        both, n = graph.add("Concat", x, graph.cast(absent, graph.dtype), axis=1), len(columns)
        order = [index for i, column in enumerate(columns) for index in (i, n + i)[: column.width]]
        return graph.add("Gather", both, np.array(order), axis=1)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The column of a `Preprocessing.config`."""
        numbers = {name: check_number(name, config[name]) for name in ("fill", "shift", "scale")}
        return cls(str(config["name"]), **numbers, missing=check_flag("missing", config.get("missing", False)))

    @classmethod
    @np.errstate(all="ignore")
    def of(cls, column: "pyarrow.ChunkedArray", where: Where, fill: str, rows: "Array | None") -> "Self | str":
        """Learns from a column, or returns why it is left out. fill: "mean" or "median". rows: the index of the
        training rows, None is all."""
        values = numbers_of(column, where, OTHERWISE)
        values, why = rows_to_learn_from(values, rows)
        if why:
            return why
        shift, scale = fitted_scale(values, where)
        x = shift if fill == "mean" else float(np.nanmedian(values))
        return cls(str(where.column), x, shift, scale, bool(np.isnan(values).any()))


def numbers_of(column, where, otherwise=""):
    """A column as float64, NaN where it is missing; durations in seconds. Raises TableError for values that are not
    numbers; otherwise: an alternative that its message offers."""
    arrow = pyarrow_modules()
    column = decoded(column)
    if is_text(column.type):
        text = as_text(column, where)
        values = _parsed(text)
        wrong = np.isnan(values) & is_valid(text)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise where.error(f"a number{otherwise}", shown(text[row].as_py()), row)
    elif has_no_values(column):
        return np.full(len(column), np.nan)
    elif is_number(column.type):
        values = column.cast(arrow.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
    elif arrow.types.is_duration(column.type):
        nanoseconds = column.cast(arrow.duration("ns"), safe=False).cast(arrow.int64())
        values = nanoseconds.cast(arrow.float64(), safe=False).to_numpy(zero_copy_only=False) / 1e9
    else:
        check_encoding(column, where)
        raise where.error(
            "numbers, text, dates or times (leave the column out with drop= or --drop, or convert it)", f"{column.type}"
        )
    if np.isinf(values).any():
        row = int(np.argmax(np.isinf(values)))
        raise where.error("a finite number", repr(float(values[row])), row)
    return values


def rows_to_learn_from(values: "Array", rows: "Array | None") -> "tuple[Array, str]":
    """The values of the training rows, and why nothing can be learnt from them, or "". values: of all rows, NaN where
    they are missing. rows: the index of the training rows, None is all."""
    learnt, why = values if rows is None else values[rows], ""
    if np.isnan(values).all():
        why = "all values are missing"
    elif (values == values[0]).all():
        why = "there is only one value"
    elif np.isnan(learnt).all():
        why = "all values are missing in the rows that are trained on"
    return learnt, why


def is_number(kind):
    """Whether an Arrow type is one of numbers, or of truth values."""
    types = pyarrow_modules().types
    return any(is_kind(kind) for is_kind in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal))


def check_scaled(values, scaled, where, rows=None):
    """Raises TableError if a standardised number overflows in the precision of the features. rows: of the numbers, None
    if they are all."""
    if not np.isfinite(scaled).all():
        at = int(np.argmin(np.isfinite(scaled)))
        expected = f"numbers that {scaled.dtype} holds once they are standardised"
        raise where.error(expected, f"{values[at]:g}", at if rows is None else int(rows[at]))


def check_no_numbers(text, where, otherwise):
    """Raises TableError if most values of a column of text are numbers; it names the first that is not."""
    values = [value for value in text.unique().to_pylist() if value is not None]
    numbers = [value for value in values if not np.isnan(number_of(value))]
    if len(numbers) > MOSTLY * len(values):
        numbers_of(text, where, otherwise)


@np.errstate(all="ignore")
def fitted_scale(values, where):
    """Mean and 1 / standard deviation of the numbers that are not missing."""
    largest = float(np.nanmax(np.abs(values)))
    if largest > LARGEST:
        raise where.error(f"numbers up to {LARGEST:g} in size (or the column in drop=, --drop)", f"{largest:g}")
    values = values[~np.isnan(values)]
    mean = float(np.mean(values))
    return mean, float(scale_of(mean, np.var(values), len(values)))


def _parsed(text):
    """Text as float64, NaN where it is missing or not a number."""
    words, codes = words_of(text)
    return np.array([*map(number_of, words), np.nan], np.float64)[codes]
