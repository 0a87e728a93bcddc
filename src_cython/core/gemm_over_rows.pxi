# C = A^T B, the gradient of a dense layer's weights: sums over the rows of a minibatch.
#
# There may be millions of rows, and a single sum of similar terms would lose digits. `gemm_over_rows` therefore has
# sums of SUM_TERMS terms, sums of those within a panel, sums over panels of up to SUM_ROWS rows, and sums of these in
# float64.

cdef inline int64_t vectors_of(int64_t n) noexcept nogil:
    return (n + LANES - 1) // LANES


cdef inline int64_t whole_columns(int64_t m, int64_t n, int64_t k) noexcept nogil:
    """Of the n columns of a^T b, those that are computed as rows of vectors: all, or without the rest of the last tile
    if its transpose wastes so much fewer lanes that it is worth transposing the result."""
    cdef int64_t rest = n % NR
    return n - rest if (vectors_of(rest) * m - vectors_of(m) * rest) * k > m * rest else n


cdef void gemm_transposed(real *c, int64_t ldc, const real *a, int64_t lda, const real *b, int64_t ldb, int64_t m,
                          int64_t n, int64_t k) noexcept nogil:
    """c (m, n) <- a^T b for n <= MOST_TRANSPOSED, by b^T a. The strips are of about equal length, and their rows not a
    multiple of a page apart."""
    cdef real *strip = <real *>sums_under_way
    cdef int64_t most = SUMS // (max(n, <int64_t>NR) * <int64_t>sizeof(real)) // LINE * LINE - LINE
    cdef int64_t strips = (m + most - 1) // most, length = ((m + strips - 1) // strips + LINE - 1) // LINE * LINE, rows
    while m > 0:
        rows = min(m, length)
        gemm(strip, length + LINE, NULL, 0, b, 1, ldb, a, lda, 1, n, rows, k, SUM_TERMS if k > SUM_TERMS else 0)
        transpose(c, ldc, strip, length + LINE, rows, n)
        c += rows * ldc
        a += rows
        m -= rows


cdef void gemm_over_rows(real *c, int64_t ldc, const real *a, int64_t lda, const real *b, int64_t ldb, int64_t m,
                         int64_t n, int64_t k) noexcept nogil:
    """c (m, n) <- a^T b for a (k, m), b (k, n) with many rows."""
    cdef double *total = sums_under_way
    cdef real *part
    cdef int64_t i = 0, j, p, r, q, rows, columns, width = min(n, 512)
    cdef int64_t strip = SUMS // (width * <int64_t>(sizeof(double) + sizeof(real)))
    if k <= SUM_ROWS:
        # Of two operands the larger one is packed as panels, meanwhile and prefetched, if it is far.
        columns = 0 if n <= MOST_TRANSPOSED and m >= 2 * n and m * k >= FAR else whole_columns(m, n, k)
        if columns:
            gemm(c, ldc, NULL, 0, a, 1, lda, b, ldb, 1, m, columns, k, SUM_TERMS if k > SUM_TERMS else 0)
        if columns < n:
            gemm_transposed(c + columns, ldc, a, lda, b + columns, ldb, m, n - columns, k)
        return
    part = <real *>(total + strip * width)
    while i < m:
        rows = min(strip, m - i)
        j = 0
        while j < n:
            columns = min(width, n - j)
            p = 0
            while p < k:
                gemm_packed(part, columns, NULL, 0, a + p * lda + i, 1, lda, b + p * ldb + j, ldb, 1, rows, columns,
                            min(SUM_ROWS, k - p), SUM_TERMS)
                for r in range(rows * columns):
                    total[r] = part[r] + (total[r] if p else 0)
                p += SUM_ROWS
            for r in range(rows):
                for q in range(columns):
                    c[(i + r) * ldc + j + q] = <real>total[r * columns + q]
            j += columns
        i += rows
