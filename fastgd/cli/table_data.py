"""Tables of the command line."""

import numpy as np

from .. import tables
from ..data.samples import split_rows
from ..errors import check_integer, check_number, plain, shown, value_error
from ..tables.columns import KINDS
from ..tables.errors import Where
from ..tables.preprocessing import column_of, learn
from ..tables.target import has_value
from ..tables.values import missing, with_missing

# Options that other data do not have.
OPTIONS = (
    "categorical", "drop", "delimiter", "max_categories", "na_values", "drop_missing_target", "validation_file",
)  # fmt: skip
MAX_CATEGORIES = 100


def table_to_train(arguments, fraction):
    """The fields of `Data` for the table that `arguments.data` names, with a fraction of the rows held out. What is
    learnt of the columns comes from the other rows."""
    path, notes = arguments.data, []
    text = [*arguments.categorical, *map(str.strip, arguments.categorical)]
    table = tables.read(path, text=text, delimiter=arguments.delimiter, na_values=arguments.na_values)
    if arguments.target is None:
        raise value_error("--target", f"a column of {path}: {shown(table.column_names)}", None)
    target, *_ = names_in(table, [arguments.target])
    categorical, drop = (names_in(table, names) for names in (arguments.categorical, arguments.drop))
    rows, held_out = _split_table(table, target, arguments, fraction, notes)
    most = arguments.max_categories
    most = MAX_CATEGORIES if most is None else check_integer("--max-categories", most, 1)
    made, more = learn(
        table, target, categorical=categorical, drop=drop, task=arguments.task, missing=arguments.missing, rows=rows,
        max_categories=most, drop_missing_target=arguments.drop_missing_target, na_values=arguments.na_values,
        source=path,
    )  # fmt: skip
    X = made.encode(table, dtype=arguments.dtype, source=path)
    y = made.targets(table, rows=rows, source=path)
    rest = None if held_out is None else (X[held_out], made.targets(table, rows=held_out, source=path))
    X = X if len(rows) == len(X) else X[rows]
    if getattr(arguments, "validation_file", None) is not None:
        rest = _validation_file(arguments, made, notes)
    n_classes = None if made.target.classes is None else made.n_outputs
    return {"X": X, "y": y, "held_out": rest, "n_classes": n_classes, "preprocessing": made, "table": table,
            "notes": [*more, *notes]}  # fmt: skip


def use_validation_file(arguments):
    """Holds out no rows if --validation-file is given."""
    if getattr(arguments, "validation_file", None) is None:
        return
    if arguments.validation is not None:
        raise value_error("--validation", "no such option beside --validation-file", arguments.validation)
    arguments.validation = 0.0


def _split_table(table, target, arguments, fraction, notes):
    """Two indices: of the rows to train on, and of the rows to hold out, or None."""
    known = np.arange(table.num_rows)
    if arguments.drop_missing_target:
        where = Where(arguments.data, target)
        column = column_of(table, target, arguments.data, "target")
        known = np.flatnonzero(has_value(with_missing(column, arguments.na_values), where))
        _note_dropped(table, known, target, notes)
        if len(known) == 0:
            raise where.error("a value in some of the rows of the target", "none")
    rows, held_out = split(known, fraction, arguments.seed)
    return known[rows], None if held_out is None else known[held_out]


def _note_dropped(table, known, target, notes):
    dropped = table.num_rows - len(known)
    if dropped:
        notes.append(f"{dropped:,} of {table.num_rows:,} rows left out, since {plain(target)} is missing there")


def _validation_file(arguments, made, notes):
    """X and y of the table that --validation-file names, encoded as the training rows."""
    path, notes_of_file = arguments.validation_file, []
    table = _read_like(made, path, arguments.delimiter)
    rows = _rows_of(table, made, path, arguments.drop_missing_target, notes_of_file)
    try:
        X = made.encode(table, dtype=arguments.dtype, source=path)
    except tables.TableError as error:
        X = made.encode(table, dtype=arguments.dtype, source=path, unknown="zeros")
        notes_of_file.append(f"unknown categories are encoded as zeros ({error})")
    notes += [f"{path}: {note}" if path not in note else note for note in notes_of_file]
    return X if rows is None else X[rows], made.targets(table, rows=rows, source=path)


def _rows_of(table, made, path, drop_missing_target, notes):
    """The index of the rows that have a target, if the others are to be left out, else None."""
    if not drop_missing_target:
        return None
    known = made.rows_with_target(table, source=path)
    _note_dropped(table, known, made.target.name, notes)
    if len(known) == 0:
        raise tables.TableError(path, made.target.name, None, "a value in some of the rows", "none")
    return known


def _read_like(made, path, delimiter, kept=()):
    """The table of a file, read as the preprocessing needs it. kept: names of columns to read as text."""
    text = [*made.text, *kept, *map(str.strip, kept)]
    return tables.read(path, text=text, delimiter=delimiter, na_values=made.na_values)


def table_of_model(arguments, network, path, needs_target):
    """The fields of `Data` for the table of a path, encoded for a network that was trained on a table."""
    made, notes = network.preprocessing, []
    kept = getattr(arguments, "keep", ())  # written as they were read
    table = _read_like(made, path, arguments.delimiter, kept)
    X = made.encode(table, unknown=arguments.unknown, dtype=network.dtype, source=path)
    y = None
    if needs_target:
        rows = _rows_of(table, made, path, getattr(arguments, "drop_missing_target", False), notes)
        X, y = X if rows is None else X[rows], made.targets(table, rows=rows, source=path)
    return {"X": X, "y": y, "preprocessing": made, "table": table, "notes": notes}


def names_in(table, names):
    """Names of columns from the command line, without blanks around a name unless they belong to the column's name."""
    known = set(table.column_names)
    return [name if name in known else name.strip() for name in names]


def split(data, fraction, seed):
    """The rows to train on, and the rows to hold out, or None."""
    if fraction == 0:
        return slice(None), None
    return split_rows("--validation", len(data), fraction, seed)


def class_weight(given, data):
    """The argument of `fit` for --class-weight: None, "balanced", or pairs of a class and its weight. The data name
    the classes."""
    if given is None or isinstance(given, str):
        return given
    if data.n_classes is None:
        raise value_error("--class-weight", "no such option for targets other than classes", shown(given))
    names, weights = names_of_classes(data), {}
    for name, weight in given:
        if name not in names:
            raise value_error("--class-weight", f"weights of {shown(names)}", repr(name))
        weights[names.index(name)] = check_number(f"--class-weight {name}", weight, 0.0)
    return weights


def names_of_classes(data):
    """The names of the classes, or their numbers, as texts; none for other targets."""
    classes = getattr(data.preprocessing, "classes", None)
    return [str(name) for name in (range(data.n_classes or 0) if classes is None else classes)]


def columns_texts(data):
    """How the columns of a table are used: a text for each kind of column, and others."""
    made, table, kinds = data.preprocessing, data.table, {}
    for column in made.columns:
        n_missing = missing(table.column(column.name), made.na_values)
        more = [*column.details, *[f"{n_missing} missing"] * (n_missing > 0)]
        named = plain(column.name) + (f" ({', '.join(more)})" if more else "")
        kinds.setdefault(column.kind, []).append(named)
    parts = [f"{one.kind}: {', '.join(kinds[one.kind])}" for one in KINDS.values() if one.kind in kinds]
    values = "a number" if made.target.classes is None else f"one of {shown(list(made.target.classes))}"
    return [*parts, f"to be predicted: {plain(made.target.name)}, {values}", *data.notes]
