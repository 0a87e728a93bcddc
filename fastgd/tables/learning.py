"""What a `Preprocessing` learns from a table: the kind of each column, and what is left out."""

import difflib

import numpy as np

from ..errors import check_flag, check_integer, choose, shown, value_error
from .columns import fitted, without_na
from .errors import Problems, TableError, Where, pyarrow_modules
from .files import index_columns
from .target import TASKS, fitted_target
from .values import check_text_is_there, missing

# Names of the outputs of ONNX models. The inputs are named after columns, which must have other names.
OUTPUTS = ("prediction", "probabilities", "scores")


def learn_columns(
    table, target, *, categorical, drop, task, missing, max_categories, rows, drop_missing_target, na_values, source
):
    """Returns the columns of features and the `Target` of a pyarrow.Table, and a list of warnings for the user. The
    arguments are those of `Preprocessing.of`."""
    rows = _check_row_index(rows, table.num_rows)
    choose("task", task, dict.fromkeys(TASKS))
    choose("missing", missing, dict.fromkeys(("mean", "median")))
    check_integer("max_categories", max_categories, 1)
    check_flag("drop_missing_target", drop_missing_target)
    _check_names(table, target, categorical, drop, source)
    index = [name for name in index_columns(table) if name not in (target, *categorical, *drop)]
    used = [name for name in table.column_names if name not in {target, *drop, *index}]
    problems, columns, left_out = Problems(), [], {}
    for name in used:
        with problems.collected():
            options = {"fill": missing, "max_categories": max_categories, "rows": rows}
            one = _fitted(table, name, Where(source, name), name in categorical, na_values, options)
            if isinstance(one, str):
                left_out.setdefault(one, []).append(name)
            else:
                columns.append(one)
    with problems.collected():
        values = without_na(table.column(target), na_values, Where(source, target))
        made = fitted_target(values, Where(source, target), task, rows, drop_missing_target)
    problems.check()
    notes = [f"left out, since {why}: {_listed(names)}" for why, names in left_out.items()]
    if not columns:
        got = "none" if not notes else f"none that is used ({'; '.join(notes)})"
        raise TableError(source, None, None, "a column beside the target", got)
    return columns, made, [*_index_note(index), *notes, *_name_notes(columns)]


def _fitted(table, name, where, is_categorical, na_values, options):
    """`fitted` of a column of a table."""
    column = table.column(name)
    if not name.strip():
        if missing(column, na_values) == len(column):  # each line of the file ends with a delimiter
            return "all values are missing"
        raise where.error("a name for each column that has values", "none")
    is_dictionary = pyarrow_modules().types.is_dictionary(column.type)
    if is_categorical or is_dictionary:
        check_text_is_there(column, table.schema.field(name), where)
    return fitted(
        without_na(column, na_values, where), where, is_categorical=is_categorical or is_dictionary, **options
    )


def _check_names(table, target, categorical, drop, source):
    """Raises ValueError or TableError unless the arguments name columns of the table, each in one place."""
    for argument, names in (("categorical", categorical), ("drop", drop)):
        if target in names:
            raise value_error(argument, f"columns beside the target {target!r}", shown(list(names)))
    both = sorted(set(categorical) & set(drop))
    if both:
        raise value_error("drop", "columns that are not among the categorical ones", repr(both[0]))
    known, problems = set(table.column_names), Problems()
    for argument, names in (("target", [target]), ("categorical", categorical), ("drop", drop)):
        for name in names:
            with problems.collected():
                if name not in known:
                    raise no_such_column(table, name, source, argument)
    problems.check()


def no_such_column(table, name, source, argument=None, used=()):
    """The TableError for a name that no column has. used: columns of other names that are wanted, too."""
    plain = str(name).strip("\ufeff\t ").lower()
    others = [known for known in table.column_names if known not in used]
    alike = [known for known in others if known.strip("\ufeff\t ").lower() == plain]
    near = alike or difflib.get_close_matches(str(name), others, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    hint = f"; is it the column {near[0]!r}?" if near and used else hint
    if len(table.column_names) == 1 and any(mark in table.column_names[0] for mark in ";\t|"):
        hint = "; does the file have another delimiter?"
    of_argument = f" ({argument})" if argument else ""
    return TableError(source, name, None, f"such a column{of_argument}", f"columns {shown(table.column_names)}{hint}")


def _listed(names):
    return ", ".join(map(repr, names))


def _index_note(index):
    """Warnings about columns that are ignored because they are the index of a DataFrame."""
    more = "to use it, name it in categorical=, or call reset_index() before the table is written"
    return [f"left out as the index of a DataFrame: {_listed(index)} ({more})"] if index else []


def _name_notes(columns):
    """Warnings about columns that have the name of an output of ONNX models."""
    names = [column.name for column in columns if column.name in OUTPUTS]
    return [f"the model cannot be exported as ONNX, whose outputs have these names: {_listed(names)}"] if names else []


def _check_row_index(rows, n):
    try:
        index = None if rows is None else np.arange(n)[rows]
    except (IndexError, TypeError, ValueError):
        index = ()
    if index is not None and (np.ndim(index) != 1 or not len(index)):
        raise value_error("rows", f"None, or an index of some of {n} rows", shown(rows))
    return index
