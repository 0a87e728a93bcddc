"""Kernels of layers for positions that go on with a sequence: what the earlier positions were is kept in arrays.

A row is a position, and `position` holds the number of positions before the first row."""

import math

import numpy as np

from ..core.kernel import In, InOut, Out, kernel


@kernel
def add_positions(
    y: Out("rows", "n"),
    x: In("rows", "n"),
    p: In("t", "n"),
    position: In("one", dtype="int64", domain="labels", below="t"),
):
    """y[i] <- x[i] + p[position + i]; the last row of p where it has no such row."""
    np.add(x, p[_positions(position, len(x), len(p))], out=y)


@add_positions.loop
def add_positions(y, x, p, position, begin, end):
    for i in range(begin, end):
        at = max(0, min(position[0] + i, p.shape[0] - 1))
        for j in range(x.shape[1]):
            y[i, j] = x[i, j] + p[at, j]


def _positions(position, rows, t):
    return np.clip(position[0] + np.arange(rows), 0, t - 1)


@kernel
def append_to_cache(
    keys: InOut("h", "t", "d"),
    values: InOut("h", "t", "d"),
    qkv: In("rows", "three", "h", "d"),
    position: In("one", dtype="int64", domain="labels", below="t"),
):
    """keys[:, position + i] <- k of row i, values[:, position + i] <- v of row i, wherever position + i < t."""
    first, rows = int(position[0]), min(len(qkv), keys.shape[1] - int(position[0]))
    keys[:, first : first + rows] = qkv[:rows, 1].swapaxes(0, 1)
    values[:, first : first + rows] = qkv[:rows, 2].swapaxes(0, 1)


@append_to_cache.loop
def append_to_cache(keys, values, qkv, position, begin, end):
    for i in range(begin, end):
        for u in range(qkv.shape[0]):
            if 0 <= position[0] + u < keys.shape[1]:
                for j in range(keys.shape[2]):
                    keys[i, position[0] + u, j] = qkv[u, 1, i, j]
                    values[i, position[0] + u, j] = qkv[u, 2, i, j]


@kernel(cost=lambda rows, h, d, t, **_: 4 * rows * h * d * t)
def cached_attention(
    y: Out("rows", "h", "d"),
    qkv: In("rows", "three", "h", "d"),
    keys: In("h", "t", "d"),
    values: In("h", "t", "d"),
    position: In("one", dtype="int64", domain="labels", below="t"),
):
    """For row i and each head, with q (d) from qkv and the keys and values of the positions up to position + i, as far
    as there are: y <- softmax(q keys^T / sqrt(d)) values. This is what `attention_forward` computes at that position of
    a whole sequence."""
    scale = y.dtype.type(1 / math.sqrt(y.shape[2]))
    for i, last in enumerate(_positions(position, len(y), keys.shape[1])):
        scores = np.matmul(keys[:, : last + 1], qkv[i, 0][:, :, None])[:, :, 0] * scale
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights = e / e.sum(axis=1, dtype=np.float64, keepdims=True).astype(y.dtype)
        y[i] = np.matmul(weights[:, None], values[:, : last + 1])[:, 0]


@cached_attention.loop
def cached_attention(y, qkv, keys, values, position, begin, end):
    real = y.dtype.type
    scale, weights = real(1 / math.sqrt(y.shape[2])), np.empty(keys.shape[1], y.dtype)
    for u in range(begin, end):
        seen = 1 + max(0, min(position[0] + u, keys.shape[1] - 1))
        for i in range(y.shape[1]):
            top, total = -np.inf, 0.0
            for j in range(seen):
                s = real(0)
                for d in range(y.shape[2]):
                    s += qkv[u, 0, i, d] * keys[i, j, d]
                weights[j] = s * scale
                if not weights[j] <= top:
                    top = weights[j]
            for j in range(seen):
                weights[j] = np.exp(weights[j] - top)
                total += weights[j]
            for d in range(y.shape[2]):
                y[u, i, d] = 0
            for j in range(seen):
                for d in range(y.shape[2]):
                    y[u, i, d] += weights[j] / real(total) * values[i, j, d]
