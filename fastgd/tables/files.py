"""Files of tables: CSV, TSV, Parquet, Feather and Arrow, read by pyarrow (extra `data`), and tables of other kinds."""

import contextlib
import errno
import io
import json
import os
import re
import stat

from .._plan import open_to_read
from ..errors import shown, type_error, value_error
from .errors import TableError, native_file, pyarrow_modules
from .text import read_csv


def _read_parquet(path, file, text, delimiter):
    with native_file(path, file) as again:
        return pyarrow_modules().parquet.read_table(again)


def _read_arrow(path, file, text, delimiter):
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
# How pandas calls the columns of an index that has no name: in Parquet and Feather; in CSV, and when that is read.
INDEX_LEVEL, FIRST_UNNAMED = re.compile(r"__index_level_\d+__"), re.compile(r"\s*|Unnamed: \d+(_level_\d+)?(\.\d+)*")


def ending(path):
    """The ending of a file's name that tells its kind, or None."""
    return next((end for end in READERS if path.lower().endswith(end)), None)


@contextlib.contextmanager
def open_file(path):
    """Context of a file that is open for reading its bytes. Raises TableError unless it is a regular file: a pipe that
    nobody writes to would keep its reader waiting for ever."""
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


def read(path, *, text=(), delimiter=None):
    """Reads a CSV, TSV, Parquet, Feather or Arrow file, by its ending, as a pyarrow.Table. In text files empty fields,
    "NA", "NaN", "null" and the like are missing values, and a column of numbers only is one of numbers, unless `text`
    names it. What stood in the file is remembered: where a `Preprocessing` needs a category or a class, "007" is "007",
    in the table and in slices and selections of its columns; rows that are copied (filtered, sorted) are numbers.
    delimiter: what stands between two fields; None is a tab in TSV files and else a comma.

    Raises OSError if the file cannot be read, TableError naming it if it is no such table."""
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
    text = [text] if isinstance(text, str) else list(text)
    text = [name for name in text if name == str(name).encode("utf-8", "replace").decode()]  # others no column can have
    pyarrow_modules()
    with open_file(path) as file, decoding(path, f"a whole {end} file"):
        table = _checked_table(READERS[end](path, file, text, delimiter), path)
        # Of bytes that were damaged pyarrow makes arrays that end the process when they are used.
        table.validate(full=True)
    return table


@contextlib.contextmanager
def decoding(path, expected):
    """Context in which a library makes sense of the bytes of a file: whatever it raises where they were damaged is a
    TableError of this path."""
    try:
        yield
    except TableError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the system's, and not that of a place in the file that cannot be
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
    """A pyarrow.Table of one, of a DataFrame, or of a dict of columns. Names that are no text become text."""
    arrow = pyarrow_modules()
    what_frames_have = "columns" if hasattr(data, "iloc") else "__arrow_c_stream__"  # a pandas.Series has that, too
    if not isinstance(data, (arrow.Table, dict)) and not hasattr(data, what_frames_have):
        raise type_error("table", "a pyarrow.Table, a DataFrame or a dict of columns", shown(data))
    try:
        if isinstance(data, dict):
            data = _of_columns(((str(name), values) for name, values in data.items()), source)
        elif not isinstance(data, arrow.Table):
            data = _of_frame(data, source)
        return _checked_table(data, source)
    except TableError:
        raise
    except (arrow.ArrowException, TypeError, ValueError) as error:
        got = "; ".join(str(part) for part in error.args) or type(error).__name__
        raise TableError(source, None, None, "columns of one kind of values each", got) from error


def _of_frame(data, source):
    """A pyarrow.Table of a DataFrame; the index of one of pandas is left out."""
    if not hasattr(data, "iloc"):
        return pyarrow_modules().table(data)
    return _of_columns(((str(name), data.iloc[:, i]) for i, name in enumerate(data.columns)), source)


def _of_columns(named, source):
    """A pyarrow.Table of pairs of names and values."""
    arrow = pyarrow_modules()
    names, columns = [], []
    for name, values in named:
        names.append(name)
        try:
            if not isinstance(values, (arrow.Array, arrow.ChunkedArray)):
                values = arrow.array(values, from_pandas=hasattr(values, "iloc"))
        except (arrow.ArrowException, TypeError, ValueError) as error:
            got = "; ".join(str(part) for part in error.args) or type(error).__name__
            raise TableError(source, name, None, "values of one kind", got) from error
        columns.append(values)
    return arrow.table(columns, names=names)


def index_columns(table):
    """The columns of a table that are the index of a DataFrame, which says nothing: a row's number, or its name."""
    names, found = table.column_names, []
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError):  # no words of pandas
        described = json.loads((table.schema.metadata or {})[b"pandas"])["index_columns"]
        found = [name for name in described if isinstance(name, str)]
    for name in names:
        if not FIRST_UNNAMED.fullmatch(name):
            break
        found.append(name)
    found = set(found)
    return [name for name in names if name in found or INDEX_LEVEL.fullmatch(name)]
