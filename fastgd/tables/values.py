"""The values of columns of tables as text: as it stands in the file that they were read from, or as Arrow writes them;
and which of a list of values they are."""

import datetime
import re

import numpy as np

from ..errors import shown
from .errors import pyarrow_modules
from .text import is_marked, written

# Numbers as text: "1", "-1.50", "1e-3". "007" and "+7" are rather codes, and have no value but themselves.
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d+)?")
# Texts of more letters are not looked for among those that are alike, nor taken for exact integers.
LONG_TEXT = 200
READ_TEXT = "tables.read(path, text=preprocessing.text) has text, or name the column there"
# In place of the index of a category: of what is missing, of what is unknown.
MISSING, UNKNOWN = -1, -2


def decoded(column):
    """A column that is stored as a dictionary as one of its values."""
    kind = column.type
    return column.cast(kind.value_type) if pyarrow_modules().types.is_dictionary(kind) else column


def as_text(column, where):
    """A column as text, in one piece; an empty one is missing. What was read from a file stands as it stood there."""
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
    """Raises if a column of bytes, as pyarrow makes of text in another encoding, is not in UTF-8."""
    types = pyarrow_modules().types
    if types.is_binary(column.type) or types.is_large_binary(column.type):
        for row, value in enumerate(column.to_pylist()):
            try:
                (value or b"").decode("utf-8")
            except UnicodeDecodeError:
                raise where.error("text in UTF-8", shown(value), row) from None


def check_text_is_there(column, field, where):
    """Raises if the text that the file of this column had, of this field of a schema, is not to be found any more."""
    if is_marked(field) and any(written(piece) is None for piece in pieces_of(column)):
        expected = f"text as it stands in the file, before rows are copied as filters do ({READ_TEXT})"
        raise where.error(expected, f"a copy of type {field.type}")


def pieces_of(column):
    """The arrays that a column consists of; those that are stored as dictionaries as their values."""
    column = decoded(column)
    return column.chunks if isinstance(column, pyarrow_modules().ChunkedArray) else [column]


def index_of(column, values, by_value, where):
    """For each row of a column the index of its value among `values`, or MISSING, or UNKNOWN. by_value: whether these
    are of a column of numbers, truth values or dates. The type that this column happens to have does not count."""
    check_encoding(column, where)
    exact = {value: i for i, value in enumerate(values)}
    alike, codes = {}, {}
    for i, value in enumerate(values):
        alike.setdefault(value_of(value), []).append(i)
        if not by_value and isinstance(value_of(value), str):  # a number may have been a code
            codes.setdefault(number_of(value), []).append(i)
    parts = [_index_of_piece(piece, exact, alike, codes, by_value, where) for piece in pieces_of(column)]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _index_of_piece(piece, exact, alike, codes, by_value, where):
    arrow = pyarrow_modules()
    text = written(piece)
    stands = text is not None or is_text(piece.type)  # as text, and not only as a value
    if not stands or text is False:
        text = _text_of(piece, where)
    elif text is None:
        text = piece.cast(arrow.large_string())

    def index(text, is_missing):
        text = text if is_text(piece.type) else text.strip()  # blanks around numbers mean nothing
        found = exact.get(text) if stands else None
        if found is None and (is_missing or not text):
            return MISSING
        if found is None and (by_value or not stands):
            value = value_of(text)
            same = alike.get(value, [])
            meant = same if stands else same + codes.get(value, [])
            if len(meant) > 1:
                names = " and ".join(repr(name) for name in exact if exact[name] in meant)
                raise where.error(f"text, as {names} are different ones ({READ_TEXT})", f"{text} of type {piece.type}")
            found = same[0] if same else None
        return UNKNOWN if found is None else found

    words, word_of = words_of(text)
    found = np.array([[index(word, missing) for word in words] for missing in (False, True)], np.int64).reshape(2, -1)
    found = np.append(found, [[MISSING], [MISSING]], axis=1)
    return found[piece.is_null().to_numpy(zero_copy_only=False).astype(np.int64), word_of]


def value_of(text):
    """What a text stands for: a number, a truth value, a date; itself if it is none of these."""
    if NUMBER.fullmatch(text):
        return int(text) if text.lstrip("-").isdecimal() and len(text) < LONG_TEXT else float(text)
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        return text


def whole(column):
    """A column in one piece."""
    return column.combine_chunks() if isinstance(column, pyarrow_modules().ChunkedArray) else column


def is_text(kind):
    types = pyarrow_modules().types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def words_of(text):
    """The different values of text, and for each row which of them it is, or their number where it is missing."""
    encoded = text.dictionary_encode()
    words = encoded.dictionary.to_pylist()
    return words, encoded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)


def number_of(text):
    try:
        return np.nan if "_" in text else float(text)
    except ValueError:
        return np.nan
