"""Memory for the arrays that kernels work on."""

import numpy as np

LINE, PAGE = 64, 4096


def aligned_zeros(sizes, dtype, quarter=None, like=None):
    """One allocation and, within it, arrays of the given sizes, each on a cache line of its own.

    With a `quarter`, those larger than a page begin a quarter of a page after one another, the first of them so many
    quarters into a page: a processor tells by the place within a page whether a load must wait for an earlier store,
    so that arrays walked side by side would wait for each other if they lay alike. `like` is an array that they are
    walked along with: they begin with the same element of a line.
    """
    itemsize = np.dtype(dtype).itemsize
    starts, end = [], 0
    for size in sizes:
        start = -(-end // LINE) * LINE
        if quarter is not None and size * itemsize > PAGE:
            start += (quarter % 4 * (PAGE // 4) - start) % PAGE
            quarter += 1
        starts.append(start)
        end = start + size * itemsize
    unit = PAGE if end > PAGE else LINE
    into_line = 0 if like is None else like.ctypes.data % LINE // like.itemsize * itemsize
    raw = np.zeros(end + unit + into_line, np.uint8)
    shift = -raw.ctypes.data % unit + into_line
    block = raw[shift : shift + end].view(dtype)
    return block, [block[start // itemsize :][:size] for start, size in zip(starts, sizes, strict=True)]
