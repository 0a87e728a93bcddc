"""Values of columns as text (as written in the file that they were read from, or as Arrow writes them), and their index
in a list of values."""

import datetime
import re

import numpy as np

from ..errors import shown, value_error
from .errors import Where, pyarrow_modules
from .text import is_marked, written

# Numbers as text: "1", "-1.50", "1e-3". "007" and "+7" are taken for codes, which mean only themselves.
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d+)?")
# Longer text is not compared with similar text, nor parsed as an exact integer.
LONG_TEXT = 200
READ_TEXT = "tables.read(path, text=preprocessing.text) has text, or name the column there"
# Stand for the index of a category where it is missing, or unknown.
MISSING, UNKNOWN = -1, -2


def decoded(column):
    """The column, without dictionary encoding."""
    arrow, kind = pyarrow_modules(), column.type
    if not arrow.types.is_dictionary(kind):
        return column
    if not arrow.types.is_string_view(kind.value_type):
        return column.cast(kind.value_type)
    # Categories of polars, which Arrow does not decode itself.
    text = arrow.large_string()
    pieces = column.chunks if isinstance(column, arrow.ChunkedArray) else [column]
    return arrow.chunked_array([piece.dictionary.cast(text).take(piece.indices) for piece in pieces], text)


def as_text(column, where):
    """A column as text, in one chunk: as written in the file if it is from a text file. Empty text is missing."""
    arrow = pyarrow_modules()
    check_encoding(column, where)
    return whole(arrow.chunked_array([_text_of(piece, where) for piece in pieces_of(column)], arrow.large_string()))


def _text_of(piece, where):
    """`as_text` of a pyarrow.Array."""
    arrow = pyarrow_modules()
    text = None if is_text(piece.type) else written(piece)
    if text is False:
        expected = "at most 65,536 different numbers for categories (or the file read with the column among text=)"
        raise where.error(expected, "more")
    is_written = text is not None
    try:
        text = arrow.compute.utf8_trim_whitespace(text) if is_written else piece.cast(arrow.large_string())
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError):
        raise where.error("text or numbers for categories", f"{piece.type}") from None
    present = arrow.compute.and_(piece.is_valid(), arrow.compute.not_equal(text, ""))
    if arrow.types.is_floating(piece.type):  # NaN is missing, and both zeros are one
        present = arrow.compute.and_(present, arrow.compute.not_equal(text, "nan"))
        text = text if is_written else arrow.compute.replace_substring_regex(text, "^-0$", "0")
    return arrow.compute.if_else(present, text, arrow.scalar(None, arrow.large_string()))


def check_encoding(column, where):
    """Raises TableError if a column of bytes is not UTF-8: pyarrow reads text in other encodings as bytes."""
    types = pyarrow_modules().types
    if types.is_binary(column.type) or types.is_large_binary(column.type):
        for row, value in enumerate(column.to_pylist()):
            try:
                (value or b"").decode("utf-8")
            except UnicodeDecodeError:
                raise where.error("text in UTF-8", shown(value), row) from None


def check_text_is_there(column, field, where):
    """Raises TableError if the text of a column, of this field of a schema, was lost when rows were copied."""
    if is_marked(field) and any(written(piece) is None for piece in pieces_of(column)):
        expected = f"text as written in the file; filters and other copies of rows lose it ({READ_TEXT})"
        raise where.error(expected, f"a copy of type {field.type}")


def pieces_of(column):
    """The chunks of a column, without dictionary encoding."""
    column = decoded(column)
    return column.chunks if isinstance(column, pyarrow_modules().ChunkedArray) else [column]


def index_of(column, values, by_value, where):
    """For each row of a column the index of its value in `values`, or MISSING, or UNKNOWN; the type of the column does
    not matter. by_value: whether `values` come from a column of numbers, truth values or dates."""
    check_encoding(column, where)
    exact = {value: i for i, value in enumerate(values)}
    alike, codes = {}, {}
    for i, value in enumerate(values):
        alike.setdefault(value_of(value), []).append(i)
        if not by_value and isinstance(value_of(value), str):  # a number may be a code read as a number
            codes.setdefault(number_of(value), []).append(i)
    parts = [_index_of_piece(piece, exact, alike, codes, by_value, where) for piece in pieces_of(column)]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _index_of_piece(piece, exact, alike, codes, by_value, where):
    arrow = pyarrow_modules()
    text, of_text = written(piece), is_text(piece.type)
    has_text = text is not None or of_text  # else only the values are known
    if not has_text or text is False:
        text = _text_of(piece, where)
    elif text is None:
        text = piece.cast(arrow.large_string())

    def index(text, is_missing):
        text = text if of_text else text.strip()  # blanks around numbers do not count
        found = exact.get(text) if has_text else None
        if found is None and (is_missing or not text):
            return MISSING
        if found is None and (by_value or not has_text):
            value = value_of(text)
            same = alike.get(value, [])
            meant = same if has_text else same + codes.get(value, [])
            if len(meant) > 1:
                names = " and ".join(repr(name) for name in exact if exact[name] in meant)
                expected = f"text, since {names} are different categories ({READ_TEXT})"
                raise where.error(expected, f"{text} of type {piece.type}")
            found = same[0] if same else None
        return UNKNOWN if found is None else found

    words, word_of = words_of(text)
    found = np.array([[index(word, missing) for word in words] for missing in (False, True)], np.int64).reshape(2, -1)
    found = np.append(found, [[MISSING], [MISSING]], axis=1)
    return found[piece.is_null().to_numpy(zero_copy_only=False).astype(np.int64), word_of]


def value_of(text):
    """The number, truth value or date that a text means, or the text itself if it is none of these."""
    if NUMBER.fullmatch(text):
        return int(text) if text.lstrip("-").isdecimal() and len(text) < LONG_TEXT else float(text)
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        return text


def whole(column):
    """A column in one chunk."""
    return column.combine_chunks() if isinstance(column, pyarrow_modules().ChunkedArray) else column


def is_text(kind):
    types = pyarrow_modules().types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def words_of(text):
    """The different values of text, and for each row the index of its value, or their number if it is missing."""
    encoded = text.dictionary_encode()
    words = encoded.dictionary.to_pylist()
    return words, encoded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)


def missing(column, na_values=()):
    """The number of missing values in a column."""
    column = decoded(with_missing(column, na_values))
    return (as_text(column, Where(None, None)) if is_text(column.type) else column).null_count


def is_valid(column):
    """Which values of a column are not null, as an array of bool."""
    return column.is_valid().to_numpy(zero_copy_only=False)


def has_no_values(column):
    """Whether all values of a column are missing. Then its type says nothing: pandas has NaN, a floating-point number,
    where a file has no date at all."""
    arrow = pyarrow_modules()
    absent = column.is_null(nan_is_null=True) if arrow.types.is_floating(column.type) else column.is_null()
    return arrow.compute.all(absent).as_py()


def with_missing(column, na_values):
    """A column in which the values that `na_values` names are null: equal text but for blanks around it, or equal
    numbers. The column itself if it holds none of them."""
    arrow = pyarrow_modules()
    if not na_values:
        return column
    plain = decoded(column)
    if is_text(plain.type):
        plain = plain.cast(arrow.large_string())
        text = arrow.compute.utf8_trim_whitespace(plain)
        found = arrow.compute.is_in(text, value_set=arrow.array(na_values, arrow.large_string()))
    elif arrow.types.is_integer(plain.type) or arrow.types.is_floating(plain.type):
        numbers = [number for number in map(number_of, na_values) if not np.isnan(number)]
        values = plain.cast(arrow.float64(), safe=False)
        found = arrow.compute.is_in(values, value_set=arrow.array(numbers, arrow.float64()))
    else:
        return column
    if not arrow.compute.any(found).as_py():
        return column
    return arrow.compute.if_else(found, arrow.scalar(None, plain.type), plain)


def different_texts(argument, given):
    """A list of different texts from a file, as a tuple. Raises ValueError that names the argument for others."""
    if not isinstance(given, list | tuple) or {*map(type, given)} - {str} or len(set(given)) != len(given):
        raise value_error(argument, "a list of different texts", shown(given))
    return tuple(given)


def number_of(text):
    """The number that a text means, or NaN."""
    try:
        return np.nan if "_" in text else float(text)
    except ValueError:
        return np.nan
