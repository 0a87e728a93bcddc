"""Preprocessing: encodes tables as rows of numbers, and decodes predictions."""

import dataclasses
import difflib
import itertools
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from ..core.types import Array, Shape
from ..errors import check_flag, check_integer, check_number, choose, shown, value_error
from .columns import (
    TASKS,
    Categories,
    Numbers,
    Target,
    encoded_target,
    fitted_categories,
    fitted_numbers,
    fitted_target,
)
from .errors import TableError, Where, pyarrow_modules
from .files import Table, as_table, index_columns, read
from .values import check_text_is_there, is_text

if TYPE_CHECKING:
    from ..onnx import Graph

__all__ = ["Categories", "Numbers", "Preprocessing", "TableError", "Target", "read"]
# Names of the outputs of ONNX models. The inputs are named after columns, which must have other names.
OUTPUTS = ("prediction", "probabilities", "scores")


class Preprocessing:
    """Encodes the columns of a table as rows of numbers, and one of them as targets. Numbers are standardised, and
    missing ones filled in; a column of categories becomes one feature for each category (one-hot). `of` learns it from
    a table. A network stores it in its attribute `preprocessing`, and is saved with it.

    columns: tuple of `Numbers` and `Categories`. target: a `Target`."""

    def __init__(self, columns: Iterable[Numbers | Categories], target: Target) -> None:
        self.columns, self.target = tuple(columns), target

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
        source: str | None = None,
    ) -> "Preprocessing":
        """Learns from a table (a pyarrow.Table, a DataFrame or a dict of columns).

        target: the column to predict. Its values are classes if they are text, truth values, or integers with at most
            20 different values, unless `task` is "classification" or "regression".
        categorical: columns of numbers that stand for categories; from a text file, by their text. drop: columns to
            ignore. The index of a DataFrame that was written to a file is ignored, too, with a UserWarning, unless an
            argument names it.
        missing: the value of missing numbers: "mean" or "median" of the column.
        max_categories: a column with more categories raises, since it is hardly categorical.
        rows: index of the training rows, from which means, medians and scales are computed; None is all. Categories and
            classes come from the whole table.
        source: the name of the table in messages.

        Names of columns that are not text become text. Raises TableError that names source, column and row; TypeError
        or ValueError that names the argument."""
        made, notes = learn(
            table, target, categorical=categorical, drop=drop, task=task, missing=missing,
            max_categories=max_categories, rows=rows, source=source,
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
        """Names of the features: the name of the column, followed by "=value" for a category."""
        names = []
        for column in self.columns:
            more = [f"={value}" for value in column.values] if isinstance(column, Categories) else [""]
            names += [column.name + end for end in more]
        return names

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
    def loss(self) -> str:
        """Name of the loss that suits the target: "mse", or "softmax_cross_entropy" for classes."""
        return "mse" if self.target.classes is None else "softmax_cross_entropy"

    # ---- encoding and decoding

    def encode(
        self, table: Table, *, unknown: str = "error", dtype: "npt.DTypeLike" = "float32", source: str | None = None
    ) -> "Array":
        """Encodes the columns of a table as an array (rows, n_features). unknown: for a category that was not in the
        table that this was learnt from, "error" raises, "zeros" encodes it as a missing value.

        Raises TableError that names source, column and row."""
        choose("unknown", unknown, dict.fromkeys(("error", "zeros")))
        table = as_table(table, source)
        known = {name: i for i, name in enumerate(table.column_names)}
        X, start = np.empty((table.num_rows, self.n_features), dtype), 0
        for column in self.columns:
            if column.name not in known:
                raise no_such_column(table, column.name, source)
            i, where, out = known[column.name], Where(source, column.name), X[:, start : start + column.width]
            if isinstance(column, Categories) and not column.by_value:
                check_text_is_there(table.column(i), table.schema.field(i), where)
            column.encode(table.column(i), out, where, unknown)
            start += column.width
        return X

    def targets(self, table: Table, *, source: str | None = None) -> "npt.NDArray[Any]":
        """The targets of a table, (rows,): integer labels, or standardised numbers. Raises TableError as `encode`."""
        table = as_table(table, source)
        name, where = self.target.name, Where(source, self.target.name)
        column = column_of(table, name, source)
        if self.target.classes is not None and isinstance(self.target.classes[0], str):
            check_text_is_there(column, table.schema.field(name), where)
        encoded: npt.NDArray[Any] = encoded_target(self.target, column, where)
        return encoded

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
        return {"columns": kinds, "target": dataclasses.asdict(self.target)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The preprocessing of a `config`. Raises TypeError, ValueError or KeyError if that is not valid."""
        columns: list[Numbers | Categories] = []
        for column in config["columns"]:
            choose("kind", column["kind"], dict.fromkeys(("Numbers", "Categories")))
            if column["kind"] == "Numbers":
                numbers = {name: check_number(name, column[name]) for name in ("fill", "shift", "scale")}
                columns.append(Numbers(str(column["name"]), **numbers))
            else:
                by_value = check_flag("by_value", column.get("by_value", False))
                columns.append(Categories(str(column["name"]), tuple(map(str, column["values"])), by_value))
        target = dict(config["target"])
        classes = target["classes"]
        if classes is not None:
            kinds = {type(value) for value in classes}
            if (
                not isinstance(classes, list)
                or len(set(classes)) != len(classes)
                or kinds not in ({str}, {bool}, {int})
            ):
                raise value_error("classes", "a list of different texts, truth values or integers", shown(classes))
            classes = tuple(classes)
        numbers = {name: check_number(name, target[name]) for name in ("shift", "scale")}
        return cls(columns, Target(str(target["name"]), classes, **numbers))

    def __repr__(self) -> str:
        kind = "numbers" if self.target.classes is None else f"{len(self.target.classes)} classes"
        return f"Preprocessing({self.n_features} features of {len(self.columns)} columns, {self.target.name!r}: {kind})"


def learn(
    table: Table,
    target: str,
    *,
    categorical: str | Iterable[str] = (),
    drop: str | Iterable[str] = (),
    task: str = "auto",
    missing: str = "mean",
    max_categories: int = 100,
    rows: "npt.ArrayLike | slice | None" = None,
    source: str | None = None,
) -> tuple[Preprocessing, list[str]]:
    """Returns the `Preprocessing` that `of` learns, and a list of warnings for the user."""
    table = as_table(table, source)
    rows = _check_row_index(rows, table.num_rows)
    target, categorical, drop = str(target), _names(categorical), _names(drop)
    choose("task", task, dict.fromkeys(TASKS))
    choose("missing", missing, dict.fromkeys(("mean", "median")))
    check_integer("max_categories", max_categories, 1)
    for argument, names in (("categorical", categorical), ("drop", drop)):
        if target in names:
            raise value_error(argument, f"columns beside the target {target!r}", shown(list(names)))
    both = sorted(set(categorical) & set(drop))
    if both:
        raise value_error("drop", "columns that are not among the categorical ones", repr(both[0]))
    known = set(table.column_names)
    for argument, names in (("target", [target]), ("categorical", categorical), ("drop", drop)):
        for name in names:
            if name not in known:
                raise no_such_column(table, name, source, argument)
    index = [name for name in index_columns(table) if name not in (target, *categorical, *drop)]
    left_out, categorical = {target, *drop, *index}, set(categorical)
    columns = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name in left_out:
            continue
        where = Where(source, name)
        if not name.strip():
            raise where.error("a name for each column (or the column left out)", "none")
        if column.null_count == len(column):
            raise where.error("values (or the column left out)", "none: all are missing")
        is_categorical = name in categorical or pyarrow_modules().types.is_dictionary(column.type)
        if is_categorical:
            check_text_is_there(column, table.schema.field(name), where)
        if is_categorical or is_text(column.type):
            columns.append(fitted_categories(name, column, where, max_categories, is_categorical))
        else:
            columns.append(fitted_numbers(name, column, where, missing, rows))
    if not columns:
        raise TableError(source, None, None, "a column beside the target", "none")
    made = Preprocessing(columns, fitted_target(table.column(target), Where(source, target), task, rows))
    return made, [*_index_note(index), *_name_notes(columns)]


def column_of(table, name, source, argument=None):
    """A column of a table. Raises TableError if no column has that name."""
    if name not in table.column_names:
        raise no_such_column(table, name, source, argument)
    return table.column(name)


def no_such_column(table, name, source, argument=None):
    """The TableError for a name that no column has."""
    plain = str(name).strip("\ufeff\t ").lower()
    alike = [known for known in table.column_names if known.strip("\ufeff\t ").lower() == plain]
    near = alike or difflib.get_close_matches(str(name), table.column_names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if len(table.column_names) == 1 and any(mark in table.column_names[0] for mark in ";\t|"):
        hint = "; does the file have another delimiter?"
    of_argument = f" ({argument})" if argument else ""
    return TableError(source, name, None, f"such a column{of_argument}", f"columns {shown(table.column_names)}{hint}")


def _names(given):
    """A name, or several names, as a list of text."""
    return [given] if isinstance(given, str) else [str(name) for name in given]


def _index_note(index):
    """Warnings about columns that are ignored because they are the index of a DataFrame."""
    names = ", ".join(map(repr, index))
    more = "to use it, name it in categorical=, or call reset_index() before the table is written"
    return [f"left out as the index of a DataFrame: {names} ({more})"] if index else []


def _name_notes(columns):
    """Warnings about columns that have the name of an output of ONNX models."""
    names = ", ".join(repr(column.name) for column in columns if column.name in OUTPUTS)
    return [f"the model cannot be exported as ONNX, whose outputs have these names: {names}"] if names else []


def _check_row_index(rows, n):
    try:
        index = None if rows is None else np.arange(n)[rows]
    except (IndexError, TypeError, ValueError):
        index = ()
    if index is not None and (np.ndim(index) != 1 or not len(index)):
        raise value_error("rows", f"None, or an index of some of {n} rows", shown(rows))
    return index
