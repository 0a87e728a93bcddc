# Copies of parts of matrices, for the products in gemm.pxi: panels of B, tiles of A, incomplete vectors, transposes.

cdef inline void copy_part(real *to, const real *source, int64_t n) noexcept nogil:
    """Copies n < NR reals in pieces of constant sizes."""
    if NR > 16 and n & 16:
        memcpy(to, source, 16 * sizeof(real))
        to += 16
        source += 16
    if NR > 8 and n & 8:
        memcpy(to, source, 8 * sizeof(real))
        to += 8
        source += 8
    if NR > 4 and n & 4:
        memcpy(to, source, 4 * sizeof(real))
        to += 4
        source += 4
    if n & 2:
        memcpy(to, source, 2 * sizeof(real))
        to += 2
        source += 2
    if n & 1:
        to[0] = source[0]


cdef inline inlined pack(real *panel, const int width, const real *b, int64_t b_row, int64_t b_column, int64_t k,
                         int64_t columns) noexcept nogil:
    """panel (k, width) <- b (k, columns), padded with zeros or copies. b_row or b_column must be 1. Inlined with
    constant width. May write a vector's rest beyond the end of the panel."""
    cdef int64_t p = 0, j, i
    if b_column == 1 and columns == width:
        for p in range(k):
            for j in range(width):
                panel[p * width + j] = b[p * b_row + j]
        return
    if b_row == 1 and k >= BLOCK:
        # The last lanes of a vector may belong to a later row, which is written later.
        while True:
            j = (columns - 1) // LANES * LANES
            while j >= 0:
                transpose_strip(panel + p * width + j, width, b + p + j * b_column, b_column, columns - j)
                j -= LANES
            if p + BLOCK == k:
                return
            p = min(p + BLOCK, k - BLOCK)
    for p in range(k):
        for i in range(width):
            panel[p * width + i] = 0
        if b_column == 1:
            copy_part(panel + p * width, b + p * b_row, columns)
        else:
            for i in range(columns):
                panel[p * width + i] = b[p * b_row + i * b_column]


cdef void transpose(real *to, int64_t ld_to, const real *source, int64_t ld_source, int64_t m,
                    int64_t n) noexcept nogil:
    """to (m, n) <- source (n, m) transposed."""
    cdef int64_t i = 0, j, p, q
    while i < m:
        j = 0
        while j < n:
            if m >= BLOCK and n >= BLOCK:
                p = min(i, m - BLOCK)
                q = min(j, n - BLOCK)
                transpose_block(to + p * ld_to + q, ld_to, source + q * ld_source + p, ld_source)
            else:
                for p in range(i, min(i + BLOCK, m)):
                    for q in range(j, min(j + BLOCK, n)):
                        to[p * ld_to + q] = source[q * ld_source + p]
            j += BLOCK
        i += BLOCK


cdef inline int64_t rows_of_tile(int64_t m, int64_t most) noexcept nogil:
    """Rows of the next tile, when m rows are left. The last two are about equal: few rows are slow."""
    return m if m <= most else (m + 1) // 2 if m < 2 * most else most


cdef void pack_rows(real *packed, const real *a, int64_t a_row, int64_t a_k, int64_t m, int64_t k) noexcept nogil:
    """packed (tiles, k, MR) <- a (m, k)."""
    cdef int64_t p = 0, i, rows, step = PACKED_TERMS if a_row == 1 else k
    cdef real *to
    # Where a's columns are contiguous, a cache holds few of those that are a page apart: a few at a time for all tiles.
    # In that case `pack` writes nothing beyond the `step` rows, so it cannot overwrite the next tile.
    while p < k:
        step = min(step, k - p)
        to = packed + p * MR
        i = 0
        while i < m:
            rows = rows_of_tile(m - i, MR)
            pack(to, MR, a + i * a_row + p * a_k, a_k, a_row, step, rows)
            to += MR * k
            i += rows
        p += step
