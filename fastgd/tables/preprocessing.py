"""Tables: CSV, Parquet and Arrow files, by pyarrow (extra `data`), and what makes rows of numbers of them.

table = fastgd.tables.read("houses.csv")
preprocessing = fastgd.tables.Preprocessing.of(table, target="price")
X, y = preprocessing.encode(table), preprocessing.targets(table)
net = fastgd.Network(preprocessing.n_features, [..., fastgd.Dense(preprocessing.n_outputs)], loss=preprocessing.loss)
net.preprocessing = preprocessing  # saved and loaded with the network
preprocessing.decode(net.predict(preprocessing.encode(other)))
"""

import dataclasses
import difflib
import itertools
import json
import warnings

import numpy as np

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
from .files import as_table, index_columns, read
from .values import check_text_is_there, is_text

__all__ = ["Categories", "Numbers", "Preprocessing", "TableError", "Target", "read"]
# What the outputs of ONNX models are called: their inputs, which have the names of columns, have others.
OUTPUTS = ("prediction", "probabilities", "scores")


class Preprocessing:
    """Makes rows of numbers of the columns of a table, and targets of one of them: numbers are standardised, missing
    ones filled in; categories become one output each. It is learnt from a table by `of`, and saved with a network whose
    attribute `preprocessing` it is.

    columns: list of `Numbers` and `Categories`; target: a `Target`.
    """

    def __init__(self, columns, target):
        self.columns, self.target = tuple(columns), target

    @classmethod
    def of(
        cls, table, target, *, categorical=(), drop=(), task="auto", missing="mean", max_categories=100, rows=None,
        source=None,
    ):  # fmt: skip
        """Learns from a table (a pyarrow.Table, a DataFrame or a dict of columns).

        target: the column to be predicted. Its values are classes if they are text, truth values, or integers of at
            most 20 values, unless `task` says "classification" or "regression".
        categorical: columns of numbers that are categories, as they stand in a text file. drop: columns that are left
            out. So is the index of a DataFrame that came into a file, with a UserWarning, unless an argument names it.
        missing: what missing numbers become: "mean" or "median" of the column.
        max_categories: more of them in a column are an error: it is hardly one of categories.
        rows: index of the rows that means, medians and scales are taken of: those that are trained on; None is all.
            Categories and classes are those of the whole table.
        source: the name of the table in messages.

        Names that are no text, as columns of a DataFrame may have, become text.
        Raises TableError naming source, column and row.
        """
        made, notes = learn(
            table, target, categorical=categorical, drop=drop, task=task, missing=missing,
            max_categories=max_categories, rows=rows, source=source,
        )  # fmt: skip
        for note in notes:
            warnings.warn(note, stacklevel=2)
        return made

    # ---- what a network needs to know

    @property
    def n_features(self):
        return sum(column.width for column in self.columns)

    @property
    def feature_names(self):
        """One name for each feature: that of the column, for a category with "=value"."""
        names = []
        for column in self.columns:
            more = [f"={value}" for value in column.values] if isinstance(column, Categories) else [""]
            names += [column.name + end for end in more]
        return names

    @property
    def text(self):
        """Columns of text, to be read as such."""
        names = [column.name for column in self.columns if isinstance(column, Categories)]
        of_text = self.target.classes is not None and isinstance(self.target.classes[0], str)
        return [*names, self.target.name] if of_text else names

    @property
    def n_outputs(self):
        return 1 if self.target.classes is None else len(self.target.classes)

    @property
    def loss(self):
        return "mse" if self.target.classes is None else "softmax_cross_entropy"

    # ---- at work

    def encode(self, table, *, unknown="error", dtype="float32", source=None):
        """The columns of a table as an array (rows, n_features). unknown: what a category that was not there when
        this was learnt gives: "error", or "zeros" for what a missing value gives.

        Raises TableError naming source, column and row."""
        choose("unknown", unknown, dict.fromkeys(("error", "zeros")))
        table = as_table(table, source)
        known = {name: i for i, name in enumerate(table.column_names)}
        X, place = np.empty((table.num_rows, self.n_features), dtype), 0
        for column in self.columns:
            if column.name not in known:
                raise no_such_column(table, column.name, source)
            i, where, out = known[column.name], Where(source, column.name), X[:, place : place + column.width]
            if isinstance(column, Categories) and not column.by_value:
                check_text_is_there(table.column(i), table.schema.field(i), where)
            column.encode(table.column(i), out, where, unknown)
            place += column.width
        return X

    def targets(self, table, *, source=None):
        """The targets of a table: integer labels, or standardised numbers. Raises TableError as `encode`."""
        table = as_table(table, source)
        name, where = self.target.name, Where(source, self.target.name)
        column = column_of(table, name, source)
        if self.target.classes is not None and isinstance(self.target.classes[0], str):
            check_text_is_there(column, table.schema.field(name), where)
        return encoded_target(self.target, column, where)

    def decode(self, prediction):
        """What the predictions of the network (rows, n_outputs) mean: an array of the most probable classes as they
        stand in the table, or of numbers in its units."""
        if prediction.ndim != 2 or prediction.shape[1] != self.n_outputs:
            raise value_error("prediction", f"an array (rows, {self.n_outputs})", shown(prediction))
        if self.target.classes is None:
            with np.errstate(all="ignore"):
                return prediction[:, 0].astype(np.float64) / self.target.scale + self.target.shift
        return self.target.class_array()[prediction.argmax(axis=1)]

    # ---- as nodes of ONNX

    def onnx_encode(self, graph):
        """Makes the columns inputs of a graph of ONNX and adds what `encode` does; returns the name of the rows."""
        for column in self.columns:
            dtype, told = column.onnx_input
            graph.input(column.name, dtype, 1, doc=told)
        parts = [kind.onnx(graph, list(group)) for kind, group in itertools.groupby(self.columns, type)]
        return graph.add("Concat", *parts, axis=1)

    def onnx_decode(self, graph, prediction):
        """Adds what `decode` does; returns the name of the numbers or classes, and their dtype."""
        if self.target.classes is not None:
            classes = self.target.class_array()
            graph.metadata["classes"] = json.dumps(classes.tolist())
            return graph.add("Gather", classes, graph.add("ArgMax", prediction, axis=1, keepdims=0)), classes.dtype
        number = graph.cast(graph.add("Squeeze", prediction, np.array([1])), np.float64)
        number = graph.add("Div", number, np.array(self.target.scale))
        return graph.add("Add", number, np.array(self.target.shift)), np.float64

    # ---- kept

    def config(self):
        """For a file, as JSON."""
        kinds = [{"kind": type(column).__name__, **dataclasses.asdict(column)} for column in self.columns]
        return {"columns": kinds, "target": dataclasses.asdict(self.target)}

    @classmethod
    def from_config(cls, config):
        columns = []
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

    def __repr__(self):
        kind = "numbers" if self.target.classes is None else f"{len(self.target.classes)} classes"
        return f"Preprocessing({self.n_features} features of {len(self.columns)} columns, {self.target.name!r}: {kind})"


def learn(
    table, target, *, categorical=(), drop=(), task="auto", missing="mean", max_categories=100, rows=None, source=None
):
    """What `Preprocessing.of` learns, and a list of what the user should know of it."""
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
        told = name in categorical or pyarrow_modules().types.is_dictionary(column.type)
        if told:
            check_text_is_there(column, table.schema.field(name), where)
        if told or is_text(column.type):
            columns.append(fitted_categories(name, column, where, max_categories, told))
        else:
            columns.append(fitted_numbers(name, column, where, missing, rows))
    if not columns:
        raise TableError(source, None, None, "a column beside the target", "none")
    made = Preprocessing(columns, fitted_target(table.column(target), Where(source, target), task, rows))
    return made, [*_index_note(index), *_name_notes(columns)]


def column_of(table, name, source, argument=None):
    """A column of a table; raises a TableError if there is none of that name."""
    if name not in table.column_names:
        raise no_such_column(table, name, source, argument)
    return table.column(name)


def no_such_column(table, name, source, argument=None):
    """The error for a name that no column has."""
    plain = str(name).strip("\ufeff\t ").lower()
    alike = [known for known in table.column_names if known.strip("\ufeff\t ").lower() == plain]
    near = alike or difflib.get_close_matches(str(name), table.column_names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if len(table.column_names) == 1 and any(mark in table.column_names[0] for mark in ";\t|"):
        hint = "; is there another delimiter between them?"
    asked = f" ({argument})" if argument else ""
    return TableError(source, name, None, f"such a column{asked}", f"columns {shown(table.column_names)}{hint}")


def _names(given):
    """One name, or several, as a list of texts."""
    return [given] if isinstance(given, str) else [str(name) for name in given]


def _index_note(index):
    """What is said of columns that are left out since they are the index of a DataFrame."""
    names = ", ".join(map(repr, index))
    more = "categorical= takes it as one of categories, reset_index() before it is written as any other"
    return [f"left out as the index of a DataFrame: {names} ({more})"] if index else []


def _name_notes(columns):
    """What is said of columns whose names are those of outputs of ONNX models."""
    names = ", ".join(repr(column.name) for column in columns if column.name in OUTPUTS)
    return [f"not to be exported as ONNX, whose outputs have these names: {names}"] if names else []


def _check_row_index(rows, n):
    try:
        index = None if rows is None else np.arange(n)[rows]
    except (IndexError, TypeError, ValueError):
        index = ()
    if index is not None and (np.ndim(index) != 1 or not len(index)):
        raise value_error("rows", f"None, or an index of some of {n} rows", shown(rows))
    return index
