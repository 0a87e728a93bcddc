"""Reads CSV and TSV files, and remembers the text of their fields.

A column that looks like numbers, truth values or dates is read as such, but whether "007" is a number or a category
depends on the table that a network was trained on. So the tables of `read_csv` remember their text: each chunk of a
column lies in a buffer, and as long as the buffer lives, in any table or slice, `written` finds the text of its values.
"""

import contextlib
import weakref
from typing import Any

from ..errors import shown
from .errors import TableError, native_file, pyarrow_modules

# Bytes that are read at a time, and the most, for longer rows.
BLOCK_BYTES, MOST_BYTES = 2**20, 2**30
# The text of columns with more different values than this is not kept.
KEPT_VALUES = 2**16
# Messages of pyarrow for a row, or a header, that does not fit into a block.
TOO_LONG = ("straddling object", "Empty CSV file or block")

# Metadata of columns whose text cannot be reconstructed from their values.
MARK = {b"fastgd": b"read from text"}

_by_address: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


class _Piece:
    """A chunk of a column, and the text of its values. text: None if Arrow's text of the values is the same. kept:
    False if the text was not kept."""

    def __init__(self, values, text, kept):
        self.values, self.text, self.kept = values, text, kept


def written(piece):
    """The text in the file for each value of a pyarrow.Array, which may be empty; None if the array is not from a text
    file, False if the text was not kept."""
    memory = next(iter(piece.buffers()[1:]), None)
    found = None if memory is None else _by_address.get(memory.address)
    if found is None:
        return None
    if not found.kept:
        return False
    if found.text is None:
        return piece.cast(pyarrow_modules().large_string()).fill_null("")
    text = found.text.slice(piece.offset - found.values.offset, len(piece))
    return text.cast(pyarrow_modules().large_string()).combine_chunks()


def _remembering(column, text, kept):
    """A copy of a column, without copied data, whose buffers are registered with their text."""
    arrow, pieces, start = pyarrow_modules(), [], 0
    for values in column.chunks:
        buffers = values.buffers()
        if len(values) and len(buffers) > 1:
            part = None if text is None else text.slice(start, len(values))
            piece = _Piece(values, part, kept)
            buffers[1] = arrow.foreign_buffer(buffers[1].address, buffers[1].size, base=piece)
            _by_address[buffers[1].address] = piece
            pieces.append(arrow.Array.from_buffers(values.type, len(values), buffers, values.null_count, values.offset))
        start += len(values)
    return arrow.chunked_array(pieces, column.type) if pieces else column


def read_csv(path, file, text, delimiter, na_values):
    """The table in an open file. text: names of columns to read as text. na_values: further fields that are missing
    values, with or without a blank before them."""
    arrow = pyarrow_modules()
    types, known = dict.fromkeys(text, arrow.string()), arrow.csv.ConvertOptions().null_values
    null_values = [*known, *na_values, *(f" {value}" for value in na_values)]
    convert = arrow.csv.ConvertOptions(strings_can_be_null=True, column_types=types, null_values=null_values)
    table = _parsed(path, file, delimiter, convert)
    if len(set(table.column_names)) < table.num_columns or table.num_rows == 0:
        return table  # the caller raises
    tracked = [name for name, column in zip(table.column_names, table.columns, strict=True) if _is_tracked(column)]
    # Dictionary encoding saves memory, and lets different values be compared instead of rows.
    types = dict.fromkeys(tracked, arrow.dictionary(arrow.int32(), arrow.string()))
    texts = {}
    if tracked:
        convert = arrow.csv.ConvertOptions(strings_can_be_null=False, column_types=types, include_columns=tracked)
        again = _parsed(path, file, delimiter, convert)
        if again.num_rows != table.num_rows:
            raise TableError(path, None, None, "a file that does not change", "one that changed while it was read")
        texts = {name: _kept_text(table.column(name), again.column(name)) for name in tracked}
    # A column of nothing but "NA" has no buffer to register.
    columns = [column.cast(arrow.string()) if texts.get(name) and arrow.types.is_null(column.type) else column
               for name, column in zip(table.column_names, table.columns, strict=True)]  # fmt: skip
    columns = [
        _remembering(column, texts.get(name), name in texts or arrow.types.is_string(column.type))
        for name, column in zip(table.column_names, columns, strict=True)
    ]
    # Copied rows lie in other buffers. The mark says that their text is lost.
    marked = {name for name, column in zip(table.column_names, columns, strict=True)
              if not arrow.types.is_string(column.type) and texts.get(name, column) is not None}  # fmt: skip
    fields = [arrow.field(name, column.type, metadata=MARK if name in marked else None)
              for name, column in zip(table.column_names, columns, strict=True)]  # fmt: skip
    return arrow.table(columns, schema=arrow.schema(fields))


def is_marked(field):
    """Whether the text of a column, of this field of a schema, cannot be reconstructed from its values."""
    return bool(field.metadata) and MARK.items() <= field.metadata.items()


def _is_tracked(column):
    """Whether the text of a column has to be read. For text it only matters how missing values are written."""
    arrow = pyarrow_modules()
    if arrow.types.is_binary(column.type):  # raises where it is used
        return False
    if arrow.types.is_string(column.type):
        return column.null_count > 0
    return len(column.slice(0, 2 * KEPT_VALUES).unique()) <= KEPT_VALUES


def _kept_text(column, text):
    """The text of a column, or None if Arrow's text of its values is the same."""
    arrow = pyarrow_modules()
    text = text.unify_dictionaries()
    try:
        plain = arrow.compute.unique(column.unique().cast(arrow.string()).fill_null(""))
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError):
        return text
    plain = arrow.concat_arrays([plain, arrow.array([""])])
    is_plain = arrow.compute.is_in(text.chunk(0).dictionary, value_set=plain)
    return None if arrow.compute.all(is_plain).as_py() else text


def _parsed(path, file, delimiter, convert):
    arrow = pyarrow_modules()
    parse = arrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    size = BLOCK_BYTES
    while True:
        read = arrow.csv.ReadOptions(block_size=size)
        try:
            with _stream(path, file) as stream:
                return arrow.csv.read_csv(stream, read_options=read, parse_options=parse, convert_options=convert)
        except arrow.ArrowInvalid as error:
            if any(words in str(error) for words in TOO_LONG) and size < min(MOST_BYTES, _bytes_of(path, file)):
                size *= 8
                continue
            raise _bad_row(path, file, delimiter, size) or error from None


def _is_gzip(path):
    return path.lower().endswith(".gz")


def _bytes_of(path, file):
    """An upper bound of the number of bytes of text in a file."""
    return MOST_BYTES if _is_gzip(path) else file.seek(0, 2)


@contextlib.contextmanager
def _stream(path, file):
    """Context of a pyarrow stream of the file's text, from its beginning."""
    with native_file(path, file) as again:
        yield pyarrow_modules().CompressedInputStream(again, "gzip") if _is_gzip(path) else again


def _bad_row(path, file, delimiter, size):
    """The TableError for the first row that has more or fewer fields than the header, or None."""
    csv, found = pyarrow_modules().csv, []
    file.seek(0)
    if b"\0" in file.read(2**16) and not _is_gzip(path):
        return TableError(path, None, None, "a text file", "a file with bytes that are not text")
    parse = csv.ParseOptions(
        delimiter=delimiter,
        newlines_in_values=True,
        invalid_row_handler=lambda row: found.append(row) or "skip",
    )
    # With threads the handler gets no row numbers; latin-1 decodes any bytes, also of files that are not UTF-8.
    read = csv.ReadOptions(use_threads=False, block_size=size, encoding="latin-1")
    try:
        with _stream(path, file) as stream:
            csv.read_csv(stream, parse_options=parse, read_options=read)
    except pyarrow_modules().ArrowInvalid:
        return None
    if not found:
        return None
    row = found[0]
    begin = row.text.encode("latin-1").decode("utf-8", "replace")
    expected, got = f"{row.expected_columns} fields as in the header", f"{row.actual_columns}: {shown(begin)}"
    return TableError(path, None, row.number - 1, expected, got)
