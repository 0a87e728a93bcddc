"""Preprocessing: encodes tables as rows of numbers, and decodes predictions."""

import dataclasses
import itertools
import os
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from ..core.for_users import ForUsers
from ..core.html import html_table
from ..core.types import Array, Shape
from ..errors import choose, shown, value_error
from .categories import Categories
from .columns import KINDS, Column
from .errors import Problems, Where
from .files import Table, as_table, na_values_of, names_of, read
from .learning import OUTPUTS, learn_columns, no_such_column
from .target import Target, encoded_target, has_value
from .values import check_text_is_there, different_texts, number_of, with_missing

if TYPE_CHECKING:
    import pyarrow

    from ..onnx import Graph

__all__ = ["OUTPUTS", "Preprocessing", "column_of", "learn"]


class Preprocessing(ForUsers):
    """Encodes the columns of a table as rows of numbers, and one of them as targets. Numbers are standardised, and
    missing ones filled in; a column of categories becomes one feature for each category (one-hot); one of dates becomes
    the day, the season, the day of the week and the time of day (`Dates` has the formulas). A column with missing
    values has one more feature, which is 1 where the value is missing. `of` learns all this from a table. A network
    stores it in its attribute `preprocessing`, and is saved with it.

    columns: tuple of `Numbers`, `Categories` and `Dates`. target: a `Target`. na_values: texts, or numbers as text,
        that stand for missing values."""

    _internal = frozenset({"config", "encode_row", "from_config", "onnx_decode", "onnx_encode"})

    def __init__(self, columns: Iterable[Column], target: Target, na_values: Iterable[str] = ()) -> None:
        self.columns, self.target, self.na_values = tuple(columns), target, tuple(dict.fromkeys(na_values))
        self._row_encoders: tuple[int, list[tuple[str, Any]], Any] | None = None  # for encode_row

    @classmethod
    def of(
        cls,
        table: Table,
        target: str,
        *,
        categorical: str | Iterable[str] = (),
        drop: str | Iterable[str] = (),
        task: str = "auto",
        missing: str = "mean",
        max_categories: int = 100,
        rows: "npt.ArrayLike | slice | None" = None,
        drop_missing_target: bool = False,
        na_values: str | Iterable[str] = (),
        source: str | None = None,
    ) -> "Preprocessing":
        """Learns from a table: the path of a file, a pyarrow.Table, a DataFrame (pandas, polars), a dict of columns or
        a list of dicts, one for each row.

        target: the column to predict. Its values are classes if they are text, truth values, or integers with at most
            20 different values, unless `task` is "classification" or "regression".
        categorical: columns of numbers that stand for categories; from a text file, by their text. drop: columns to
            ignore. Columns from which nothing can be learnt are ignored, too, with a UserWarning: those of one value,
            those without values, text of which nearly every value is another, and the index of a DataFrame that was
            written to a file; the last two unless an argument names them.
        missing: the value of missing numbers: "mean" or "median" of the column.
        max_categories: of a column with more categories the most frequent ones have a feature each, and all others one,
            as all unknown ones later.
        rows: index of the training rows, from which means, medians and scales are computed; None is all. Categories and
            classes come from the whole table.
        drop_missing_target: True accepts rows without a target, which are not learnt from; `rows_with_target` has the
            others.
        na_values: texts, or numbers as text ("-999"), that are missing values wherever they occur.
        source: the name of the table in messages.

        Names of columns that are not text become text. Raises TableError that names source, column and row, of all bad
        columns; TypeError or ValueError that names the argument."""
        made, notes = learn(
            table, target, categorical=categorical, drop=drop, task=task, missing=missing,
            max_categories=max_categories, rows=rows, drop_missing_target=drop_missing_target, na_values=na_values,
            source=source,
        )  # fmt: skip
        for note in notes:
            warnings.warn(note, stacklevel=2)
        return made

    # ---- what a network needs to know

    @property
    def n_features(self) -> int:
        """Number of features of an encoded row."""
        return sum(column.width for column in self.columns)

    @property
    def input_shape(self) -> Shape:
        """Shape of an encoded row: (n_features,)."""
        return (self.n_features,)

    @property
    def feature_names(self) -> list[str]:
        """Names of the features: the name of the column, followed by "=value", " (missing)" and the like."""
        return [name for column in self.columns for name in column.feature_names]

    @property
    def text(self) -> list[str]:
        """Names of the columns that `fastgd.tables.read` has to read as text."""
        names = [column.name for column in self.columns if isinstance(column, Categories)]
        of_text = self.target.classes is not None and isinstance(self.target.classes[0], str)
        return [*names, self.target.name] if of_text else names

    @property
    def n_outputs(self) -> int:
        """Number of outputs of a network that predicts the target."""
        return 1 if self.target.classes is None else len(self.target.classes)

    @property
    def classes(self) -> tuple[str, ...] | tuple[bool, ...] | tuple[int, ...] | None:
        """The classes of the target, in the order of the outputs; None if it is a number."""
        return self.target.classes

    @property
    def loss(self) -> str:
        """Name of the loss that suits the target: "mse", or "softmax_cross_entropy" for classes."""
        return "mse" if self.target.classes is None else "softmax_cross_entropy"

    # ---- encoding and decoding

    def encode(
        self, table: Table, *, unknown: str = "error", dtype: "npt.DTypeLike" = "float32", source: str | None = None
    ) -> "Array":
        """Encodes the columns of a table, as in `of`, as an array (rows, n_features). unknown: for a category that was
        not in the table that this was learnt from, if the column has no feature for others: "error" raises, "zeros"
        encodes it as 0 in all features.

        Raises TableError that names source, column and row, of all bad columns."""
        choose("unknown", unknown, dict.fromkeys(("error", "zeros")))
        table, source = self._table(table, source)
        known = {name: i for i, name in enumerate(table.column_names)}
        X, start, problems = np.empty((table.num_rows, self.n_features), dtype), 0, Problems()
        for column in self.columns:
            where, out = Where(source, column.name), X[:, start : start + column.width]
            start += column.width
            with problems.collected():
                if column.name not in known:
                    raise no_such_column(table, column.name, source, used=self._used)
                values, field = table.column(known[column.name]), table.schema.field(known[column.name])
                if isinstance(column, Categories) and not column.by_value:
                    check_text_is_there(values, field, where)
                column.encode(with_missing(values, self.na_values), out, where, unknown)
        problems.check()
        return X

    def encode_row(self, row: dict[str, Any], dtype: "npt.DTypeLike") -> "Array | None":
        """`encode` of one row, a dict of plain values, as an array (1, n_features); None if it needs the checks of
        `encode`, or raises there."""
        if self._row_encoders is None:
            self._row_encoders = self._made_row_encoders()
        width, encoders, is_missing = self._row_encoders
        X = np.zeros((1, width), dtype)
        out = X.data.cast("B").cast(X.dtype.char)
        try:
            if is_missing is not None:
                row = {name: None if is_missing(value) else value for name, value in row.items()}
            for name, put in encoders:
                if not put(row[name], out):
                    return None
        except (KeyError, OverflowError, TypeError):  # no such column, a large integer, a value that is a list
            return None
        return X

    def _made_row_encoders(self):
        """The number of features, names of columns and their `row_encoder`, and a function that says whether a value is
        one of `na_values`, or None."""
        encoders, start = [], 0
        for column in self.columns:
            encoders.append((column.name, column.row_encoder(start)))
            start += column.width
        values = {*self.na_values, *map(number_of, self.na_values)}

        def is_missing(value):
            kind = type(value)
            return kind is not bool and kind is not np.bool_ and (value.strip() if kind is str else value) in values

        return start, encoders, is_missing if self.na_values else None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_row_encoders": None}

    def targets(
        self, table: Table, *, rows: "npt.ArrayLike | slice | None" = None, source: str | None = None
    ) -> "npt.NDArray[Any]":
        """The targets of a table, (rows,): integer labels, or standardised numbers. rows: index of the rows that are
        wanted, None is all. Raises TableError as `encode`."""
        table, source = self._table(table, source)
        column, where = self._target_of(table, source)
        index: Any = rows
        index = None if index is None else np.arange(table.num_rows)[index]
        encoded: npt.NDArray[Any] = encoded_target(self.target, column, where, index)
        return encoded

    def rows_with_target(self, table: Table, *, source: str | None = None) -> "npt.NDArray[np.int64]":
        """The index of the rows of a table that have a target. Raises TableError as `encode`."""
        table, source = self._table(table, source)
        return np.flatnonzero(has_value(*self._target_of(table, source)))

    @property
    def _used(self):
        """Names of all columns that were learnt."""
        return [self.target.name, *(column.name for column in self.columns)]

    def _table(self, table, source):
        """A table as a pyarrow.Table, and its name in messages."""
        return table_of(table, source, self.text, self.na_values)

    def _target_of(self, table, source):
        """The column of the target, and what messages call it."""
        name, where = self.target.name, Where(source, self.target.name)
        column = column_of(table, name, source)
        if self.target.classes is not None and isinstance(self.target.classes[0], str):
            check_text_is_there(column, table.schema.field(name), where)
        return with_missing(column, self.na_values), where

    def decode(self, prediction: "Array") -> "npt.NDArray[Any]":
        """Decodes predictions of the network, (rows, n_outputs), as an array (rows,): the most probable classes, as in
        the table, or numbers in the units of the table."""
        if prediction.ndim != 2 or prediction.shape[1] != self.n_outputs:
            raise value_error("prediction", f"an array (rows, {self.n_outputs})", shown(prediction))
        if self.target.classes is None:
            with np.errstate(all="ignore"):
                numbers: npt.NDArray[Any] = prediction[:, 0].astype(np.float64) / self.target.scale + self.target.shift
            return numbers
        classes: npt.NDArray[Any] = self.target.class_array()[prediction.argmax(axis=1)]
        return classes

    # ---- ONNX

    def onnx_encode(self, graph: "Graph") -> str:
        """Adds inputs for the columns, and nodes that do what `encode` does, to an ONNX graph; returns the name of the
        encoded rows."""
        for column in self.columns:
            dtype, doc = column.onnx_input
            graph.input(column.name, dtype, 1, doc=doc)
        groups: list[list[Any]] = [list(group) for _, group in itertools.groupby(self.columns, type)]
        parts = [group[0].onnx(graph, group) for group in groups]
        return graph.add("Concat", *parts, axis=1)

    def onnx_decode(self, graph: "Graph", prediction: str) -> tuple[str, "npt.DTypeLike"]:
        """Adds nodes that do what `decode` does; returns the name of the numbers or classes, and their dtype."""
        if self.target.classes is not None:
            return graph.most_probable(self.target.class_array(), prediction)
        number = graph.cast(graph.add("Squeeze", prediction, np.array([1])), np.float64)
        number = graph.add("Div", number, np.array(self.target.scale))
        return graph.add("Add", number, np.array(self.target.shift)), np.float64

    # ---- saving

    def config(self) -> dict[str, Any]:
        """What a file stores, as a dict for JSON."""
        kinds = [{"kind": type(column).__name__, **dataclasses.asdict(column)} for column in self.columns]
        config = {"columns": kinds, "target": dataclasses.asdict(self.target)}
        return {**config, "na_values": list(self.na_values)} if self.na_values else config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The preprocessing of a `config`. Raises TypeError, ValueError or KeyError if that is not valid."""
        columns = [choose("kind", column["kind"], KINDS).from_config(column) for column in config["columns"]]
        na_values = different_texts("na_values", config.get("na_values", []))
        return cls(columns, Target.from_config(config["target"]), na_values)

    def __repr__(self) -> str:
        kind = "numbers" if self.target.classes is None else f"{len(self.target.classes)} classes"
        return f"Preprocessing({self.n_features} features of {len(self.columns)} columns, {self.target.name!r}: {kind})"

    def _repr_html_(self) -> str:
        rows = [(column.name, type(column).__name__.lower(), column.width) for column in self.columns]
        return html_table(repr(self), ["column", "kind", "features"], rows)


def learn(table: Table, target: str, **options: Any) -> tuple[Preprocessing, list[str]]:
    """Returns the `Preprocessing` that `of` learns with these options, and a list of warnings for the user."""
    for name in ("categorical", "drop"):
        options[name] = names_of(name, options.get(name, ()))
    source, na_values = options.pop("source"), na_values_of(options.get("na_values", ()))
    options["na_values"] = na_values
    table, source = table_of(table, source, options["categorical"], na_values)
    columns, made, notes = learn_columns(table, str(target), source=source, **options)
    return Preprocessing(columns, made, na_values), notes


def table_of(
    table: Table, source: str | None, text: list[str], na_values: Iterable[str]
) -> "tuple[pyarrow.Table, Any]":
    """A table, or the file of a path, as a pyarrow.Table, and its name in messages. text, na_values: as in `read`."""
    if isinstance(table, str | os.PathLike):
        return read(table, text=text, na_values=na_values), os.fsdecode(table) if source is None else source
    return as_table(table, source), source


def column_of(table, name, source, argument=None):
    """A column of a table. Raises TableError if no column has that name."""
    if name not in table.column_names:
        raise no_such_column(table, name, source, argument)
    return table.column(name)
