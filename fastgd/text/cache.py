"""Files that keep the tokens of a text. They are safetensors files of one array, "tokens", which is mapped."""

import contextlib
import json
import os

import numpy as np

from ..core.files import UNFINISHED, put
from ..errors import value_error
from .vocabulary import dtype_of, from_config

# Texts of at most so many bytes are kept in memory.
IN_MEMORY = 2**30
NAME, DTYPES = "fastgd text", {"U8": np.uint8, "U16": np.uint16, "I32": np.int32}
# The header's length is a multiple of this, so that the tokens are aligned.
ALIGNED, NUMBER = 64, 20


class Cache:
    """The file that keeps the tokens of a text.

    path        where it is
    request     what its tokens depend on: the files of text, and the vocabulary asked for"""

    def __init__(self, path, paths, vocabulary):
        self.path = path
        files = [[os.path.abspath(one), os.stat(one).st_size, os.stat(one).st_mtime_ns] for one in paths]
        kind = "characters" if vocabulary is None else _digest(vocabulary)
        self.request = {"files": files, "vocabulary": kind}
        self._vocabulary = vocabulary

    def find(self):
        """(tokens, vocabulary) if the file keeps what is asked for, else None. Raises ValueError if there is a file of
        something else, which `write` must not replace."""
        if not os.path.exists(self.path):
            return None
        try:
            with open(self.path, "rb") as file:
                space = int.from_bytes(file.read(8), "little")
                if space > os.fstat(file.fileno()).st_size:
                    raise ValueError("no header")
                header = json.loads(file.read(space))
                size = os.fstat(file.fileno()).st_size - 8 - space
            content, tokens = json.loads(header["__metadata__"][NAME]), header["tokens"]
        except (ValueError, KeyError, TypeError):
            raise value_error("cache", "a new file, or one that keeps tokens", repr(self.path)) from None
        dtype, (count,) = np.dtype(DTYPES[tokens["dtype"]]), tokens["shape"]
        if content["request"] != self.request or size != count * dtype.itemsize:
            return None
        vocabulary = self._vocabulary or from_config(content["learnt"])
        return np.memmap(self.path, dtype, "r", 8 + space, (count,)), vocabulary

    def write(self, parts, vocabulary):
        """Writes the tokens, which come in parts, and returns what `find` does."""
        learnt = None if self._vocabulary else vocabulary.config()
        metadata = {NAME: json.dumps({"request": self.request, "learnt": learnt})}
        dtype, count = dtype_of(len(vocabulary)), 0
        space = len(_header(metadata, dtype, 10**NUMBER))
        space += -(space + 8) % ALIGNED
        sibling = f"{self.path}.{os.urandom(8).hex()}{UNFINISHED}"
        try:
            with open(sibling, "xb") as file:
                file.seek(8 + space)
                for part in parts:
                    file.write(part)
                    count += len(part)
                file.seek(0)
                file.write(space.to_bytes(8, "little") + _header(metadata, dtype, count).ljust(space))
                file.flush()
                os.fsync(file.fileno())
            put(sibling, self.path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError, PermissionError):  # Windows removes no open file
                os.remove(sibling)
            raise
        return np.memmap(self.path, dtype, "r", 8 + space, (count,)), vocabulary


def _digest(vocabulary):
    import hashlib  # slow

    return hashlib.sha256(json.dumps(vocabulary.config()).encode()).hexdigest()


def _header(metadata, dtype, count):
    code = next(code for code, known in DTYPES.items() if dtype == known)
    tokens = {"dtype": code, "shape": [count], "data_offsets": [0, count * dtype.itemsize]}
    return json.dumps({"__metadata__": metadata, "tokens": tokens}).encode()
