"""Vocabularies: what the tokens of a text are, and how they are encoded as integers from 0 on and decoded again. Each
is small, knows nothing of a text, and is saved with a network as its `preprocessing`."""

import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..core.files import as_path
from ..core.for_users import ForUsers
from ..core.types import Path
from ..errors import check_integer, choose, shown, type_error, value_error

Ids: TypeAlias = npt.NDArray[np.integer[Any]]

CODES = 0x110000  # code points of Unicode
UTF8_BOUNDS = np.array([0x80, 0x800, 0x10000])  # from each of these code points on a character has a byte more
# Tokenizers get long texts in pieces of about so many characters, and decode so many tokens at a time.
PIECE, DECODED = 2**15, 2**16
# Where a piece may end: a line and a word that are followed by another one. There the tokenizers of GPT-2 and its like
# never join what comes before with what comes after.
LINE_END, WORD_END = re.compile(r"(?<=\S)\n(?=\S)"), re.compile(r"(?<=\S)(?= \S)")
# Names of the two files of a byte-level BPE tokenizer: as most tools write them, and as GPT-2's came.
BPE_FILES = ("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")


def dtype_of(size: int) -> np.dtype[Any]:
    """The smallest dtype of tokens that holds a vocabulary of so many."""
    return np.dtype(np.uint8 if size <= 2**8 else np.uint16 if size <= 2**16 else np.int32)


def _check_text(text):
    if not isinstance(text, str):
        raise type_error("text", "a str", f"{shown(text)} ({type(text).__name__})")
    return text


def _check_ids(ids, size):
    """Returns tokens as a flat array. Raises TypeError or ValueError unless they belong to a vocabulary."""
    array = np.asarray(ids)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise type_error("ids", "a sequence of integers", shown(array))
    if array.size and not (array.min() >= 0 and array.max() < size):
        i = int(np.argmax((array < 0) | (array >= size)))
        raise value_error("ids", f"integers in [0, {size - 1}]", f"{array[i]} at index {i}")
    return array.astype(np.int64)


def codes_of(text: str) -> npt.NDArray[np.uint32]:
    """The code points of a text."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


@dataclasses.dataclass(frozen=True)
class Characters(ForUsers):
    """Each character (code point of Unicode) of a set is a token.

    characters  the set as a text, ascending, each once; token i is the i-th of them"""

    _internal = frozenset({"config", "count_bytes", "notes_on"})

    characters: str

    def __post_init__(self) -> None:
        _check_text(self.characters)
        if len(self.characters) < 2 or list(self.characters) != sorted(set(self.characters)):
            expected = "at least 2 different characters, ascending"
            raise value_error("characters", expected, shown(self.characters))

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.characters)

    @functools.cached_property
    def _table(self):
        """The token of each code point, or -1."""
        table = np.full(CODES, -1, np.int32)
        table[codes_of(self.characters)] = np.arange(len(self))
        return table

    def encode(self, text: str) -> Ids:
        """The tokens of a text, (n,). Raises ValueError that names the first character that is not in the set."""
        ids: npt.NDArray[np.int32] = self._table[codes_of(_check_text(text))]
        if len(ids) and ids.min() < 0:
            i = int(np.argmax(ids < 0))
            raise value_error("text", f"characters of {shown(self.characters)}", f"{text[i]!r} at index {i}")
        return ids.astype(dtype_of(len(self)))

    def decode(self, ids: npt.ArrayLike) -> str:
        """The text of tokens. Raises TypeError or ValueError unless they are integers in [0, number of tokens)."""
        return str(codes_of(self.characters)[_check_ids(ids, len(self))].tobytes(), "utf-32-le", "surrogatepass")

    def count_bytes(self, ids: Ids) -> int:
        """The length of the text of tokens in UTF-8, in bytes."""
        of_each = 1 + np.searchsorted(UTF8_BOUNDS, codes_of(self.characters), side="right")
        return sum(int(of_each[block].sum()) for block in _blocks(ids))

    def notes_on(self, ids: Ids) -> list[str]:
        """What a user may want to know of tokens: nothing."""
        return []

    def config(self) -> dict[str, Any]:
        """What a file stores, as a dict for JSON."""
        return {"text": {"tokens": "characters", "characters": self.characters}}

    def __repr__(self) -> str:
        return f"Characters({len(self)})"


@dataclasses.dataclass(frozen=True)
class Bytes(ForUsers):
    """Each byte of a text in UTF-8, or of any other file, is a token. There are 256, and no file has others."""

    _internal = frozenset({"config", "count_bytes", "notes_on"})

    def __len__(self) -> int:
        """The number of tokens."""
        return 256

    def encode(self, text: str) -> Ids:
        """The tokens of a text, (n,)."""
        return np.frombuffer(_check_text(text).encode(), np.uint8)

    def decode(self, ids: npt.ArrayLike) -> str:
        """The text of tokens; bytes that are not UTF-8 become U+FFFD. Raises TypeError or ValueError unless they are
        integers in [0, 256)."""
        return str(_check_ids(ids, 256).astype(np.uint8).tobytes(), "utf-8", "replace")

    def count_bytes(self, ids: Ids) -> int:
        """The number of tokens, which are bytes."""
        return len(ids)

    def notes_on(self, ids: Ids) -> list[str]:
        """What a user may want to know of tokens: nothing."""
        return []

    def config(self) -> dict[str, Any]:
        """What a file stores, as a dict for JSON."""
        return {"text": {"tokens": "bytes"}}


def _encoded(encode, given, name, expected):
    """What a method of a tokenizer returns. name, expected: of the argument to blame."""
    try:
        return encode(given, add_special_tokens=False)
    except Exception as error:  # the library has no narrower class for unknown text without a token for it
        raise value_error(name, expected, str(error)) from error


@dataclasses.dataclass(frozen=True)
class Tokenizer(ForUsers):
    """The tokens of a tokenizer of the library `tokenizers` (extra `text`), such as GPT-2's.

    json        the tokenizer as that library writes it to tokenizer.json
    size        number of tokens: the largest one plus 1

    `Tokenizer.of` takes a tokenizer or its files."""

    _internal = frozenset({"config", "count_bytes", "encode_all", "notes_on"})

    json: str
    size: int

    @classmethod
    def of(cls, tokenizer: Any) -> "Tokenizer":
        """Of a `tokenizers.Tokenizer` (or an object of another library that has one as `backend_tokenizer`), or of a
        path: a tokenizer.json, or a folder that has one, or that has the files vocab.json and merges.txt (encoder.json
        and vocab.bpe) of byte-level BPE, as of GPT-2.

        Raises TypeError or ValueError if it is something else, and ImportError without the library."""
        if isinstance(tokenizer, str | os.PathLike):
            tokenizer = _read_tokenizer(tokenizer)
        tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not (hasattr(tokenizer, "to_str") and hasattr(tokenizer, "get_vocab")):
            expected = "'characters', 'bytes', a vocabulary of fastgd.text, a tokenizers.Tokenizer, or the path of one"
            raise type_error("tokens", expected, shown(tokenizer))
        return cls(tokenizer.to_str(), max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1)

    def __len__(self) -> int:
        """The number of tokens."""
        return self.size

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer`, without truncation and padding."""
        made = _library().Tokenizer.from_str(self.json)
        made.no_truncation()
        made.no_padding()
        return made

    def encode(self, text: str) -> Ids:
        """The tokens of a text, (n,), without those that a tokenizer may add in front or behind.

        Raises TypeError or ValueError unless it is a text that the tokenizer has tokens for."""
        expected = "a text that the tokenizer has tokens for"
        encoded = _encoded(self.tokenizer.encode, _check_text(text), "text", expected)
        return np.array(encoded.ids, dtype_of(self.size))

    def encode_all(self, texts: Iterable[str]) -> Iterable[Ids]:
        """Yields the tokens of consecutive pieces of a text, which are cut again, mostly at the ends of lines."""
        rest = ""
        for text in texts:
            pieces, rest = _cut(rest + text)
            yield self._encode_pieces(pieces)
        yield self._encode_pieces([rest])

    def _encode_pieces(self, pieces):
        expected = "a tokenizer that has tokens for all of the text"
        encoded = _encoded(self.tokenizer.encode_batch_fast, pieces, "tokens", expected)
        return np.array([i for piece in encoded for i in piece.ids], dtype_of(self.size))

    def decode(self, ids: npt.ArrayLike) -> str:
        """The text of tokens. Raises TypeError or ValueError unless they are integers in [0, number of tokens)."""
        text: str = self.tokenizer.decode(_check_ids(ids, self.size).tolist(), skip_special_tokens=False)
        return text

    def count_bytes(self, ids: Ids) -> int:
        """The length of the text of tokens in UTF-8, in bytes; characters that it cuts may count twice."""
        return sum(len(self.decode(block).encode()) for block in _blocks(ids, DECODED))

    def notes_on(self, ids: Ids) -> list[str]:
        """What a user may want to know of tokens: how many stand for what the tokenizer does not know."""
        name = json.loads(self.json)["model"].get("unk_token")
        unknown = None if name is None else self.tokenizer.token_to_id(name)
        share = 0.0 if unknown is None else float(np.count_nonzero(ids == unknown) / max(1, len(ids)))
        return [f"{share:.2%} of the tokens are {name}, whose text is lost: bits a byte are too low"] if share else []

    def config(self) -> dict[str, Any]:
        """What a file stores, as a dict for JSON."""
        return {"text": {"tokens": "tokenizer", "json": self.json, "size": self.size}}

    def __repr__(self) -> str:
        return f"Tokenizer({self.size})"


Vocabulary: TypeAlias = Characters | Bytes | Tokenizer


def _blocks(ids, size=2**20):
    """Parts of an array, so that what is made of one takes little memory."""
    return (ids[start : start + size] for start in range(0, len(ids), size))


def _cut(text):
    """Cuts a text into pieces for a tokenizer; returns (pieces, rest). The cuts depend on the text alone, not on how it
    came in parts."""
    pieces, start = [], 0
    while len(text) - start > 2 * PIECE:
        low, high = start + PIECE, start + 2 * PIECE
        found = LINE_END.search(text, low, high) or WORD_END.search(text, low, high)
        end = found.end() if found else low
        pieces.append(text[start:end])
        start = end
    return pieces, text[start:]


def _library():
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError("tokenizers need the library of that name: pip install 'fastgd[text]'") from error
    return tokenizers


def _read_tokenizer(path):
    """The tokenizer in a file or folder."""
    library, folder = _library(), os.fsdecode(path)
    if os.path.isdir(folder):
        names = os.listdir(folder)
        pair = next((pair for pair in BPE_FILES if set(pair) <= set(names)), None)
        if "tokenizer.json" not in names and pair is None:
            expected = "a folder with tokenizer.json, or with vocab.json and merges.txt"
            raise value_error("tokens", expected, f"{folder!r} with {shown(sorted(names))}")
        path = os.path.join(folder, "tokenizer.json")
        if "tokenizer.json" not in names:
            return _byte_level_bpe(library, *(os.path.join(folder, name) for name in pair))
    path = as_path(path, "tokens")
    try:
        with open(path, encoding="utf-8") as file:
            return library.Tokenizer.from_str(file.read())
    except OSError:
        raise
    except Exception as error:  # the library raises Exception itself
        raise value_error("tokens", "a tokenizer.json of the library tokenizers", f"{path!r}: {error}") from None


def _byte_level_bpe(library, vocabulary, merges):
    try:
        made = library.Tokenizer(library.models.BPE.from_file(vocabulary, merges))
        with open(vocabulary, encoding="utf-8") as file:
            known = json.load(file)
    except Exception as error:
        raise value_error("tokens", "the files of a byte-level BPE tokenizer", f"{vocabulary!r}: {error}") from None
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    made.add_special_tokens([token for token in known if re.fullmatch(r"<\|\w+\|>", token)])
    return made


def as_vocabulary(tokens: "str | Path | Vocabulary | Any") -> Vocabulary | None:
    """The vocabulary that an argument `tokens` names; None for "characters", which a text decides on."""
    if isinstance(tokens, Characters | Bytes | Tokenizer):
        return tokens
    if tokens == "characters" or tokens == "bytes":
        return Bytes() if tokens == "bytes" else None
    if isinstance(tokens, str) and not (os.path.exists(tokens) or tokens.endswith(".json")):
        choose("tokens", tokens, dict.fromkeys(("characters", "bytes", "a tokenizer.json", "its folder")))
    return Tokenizer.of(tokens)


def from_config(config: dict[str, Any]) -> Vocabulary:
    """The vocabulary of a `config`. Raises TypeError, ValueError or KeyError if that is not valid."""
    text = config["text"]
    kind = choose("tokens", text["tokens"], {"characters": Characters, "bytes": Bytes, "tokenizer": Tokenizer})
    if kind is Characters:
        return Characters(text["characters"])
    if kind is Bytes:
        return Bytes()
    return Tokenizer(_check_text(text["json"]), check_integer("size", text["size"], 1))
