"""Memory for the arrays that kernels work on."""

import numpy as np

LINE, PAGE, FIRST_CACHE = 64, 4096, 32768


def aligned_bytes(sizes, dtype):
    """Bytes of the arrays that `aligned_zeros(sizes, dtype)` returns, from the first to the end of the last."""
    end = 0
    for size in sizes:
        end = -(-end // LINE) * LINE + size * np.dtype(dtype).itemsize
    return end


def aligned_zeros(sizes, dtype, eighth=None, like=None):
    """One allocation and, within it, arrays of the given sizes, each beginning a cache line (but see `like`).

    eighth: arrays larger than half a page begin at successive eighths of a page, the first of them at this eighth. A
        processor decides by the offset within a page (and few other bits) whether a load must wait for an earlier
        store, so arrays that are read and written together are slow if their offsets agree.
    like: an array that is used together with them. Eighths are counted from its offset within a page; if it is larger
        than the L1 cache, the arrays also begin at the same element of a cache line.
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
