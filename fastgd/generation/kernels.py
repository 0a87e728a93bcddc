"""Kernels of generation: products of one row, of which the threads share the matrix, and the choice of the next token.

Whatever the number of threads, each reads its own consecutive rows of the matrix: half of the columns would be in half
of the lines of a cache."""

import numpy as np

from ..core.kernel import In, InOut, Out, kernel
from ..core.random import GOLDEN_64, hashes_of_rows, mixed

TWO_TO_MINUS_53 = 2.0**-53


@kernel(cost=lambda parts, n, k: 2 * n * k)
def split_k_product(y: Out("parts", "n"), x: In("k"), w: In("k", "n")):
    """y[i] <- x[s:e] w[s:e] for the i-th of `parts` ranges [s, e) of ceil(k / parts) terms, as far as there are."""
    size = -(-len(x) // len(y))
    for i in range(len(y)):
        np.matmul(x[i * size : (i + 1) * size], w[i * size : (i + 1) * size], out=y[i])


@split_k_product.loop
def split_k_product(y, x, w, begin, end):
    size = -(-x.size // y.shape[0])
    for i in range(begin, end):
        for j in range(y.shape[1]):
            y[i, j] = 0
        for u in range(i * size, min((i + 1) * size, x.size)):
            for j in range(y.shape[1]):
                y[i, j] += x[u] * w[u, j]


@kernel(cost=lambda n, parts: n * parts)
def sum_of_splits(y: Out("n"), x: In("parts", "n"), b: In("n")):
    """y <- b + the sum of the rows of x."""
    np.sum(x, axis=0, out=y)
    y += b


@sum_of_splits.loop
def sum_of_splits(y, x, b):
    for j in range(y.size):
        total = x[0, j]
        for i in range(1, x.shape[0]):
            total += x[i, j]
        y[j] = total + b[j]


@kernel(cost=lambda n, k: 2 * n * k)
def transposed_product_of_row(y: Out("n"), x: In("k"), w: In("n", "k")):
    """y <- x w^T."""
    np.matmul(w, x, out=y)


@transposed_product_of_row.loop
def transposed_product_of_row(y, x, w):
    for j in range(y.size):
        total = y.dtype.type(0)
        for i in range(x.size):
            total += x[i] * w[j, i]
        y[j] = total


@kernel
def sample_token(
    token: Out("one"),
    chosen: InOut("length", dtype="int64", domain="labels", below="m"),
    count: InOut("one", dtype="int64", domain="labels", below="length"),
    position: InOut("one", dtype="int64", domain="count"),
    p: Out("m"),
    order: Out("m", dtype="int64"),
    z: In("m"),
    tokens: float,
    temperature: float,
    top_k: float,
    top_p: float,
    key: float,
):
    """Draws the token that follows a position with the raw outputs z, one of the first `tokens`, at least 1:
    token, chosen[count] <- token,  count <- count + 1,  position <- position + 1.

    For temperature 0 it is the first of those whose output is largest. Else it is drawn with probabilities p
    proportional to exp(z / temperature), among the top_k most probable tokens (all if top_k < 1), and of these among
    the fewest, from the most probable on, whose probabilities sum to top_p. The random number is a hash of key, an
    integer, and count. -1 if z has a NaN or its maximum is not finite. top_k: Fan et al. 2018, arXiv:1805.04833. top_p:
    Holtzman et al. 2020, arXiv:1904.09751.

    p: the probabilities, 0 of tokens that are left out. order: the tokens that are not, then -1."""
    n = max(1, min(int(tokens), len(z)))
    best, k = int(np.argmax(z[:n])), int(top_k) if 1 <= top_k < n else n
    p[...], order[...] = 0, -1
    if not np.isfinite(z[best]):
        best = -1
    elif not z.dtype.type(temperature) > 0:
        p[best], order[0] = 1, best
    else:
        e, kept = np.exp((z[:n] - z[best]) / z.dtype.type(temperature)), np.arange(n)
        if k < n or top_p < 1:
            kept = np.argsort(-e, kind="stable")[:k]
        sums = np.cumsum(e[kept], dtype=np.float64)
        if top_p < 1:
            sums = sums[: 1 + np.searchsorted(sums, top_p * sums[-1])]
            kept = kept[: len(sums)]
        drawn = float(hashes_of_rows(count, key, 0)[0] >> np.uint64(11)) * TWO_TO_MINUS_53 * sums[-1]
        best = int(kept[min(np.searchsorted(sums, drawn, "right"), len(kept) - 1)])
        p[kept], order[: len(kept)] = e[kept] / z.dtype.type(sums[-1]), kept
    token[0] = chosen[count[0]] = best
    count[0] += 1
    position[0] += 1


def _draw_loop(jit, dtype):
    mix = jit(mixed)

    def loop(token, chosen, count, position, p, order, z, tokens, temperature, top_k, top_p, key):
        n, best, is_number = max(1, min(int(tokens), z.size)), 0, True
        for j in range(n):
            is_number = is_number and z[j] == z[j]
            if z[j] > z[best]:
                best = j
        p[:] = 0
        order[:] = -1
        if not (is_number and np.isfinite(z[best])):
            best = -1
        elif not dtype.type(temperature) > 0:
            p[best], order[0] = 1, best
        else:
            e, kept, left = np.exp((z[:n] - z[best]) / dtype.type(temperature)), np.arange(n), n
            if 1 <= top_k < n:
                left = int(top_k)
            if left < n or top_p < 1:
                kept = np.argsort(-e, kind="mergesort")
            sums = np.cumsum(e[kept[:left]].astype(np.float64))
            if top_p < 1:
                left = min(left, 1 + np.searchsorted(sums, top_p * sums[left - 1]))
            h = mix(mix(np.uint64(np.int64(key))) + np.uint64(count[0]) * np.uint64(GOLDEN_64))
            drawn = np.float64(h >> np.uint64(11)) * TWO_TO_MINUS_53 * sums[left - 1]
            best = kept[min(np.searchsorted(sums[:left], drawn, "right"), left - 1)]
            for i in range(left):
                p[kept[i]], order[i] = e[kept[i]] / dtype.type(sums[left - 1]), kept[i]
        token[0] = best
        if 0 <= count[0] < chosen.size:
            chosen[count[0]] = best
        count[0] += 1
        position[0] += 1

    return loop


sample_token.build_loop = _draw_loop
