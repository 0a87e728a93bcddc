"""Memory for the arrays that kernels work on."""

import numpy as np

LINE, PAGE, FIRST_CACHE = 64, 4096, 32768


def aligned_zeros(sizes, dtype, eighth=None, like=None):
    """One allocation and, within it, arrays of the given sizes, each beginning a cache line (but see `like`).

    With an `eighth`, those larger than half a page begin an eighth of a page after one another, the first of them so
    many eighths into a page: a processor tells by the place within a page, and by few other bits, whether a load must
    wait for an earlier store, so that arrays walked side by side would wait for each other if they lay alike. `like` is
    an array that they are walked along with: eighths are counted from its place in a page, and if it is larger than
    the first cache, they begin with the same element of a line.
    """
    itemsize = np.dtype(dtype).itemsize
    starts, end, unit = [], 0, LINE
    for size in sizes:
        start = -(-end // LINE) * LINE
        if eighth is not None and size * itemsize > PAGE // 2:
            start += (eighth % 8 * (PAGE // 8) - start) % PAGE
            eighth, unit = eighth + 1, PAGE
        starts.append(start)
        end = start + size * itemsize
    lead = 0 if like is None else like.ctypes.data % unit // LINE * LINE
    if like is not None and like.nbytes > FIRST_CACHE:
        lead += like.ctypes.data % LINE // like.itemsize * itemsize
    raw = np.zeros(end + unit + lead, np.uint8)
    shift = -raw.ctypes.data % unit + lead
    block = raw[shift : shift + end].view(dtype)
    return block, [block[start // itemsize :][:size] for start, size in zip(starts, sizes, strict=True)]
