"""Columns of categories."""

import dataclasses
import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from ..core.for_users import ForUsers
from ..core.types import Array
from ..errors import check_flag, shown
from .errors import Where
from .numbers import OTHERWISE, check_no_numbers
from .values import LONG_TEXT, MISSING, UNKNOWN, as_text, decoded, different_texts, index_of, is_text, value_of

if TYPE_CHECKING:
    import pyarrow

    from ..onnx import Graph

# A column of text with at most so many different values holds categories, even if each comes once.
FEW = 20


@dataclasses.dataclass(frozen=True)
class Categories(ForUsers):
    """A column of categories, encoded one-hot: one feature for each of `values`, which are text; then, with `other`,
    one for all other categories; then, with `missing`, one for missing ones. All are 0 for a category that has no
    feature. by_value: the column holds numbers, truth values or dates, so "1" and "1.0" are equal."""

    _internal = frozenset({"details", "encode", "from_config", "kind", "of", "onnx", "onnx_input", "row_encoder"})

    name: str
    values: tuple[str, ...]
    by_value: bool = dataclasses.field(default=False, compare=False)
    other: bool = False
    missing: bool = False

    kind: ClassVar[str] = "categories"
    onnx_input: ClassVar[tuple[type, str]] = object, "a text; missing ones are empty"

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self.values) + self.other + self.missing

    @property
    def feature_names(self) -> list[str]:
        """Names of the features: the name of the column, followed by "=value"."""
        more = [*[" (other)"] * self.other, *[" (missing)"] * self.missing]
        return [*(f"{self.name}={value}" for value in self.values), *(f"{self.name}{end}" for end in more)]

    @property
    def details(self) -> list[str]:
        """What a summary says of the column besides its name."""
        return [f"{len(self.values)}{' and other' if self.other else ''}"]

    def encode(self, column: "pyarrow.ChunkedArray", out: "Array", where: Where, unknown: str) -> None:
        """Encodes a column into `out` (rows, width). unknown: as in `Preprocessing.encode`. Raises TableError that
        names the row."""
        index = index_of(column, self.values, self.by_value, where)
        if self.other:
            index[index == UNKNOWN] = len(self.values)
        elif unknown == "error" and (index == UNKNOWN).any():
            row = int(np.argmax(index == UNKNOWN))
            got = as_text(column.slice(row, 1), where)[0].as_py()
            near = difflib.get_close_matches(got, self.values, n=1) if len(got) < LONG_TEXT else []
            hint = f"; did you mean {near[0]!r}?" if near else ""
            others = "unknown='zeros', or --unknown zeros, accepts others"
            expected = f"one of {shown(list(self.values))}, the categories it was trained on ({others})"
            raise where.error(expected, f"{shown(got)}{hint}", row)
        if self.missing:
            index[index == MISSING] = self.width - 1
        out[...] = 0
        rows = np.flatnonzero(index >= 0)
        out[rows, index[rows]] = 1

    def row_encoder(self, start: int) -> "Callable[[Any, memoryview], bool]":
        """As `Numbers.row_encoder`."""
        exact = {value: start + i for i, value in enumerate(self.values)}
        alike = {value_of(value): start + i for i, value in enumerate(self.values)} if self.by_value else {}
        other = start + len(self.values) if self.other else None
        absent, by_value = start + self.width - 1 if self.missing else None, self.by_value

        def put(value, out):
            kind = type(value)
            if kind is str:
                at = exact.get(value)
                if at is None and value:
                    if by_value or other is None:
                        return False
                    at = other
                at = absent if at is None else at
            elif value is None or (kind is float and value != value):
                at = absent
            elif by_value and (kind is int or kind is float or kind is bool):
                at = alike.get(value, other)
                if at is None:
                    return False
            else:
                return False
            if at is not None:
                out[at] = 1.0
            return True

        return put

    @staticmethod
    def onnx(graph: "Graph", columns: list["Categories"]) -> str:
        """As `Numbers.onnx`, for columns of categories."""
        parts = []
        for column in columns:
            # Empty text, a missing category, must not count as unknown: it gets a feature, which is cut off again.
            text, n = graph.add("Squeeze", column.name, np.array([1])), len(column.values)
            known = graph.add(
                "OneHotEncoder", text, domain="ai.onnx.ml", of=column.name,
                cats_strings=[*column.values, ""], zeros=int(column.other or graph.unknown == "zeros"),
            )  # fmt: skip
            parts.append(graph.add("Slice", known, np.array([0]), np.array([n]), np.array([1])))
            if column.other:
                found = graph.add("ReduceSum", known, np.array([1]), keepdims=1)
                parts.append(graph.add("Sub", np.ones(1, np.float32), found))
            if column.missing:
                parts.append(graph.add("Slice", known, np.array([n]), np.array([n + 1]), np.array([1])))
        return graph.cast(graph.add("Concat", *parts, axis=1), graph.dtype)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The column of a `Preprocessing.config`."""
        flags = {name: check_flag(name, config.get(name, False)) for name in ("by_value", "other", "missing")}
        return cls(str(config["name"]), different_texts("values", config["values"]), **flags)

    @classmethod
    def of(
        cls, column: "pyarrow.ChunkedArray", where: Where, most: int, rows: "Array | None", *, is_chosen: bool
    ) -> "Self | str":
        """Learns from a column, or returns why it is left out. most: number of categories; the most frequent are kept.
        rows: the index of the training rows, None is all. is_chosen: the user says that these are categories, so
        numbers and rare values are accepted."""
        text = as_text(column, where)
        if not is_chosen:
            check_no_numbers(text, where, OTHERWISE)
        counts = {count["values"]: count["counts"] for count in text.value_counts().to_pylist()}
        n_missing = counts.pop(None, 0)
        if not counts:
            return "all values are missing"
        if len(counts) == 1 and not n_missing:
            return "there is only one value"
        if len(counts) > max(FEW, len(text) / 2) and not is_chosen:
            return "nearly every value is another text, as in identifiers (categorical= or --categorical uses them)"
        values = sorted(sorted(counts, key=lambda value: (-counts[value], value))[:most])
        meanings = set(map(value_of, values))  # a code such as "007" means itself, as text
        is_one_to_one = len(meanings) == len(values) and str not in set(map(type, meanings))
        by_value = not is_text(decoded(column).type) and is_one_to_one
        absent = text.is_null().to_numpy(zero_copy_only=False)
        missing = bool((absent if rows is None else absent[rows]).any())
        return cls(str(where.column), tuple(values), by_value, len(counts) > len(values), missing)
