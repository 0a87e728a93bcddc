"""Reads files of text as tokens, a block at a time; and strings."""

import codecs
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ..core.files import check_file, ignored
from ..core.types import Path
from ..errors import shown, type_error, value_error
from ..tables.errors import TableError
from ..tables.files import open_file
from .cache import IN_MEMORY, Cache
from .errors import TextError
from .text import Text
from .vocabulary import CODES, Bytes, Characters, Vocabulary, as_vocabulary, codes_of

# So many bytes of a file are read at a time.
BLOCK = 2**22
# Endings of the files of a folder that are read, and of those in which tokens are stored.
ENDINGS, STORED = (".txt", ".md"), ".tokens"
# A byte-order mark, which some editors put in front of a text.
MARK = codecs.BOM_UTF8
UTF16 = codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE


def read(
    path: Path | Sequence[Path], tokens: "str | Path | Vocabulary | Any" = "characters", *, cache: Path | None = None
) -> Text:
    """Reads text in UTF-8 as tokens; returns a `Text`.

    path: a file; a list of files, which are one text in this order; or a folder, whose files .txt and .md
        are, sorted by name (`notes` names others). Line ends stay as they are; a byte-order mark in front is left out.
    tokens: "characters": the different characters of the text are its vocabulary. "bytes": so are the 256 bytes, of
        files of any kind. Or a tokenizer of the library `tokenizers` (extra `text`), as an object or a path
        (`Tokenizer.of`). Or a vocabulary, such as the `preprocessing` of a network. Tokenizers get long texts in
        pieces, cut at ends of lines in front of lines without indent, where there are some.
    cache: a file in which the tokens are stored, and mapped into memory. It is used again as long as the files of text
        have the same sizes and times of change and the tokens are the same. None: the tokens of texts of at most 1 GiB
        are kept in memory, others stored beside the text as PATH.tokens, which `notes` says. (The bytes of a single
        file are not stored: that file is mapped.)

    Texts may be larger than memory. Raises TextError that names file, line and byte if a file is empty, is not UTF-8
    (which bytes as tokens need not be), or has characters that the vocabulary lacks; TypeError or ValueError that names
    the argument; OSError if a file cannot be read."""
    vocabulary, (paths, notes) = as_vocabulary(tokens), _files(path)
    sizes = [_size(file) for file in paths]
    if isinstance(vocabulary, Bytes) and len(paths) == 1 and cache is None:
        return _mapped_bytes(paths, sizes[0], notes)
    if cache is None and sum(sizes) > IN_MEMORY:
        cache = os.path.normpath(os.fsdecode(path if isinstance(path, str | os.PathLike) else paths[0])) + STORED
        notes += [f"the tokens are stored in {cache}"]
    if cache is None:
        vocabulary = vocabulary or _learn(paths)
        ids = _locked(np.concatenate(list(_tokens(paths, vocabulary))))
        return Text(ids, vocabulary, paths, notes + vocabulary.notes_on(ids))
    stored = Cache(check_file(cache, "cache"), paths, vocabulary)
    found = stored.find()
    if found is None:
        vocabulary = vocabulary or _learn(paths)
        found = stored.write(_tokens(paths, vocabulary), vocabulary)
    return Text(found[0], found[1], paths, notes)


def from_string(string: str, tokens: "str | Path | Vocabulary | Any" = "characters") -> Text:
    """A string as tokens; returns a `Text`, as `read` does for a file of that text.

    tokens: as in `read`.

    Raises TextError that names line and byte if the string is empty, or has characters that the vocabulary or UTF-8
    lacks; TypeError or ValueError that names the argument."""
    if not isinstance(string, str):
        raise type_error("string", "a str (read takes the path of a file)", shown(string))
    vocabulary, string = as_vocabulary(tokens), string.removeprefix(MARK.decode())
    if not string:
        raise TextError(None, "text", "an empty string")
    try:
        data = string.encode()
    except UnicodeEncodeError as error:
        before, got = string[: error.start], repr(string[error.start])
        line = 1 + before.count("\n")
        raise TextError(None, "characters that UTF-8 has", got, line=line, byte=len(before.encode())) from None
    vocabulary = vocabulary or _characters(None, [string])
    if isinstance(vocabulary, Bytes):
        ids = np.frombuffer(data, np.uint8)
    elif isinstance(vocabulary, Characters):
        ids = _encoded(None, string, 1, 0, vocabulary)
    else:
        ids = np.concatenate(list(vocabulary.encode_all([string])))
    if not len(ids):
        raise TextError(None, "text", "no tokens")
    return Text(_locked(ids), vocabulary, [], vocabulary.notes_on(ids))


def _files(path):
    """The files of an argument `path`, as a list of str, and notes."""
    if isinstance(path, str | os.PathLike):
        folder = os.fsdecode(path)
        if not os.path.isdir(folder):
            return [folder], []
        visible = sorted(name for name in os.listdir(folder) if name[0] != ".")
        names = [name for name in visible if name.lower().endswith(ENDINGS)]
        if not names:
            raise TextError(folder, f"files {' or '.join(ENDINGS)} in the folder", "none")
        return [os.path.join(folder, name) for name in names], ignored(
            name for name in visible if not name.lower().endswith((*ENDINGS, STORED))
        )
    if not isinstance(path, list | tuple) or not all(isinstance(one, str | os.PathLike) for one in path):
        raise type_error("path", "a path, or a list of paths", shown(path))
    if not path:
        raise value_error("path", "at least 1 file", "[]")
    return [os.fsdecode(one) for one in path], []


def _size(path):
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise TextError(path, "text", "an empty file")
    return size


class _opened:
    """Context of a file open for reading bytes. Raises TextError unless it is a regular file."""

    def __init__(self, path):
        self._path, self._context = path, open_file(path)

    def __enter__(self):
        try:
            return self._context.__enter__()
        except TableError as error:
            raise TextError(self._path, str(error.expected), str(error.got)) from None

    def __exit__(self, *error):
        return self._context.__exit__(*error)


def _blocks(path: str) -> Iterator[bytes]:
    """Yields the bytes of a file in pieces, without a byte-order mark in front."""
    with _opened(path) as file:
        if not file.peek(len(MARK)).startswith(MARK):
            file.seek(0)
        else:
            file.seek(len(MARK))
        while data := file.read(BLOCK):
            yield data


def _texts(path: str) -> Iterator[tuple[str, int, int]]:
    """Yields the text of a file in pieces, and the line and the byte at which each begins."""
    with _opened(path) as file:
        data, byte, line, is_last = file.read(BLOCK), 0, 1, False
        if data.startswith(MARK):
            data, byte = data[len(MARK) :], len(MARK)
        while True:
            more = file.read(BLOCK)
            is_last = not more
            try:
                text, used = codecs.utf_8_decode(data, "strict", is_last)
            except UnicodeDecodeError as error:
                at, lines = byte + error.start, line + data.count(b"\n", 0, error.start)
                got = f"0x{data[error.start]:02x} ({error.reason})"
                if byte == 0 and data.startswith(UTF16):
                    got += "; it begins as UTF-16 does"
                raise TextError(path, "UTF-8", got, line=lines, byte=at) from None
            if text:
                yield text, line, byte
            if is_last:
                return
            line, byte, data = line + data.count(b"\n", 0, used), byte + used, data[used:] + more


def _learn(paths):
    """The characters of the files."""
    return _characters(paths[0], (text for path in paths for text, _, _ in _texts(path)))


def _characters(path, texts):
    """The characters of texts. path: for messages."""
    found = np.zeros(CODES, bool)
    for text in texts:
        found[codes_of(text)] = True
    codes = np.flatnonzero(found)
    if len(codes) < 2:
        raise TextError(path, "text of at least 2 different characters", f"{len(codes)}")
    return Characters(codes.astype(np.uint32).tobytes().decode("utf-32-le"))


def _tokens(paths, vocabulary):
    """Yields the tokens of the files, in parts. Raises TextError if there are none."""
    parts: Iterable[Any]
    if isinstance(vocabulary, Bytes):
        parts = (np.frombuffer(data, np.uint8) for path in paths for data in _blocks(path))
    elif isinstance(vocabulary, Characters):
        parts = (_encoded(path, *piece, vocabulary) for path in paths for piece in _texts(path))
    else:
        parts = vocabulary.encode_all(text for path in paths for text, _, _ in _texts(path))
    count = 0
    for part in parts:
        count += len(part)
        yield part
    if not count:
        raise TextError(paths[0], "text", "no tokens")


def _encoded(path, text, line, byte, vocabulary):
    try:
        return vocabulary.encode(text)
    except ValueError:
        i = next(i for i, character in enumerate(text) if character not in vocabulary.characters)
        before = text[:i]
        expected = (
            f'characters of {shown(vocabulary.characters)} (with tokens="bytes" or a tokenizer a model takes any)'
        )
        line, byte = line + before.count("\n"), byte + len(before.encode())
        raise TextError(path, expected, repr(text[i]), line=line, byte=byte) from None


def _mapped_bytes(paths: list[str], size: int, notes: list[str]) -> Text:
    """The bytes of a file as tokens: in memory, or mapped if they are many."""
    with _opened(paths[0]) as file:
        start = len(MARK) if file.peek(len(MARK)).startswith(MARK) else 0
    if start == size:
        raise TextError(paths[0], "text", "a byte-order mark alone")
    ids = np.memmap(paths[0], np.uint8, "r", start)
    return Text(ids if size > IN_MEMORY else _locked(np.array(ids)), Bytes(), paths, notes)


def _locked(ids):
    ids.flags.writeable = False
    return ids
