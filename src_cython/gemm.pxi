# C = init + A B, the product under every dense layer. A and B have any strides, so either may be a transpose.
#
# The way through it: `gemm` cuts B into panels of KC rows and NR columns, and packs a panel whose rows are not
# contiguous or lie far apart; `sweep` sends the rows of A through a panel, MR at a time; `tile` keeps MR x NR sums in
# registers. Each element of C has one sum, over k in ascending order (a later panel starts from what the one before
# stored), so its bits depend neither on tiles and panels nor on threads nor on the width of a vector.

cdef real zeros[NR]                 # the init of a product that is not added to anything

cdef struct Product:                # c <- init + a b, for a panel of columns
    real *c
    const real *init                # c itself, or with ld_init = 0 one row for all rows of c
    const real *a
    const real *b                   # rows of contiguous elements, readable to a whole vector
    const real *b_end               # the last rows of b, copied, where a whole vector would reach beyond its memory
    int64_t ldc, ld_init, a_row, a_k, ldb, k, k_end
    const real *next                # where the next panel lies, to be fetched meanwhile, or NULL
    int64_t next_row


cdef inline inlined tile(const Product *t, const int rows, const int vectors) noexcept nogil:
    """c (rows, vectors LANES) <- init + a (rows, k) b (k, vectors LANES), k > 0. Inlined with constant rows and
    vectors, so that the sums are registers."""
    cdef vec sums[TILE_VECTORS]
    cdef vec b[WIDE]
    cdef const real *at = t.a
    cdef const real *bt = t.b
    cdef int64_t a_row = t.a_row, a_k = t.a_k, ldb = t.ldb, k = t.k, p
    cdef int i, j
    assume(k > 0)
    for i in range(rows):
        for j in range(vectors):
            sums[i * vectors + j] = (<vec *>(t.init + i * t.ld_init + j * LANES))[0]
    for p in range(k):
        for j in range(vectors):
            b[j] = (<vec *>(bt + p * ldb + j * LANES))[0]
        for i in range(rows):
            for j in range(vectors):
                sums[i * vectors + j] = sums[i * vectors + j] + at[i * a_row + p * a_k] * b[j]
    for i in range(rows):
        for j in range(vectors):
            (<vec *>(t.c + i * t.ldc + j * LANES))[0] = sums[i * vectors + j]


cdef inline inlined tile_rows(const Product *t, int64_t rows, const int vectors) noexcept nogil:
    """`tile` for 1 to MR rows; what a smaller MR leaves out is never compiled."""
    if rows >= MR:
        tile(t, MR, vectors)
    elif rows == 1:
        tile(t, 1, vectors)
    elif rows == 2:
        tile(t, 2, vectors)
    elif rows == 3:
        tile(t, 3, vectors)
    elif rows == 4:
        tile(t, min(MR, 4), vectors)
    elif rows == 5:
        tile(t, min(MR, 5), vectors)
    elif rows == 6:
        tile(t, min(MR, 6), vectors)
    elif rows == 7:
        tile(t, min(MR, 7), vectors)
    elif rows == 8:
        tile(t, min(MR, 8), vectors)
    elif rows == 9:
        tile(t, min(MR, 9), vectors)
    elif rows == 10:
        tile(t, min(MR, 10), vectors)
    elif rows == 11:
        tile(t, min(MR, 11), vectors)


cdef void any_tile(const Product *t, int64_t rows, int64_t vectors) noexcept nogil:
    """`tile` for 1 to MR rows and 1 to VECTORS vectors."""
    if vectors == VECTORS:
        tile_rows(t, rows, VECTORS)
    elif vectors == 1:
        tile_rows(t, rows, 1)
    else:
        tile_rows(t, rows, 2)


cdef inline void copy_part(real *to, const real *source, int64_t n) noexcept nogil:
    """to <- n reals, fewer than NR, in pieces of constant sizes."""
    if NR > 32 and n & 32:
        memcpy(to, source, 32 * sizeof(real))
        to += 32
        source += 32
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


cdef void part_tile(const Product *t, int64_t rows, int64_t columns, int64_t vectors) noexcept nogil:
    """c (rows, columns) <- init + a b where columns fill the last vector in part: the sums start and end in scratch,
    whose lanes beyond `columns` hold whatever lies there."""
    cdef real scratch[TILE]
    cdef Product s = t[0]
    cdef int64_t i
    for i in range(rows if t.ld_init else 1):
        copy_part(scratch + i * NR, t.init + i * t.ld_init, columns)
    s.c = scratch
    s.ldc = NR
    s.init = scratch
    s.ld_init = NR if t.ld_init else 0
    if s.k:
        any_tile(&s, rows, vectors)
        s.ld_init = NR
    if s.k_end:
        s.a += s.k * s.a_k
        s.b = s.b_end
        s.ldb = NR
        s.k = s.k_end
        any_tile(&s, rows, vectors)
    for i in range(rows):
        copy_part(t.c + i * t.ldc, scratch + i * NR, columns)


cdef void sweep(Product t, int64_t m, int64_t columns) noexcept nogil:
    """c (m, columns) <- init + a b, columns at most NR."""
    cdef int64_t rows, vectors = (columns + LANES - 1) // LANES
    cdef int64_t i, ahead = 0, fetched = 0
    if t.next != NULL:
        ahead = (t.k * MR + m - 1) // m     # rows of the next panel for each MR rows of c
    while m > 0:
        rows = min(MR, m)
        for i in range(fetched, min(fetched + ahead, t.k)):
            prefetch(t.next + i * t.next_row)
            prefetch(t.next + i * t.next_row + NR - 1)
        fetched += ahead
        if columns == vectors * LANES:
            any_tile(&t, rows, vectors)
        else:
            part_tile(&t, rows, columns, vectors)
        t.c += rows * t.ldc
        t.init += rows * t.ld_init
        t.a += rows * t.a_row
        m -= rows


cdef void pack(real *panel, const real *b, int64_t b_row, int64_t b_column, int64_t k, int64_t columns) noexcept nogil:
    """panel (k, NR) <- b (k, columns), padded with zeros."""
    cdef int64_t p = 0, j = 0, i, whole = 0
    if b_column == 1 and columns == NR:
        for p in range(k):
            for j in range(NR):
                panel[p * NR + j] = b[p * b_row + j]
        return
    if b_row == 1:
        whole = k - k % BLOCK
        while j + BLOCK <= columns:
            p = 0
            while p < whole:
                transpose_block(panel + p * NR + j, NR, b + p + j * b_column, b_column)
                p += BLOCK
            j += BLOCK
    for p in range(k):
        for i in range(j if p < whole else 0, columns):
            panel[p * NR + i] = b[p * b_row + i * b_column]
        for i in range(columns, NR):
            panel[p * NR + i] = 0


cdef void gemm(real *c, int64_t ldc, const real *init, int64_t ld_init, const real *a, int64_t a_row, int64_t a_k,
               const real *b, int64_t b_row, int64_t b_column, int64_t m, int64_t n, int64_t k) noexcept nogil:
    """c (m, n) <- init + a (m, k) b (k, n); init NULL is zero."""
    cdef real panel[PANEL]
    cdef bint packed = b_column != 1 or (m >= PACK_ROWS and k * b_row >= PACK_SIZE)
    cdef int64_t depth = KC if packed else k
    cdef int64_t p = 0, j, columns, over
    cdef Product t
    while p < k:
        j = 0
        while j < n:
            columns = min(NR, n - j)
            t = Product(c=c + j, init=&zeros[0], a=a + p * a_k, b=b + p * b_row + j * b_column, b_end=&panel[0],
                        ldc=ldc, ld_init=ld_init, a_row=a_row, a_k=a_k, ldb=b_row, k=min(depth, k - p), k_end=0,
                        next=NULL, next_row=b_row)
            if init != NULL:
                t.init = init + j
            if packed:
                pack(panel, t.b, b_row, b_column, t.k, columns)
                if b_column == 1 and j + 2 * NR <= n:
                    t.next = t.b + NR
                t.b = panel
                t.ldb = NR
            elif columns % LANES:
                # How many of the last rows a whole number of vectors would read beyond the end of b.
                over = (columns + LANES - 1) // LANES * LANES - columns
                t.k_end = min(k, (over + b_row - 1) // b_row)
                t.k -= t.k_end
                pack(panel, t.b + t.k * b_row, b_row, 1, t.k_end, columns)
            sweep(t, m, columns)
            j += NR
        init = c
        ld_init = ldc
        p += depth


# Batches of one row.

cdef void gemv(real *c, const real *init, const real *a, const real *b, int64_t ldb,
               int64_t n, int64_t k) noexcept nogil:
    """c (n) <- init + a (k) b (k, n): many columns at a time, to hide the latency of a sum."""
    cdef Product t = Product(c=c, init=init, a=a, b=b, b_end=NULL, ldc=0, ld_init=0, a_row=0, a_k=1, ldb=ldb, k=k,
                             k_end=0, next=NULL, next_row=0)
    cdef real scratch[NR]
    cdef real s
    cdef int64_t columns, p, j
    while n >= LANES:
        if n >= WIDE * LANES:
            columns = WIDE * LANES
            tile(&t, 1, WIDE)
        elif n >= HALF_WIDE * LANES:
            columns = HALF_WIDE * LANES
            tile(&t, 1, HALF_WIDE)
        elif n >= 2 * LANES:
            columns = 2 * LANES
            tile(&t, 1, 2)
        else:
            columns = LANES
            tile(&t, 1, 1)
        t.c += columns
        t.init += columns
        t.b += columns
        n -= columns
    if n == 0:
        return
    # A part of a vector, as far as whole vectors may be read; the last rows element by element.
    t.k = max(0, k - (LANES - n + ldb - 1) // ldb)
    copy_part(scratch, t.init, n)
    t.init = scratch
    c = t.c
    t.c = scratch
    if t.k:
        tile(&t, 1, 1)
    for j in range(n):
        s = scratch[j]
        for p in range(t.k, k):
            s += a[p] * t.b[p * ldb + j]
        c[j] = s


cdef void outer(real *c, const real *a, const real *b, int64_t m, int64_t n) noexcept nogil:
    """c (m, n) <- a^T b, c contiguous."""
    cdef real part[NR]
    cdef vec v
    cdef int64_t whole = n - n % LANES, i, j
    if n == 1:
        for i in range(m):
            c[i] = a[i] * b[0]
        return
    if whole < n:
        # A whole vector for the last columns reaches into the next rows: these are written after it.
        copy_part(part, b + whole, n - whole)
        v = (<vec *>part)[0]
        for i in range(m):
            if (m - i) * n - whole >= LANES:
                (<vec *>(c + i * n + whole))[0] = a[i] * v
            else:
                for j in range(whole, n):
                    c[i * n + j] = a[i] * b[j]
    j = 0
    while j < whole:
        v = (<vec *>(b + j))[0]
        for i in range(m):
            (<vec *>(c + i * n + j))[0] = a[i] * v
        j += LANES


cdef inline inlined dots(real *c, const real *a, const real *b, int64_t ldb, int64_t k, const int rows) noexcept nogil:
    """c (rows) <- a (k) b^T, b (rows, k), each sum in DOT_PARTS parts whatever the width of a vector. Inlined with
    constant rows."""
    cdef vec sums[DOT_ROWS][DOT_VECTORS]
    cdef real part[DOT_PARTS]
    cdef int64_t p = 0, q
    cdef int i, j, n
    for i in range(rows):
        for j in range(DOT_VECTORS):
            sums[i][j] = (<vec *>zeros)[0]
    while p + DOT_PARTS <= k:
        for i in range(rows):
            for j in range(DOT_VECTORS):
                sums[i][j] = sums[i][j] + (<vec *>(a + p + j * LANES))[0] * (<vec *>(b + i * ldb + p + j * LANES))[0]
        p += DOT_PARTS
    for i in range(rows):
        for j in range(DOT_VECTORS):
            (<vec *>(part + j * LANES))[0] = sums[i][j]
        n = DOT_PARTS // 2
        while n > 0:
            for j in range(n):
                part[j] += part[j + n]
            n //= 2
        for q in range(p, k):
            part[0] += a[q] * b[i * ldb + q]
        c[i] = part[0]


cdef void gemv_transposed(real *c, const real *a, const real *b, int64_t ldb, int64_t n, int64_t k) noexcept nogil:
    """c (n) <- a (k) b^T, b (n, k)."""
    cdef int64_t j = 0, p
    cdef real s
    if k == 1 and ldb == 1:
        outer(c, b, a, n, 1)
        return
    if k < DOT_PARTS:
        for j in range(n):
            s = a[0] * b[j * ldb]
            for p in range(1, k):
                s += a[p] * b[j * ldb + p]
            c[j] = s
        return
    while j + DOT_ROWS <= n:
        dots(c + j, a, b + j * ldb, ldb, k, DOT_ROWS)
        j += DOT_ROWS
    while j < n:
        dots(c + j, a, b + j * ldb, ldb, k, 1)
        j += 1
