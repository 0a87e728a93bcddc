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

import numpy as np

from .errors import check_integer, check_number, choose, shown, value_error
from .samples import scale_of
from .table_files import TableError, Where, as_table, pyarrow_modules, read

__all__ = ["Categories", "Numbers", "Preprocessing", "TableError", "Target", "read"]

# A column of text more of which are numbers than this is one of numbers, with mistakes in it.
MOSTLY = 0.5
# Integer targets of at most so many values are classes, unless told.
MAX_CLASSES = 20
TASKS = ("auto", "classification", "regression")
# Squares of larger numbers are not finite.
LARGEST = 1e150


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A column of numbers: missing ones are `fill`; then (x - shift) scale."""

    name: str
    fill: float
    shift: float
    scale: float

    width = 1

    def encode(self, column, out, where, unknown):
        values = _numbers(column, where)
        with np.errstate(over="ignore"):
            out[:, 0] = (np.where(np.isnan(values), self.fill, values) - self.shift) * self.scale
        _check_finite(values, out[:, 0], where)


@dataclasses.dataclass(frozen=True)
class Categories:
    """A column of categories, as text: one output for each value, 1 where it is that; all 0 where it is missing."""

    name: str
    values: tuple

    @property
    def width(self):
        return len(self.values)

    def encode(self, column, out, where, unknown):
        text = _text(column, where)
        index = pyarrow_modules().compute.index_in(text, value_set=pyarrow_modules().array(self.values, text.type))
        index = index.to_numpy(zero_copy_only=False)
        strange = np.isnan(index.astype(np.float64)) & _valid(text)
        if strange.any() and unknown == "error":
            row = int(np.argmax(strange))
            got = text[row].as_py()
            near = difflib.get_close_matches(got, self.values, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise where.error(
                f"one of {shown(list(self.values))}, the categories it was trained on (unknown=zeros passes others)",
                f"{got!r}{hint}",
                row,
            )
        out[...] = 0
        rows = np.flatnonzero(~np.isnan(index.astype(np.float64)))
        out[rows, index[rows].astype(np.int64)] = 1


def _decoded(column):
    """A column that is stored as a dictionary as one of its values."""
    kind = column.type
    return column.cast(kind.value_type) if pyarrow_modules().types.is_dictionary(kind) else column


def _text(column, where):
    """A column as text, in one piece; an empty one is missing."""
    arrow = pyarrow_modules()
    try:
        text = _whole(_decoded(column).cast(arrow.string()))
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError):
        raise where.error("text or numbers for categories", f"{column.type}") from None
    return arrow.compute.if_else(arrow.compute.equal(text, ""), arrow.scalar(None, arrow.string()), text)


def _whole(column):
    """A column in one piece."""
    return column.combine_chunks() if isinstance(column, pyarrow_modules().ChunkedArray) else column


def missing(column):
    """How many values of a column are missing."""
    if not _is_text(_decoded(column).type):
        return column.null_count
    return _text(column, Where(None, None)).null_count


def _valid(text):
    """Where a column of text is not missing."""
    return text.is_valid().to_numpy(zero_copy_only=False)


def _is_text(kind):
    types = pyarrow_modules().types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_number(kind):
    types = pyarrow_modules().types
    return any(
        is_kind(kind)
        for is_kind in (types.is_null, types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    )


def _numbers(column, where, otherwise=""):
    """A column as float64, NaN where it is missing. otherwise: what else a message may advise."""
    arrow = pyarrow_modules()
    column = _decoded(column)
    if _is_text(column.type):
        text = _text(column, where)
        column = _parsed(text)
        wrong = np.isnan(column) & _valid(text)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise where.error(f"a number{otherwise}", repr(text[row].as_py()), row)
        values = column
    elif _is_number(column.type):
        values = column.cast(arrow.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
    else:
        raise where.error("numbers or text (leave the column out, or convert it)", f"{column.type}")
    if np.isinf(values).any():
        row = int(np.argmax(np.isinf(values)))
        raise where.error("a finite number", repr(float(values[row])), row)
    return values


def _check_finite(values, scaled, where):
    """Raises where a number is not finite any more in its precision, once it is standardised."""
    if not np.isfinite(scaled).all():
        row = int(np.argmin(np.isfinite(scaled)))
        raise where.error(f"numbers that {scaled.dtype} holds once they are standardised", f"{values[row]:g}", row)


def _parsed(text):
    """Text as float64, NaN where it is missing or no number."""
    values, index = np.unique(np.array(["" if v is None else v for v in text.to_pylist()]), return_inverse=True)
    return np.array([_number(value) for value in values.tolist()], np.float64)[index]


def _number(text):
    try:
        return float(text)
    except ValueError:
        return np.nan


@dataclasses.dataclass(frozen=True)
class Target:
    """The column to be predicted: `classes` for classification; for regression (y - shift) scale."""

    name: str
    classes: tuple | None
    shift: float = 0.0
    scale: float = 1.0


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
        categorical: columns of numbers that are categories. drop: columns that are left out.
        missing: what missing numbers become: "mean" or "median" of the column.
        max_categories: more of them in a column are an error: it is hardly one of categories.
        rows: index of the rows that means, medians and scales are taken of: those that are trained on; None is all.
            Categories and classes are those of the whole table.
        source: the name of the table in messages.

        Raises TableError naming source, column and row.
        """
        table = as_table(table, source)
        rows = _check_row_index(rows, table.num_rows)
        categorical, drop = ([names] if isinstance(names, str) else names for names in (categorical, drop))
        choose("task", task, dict.fromkeys(TASKS))
        choose("missing", missing, dict.fromkeys(("mean", "median")))
        check_integer("max_categories", max_categories, 1)
        for argument, names in (("categorical", categorical), ("drop", drop)):
            if target in names:
                raise value_error(argument, f"columns beside the target {target!r}", shown(list(names)))
        both = sorted(set(categorical) & set(drop))
        if both:
            raise value_error("drop", "columns that are not among the categorical ones", repr(both[0]))
        for argument, names in (("target", [target]), ("categorical", categorical), ("drop", drop)):
            for name in names:
                column_of(table, name, source, argument)
        columns = []
        for name in table.column_names:
            if name == target or name in drop:
                continue
            column, where = table.column(name), Where(source, name)
            if column.null_count == len(column):
                raise where.error("values (or the column left out)", "none: all are missing")
            told = name in categorical or pyarrow_modules().types.is_dictionary(column.type)
            if told or _is_text(column.type):
                columns.append(_categories(name, column, where, max_categories, told))
            else:
                columns.append(_learnt_numbers(name, column, where, missing, rows))
        if not columns:
            raise TableError(source, None, None, "a column beside the target", "none")
        return cls(columns, _learnt_target(table.column(target), Where(source, target), task, rows))

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
        X, place = np.empty((table.num_rows, self.n_features), dtype), 0
        for column in self.columns:
            out = X[:, place : place + column.width]
            column.encode(column_of(table, column.name, source), out, Where(source, column.name), unknown)
            place += column.width
        return X

    def targets(self, table, *, source=None):
        """The targets of a table: integer labels, or standardised numbers. Raises TableError as `encode`."""
        table = as_table(table, source)
        name = self.target.name
        return _encoded_target(self.target, column_of(table, name, source), Where(source, name))

    def decode(self, prediction):
        """What the predictions of the network (rows, n_outputs) mean: an array of the most probable classes as they
        stand in the table, or of numbers in its units."""
        if prediction.ndim != 2 or prediction.shape[1] != self.n_outputs:
            raise value_error("prediction", f"an array (rows, {self.n_outputs})", shown(prediction))
        if self.target.classes is None:
            return prediction[:, 0].astype(np.float64) / self.target.scale + self.target.shift
        # Numpy's own text ends at a zero.
        kind = object if isinstance(self.target.classes[0], str) else None
        return np.array(self.target.classes, kind)[prediction.argmax(axis=1)]

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
                columns.append(Categories(str(column["name"]), tuple(map(str, column["values"]))))
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


def column_of(table, name, source, argument=None):
    """A column of a table; raises a TableError if there is none of that name."""
    if name not in table.column_names:
        alike = [known for known in table.column_names if known.lower() == str(name).lower()]
        near = alike or difflib.get_close_matches(str(name), table.column_names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        if len(table.column_names) == 1 and any(mark in table.column_names[0] for mark in ";\t|"):
            hint = "; is there another delimiter between them?"
        asked = f" ({argument})" if argument else ""
        raise TableError(source, name, None, f"such a column{asked}", f"columns {shown(table.column_names)}{hint}")
    return table.column(name)


def _categories(name, column, where, max_categories, told):
    text = _text(column, where)
    values = sorted(value for value in text.unique().to_pylist() if value is not None)
    if not told:
        _check_no_numbers(text, where, " (or the column among the categorical ones)")
        if len(values) > max(MAX_CLASSES, len(column) / 2):
            expected = "categories that come more than once (or the column left out, or among the categorical ones)"
            raise where.error(expected, f"{len(values)} different ones in {len(column)} rows")
    if len(values) > max_categories:
        raise where.error(f"at most {max_categories} categories (or the column left out)", f"{len(values)}")
    return Categories(name, tuple(values))


def _check_no_numbers(text, where, otherwise=""):
    """Raises, naming the first that is not, where most of the values of a column of text are numbers."""
    values = [value for value in text.unique().to_pylist() if value is not None]
    numbers = [value for value in values if not np.isnan(_number(value))]
    if len(numbers) > MOSTLY * len(values):
        _numbers(text, where, otherwise)


def _learnt_numbers(name, column, where, missing, rows):
    values = _numbers(column, where)
    values = values if rows is None else values[rows]
    if np.isnan(values).all():
        raise where.error("values (or the column left out)", "none among the rows that are trained on")
    mean, scale = _learnt_scale(values, where)
    return Numbers(name, mean if missing == "mean" else float(np.nanmedian(values)), mean, scale)


def _check_row_index(rows, n):
    try:
        index = None if rows is None else np.arange(n)[rows]
    except (IndexError, TypeError, ValueError):
        index = ()
    if index is not None and (np.ndim(index) != 1 or not len(index)):
        raise value_error("rows", f"None, or an index of some of {n} rows", shown(rows))
    return index


def _learnt_scale(values, where):
    """Mean and 1 / standard deviation of numbers, those that are not missing."""
    largest = float(np.nanmax(np.abs(values)))
    if largest > LARGEST:
        raise where.error(f"numbers up to {LARGEST:g} in size", f"{largest:g}")
    values = values[~np.isnan(values)]
    mean = float(np.mean(values))
    return mean, float(scale_of(mean, np.var(values), len(values)))


def _learnt_target(column, where, task, rows):
    types = pyarrow_modules().types
    classes = _is_text(column.type) or types.is_boolean(column.type) or types.is_dictionary(column.type)
    column = _classes(column, where)
    if task == "auto" and not classes and types.is_integer(column.type):
        classes = len(column.unique()) <= MAX_CLASSES
    if task == "classification" and types.is_floating(column.type):
        column = _labels_of(column)
    if task == "classification" or (task == "auto" and classes):
        if not (_is_text(column.type) or types.is_boolean(column.type) or types.is_integer(column.type)):
            raise where.error("text, truth values or integers for classes", f"{column.type}")
        _check_present(column.is_null().to_numpy(zero_copy_only=False), where)
        values = column.unique().to_pylist()
        if len(values) < 2:
            raise where.error("at least 2 classes", f"only {values[0]!r} in all rows")
        if task == "auto" and _is_text(column.type):
            _check_no_numbers(column, where, " (or the task 'classification')")
            if len(values) > max(MAX_CLASSES, len(column) / 2):
                expected = "classes that come more than once (or the task 'classification')"
                raise where.error(expected, f"{len(values)} different ones in {len(column)} rows")
        return Target(where.column, tuple(sorted(values)))
    values = _numbers(column, where)
    _check_present(np.isnan(values), where)
    return Target(where.column, None, *_learnt_scale(values if rows is None else values[rows], where))


def _labels_of(column):
    """A column of floating-point numbers as integers, if it is of such."""
    try:
        return column.cast(pyarrow_modules().int64())
    except pyarrow_modules().ArrowInvalid:
        return column


def _classes(column, where):
    """A target as its values, in one piece; empty text is missing."""
    column = _decoded(column)
    return _text(column, where) if _is_text(column.type) else _whole(column)


def _check_present(absent, where):
    if absent.any():
        raise where.error("a value in every row of the target", "a missing one", int(np.argmax(absent)))


def _encoded_target(target, column, where):
    if target.classes is None:
        values = _numbers(column, where)
        _check_present(np.isnan(values), where)
        with np.errstate(over="ignore"):
            scaled = (values - target.shift) * target.scale
        _check_finite(values, scaled, where)
        return scaled
    if type(target.classes[0]) is int and _is_text(column.type):
        _numbers(column, where)  # tells where there is none
    column = _classes(column, where)
    labels = {value: i for i, value in enumerate(target.classes)}
    found = np.array([labels.get(value, -1) for value in column.to_pylist()], np.int64)
    _check_present(column.is_null().to_numpy(zero_copy_only=False), where)
    if found.min() < 0:
        row = int(np.argmin(found))
        raise where.error(f"one of the classes {shown(list(target.classes))}", repr(column[row].as_py()), row)
    return found
