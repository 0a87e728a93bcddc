"""Products of matrices as numpy bodies call them; loops that Numba compiles get those of jit_gemm.py in their place."""

import numpy as np


def add_product(c, a, b):
    """c <- c + a b, the rows of c contiguous. Compiled loops get that of jit_gemm.py."""
    c += a @ b


# Terms of a sum over rows that are added up one after the other in float32: where they are alike, the sum is right to
# 8e-7. Such sums are added up by themselves, and those of so many rows in float64. (src_cython/simd.h has the first,
# too; gemm.pxi has one more level between them.)
SUM_TERMS, SUM_ROWS = 48, 8 * 48


def product_over_rows(c, a, b):
    """c <- a b, where b may have millions of rows. Compiled loops get that of jit_gemm.py."""
    total = None
    for start in range(0, len(b), SUM_ROWS):
        c.fill(0)
        for p in range(start, min(start + SUM_ROWS, len(b)), SUM_TERMS):
            c += a[:, p : p + SUM_TERMS] @ b[p : p + SUM_TERMS]
        if len(b) > SUM_ROWS:
            total = c.astype(np.float64) if total is None else total + c
    if total is not None:
        c[...] = total
