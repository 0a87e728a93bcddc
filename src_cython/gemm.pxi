# C += A B for row-major C, the product under every dense layer. B is read in place where a row of it is contiguous
# and wide enough, else through a small packed panel. Each element of C has one accumulator and sums over k in
# ascending order, so its bits do not depend on how the rows or columns of C are shared out.

cdef inline void tile_rows(real *c, int64_t ldc, const real *a, int64_t a_row, int64_t a_k,
                           const real *b, int64_t ldb, int64_t rows, int64_t k) noexcept nogil:
    """c (rows, NR) += a (rows, k) b (k, NR), one row at a time: the last rows, fewer than MR."""
    cdef int64_t i, p
    cdef vec c0, c1
    cdef real s
    for i in range(rows):
        c0 = (<vec *>(c + i * ldc))[0]
        c1 = (<vec *>(c + i * ldc + LANES))[0]
        for p in range(k):
            s = a[i * a_row + p * a_k]
            c0 = c0 + s * (<vec *>(b + p * ldb))[0]
            c1 = c1 + s * (<vec *>(b + p * ldb + LANES))[0]
        (<vec *>(c + i * ldc))[0] = c0
        (<vec *>(c + i * ldc + LANES))[0] = c1


cdef inline void tile(real *c, int64_t ldc, const real *a, int64_t a_row, int64_t a_k,
                      const real *b, int64_t ldb, int64_t k) noexcept nogil:
    """c (MR, NR) += a (MR, k) b (k, NR). The accumulators are named: an array of them would spill to memory."""
    cdef vec c00 = (<vec *>(c + 0 * ldc))[0], c01 = (<vec *>(c + 0 * ldc + LANES))[0]
    cdef vec c10 = (<vec *>(c + 1 * ldc))[0], c11 = (<vec *>(c + 1 * ldc + LANES))[0]
    cdef vec c20 = (<vec *>(c + 2 * ldc))[0], c21 = (<vec *>(c + 2 * ldc + LANES))[0]
    cdef vec c30 = (<vec *>(c + 3 * ldc))[0], c31 = (<vec *>(c + 3 * ldc + LANES))[0]
    cdef vec c40 = (<vec *>(c + 4 * ldc))[0], c41 = (<vec *>(c + 4 * ldc + LANES))[0]
    cdef vec c50 = (<vec *>(c + 5 * ldc))[0], c51 = (<vec *>(c + 5 * ldc + LANES))[0]
    cdef vec b0, b1
    cdef real s
    cdef int64_t p
    for p in range(k):
        b0 = (<vec *>(b + p * ldb))[0]
        b1 = (<vec *>(b + p * ldb + LANES))[0]
        s = a[0 * a_row + p * a_k]
        c00 = c00 + s * b0
        c01 = c01 + s * b1
        s = a[1 * a_row + p * a_k]
        c10 = c10 + s * b0
        c11 = c11 + s * b1
        s = a[2 * a_row + p * a_k]
        c20 = c20 + s * b0
        c21 = c21 + s * b1
        s = a[3 * a_row + p * a_k]
        c30 = c30 + s * b0
        c31 = c31 + s * b1
        s = a[4 * a_row + p * a_k]
        c40 = c40 + s * b0
        c41 = c41 + s * b1
        s = a[5 * a_row + p * a_k]
        c50 = c50 + s * b0
        c51 = c51 + s * b1
    (<vec *>(c + 0 * ldc))[0] = c00
    (<vec *>(c + 0 * ldc + LANES))[0] = c01
    (<vec *>(c + 1 * ldc))[0] = c10
    (<vec *>(c + 1 * ldc + LANES))[0] = c11
    (<vec *>(c + 2 * ldc))[0] = c20
    (<vec *>(c + 2 * ldc + LANES))[0] = c21
    (<vec *>(c + 3 * ldc))[0] = c30
    (<vec *>(c + 3 * ldc + LANES))[0] = c31
    (<vec *>(c + 4 * ldc))[0] = c40
    (<vec *>(c + 4 * ldc + LANES))[0] = c41
    (<vec *>(c + 5 * ldc))[0] = c50
    (<vec *>(c + 5 * ldc + LANES))[0] = c51


cdef inline void pack(real *panel, const real *b, int64_t b_row, int64_t b_column,
                      int64_t k, int64_t columns) noexcept nogil:
    """panel (k, NR) <- b (k, columns), padded with zeros."""
    cdef int64_t p, j
    for p in range(k):
        for j in range(columns):
            panel[p * NR + j] = b[p * b_row + j * b_column]
        for j in range(columns, NR):
            panel[p * NR + j] = 0


cdef inline void tile_edge(real *c, int64_t ldc, const real *a, int64_t a_row, int64_t a_k, const real *panel,
                           int64_t rows, int64_t columns, int64_t k) noexcept nogil:
    """c (rows, columns) += a (rows, k) panel (k, NR): fewer than NR columns go through a scratch tile."""
    cdef real scratch[TILE]
    cdef int64_t i, j
    for i in range(rows):
        for j in range(columns):
            scratch[i * NR + j] = c[i * ldc + j]
        for j in range(columns, NR):
            scratch[i * NR + j] = 0
    if rows == MR:
        tile(scratch, NR, a, a_row, a_k, panel, NR, k)
    else:
        tile_rows(scratch, NR, a, a_row, a_k, panel, NR, rows, k)
    for i in range(rows):
        for j in range(columns):
            c[i * ldc + j] = scratch[i * NR + j]


cdef void gemm(real *c, int64_t ldc, const real *a, int64_t a_row, int64_t a_k,
               const real *b, int64_t b_row, int64_t b_column,
               int64_t m, int64_t n, int64_t k) noexcept nogil:
    """c (m, n) += a (m, k) b (k, n); a and b have any strides, so either may be a transpose."""
    cdef real panel[PANEL]
    cdef const real *right
    cdef int64_t i, j, p, row_block, column_block, depth_block, rows, columns, depth, ldb
    cdef bint in_place
    for column_block in range((n + NR - 1) // NR):
        j = column_block * NR
        columns = min(NR, n - j)
        in_place = b_column == 1 and columns == NR
        for depth_block in range((k + KC - 1) // KC):
            p = depth_block * KC
            depth = min(KC, k - p)
            if in_place:
                right = b + p * b_row + j
                ldb = b_row
            else:
                pack(panel, b + p * b_row + j * b_column, b_row, b_column, depth, columns)
                right = panel
                ldb = NR
            for row_block in range((m + MR - 1) // MR):
                i = row_block * MR
                rows = min(MR, m - i)
                if columns < NR:
                    tile_edge(c + i * ldc + j, ldc, a + i * a_row + p * a_k, a_row, a_k, right, rows, columns, depth)
                elif rows == MR:
                    tile(c + i * ldc + j, ldc, a + i * a_row + p * a_k, a_row, a_k, right, ldb, depth)
                else:
                    tile_rows(c + i * ldc + j, ldc, a + i * a_row + p * a_k, a_row, a_k, right, ldb, rows, depth)
