"""What the modules of tables share: the error that names source, column and row, pyarrow, and its files."""

import contextlib
import dataclasses
import os


class TableError(ValueError):
    """Something is wrong with the data of a table: `source`, `column` and `row` (counted from 1, without a header) tell
    where, or are None."""

    def __init__(self, source, column, row, expected, got):
        super().__init__(source, column, row, expected, got)
        self.source, self.column, self.row, self.expected, self.got = source, column, row, expected, got

    def __str__(self):
        places = [f"column {self.column!r}" if self.column is not None else "", f"row {self.row}" if self.row else ""]
        source = None if self.source is None else str(self.source)
        where = ", ".join(place for place in (source, *places) if place) or "the table"
        return f"{where}: expected {self.expected}, got {self.got}"


@dataclasses.dataclass(frozen=True)
class Where:
    """A place in a table, for messages."""

    source: str | None
    column: str | None

    def error(self, expected, got, row=None):
        return TableError(self.source, self.column, None if row is None else row + 1, expected, got)


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


@contextlib.contextmanager
def native_file(path, file):
    """Context of the same file as an open one, from its beginning, as one of pyarrow's. After an error a thread of
    pyarrow may read on for a moment: from a file of Python's when the interpreter has ended, which aborts the process.
    """
    with pyarrow_modules().OSFile(os.fsencode(path)) as again:
        if not os.path.samestat(os.fstat(again.fileno()), os.fstat(file.fileno())):
            raise TableError(path, None, None, "a file at rest", "another one in its place")
        yield again
