"""IDX files, the format of MNIST: big-endian sizes, then bytes; gzipped or not."""

import math
import os
import re
import zlib

import numpy as np

from ..tables.errors import TableError
from ..tables.files import open_file
from .errors import ImageError, Problem

NAME = re.compile(r"(ubyte|\.idx\d?)(\.gz)?$", re.IGNORECASE)
GZIP, BYTES = b"\x1f\x8b", 8  # 8 is the code of unsigned bytes
KINDS = {1: "labels", 3: "images", 4: "images with channels"}
# At most so many bytes are decompressed at a time.
BLOCK = 2**24


def is_idx(name):
    """Whether a file has the name of an IDX file."""
    return NAME.search(name) is not None


def images_in(folder, names, part):
    """The path of the file of images in a folder of IDX files. part: "train" or "test" (t10k). Raises ImageError unless
    there is exactly one."""
    found = {}
    for name in sorted(names, reverse=True):  # where there are both, the file that is not compressed
        if "images" in name.lower() and ("train" in name.lower()) == (part == "train"):
            found[name.removesuffix(".gz")] = os.path.join(folder, name)
    if len(found) != 1:
        of = "train" if part == "train" else "t10k"
        expected = f"one IDX file of images of the part {part!r}, such as {of}-images-idx3-ubyte.gz"
        raise ImageError([Problem(folder, expected, f"{', '.join(sorted(found)) or 'none'} among {sorted(names)}")])
    return next(iter(found.values()))


def labels_beside(path):
    """The path of the file of labels for a file of images, or None if there is none."""
    folder, name = os.path.split(path)
    stem = name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    paths = [] if stem == name.removesuffix(".gz") else [os.path.join(folder, stem + end) for end in ("", ".gz")]
    return next(filter(os.path.exists, paths), None)


def read_images(path):
    """The images of an IDX file, bytes (n, height, width, channels)."""
    pixels = _read(path, (3, 4))
    if 0 in pixels.shape:
        raise ImageError([Problem(path, "at least 1 image of at least 1 pixel", f"an array of shape {pixels.shape}")])
    if pixels.ndim == 3:
        pixels = pixels[..., np.newaxis]
    if pixels.shape[-1] not in (1, 3):
        raise ImageError([Problem(path, "1 or 3 channels, in the last axis", f"an array of shape {pixels.shape}")])
    return pixels


def read_labels(path):
    """The labels of an IDX file, bytes (n,)."""
    return _read(path, (1,))


def _read(path, dimensions):
    """The array of an IDX file that has one of these numbers of dimensions. Raises ImageError."""
    import gzip  # slow

    whole = f"an IDX file of {KINDS[dimensions[0]]}"
    try:
        with open_file(path) as raw:
            is_compressed = raw.peek(2)[:2] == GZIP
            with gzip.GzipFile(fileobj=raw) if is_compressed else raw as file:
                shape = _shape(path, file, dimensions, whole)
                size = math.prod(shape)
                data = _at_most(file, size + 1)
    except TableError as error:  # a folder, a pipe
        raise ImageError([Problem(path, str(error.expected), str(error.got))]) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ImageError([Problem(path, f"{whole}, complete", f"damaged gzip data ({error})")]) from error
    if len(data) != size:
        expected = f"{size:,} bytes, as the header says: {'x'.join(map(str, shape))}"
        got = f"{len(data):,} bytes: the file is truncated" if len(data) < size else "more bytes"
        raise ImageError([Problem(path, expected, got)])
    return np.frombuffer(data, np.uint8).reshape(shape)


def _at_most(file, size):
    """The next `size` bytes, or all that there are: the header may lie."""
    data = bytearray()
    while len(data) < size:
        block = file.read(min(BLOCK, size - len(data)))
        if not block:
            break
        data += block
    return data


def _shape(path, file, dimensions, whole):
    """Reads and checks the header; returns the shape."""
    start = file.read(4)
    wanted = " or ".join(f"0x0000{BYTES:02x}{n:02x}" for n in dimensions)
    kind = start[3] if len(start) == 4 and start[:3] == bytes((0, 0, BYTES)) else None
    if kind not in dimensions:
        got = f"0x{start.hex()}{f', {KINDS[kind]}' if kind in KINDS else ''}" if start else "an empty file"
        raise ImageError([Problem(path, f"{whole} (first bytes {wanted})", got)])
    sizes = file.read(4 * kind)
    if len(sizes) < 4 * kind:
        raise ImageError([Problem(path, f"{whole} with {kind} sizes", f"{len(sizes)} bytes of sizes")])
    return tuple(np.frombuffer(sizes, ">u4").tolist())
