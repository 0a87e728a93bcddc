# Products for batches of one row: y <- x W, and for the gradients dx <- dy W^T and dW <- x^T dy. Layers with one unit
# use the same products transposed. Each sum has a fixed number of partial sums, whatever the width of a vector, to hide
# the latency of additions. The end of a row is done in smaller blocks, or by a last vector that overlaps the one
# before, so nothing is read beyond the end of an array.

cdef inline bint skips_zeros(const real *a, int64_t k, int64_t n) noexcept nogil:
    """Whether a (k) has so many zeros that skipping those rows of a matrix (k, n) pays. It never does for a matrix that
    fits in the L1 cache."""
    cdef bits zero = 0
    cdef int64_t p
    if k * n < FIRST_CACHE:
        return False
    for p in range(k):
        zero += a[p] == 0
    return 4 * zero > k


cdef inline int64_t list_nonzero(int64_t *rows, const real *a, int64_t k) noexcept nogil:
    """rows <- indices of the elements of a (k) that are not 0; returns their number."""
    cdef int64_t count = 0, p
    for p in range(k):
        rows[count] = p
        count += a[p] != 0
    return count


cdef inline inlined add_products(vec *sums, const real *a, const int64_t *rows, const real *b, int64_t ldb, int64_t k,
                                 const int vectors) noexcept nogil:
    """sums (SUM_PARTS, vectors) += a (k) b (k, vectors LANES), with term p in part p % SUM_PARTS. If rows is not NULL,
    it lists the k terms. Inlined with constant vectors and constant NULL."""
    cdef int64_t p = 0, q
    cdef int i, j
    while p + SUM_PARTS <= k:
        for i in range(SUM_PARTS):
            q = p + i if rows == NULL else rows[p + i]
            for j in range(vectors):
                sums[i * vectors + j] = sums[i * vectors + j] + a[q] * (<vec *>(b + q * ldb + j * LANES))[0]
        p += SUM_PARTS
    for i in range(SUM_PARTS - 1):
        if p + i < k:
            q = p + i if rows == NULL else rows[p + i]
            for j in range(vectors):
                sums[i * vectors + j] = sums[i * vectors + j] + a[q] * (<vec *>(b + q * ldb + j * LANES))[0]


cdef inline inlined gemv_columns(real *c, const real *init, const real *a, const int64_t *rows, const real *b,
                                 int64_t ldb, int64_t k, const int vectors) noexcept nogil:
    """c (vectors LANES) <- init + a (k) b. Inlined with constant vectors and constant NULL."""
    cdef vec sums[SUM_PARTS * GEMV_VECTORS]
    cdef int i
    for i in range(vectors):
        sums[i] = (<vec *>(init + i * LANES))[0]
    for i in range(vectors, SUM_PARTS * vectors):
        sums[i] = (<vec *>zeros)[0]
    add_products(sums, a, rows, b, ldb, k, vectors)
    for i in range(vectors):
        (<vec *>(c + i * LANES))[0] = (sums[i] + sums[i + 2 * vectors]) + (sums[i + vectors] + sums[i + 3 * vectors])


cdef inline inlined gemv_blocks(real *c, const real *init, const real *a, const int64_t *rows, const real *b,
                                int64_t ldb, int64_t k, int64_t n, const int blocks) noexcept nogil:
    """`gemv_columns` for n columns in blocks. The last block may overlap the one before it, or begin before c; columns
    that are done already are not stored again. Inlined with constant blocks."""
    cdef block sums[SUM_PARTS * BLOCKS]
    cdef real last[BLOCK]
    cdef int64_t p = 0, q, at
    cdef int i, j
    for j in range(blocks):
        at = j * BLOCK if j < blocks - 1 else n - BLOCK
        sums[j] = (<block *>(init + at))[0]
    for i in range(blocks, SUM_PARTS * blocks):
        sums[i] = (<block *>zeros)[0]
    while p < k:
        for i in range(SUM_PARTS):
            if p + i < k:
                q = p + i if rows == NULL else rows[p + i]
                for j in range(blocks):
                    at = j * BLOCK if j < blocks - 1 else n - BLOCK
                    sums[i * blocks + j] = sums[i * blocks + j] + a[q] * (<block *>(b + q * ldb + at))[0]
        p += SUM_PARTS
    for j in range(blocks):
        (<block *>last)[0] = (sums[j] + sums[j + 2 * blocks]) + (sums[j + blocks] + sums[j + 3 * blocks])
        if j < blocks - 1:
            (<block *>(c + j * BLOCK))[0] = (<block *>last)[0]
    copy_part(c + (blocks - 1) * BLOCK, last + blocks * BLOCK - n, n - (blocks - 1) * BLOCK)


cdef inline inlined gemv_column(real *c, real init, const real *a, const int64_t *rows, const real *b, int64_t ldb,
                                int64_t k) noexcept nogil:
    """`gemv_columns` for one column."""
    cdef real sums[SUM_PARTS]
    cdef int64_t p = 0, q
    cdef int i
    sums[0] = init
    for i in range(1, SUM_PARTS):
        sums[i] = 0
    while p + SUM_PARTS <= k:
        for i in range(SUM_PARTS):
            q = p + i if rows == NULL else rows[p + i]
            sums[i] = multiply_add(a[q], b[q * ldb], sums[i])
        p += SUM_PARTS
    for i in range(SUM_PARTS - 1):
        if p + i < k:
            q = p + i if rows == NULL else rows[p + i]
            sums[i] = multiply_add(a[q], b[q * ldb], sums[i])
    c[0] = (sums[0] + sums[2]) + (sums[1] + sums[3])


cdef inline inlined gemv_rows(real *c, const real *init, const real *a, const int64_t *rows, const real *b,
                              int64_t ldb, int64_t n, int64_t k) noexcept nogil:
    """`gemv`; if rows is not NULL, it lists the k terms. Inlined with constant NULL."""
    cdef int64_t j = 0
    while j + GEMV_VECTORS * LANES <= n:
        gemv_columns(c + j, init + j, a, rows, b + j, ldb, k, GEMV_VECTORS)
        j += GEMV_VECTORS * LANES
    while GEMV_VECTORS > 2 and j + 2 * LANES <= n:
        gemv_columns(c + j, init + j, a, rows, b + j, ldb, k, 2)
        j += 2 * LANES
    while j + LANES <= n:
        gemv_columns(c + j, init + j, a, rows, b + j, ldb, k, 1)
        j += LANES
    if n < BLOCK:
        while j < n:
            gemv_column(c + j, init[j], a, rows, b + j, ldb, k)
            j += 1
    elif n - j > 3 * BLOCK:
        gemv_blocks(c + j, init + j, a, rows, b + j, ldb, k, n - j, min(BLOCKS, 4))
    elif n - j > 2 * BLOCK:
        gemv_blocks(c + j, init + j, a, rows, b + j, ldb, k, n - j, min(BLOCKS, 3))
    elif n - j > BLOCK:
        gemv_blocks(c + j, init + j, a, rows, b + j, ldb, k, n - j, min(BLOCKS, 2))
    elif n > j:
        gemv_blocks(c + j, init + j, a, rows, b + j, ldb, k, n - j, 1)


cdef void gemv(real *c, const real *init, const real *a, const real *b, int64_t ldb, int64_t n,
               int64_t k) noexcept nogil:
    """c (n) <- init + a (k) b (k, n)."""
    cdef int64_t rows[LISTED]
    cdef int64_t p = 0
    if not skips_zeros(a, k, n):
        gemv_rows(c, init, a, NULL, b, ldb, n, k)
        return
    while p < k:
        gemv_rows(c, c if p else init, a + p, rows, b + p * ldb, ldb, n,
                  list_nonzero(rows, a + p, min(LISTED, k - p)))
        p += LISTED


cdef void gemv_over_rows(real *c, const real *a, const real *b, int64_t ldb, int64_t n, int64_t k) noexcept nogil:
    """c (n) <- a (k) b (k, n) for many rows of b: sums of SUM_TERMS terms in each part are added up in float64. Zeros
    are not skipped, since the part of a term must not depend on the thread's n."""
    cdef double *total = sums_under_way
    cdef real *part
    cdef int64_t i, j = 0, p, columns, width = SUMS // <int64_t>(sizeof(double) + sizeof(real))
    part = <real *>(total + width)
    while j < n:
        columns = min(width, n - j)
        for i in range(columns):
            total[i] = 0
        p = 0
        while p < k:
            for i in range(columns):
                part[i] = 0
            gemv_rows(part, part, a + p, NULL, b + p * ldb + j, ldb, columns, min(SUM_PARTS * SUM_TERMS, k - p))
            for i in range(columns):
                total[i] += part[i]
            p += SUM_PARTS * SUM_TERMS
        for i in range(columns):
            c[j + i] = <real>total[i]
        j += columns


cdef inline inlined outer_columns(real *c, int64_t ldc, real s, const real *a, const int64_t *rows, const real *b,
                                  int64_t m, const int vectors, const bint subtract) noexcept nogil:
    """c (m, vectors LANES) <- a^T b or, to subtract, c - s (a^T b). If rows is not NULL, it lists the m rows. Inlined
    with constants."""
    cdef vec v[OUTER_VECTORS]
    cdef vec *at
    cdef int64_t i, q
    cdef int j
    for j in range(vectors):
        v[j] = (<vec *>(b + j * LANES))[0]
    for i in range(m):
        q = i if rows == NULL else rows[i]
        for j in range(vectors):
            at = <vec *>(c + q * ldc + j * LANES)
            if subtract:
                at[0] = at[0] - s * (a[q] * v[j])
            else:
                at[0] = a[q] * v[j]


cdef inline inlined outer_blocks(real *c, int64_t ldc, real s, const real *a, const int64_t *rows, const real *b,
                                 int64_t m, int64_t n, const int blocks, const bint subtract) noexcept nogil:
    """`outer_columns` for n columns in blocks. The last block may overlap the one before it, or begin before c; nothing
    is subtracted twice. It is stored first, so that columns stored twice end up right, and no load waits for a store
    that covers only some of its bytes."""
    cdef block v[BLOCKS]
    cdef block u[BLOCKS]
    cdef real last[BLOCK]
    cdef int64_t i, q, at
    cdef int j
    for j in range(blocks):
        v[j] = (<block *>(b + (j * BLOCK if j < blocks - 1 else n - BLOCK)))[0]
    if subtract and n < blocks * BLOCK:
        for j in range(BLOCK):
            last[j] = 0 if n - BLOCK + j < (blocks - 1) * BLOCK else b[n - BLOCK + j]
        v[blocks - 1] = (<block *>last)[0]
    for i in range(m):
        q = i if rows == NULL else rows[i]
        for j in range(blocks):
            at = j * BLOCK if j < blocks - 1 else n - BLOCK
            u[j] = a[q] * v[j]
            if subtract:
                u[j] = (<block *>(c + q * ldc + at))[0] - s * u[j]
        (<block *>(c + q * ldc + n - BLOCK))[0] = u[blocks - 1]
        for j in range(blocks - 1):
            (<block *>(c + q * ldc + j * BLOCK))[0] = u[j]


cdef inline inlined outer_rows(real *c, int64_t ldc, real s, const real *a, const int64_t *rows, const real *b,
                               int64_t m, int64_t n, const bint subtract) noexcept nogil:
    """`outer_columns` for n columns. Inlined with constants."""
    cdef int64_t j = 0, i, q
    while j + OUTER_VECTORS * LANES <= n:
        outer_columns(c + j, ldc, s, a, rows, b + j, m, OUTER_VECTORS, subtract)
        j += OUTER_VECTORS * LANES
    while j + LANES <= n:
        outer_columns(c + j, ldc, s, a, rows, b + j, m, 1, subtract)
        j += LANES
    if n < BLOCK:
        for i in range(m):
            q = i if rows == NULL else rows[i]
            for j in range(n):
                if subtract:
                    c[q * ldc + j] -= s * (a[q] * b[j])
                else:
                    c[q * ldc + j] = a[q] * b[j]
    elif n - j > 3 * BLOCK:
        outer_blocks(c + j, ldc, s, a, rows, b + j, m, n - j, min(BLOCKS, 4), subtract)
    elif n - j > 2 * BLOCK:
        outer_blocks(c + j, ldc, s, a, rows, b + j, m, n - j, min(BLOCKS, 3), subtract)
    elif n - j > BLOCK:
        outer_blocks(c + j, ldc, s, a, rows, b + j, m, n - j, 2, subtract)
    elif n > j:
        outer_blocks(c + j, ldc, s, a, rows, b + j, m, n - j, 1, subtract)


cdef void outer(real *c, int64_t ldc, const real *a, const real *b, int64_t m, int64_t n) noexcept nogil:
    """c (m, n) <- a^T b."""
    outer_rows(c, ldc, 0, a, NULL, b, m, n, False)


cdef void subtract_outer(real *c, int64_t ldc, real s, const real *a, const real *b, int64_t m,
                         int64_t n) noexcept nogil:
    """c (m, n) <- c - s (a^T b), where a^T b is rounded as the gradient would be."""
    cdef int64_t rows[LISTED]
    cdef int64_t i = 0
    if not skips_zeros(a, m, ldc):
        outer_rows(c, ldc, s, a, NULL, b, m, n, True)
        return
    while i < m:
        outer_rows(c + i * ldc, ldc, s, a + i, rows, b, list_nonzero(rows, a + i, min(LISTED, m - i)), n, True)
        i += LISTED


cdef inline inlined dots(real *c, const real *a, const real *last, const real *b, int64_t k, int64_t whole,
                         const int rows) noexcept nogil:
    """c (rows) <- a b^T, b (rows, k): `whole` terms, a multiple of DOT_PARTS, then the last DOT_PARTS terms from
    `last`. Inlined with constant rows, at most DOT_ROWS."""
    cdef vec sums[DOT_ROWS * DOT_VECTORS]
    cdef real totals[DOT_ROWS]
    cdef int64_t p = 0
    cdef int i, j
    for i in range(DOT_ROWS):
        for j in range(DOT_VECTORS):
            sums[i * DOT_VECTORS + j] = (<vec *>(last + j * LANES))[0]
            sums[i * DOT_VECTORS + j] = sums[i * DOT_VECTORS + j] * (
                <vec *>(b + min(i, rows - 1) * k + k - DOT_PARTS + j * LANES))[0]
    while p < whole:
        for i in range(rows):
            for j in range(DOT_VECTORS):
                sums[i * DOT_VECTORS + j] = sums[i * DOT_VECTORS + j] + (
                    <vec *>(a + p + j * LANES))[0] * (<vec *>(b + i * k + p + j * LANES))[0]
        p += DOT_PARTS
    sum_parts(totals, sums)
    for i in range(rows):
        c[i] = totals[i]


cdef inline void short_dots(real *c, const real *a, const real *b, int64_t n, int64_t k) noexcept nogil:
    """`gemv_transposed` for k < DOT_PARTS: blocks of b are transposed, so that BLOCK rows make one vector."""
    cdef real columns[BLOCK * BLOCK]
    cdef real last[BLOCK]
    cdef block sums[BLOCK]
    cdef int64_t i = 0, j
    cdef int q
    if k >= BLOCK:
        for q in range(BLOCK):      # the last block of columns may overlap the one before; no term is added twice
            last[q] = 0 if k % BLOCK and q < BLOCK - k % BLOCK else a[k - BLOCK + q]
        while i + BLOCK <= n:
            for q in range(BLOCK):
                sums[q] = (<block *>zeros)[0]
            j = 0
            while j + BLOCK < k:
                transpose_block(columns, BLOCK, b + i * k + j, k)
                for q in range(BLOCK):
                    sums[q] = sums[q] + a[j + q] * (<block *>(columns + q * BLOCK))[0]
                j += BLOCK
            transpose_block(columns, BLOCK, b + (i + 1) * k - BLOCK, k)
            for q in range(BLOCK):
                sums[q] = sums[q] + last[q] * (<block *>(columns + q * BLOCK))[0]
            for q in range(1, BLOCK):
                sums[0] = sums[0] + sums[q]
            (<block *>(c + i))[0] = sums[0]
            i += BLOCK
    while i < n:
        c[i] = 0
        for j in range(k):
            c[i] = multiply_add(a[j], b[i * k + j], c[i])
        i += 1


cdef void gemv_transposed(real *c, const real *a, const real *b, int64_t n, int64_t k) noexcept nogil:
    """c (n) <- a (k) b^T, b (n, k)."""
    cdef real part[DOT_PARTS]
    cdef const real *last
    cdef int64_t i = 0, whole = (k - 1) // DOT_PARTS * DOT_PARTS
    if k < DOT_PARTS:
        short_dots(c, a, b, n, k)
        return
    last = a + k - DOT_PARTS
    if k % DOT_PARTS:               # they overlap the terms before; no term is added twice
        for i in range(DOT_PARTS):
            part[i] = 0 if k - DOT_PARTS + i < whole else last[i]
        last = part
    i = 0
    while i + DOT_ROWS <= n:
        dots(c + i, a, last, b + i * k, k, whole, DOT_ROWS)
        i += DOT_ROWS
    while i < n:
        dots(c + i, a, last, b + i * k, k, whole, 1)
        i += 1
