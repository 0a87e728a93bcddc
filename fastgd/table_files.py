"""Files of tables: CSV, TSV, Parquet, Feather and Arrow, read by pyarrow (extra `data`), and the error that tells where
in a table something is wrong."""

import dataclasses
import errno
import os
import re

from .errors import shown, type_error, value_error

# Of a file that cannot be read so much is looked at to tell what it is.
CHECKED_BYTES = 2**16


class TableError(ValueError):
    """Something is wrong with the data of a table: `source`, `column` and `row` (counted from 1, without a header) tell
    where, or are None."""

    def __init__(self, source, column, row, expected, got):
        super().__init__(source, column, row, expected, got)
        self.source, self.column, self.row, self.expected, self.got = source, column, row, expected, got

    def __str__(self):
        places = [f"column {self.column!r}" if self.column is not None else "", f"row {self.row}" if self.row else ""]
        where = ", ".join(place for place in (self.source, *places) if place) or "the table"
        return f"{where}: expected {self.expected}, got {self.got}"


def pyarrow_modules():
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.feather
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("tables need pyarrow: pip install 'fastgd[data]'") from error
    return pyarrow


def _read_csv(path, text, delimiter):
    csv, arrow = pyarrow_modules().csv, pyarrow_modules()
    parse = csv.ParseOptions(delimiter=delimiter)

    types = dict.fromkeys(text, arrow.string())
    while True:
        convert = csv.ConvertOptions(strings_can_be_null=True, column_types=types)
        try:
            return csv.read_csv(path, parse_options=parse, convert_options=convert)
        except arrow.ArrowInvalid as error:
            if "CSV parse error" in str(error):
                raise _bad_row(path, parse) or error from None
            wrong = re.search(r"column #(\d+): CSV conversion error", str(error))
            if wrong is None:
                raise
            # What looked like numbers has something else further down: as text, so that it can be told where.
            with csv.open_csv(path, parse_options=parse) as opened:
                name = opened.schema.names[int(wrong[1])]
            if name in types:
                raise
            types[name] = arrow.string()


def _bad_row(path, parse):
    """What is wrong with the first row of another number of fields than the header."""
    with open(path, "rb") as file:
        begin = file.read(CHECKED_BYTES)
    if b"\0" in begin and not os.fspath(path).endswith(".gz"):
        return TableError(path, None, None, "a text file", "one with bytes that are no text")
    found = []
    parse.invalid_row_handler = lambda row: found.append(row) or "skip"
    csv = pyarrow_modules().csv
    csv.read_csv(path, parse_options=parse, read_options=csv.ReadOptions(use_threads=False))  # else without numbers
    if not found:
        return None
    row = found[0]
    expected, got = f"{row.expected_columns} fields as in the header", f"{row.actual_columns}: {shown(row.text)}"
    return TableError(path, None, row.number - 1, expected, got)


READERS = {
    ".csv": _read_csv,
    ".csv.gz": _read_csv,
    ".tsv": _read_csv,
    ".parquet": lambda path, text, delimiter: pyarrow_modules().parquet.read_table(path),
    ".feather": lambda path, text, delimiter: pyarrow_modules().feather.read_table(path),
    ".arrow": lambda path, text, delimiter: pyarrow_modules().feather.read_table(path),
}


def ending(path):
    """The ending of a file's name that tells its kind, or None."""
    return next((end for end in READERS if os.fspath(path).lower().endswith(end)), None)


def read(path, *, text=(), delimiter=None):
    """Reads a CSV, TSV, Parquet, Feather or Arrow file, by its ending, as a pyarrow.Table. In text files empty fields,
    "NA", "NaN", "null" and the like are missing values, and a column of numbers only is one of numbers, unless `text`
    names it: "007" stays what it is. For what is to be predicted that is `Preprocessing.text`. delimiter: what stands
    between two fields; None is a tab in TSV files and else a comma.

    Raises OSError if the file cannot be read, TableError naming it if it is no such table."""
    path = os.fspath(path)
    end = ending(path)
    delimiter = ("\t" if end == ".tsv" else ",") if delimiter is None else delimiter
    if not isinstance(delimiter, str) or len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n':
        raise value_error("delimiter", "one ASCII character", shown(delimiter))
    if end is None:
        raise value_error("path", f"a file ending in one of {', '.join(READERS)}", repr(path))
    arrow = pyarrow_modules()
    if not os.path.exists(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    try:
        return _checked_table(READERS[end](path, text, delimiter), path)
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's: no such permission
        raise TableError(path, None, None, f"a whole {end} file", str(error).splitlines()[0]) from None


def _checked_table(table, source):
    names = table.column_names
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise TableError(source, sorted(twice)[0], None, "one column of each name", "several")
    if table.num_rows == 0:
        raise TableError(source, None, None, "at least 1 row", "none")
    return table


def as_table(data, source=None):
    """A pyarrow.Table of one, of a pandas DataFrame, or of a dict of columns."""
    arrow = pyarrow_modules()
    if isinstance(data, dict):
        data = arrow.table(data)
    elif hasattr(data, "__dataframe__") and not isinstance(data, arrow.Table):
        try:
            data = arrow.Table.from_pandas(data, preserve_index=False)
        except (arrow.ArrowInvalid, arrow.ArrowTypeError) as error:
            raise TableError(source, None, None, "columns of one kind of values each", "; ".join(error.args)) from None
    if not isinstance(data, arrow.Table):
        raise type_error("table", "a pyarrow.Table, a DataFrame or a dict of columns", shown(data))
    return _checked_table(data, source)


@dataclasses.dataclass(frozen=True)
class Where:
    """A place in a table, for messages."""

    source: str | None
    column: str | None

    def error(self, expected, got, row=None):
        return TableError(self.source, self.column, None if row is None else row + 1, expected, got)
