"""Shared by the modules of tables: the error that names source, column and row, and access to pyarrow."""

import contextlib
import dataclasses
import os

# Errors that a message names.
MOST_NAMED = 10


class TableError(ValueError):
    """An error in the data of a table. `source`, `column` and `row` (counted from 1, without the header) say where it
    is; each may be None. others: errors of other columns, which the message names, too."""

    others: "tuple[TableError, ...]" = ()

    def __init__(self, source: str | None, column: str | None, row: int | None, expected: object, got: object) -> None:
        super().__init__(source, column, row, expected, got)
        self.source, self.column, self.row, self.expected, self.got = source, column, row, expected, got

    def __str__(self) -> str:
        source = None if self.source is None else str(self.source)
        column, row = None if self.column is None else f"column {self.column!r}", f"row {self.row}" if self.row else ""
        where = ", ".join(part for part in (source, column, row) if part) or "the table"
        parts = [f"{where}: expected {self.expected}, got {self.got}"]
        parts += [str(TableError(None, *error.args[1:])) for error in self.others[: MOST_NAMED - 1]]
        more = len(self.others) + 1 - MOST_NAMED
        return "; ".join([*parts, *[f"and {more} more errors"] * (more > 0)])


class Problems:
    """Collects the errors of the columns of a table, so that all are reported at once."""

    def __init__(self):
        self._errors = []

    @contextlib.contextmanager
    def collected(self):
        """Context in which a TableError is kept for `check`."""
        try:
            yield
        except TableError as error:
            self._errors += [error, *error.others]

    def check(self):
        """Raises the first error, with the others as its attribute, if there were any."""
        if self._errors:
            first, *others = self._errors
            first.others = tuple(others)
            raise first


@dataclasses.dataclass(frozen=True)
class Where:
    """A column of a table, for messages."""

    source: str | None
    column: str | None

    def error(self, expected: object, got: object, row: int | None = None) -> TableError:
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
    """Context that opens the file of an open Python file again, as a file of pyarrow. After an error a thread of
    pyarrow may go on reading; if the file were Python's and the interpreter had ended, that would abort the process."""
    with pyarrow_modules().OSFile(os.fsencode(path)) as again:
        if not os.path.samestat(os.fstat(again.fileno()), os.fstat(file.fileno())):
            raise TableError(path, None, None, "a file that does not change", "another file of the same name by now")
        yield again
