"""Reads tables from CSV, TSV, Parquet, Feather and Arrow files, by pyarrow (extra `data`), and converts DataFrames and
dicts of columns."""

import contextlib
import datetime
import errno
import io
import json
import os
import re
import stat
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from .._plan import open_to_read
from ..core.types import Path
from ..errors import shown, type_error, value_error
from .errors import TableError, native_file, pyarrow_modules
from .text import read_csv

if TYPE_CHECKING:
    import pyarrow

# A path, a pyarrow.Table, a DataFrame (pandas, polars), a dict of columns or a list of dicts, one for each row: not all
# of these have types to check against.
Table: TypeAlias = Any


def _read_parquet(path, file, text, delimiter, na_values):
    with native_file(path, file) as again:
        return pyarrow_modules().parquet.read_table(again)


def _read_arrow(path, file, text, delimiter, na_values):
    with native_file(path, file) as again:
        return pyarrow_modules().feather.read_table(again)


READERS = {
    ".csv": read_csv,
    ".csv.gz": read_csv,
    ".tsv": read_csv,
    ".parquet": _read_parquet,
    ".feather": _read_arrow,
    ".arrow": _read_arrow,
}
# Names that pandas gives to the columns of an index without a name: in Parquet and Feather; in CSV.
INDEX_LEVEL, FIRST_UNNAMED = re.compile(r"__index_level_\d+__"), re.compile(r"\s*|Unnamed: \d+(_level_\d+)?(\.\d+)*")


def ending(path):
    """The ending of a file name that says its format, or None if it is unknown."""
    return next((end for end in READERS if path.lower().endswith(end)), None)


@contextlib.contextmanager
def open_file(path):
    """Context of a file open for reading bytes. Raises TableError unless it is a regular file: to read from a pipe that
    nobody writes to would wait for ever."""
    try:
        opened = open_to_read(path)
    except IsADirectoryError:
        raise TableError(path, None, None, "a regular file", "a folder") from None
    with opened:
        kind = os.fstat(opened.fileno()).st_mode
        if not stat.S_ISREG(kind):
            kinds = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISCHR, "a device"))
            got = next((name for is_kind, name in kinds if is_kind(kind)), "something else")
            raise TableError(path, None, None, "a regular file", got)
        with io.BufferedReader(opened) as file:
            yield file


def read(
    path: Path, *, text: str | Iterable[str] = (), delimiter: str | None = None, na_values: str | Iterable[str] = ()
) -> "pyarrow.Table":
    """Reads a CSV, TSV, Parquet, Feather or Arrow file, according to its ending, as a pyarrow.Table.

    In text files, empty fields, "NA", "NaN", "null" and the like are missing values, and a column that holds only
    numbers is read as numbers, unless `text` names it. The table remembers the text of its fields: where a
    `Preprocessing` needs a category or a class, "007" is "007". That holds for slices and selections of columns, too;
    where rows are copied (filtered, sorted), the text is lost.

    text: names of columns to read as text.
    delimiter: between fields of a text file; None is a tab in TSV files, else a comma.
    na_values: further fields of text files that are missing values, such as "?" or "-999".

    Raises OSError if the file cannot be read, TableError that names the file if it does not hold such a table."""
    try:
        path = os.fsdecode(path)
    except TypeError:
        raise type_error("path", "the path of a file", f"{shown(path)} ({type(path).__name__})") from None
    end = ending(path)
    delimiter = ("\t" if end == ".tsv" else ",") if delimiter is None else delimiter
    if not isinstance(delimiter, str) or len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n':
        raise value_error("delimiter", "one ASCII character", shown(delimiter))
    if end is None:
        raise value_error("path", f"a file ending in one of {', '.join(READERS)}", repr(path))
    text, na_values = names_of("text", text), na_values_of(na_values)
    text = [name for name in text if name == str(name).encode("utf-8", "replace").decode()]  # no column has another
    pyarrow_modules()
    with open_file(path) as file, decoding(path, f"a whole {end} file"):
        table = _checked_table(READERS[end](path, file, text, delimiter, na_values), path)
        # From damaged bytes pyarrow may make arrays whose use would crash the process.
        table.validate(full=True)
    return table


def names_of(argument, given):
    """A text, or several texts, as a list of text. Raises TypeError for what is neither."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, Iterable):
        raise type_error(argument, "a text, or a list of texts", shown(given))
    return [str(name) for name in given]


def na_values_of(given):
    """`names_of` na_values, without the blanks around them: those around the fields of a table do not count, either."""
    return [value.strip() for value in names_of("na_values", given)]


@contextlib.contextmanager
def decoding(path, expected):
    """Context in which a library decodes the bytes of a file: whatever it raises for damaged bytes becomes a TableError
    of this path."""
    try:
        yield
    except TableError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # from the system; EINVAL comes from an impossible offset in a damaged file
        got = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise TableError(path, None, None, expected, got) from error


def _checked_table(table, source):
    names = table.column_names
    known = set()
    for name in names:
        if name in known:
            raise TableError(source, name, None, "one column of each name", "several")
        known.add(name)
    if table.num_rows == 0:
        raise TableError(source, None, None, "at least 1 row", "none")
    return table


def as_table(data, source=None):
    """Returns a pyarrow.Table itself, or a DataFrame, a dict of columns or a list of dicts, one for each row, as one.
    Names that are not text become text. Raises TypeError for other data, TableError for columns that Arrow cannot
    hold."""
    arrow = pyarrow_modules()
    if isinstance(data, list | tuple) and all(isinstance(row, dict) for row in data):
        names = dict.fromkeys(name for row in data for name in row)
        data = {name: [row.get(name) for row in data] for name in names}
    # A pandas.Series has the latter, too, but no columns.
    attribute_of_frames = "columns" if hasattr(data, "iloc") else "__arrow_c_stream__"
    if not isinstance(data, (arrow.Table, dict)) and not hasattr(data, attribute_of_frames):
        raise type_error("table", "a pyarrow.Table, a DataFrame, a dict of columns or a list of dicts", shown(data))
    try:
        if isinstance(data, dict):
            data = _of_columns(((str(name), values) for name, values in data.items()), source)
        elif not isinstance(data, arrow.Table):
            data = _of_frame(data, source)
        return _checked_table(data, source)
    except TableError:
        raise
    except (arrow.ArrowException, TypeError, ValueError) as error:
        raise TableError(source, None, None, "columns that Arrow can hold", _told(error)) from error


def _of_frame(data, source):
    """A DataFrame as a pyarrow.Table, without the index that pandas has."""
    if not hasattr(data, "iloc"):
        return pyarrow_modules().table(data)
    return _of_columns(((str(name), data.iloc[:, i]) for i, name in enumerate(data.columns)), source)


def _of_columns(named, source):
    """Pairs of names and values as a pyarrow.Table."""
    arrow = pyarrow_modules()
    names, columns = [], []
    for name, values in named:
        if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
            raise TableError(source, name, None, "a list or an array of values", shown(values))
        try:
            if not isinstance(values, (arrow.Array, arrow.ChunkedArray)):
                values = _as_array(values)
        except (arrow.ArrowException, OverflowError, TypeError, ValueError) as error:
            raise TableError(source, name, None, "values of one kind", _told(error)) from error
        if columns and len(values) != len(columns[0]):
            raise TableError(source, name, None, f"{len(columns[0])} rows, as in {names[0]!r}", len(values))
        names.append(name)
        columns.append(values)
    return arrow.table(columns, names=names)


def _as_array(values):
    """Values as a pyarrow.Array. Raises ValueError for a mixture of which Arrow would silently cut off times."""
    arrow = pyarrow_modules()
    made = arrow.array(values, from_pandas=True)  # NaN, pandas.NA and pandas.NaT are nulls
    if arrow.types.is_date(made.type):
        known = (value for value in values if isinstance(value, datetime.datetime))
        if any(value == value for value in known):  # pandas.NaT is a datetime, too, but differs from itself
            raise ValueError("dates with a time among others without")
    return made


def _told(error):
    """What an exception says, in one line."""
    return "; ".join(str(part) for part in error.args) or type(error).__name__


def index_columns(table):
    """The columns of a table that hold the index of a DataFrame: numbers or names of rows, from which nothing can be
    learnt."""
    names, found = table.column_names, []
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):  # no metadata of pandas
        described = json.loads((table.schema.metadata or {})[b"pandas"])["index_columns"]
        found = [name for name in described if isinstance(name, str)]
    for name in names:
        if not FIRST_UNNAMED.fullmatch(name):
            break
        found.append(name)
    found = set(found)
    return [name for name in names if name in found or INDEX_LEVEL.fullmatch(name)]
