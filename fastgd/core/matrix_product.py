"""Matrix products for numpy bodies. In loops that Numba compiles, jit_gemm.py replaces them."""

import numpy as np


def add_product(c, a, b):
    """c <- c + a b; the rows of c are contiguous."""
    c += a @ b


# Sums over rows have SUM_TERMS consecutive terms in float32, whose relative error is at most 8e-7 for similar terms.
# These sums are added in float32 for up to FLOAT32_ROWS rows, and the results in float64. (SUM_TERMS is also in
# src_cython/core/simd.h, where SUM_ROWS is the number of rows for the Cython body.)
SUM_TERMS, FLOAT32_ROWS = 48, 8 * 48


def product_over_rows(c, a, b):
    """c <- a b, accurate also if b has millions of rows."""
    total = None
    for start in range(0, len(b), FLOAT32_ROWS):
        c.fill(0)
        for p in range(start, min(start + FLOAT32_ROWS, len(b)), SUM_TERMS):
            c += a[:, p : p + SUM_TERMS] @ b[p : p + SUM_TERMS]
        if len(b) > FLOAT32_ROWS:
            total = c.astype(np.float64) if total is None else total + c
    if total is not None:
        c[...] = total
