"""Kernels on the rows of a minibatch that belong to no layer: gather, fill, copy, blocks, largest magnitudes.

Images may lie in blocks of IMAGES: element j of all images of a block side by side, then element j + 1 of all. Then
every operation on pixels works on whole vectors, whatever the number of channels. A buffer in blocks has the shape
(blocks, h, w, c, IMAGES). If the minibatch does not fill the last block, the rest of it holds arbitrary finite numbers
in the forward pass, and zeros in gradients, which therefore add nothing to sums over rows.
"""

import numpy as np

from .._plan import IMAGES
from ..core.kernel import In, InOut, Out, kernel


@kernel
def count_exceeding(count: Out("one", dtype="int64"), x: In("rows", "n"), limit: float):
    """count <- number of elements of x for which |x| <= limit is false: too large, infinite or NaN."""
    count[0] = np.count_nonzero(~(np.abs(x) <= limit))


@count_exceeding.loop
def count_exceeding(count, x, limit):
    bound = x.dtype.type(limit)
    total = 0
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            total += not abs(x[i, j]) <= bound
    count[0] = total


@kernel
def gather_rows(
    out: Out("rows", "n"), source: In("m", "n"), index: In("rows", dtype="int64", domain="labels", below="m")
):
    """out[i] <- source[index[i]]; an index out of range is clipped to the nearest valid one."""
    np.take(source, index, axis=0, out=out, mode="clip")


@gather_rows.loop
def gather_rows(out, source, index):
    for i in range(index.size):
        row = min(max(index[i], 0), source.shape[0] - 1)
        for j in range(out.shape[1]):
            out[i, j] = source[row, j]


@kernel
def gather_labels(
    out: Out("rows", "n", dtype="int64"),
    source: In("m", "n", dtype="int64"),
    index: In("rows", dtype="int64", domain="labels", below="m"),
):
    """out[i] <- source[index[i]], integer labels; an index out of range is clipped to the nearest valid one."""
    np.take(source, index, axis=0, out=out, mode="clip")


gather_labels.loop(gather_rows.loop_function)


@kernel
def fill_rows(out: Out("rows"), value: float):
    """out <- value."""
    out.fill(value)


@fill_rows.loop
def fill_rows(out, value):
    for i in range(out.size):
        out[i] = value


@kernel
def max_abs_of_rows(max_abs: Out("rows"), x: In("rows", "n")):
    """max_abs <- the largest magnitude in each row of x; NaN if the row has a NaN."""
    np.max(np.abs(x), axis=1, out=max_abs)


@max_abs_of_rows.loop
def max_abs_of_rows(max_abs, x):
    for i in range(x.shape[0]):
        top = abs(x[i, 0])
        for j in range(x.shape[1]):
            v = abs(x[i, j])
            if v > top or v != v:
                top = v
        max_abs[i] = top


@kernel
def max_abs_of_tokens(max_abs: Out("rows"), tokens: In("rows", "t", domain="tokens", below="m"), w: In("m", "n")):
    """max_abs <- the largest token in each row; NaN if one of them is not a whole number in [0, m). w: the vectors of
    the tokens."""
    valid = (tokens >= 0) & (tokens < len(w)) & (tokens == np.floor(tokens))
    np.copyto(max_abs, np.where(valid.all(axis=1), tokens.max(axis=1), np.nan))


@max_abs_of_tokens.loop
def max_abs_of_tokens(max_abs, tokens, w):
    for i in range(tokens.shape[0]):
        top = tokens[i, 0]
        valid = True
        for j in range(tokens.shape[1]):
            token = tokens[i, j]
            valid = valid and 0 <= token < w.shape[0] and token == np.floor(token)
            top = max(top, token)
        max_abs[i] = top if valid else np.nan


@kernel
def raise_max_abs_of_rows(max_abs: InOut("rows", domain="nonnegative"), x: In("rows", "n")):
    """max_abs <- the larger of max_abs >= 0 and the largest magnitude in each row of x; NaN if either is NaN."""
    np.maximum(max_abs, np.max(np.abs(x), axis=1), out=max_abs)


@raise_max_abs_of_rows.loop
def raise_max_abs_of_rows(max_abs, x):
    for i in range(x.shape[0]):
        top = max_abs[i]
        for j in range(x.shape[1]):
            v = abs(x[i, j])
            if v > top or v != v:
                top = v
        max_abs[i] = top


@kernel
def to_blocks(x: In("rows", "n"), y: Out("blocks", "n", "images", per=IMAGES), repeats: float):
    """y[i // 16, j, i % 16] <- x[i, j]. Images beyond the last row are copies of it if repeats is not 0, so that
    whatever is computed from them is as harmless as from real images; else they are 0."""
    y[...] = x[-1][:, None] if repeats else 0
    for i in range(min(IMAGES, len(x))):
        part = x[i::IMAGES]
        y[: len(part), :, i] = part


@to_blocks.loop
def to_blocks(x, y, repeats):
    rows = x.shape[0]
    for b in range(y.shape[0]):
        for j in range(y.shape[1]):
            for i in range(IMAGES):
                row = b * IMAGES + i
                y[b, j, i] = x[row, j] if row < rows else x[rows - 1, j] if repeats != 0 else 0


@kernel
def from_blocks(y: Out("rows", "n"), x: In("blocks", "n", "images", per=IMAGES)):
    """y[i, j] <- x[i // 16, j, i % 16]."""
    for i in range(min(IMAGES, len(y))):
        part = y[i::IMAGES]
        part[...] = x[: len(part), :, i]


@from_blocks.loop
def from_blocks(y, x):
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] = x[i // IMAGES, j, i % IMAGES]


@kernel
def largest_max_abs(largest: Out("one", dtype="float64"), max_abs: In("rows", domain="nonnegative")):
    """largest <- the largest of the numbers max_abs >= 0; NaN if one is NaN."""
    largest[0] = np.max(max_abs)


@largest_max_abs.loop
def largest_max_abs(largest, max_abs):
    top = 0.0
    for i in range(max_abs.size):
        v = max_abs[i]
        if v > top or v != v:
            top = v
    largest[0] = top


@kernel(elementwise=True)
def copy_rows(y: Out("rows", "n"), x: In("rows", "n")):
    """y <- x."""
    np.copyto(y, x)


@copy_rows.loop
def copy_rows(y, x):
    for i in range(y.shape[0]):
        for j in range(y.shape[1]):
            y[i, j] = x[i, j]
