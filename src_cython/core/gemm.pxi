# C = init + A B, the product under every dense layer. A and B have any strides, so either may be a transpose.
#
# `gemm` splits B into panels of NR columns. `gemm_packed` splits it into panels of KC rows and NR columns and packs
# them, for a B whose rows are not contiguous or are far apart. It splits A into blocks that stay in the L2 cache, and
# packs those whose rows or columns are far apart. `sweep` multiplies the rows of a block, MR at a time, by a panel and
# meanwhile packs the following panel, which is kept for the next blocks, and prefetches what is too large for a cache.
# `tile` keeps MR x NR sums in registers. Each element of C has one sum, over k in ascending order (a later panel starts
# from the result of the one before), so its bits do not depend on tiles, panels, threads or the width of a vector.
#
# For sums over the rows of a minibatch, gemm_over_rows.pxi asks for sums of `terms` terms, and sums of those within a
# panel.

cdef real zeros[NR]                 # the init of a product without init

cdef struct Product:                # c <- init + a b, for a panel of columns
    real *c
    const real *init                # c itself, or with ld_init = 0 one row for all rows of c
    const real *a
    const real *b                   # rows of contiguous elements, readable to a whole vector
    const real *b_end               # copy of the last rows of b, if a whole vector would read beyond its memory
    bint fetch_b, fetch_c           # whether the next rows to be packed are prefetched, and the next tile of c = init
    int64_t ldc, ld_init, a_row, a_k, a_tile, ldb, k, k_end   # a_tile: from one packed tile of a to the next, else 0
    const real *next                # what is packed next is prefetched: rows or columns from here on, `next_row` apart,
    int64_t next_row, pause         # ... PREFETCHED of them every `pause` terms of a sum
    int64_t terms                   # terms of one sum, or 0 for all. With terms, after each sum `fetched` rows ...
    int64_t fetched, fetch_last     # ... are prefetched: the line of element 0 and, of wide panels, of this element
    vec *part                       # memory for the sums so far, which the compiler must not take for registers


cdef inline inlined add_terms(vec *sums, const real **at, const real *b, int64_t ldb, int64_t step, int64_t a_row,
                              int64_t a_k, int64_t terms, const int rows, const int vectors,
                              const int ahead) noexcept nogil:
    """sums (rows, vectors) += a (rows, terms) b (terms, vectors LANES), terms > 0, where the vectors of a row of b are
    `step` apart. `at` has the address of every third row of a, from which the rows between are reached, and is moved on
    by `terms` columns. ahead: how many rows of b before their use they are prefetched, 0 for not at all."""
    cdef vec row[MOST_VECTORS]
    cdef int64_t p
    cdef int i, j
    assume(terms > 0)
    for p in range(terms):
        for j in range(vectors):
            row[j] = (<vec *>(b + j * step))[0]
        if ahead:
            for j in range((vectors * LANES + LINE - 1) // LINE):
                prefetch(b + ahead * ldb + j * LINE)
        for i in range(rows):
            for j in range(vectors):
                sums[i * vectors + j] = sums[i * vectors + j] + at[i // 3][i % 3 * a_row] * row[j]
        for i in range(0, rows, 3):
            at[i // 3] += a_k
        b += ldb


cdef inline inlined tile_at_once(const Product *t, const real **at, const int rows, const int vectors) noexcept nogil:
    """`tile` with one sum of k + k_end terms for each element."""
    cdef vec sums[TILE_VECTORS]
    cdef const real *b = t.b
    cdef const real *next = t.next
    cdef int64_t left = t.k, end = t.k_end, ldb = t.ldb, terms
    cdef int i, j
    for i in range(rows):
        for j in range(vectors):
            sums[i * vectors + j] = (<vec *>(t.init + i * t.ld_init + j * LANES))[0]
    while True:
        terms = min(left, t.pause)
        add_terms(sums, at, b, ldb, LANES, t.a_row, t.a_k, terms, rows, vectors, ROWS_AHEAD)
        left -= terms
        if left > 0:
            b += terms * ldb
            for i in range(PREFETCHED):
                prefetch(next)
                if NR > LINE:
                    prefetch(next + t.fetch_last)
                next += t.next_row
            continue
        if end == 0:
            break
        b = t.b_end
        ldb = NR
        left = end
        end = 0
    for i in range(rows):
        for j in range(vectors):
            (<vec *>(t.c + i * t.ldc + j * LANES))[0] = sums[i * vectors + j]


cdef inline inlined tile_of_sums(const Product *t, const real **at, const int rows, const int vectors) noexcept nogil:
    """`tile` with sums of t.terms terms, which are added up, then init if ld_init > 0. k_end must be 0."""
    cdef vec sums[TILE_VECTORS]
    cdef vec *part = t.part
    cdef const real *b = t.b
    cdef const real *next = t.next
    cdef int64_t left = t.k, terms, f
    cdef int i, j
    while True:
        for i in range(rows * vectors):
            sums[i] = ZERO
        terms = min(left, t.terms)
        add_terms(sums, at, b, t.ldb, LANES, t.a_row, t.a_k, terms, rows, vectors, ROWS_AHEAD)
        if left == t.k:
            for i in range(rows * vectors):
                part[i] = sums[i]
        else:
            for i in range(rows * vectors):
                part[i] = part[i] + sums[i]
        left -= terms
        if left == 0:
            break
        b += terms * t.ldb
        for f in range(t.fetched):
            prefetch(next)
            prefetch(next + t.fetch_last)
            next += t.next_row
    for i in range(rows):
        for j in range(vectors):
            if not t.ld_init:
                (<vec *>(t.c + i * t.ldc + j * LANES))[0] = part[i * vectors + j]
            else:
                (<vec *>(t.c + i * t.ldc + j * LANES))[0] = \
                    (<vec *>(t.init + i * t.ld_init + j * LANES))[0] + part[i * vectors + j]


cdef inline inlined tile(const Product *t, const int rows, const int vectors, const bint summed) noexcept nogil:
    """c (rows, vectors LANES) <- init + a (rows, k + k_end) b (k + k_end, vectors LANES), k > 0. Inlined with constant
    rows, vectors and summed (whether t.terms > 0), so that the sums are registers."""
    cdef const real *at[TILE_GROUPS]
    cdef int i
    for i in range(0, rows, 3):
        at[i // 3] = t.a + i * t.a_row
    if summed:
        tile_of_sums(t, at, rows, vectors)
    else:
        tile_at_once(t, at, rows, vectors)


cdef inline inlined tile_rows(const Product *t, int64_t rows, const int vectors, const int most,
                              const bint summed) noexcept nogil:
    """`tile` for 1 to `most` rows; cases above are not compiled."""
    if rows >= most:
        tile(t, most, vectors, summed)
    elif rows == 1:
        tile(t, 1, vectors, summed)
    elif rows == 2:
        tile(t, 2, vectors, summed)
    elif rows == 3:
        tile(t, 3, vectors, summed)
    elif rows == 4:
        tile(t, min(most, 4), vectors, summed)
    elif rows == 5:
        tile(t, min(most, 5), vectors, summed)
    elif rows == 6:
        tile(t, min(most, 6), vectors, summed)
    elif rows == 7:
        tile(t, min(most, 7), vectors, summed)
    elif rows == 8:
        tile(t, min(most, 8), vectors, summed)
    elif rows == 9:
        tile(t, min(most, 9), vectors, summed)
    elif rows == 10:
        tile(t, min(most, 10), vectors, summed)
    elif rows == 11:
        tile(t, min(most, 11), vectors, summed)


cdef inline inlined any_tile_of(const Product *t, int64_t rows, int64_t vectors, const bint summed) noexcept nogil:
    if vectors == VECTORS:
        tile_rows(t, rows, VECTORS, MR, summed)
    elif vectors == 1:
        tile_rows(t, rows, 1, NARROW_ROWS, summed)
    elif VECTORS > 2:
        tile_rows(t, rows, 2, MR, summed)


cdef void any_tile(const Product *t, int64_t rows, int64_t vectors) noexcept nogil:
    """`tile` for 1 to MR rows and 1 to VECTORS vectors, or 1 to NARROW_ROWS rows and one vector."""
    if t.terms:
        any_tile_of(t, rows, vectors, True)
    else:
        any_tile_of(t, rows, vectors, False)


cdef void part_tile(const Product *t, int64_t rows, int64_t columns, int64_t vectors) noexcept nogil:
    """c (rows, columns) <- init + a b, where columns fill only a part of the last vector. The sums start and end in
    scratch memory, where lanes beyond `columns` have arbitrary values."""
    cdef real scratch[NARROW_ROWS * NR]
    cdef Product s = t[0]
    cdef int64_t i
    for i in range(rows if t.ld_init else 1):
        copy_part(scratch + i * NR, t.init + i * t.ld_init, columns)
    s.c = scratch
    s.ldc = NR
    s.init = scratch
    s.ld_init = NR if t.ld_init else 0
    any_tile(&s, rows, vectors)
    for i in range(rows):
        copy_part(t.c + i * t.ldc, scratch + i * NR, columns)


cdef struct Panel:                  # of B, being packed
    real *to
    const real *b
    int64_t b_row, b_column, k, columns
    int64_t done                    # rows that are packed


cdef void pack_more(Panel *panel, int64_t rows) noexcept nogil:
    """Packs this many more rows."""
    cdef int64_t i = panel.done
    rows = min(rows, panel.k - i)
    pack(panel.to + i * NR, NR, panel.b + i * panel.b_row, panel.b_row, panel.b_column, rows, panel.columns)
    panel.done = i + rows


cdef void prefetch_more(Product *t, const Panel *panel, int64_t rows) noexcept nogil:
    """Prefetches what `pack_more` will pack next: contiguous rows, of which the panel before had the line they begin
    in, and columns of wide panels, a few within the next tile; else all now, but not so many that they take all
    the buffers of the L1 cache, which would delay the tile's own loads."""
    cdef const real *b = panel.b + panel.done * panel.b_row
    cdef int64_t i
    rows = min(rows, panel.k - panel.done)
    t.fetched = 0
    t.pause = t.k
    if rows <= 0:
        pass
    elif panel.b_column == 1 and t.k > t.terms > 0 and rows > MOST_PREFETCHED:
        t.next = b
        t.next_row = panel.b_row
        t.fetch_last = panel.columns - 1
        t.fetched = (rows * t.terms + t.k - t.terms - 1) // (t.k - t.terms)     # in all pauses together `rows`
    elif panel.b_column == 1 and not t.terms:
        t.next = b + panel.columns - 1
        t.next_row = panel.b_row
        t.fetch_last = -LINE
        t.pause = max(t.k * PREFETCHED // rows, LEAST_PAUSE)
    elif NR > LINE and not t.terms:
        t.next = b
        t.next_row = panel.b_column
        t.fetch_last = rows - 1
        t.pause = max(t.k * PREFETCHED // panel.columns, LEAST_PAUSE)
    elif rows > MOST_PREFETCHED:
        pass
    elif panel.b_column == 1:
        for i in range(rows):
            prefetch(b + i * panel.b_row)
            prefetch(b + i * panel.b_row + panel.columns - 1)
    else:
        for i in range(panel.columns):
            prefetch(b + i * panel.b_column)
            prefetch(b + i * panel.b_column + rows - 1)


cdef void sweep(Product *t, int64_t m, int64_t columns, Panel *following) noexcept nogil:
    """c (m, columns) <- init + a b, with at most NR columns. Meanwhile it packs the following panel, unless that is
    NULL, a few rows at a time. Changes t and following."""
    cdef int64_t i, rows, ahead = 0, vectors = (columns + LANES - 1) // LANES
    cdef int64_t most = NARROW_ROWS if vectors == 1 and not t.a_tile else MR
    cdef vec part[TILE_VECTORS]
    t.part = part
    if following != NULL:
        ahead = (following.k * MR // m // LINE + 1) * LINE
    while m > 0:
        rows = rows_of_tile(m, most)
        if t.fetch_c:
            # Without terms, a tile starts with its part of c, which is therefore prefetched during the tile before;
            # with terms, it ends with it.
            for i in range(rows if t.terms else min(rows, m - rows)):
                prefetch_to_write(t.c + (i if t.terms else rows + i) * t.ldc)
                prefetch_to_write(t.c + (i if t.terms else rows + i) * t.ldc + columns - 1)
        if following != NULL and following.done < following.k:
            pack_more(following, ahead)
            if t.fetch_b:
                prefetch_more(t, following, ahead)
        if columns == vectors * LANES:
            any_tile(t, rows, vectors)
        else:
            part_tile(t, rows, columns, vectors)
        t.c += rows * t.ldc
        t.init += rows * t.ld_init
        t.a += t.a_tile if t.a_tile else rows * t.a_row
        m -= rows
    if following != NULL and following.done < following.k:
        pack_more(following, following.k)


cdef inline Panel panel_at(real *to, const real *b, int64_t b_row, int64_t b_column, int64_t p, int64_t k,
                           int64_t j, int64_t n, int64_t unit) noexcept nogil:
    """The panel of b (k, n) from row p and column j on; empty beyond the end of b. Panels have about equal heights,
    multiples of `unit`."""
    cdef int64_t units = (k + KC - 1) // KC * unit
    return Panel(to=to, b=b + p * b_row + j * b_column, b_row=b_row, b_column=b_column,
                 k=min((k + units - 1) // units * unit, k - p), columns=min(NR, n - j), done=0)


cdef void gemm_columns(real *c, int64_t ldc, const real *init, int64_t ld_init, const real *a, int64_t a_row,
                       int64_t a_k, const real *b, int64_t b_row, int64_t b_column, int64_t m, int64_t n,
                       int64_t k, int64_t terms) noexcept nogil:
    """`gemm_packed` for at most NC columns."""
    cdef int64_t p = 0, i = 0, j = 0, next_p, next_i, next_j, rows, first = 0, unit = terms if terms else LINE
    cdef int64_t tiles = (m + MR - 1) // MR, blocks = (tiles + MC - 1) // MC
    cdef int64_t mc = (tiles + blocks - 1) // blocks * MR       # blocks of about equal height
    cdef int64_t panels = (n + NR - 1) // NR, slots = panels + 1 if blocks > 1 else 2
    cdef bint pack_a = n >= PACK_COLUMNS and (k * a_k >= PACK_SIZE if a_row == 1 else a_row >= PACK_STRIDE)
    cdef bint fetch_b = k * n >= NEAR, fetch_c = m * n >= NEAR
    cdef Panel panel = panel_at(packed_b, b, b_row, b_column, 0, k, 0, n, unit), following
    cdef int64_t size = panel.k * NR
    cdef Product t
    pack(panel.to, NR, b, b_row, b_column, panel.k, panel.columns)
    while p < k:
        rows = min(mc, m - i)
        if pack_a and j == 0:
            pack_rows(packed_a, a + i * a_row + p * a_k, a_row, a_k, rows, panel.k)
        next_p = p
        next_i = i
        next_j = j + NR
        if next_j >= n:
            next_j = 0
            next_i += mc
            if next_i >= m:
                next_i = 0
                next_p += panel.k
        if next_p > p:
            first += panels
        following = panel_at(packed_b + (first + next_j // NR) % slots * size, b, b_row, b_column, next_p, k, next_j,
                             n, unit)
        if next_i > 0:
            following.done = following.k
        t = Product(c=c + i * ldc + j, init=&zeros[0], a=a + i * a_row + p * a_k, b=panel.to, b_end=NULL, ldc=ldc,
                    ld_init=ld_init, a_row=a_row, a_k=a_k, a_tile=0, ldb=NR, k=panel.k, k_end=0, terms=terms,
                    fetch_b=fetch_b, fetch_c=fetch_c, next=NULL, next_row=0, pause=panel.k, fetched=0,
                    fetch_last=0, part=NULL)
        if p > 0:
            t.init = t.c
            t.ld_init = ldc
        elif init != NULL:
            t.init = init + i * ld_init + j
        if pack_a:
            t.a = packed_a
            t.a_row = 1
            t.a_k = MR
            t.a_tile = MR * panel.k
        sweep(&t, rows, panel.columns, &following)
        panel = following
        p = next_p
        i = next_i
        j = next_j


cdef void gemm_packed(real *c, int64_t ldc, const real *init, int64_t ld_init, const real *a, int64_t a_row,
                      int64_t a_k, const real *b, int64_t b_row, int64_t b_column, int64_t m, int64_t n,
                      int64_t k, int64_t terms) noexcept nogil:
    """`gemm` with packed panels of b, and packed blocks of a if that is large: rows that are a multiple of a page apart
    evict each other from the caches."""
    cdef int64_t j = 0
    while j < n:
        gemm_columns(c + j, ldc, NULL if init == NULL else init + j, ld_init, a, a_row, a_k, b + j * b_column, b_row,
                     b_column, m, min(NC, n - j), k, terms)
        j += NC


cdef void gemm(real *c, int64_t ldc, const real *init, int64_t ld_init, const real *a, int64_t a_row, int64_t a_k,
               const real *b, int64_t b_row, int64_t b_column, int64_t m, int64_t n, int64_t k,
               int64_t terms) noexcept nogil:
    """c (m, n) <- init + a (m, k) b (k, n), for m, n, k > 0; NULL for init is zero. terms: those of one sum; such sums
    are added up (`tile_of_sums`). 0 is one sum of k terms.

    With terms, B is packed if n is not a multiple of LINE, since otherwise the last rows of b could be summed
    separately, and if k > KC: packing starts a sum at each panel of KC rows, and whether a shorter k is packed depends
    on m, which must not show in the bits."""
    cdef real end[LANES * NR]
    cdef int64_t j = 0, columns, over
    cdef bint in_place = k * b_row < FIRST_CACHE or m < (PACK_ROWS // 2 if k * b_row > SPREAD else PACK_ROWS)
    cdef Product t
    if b_column != 1 or not in_place or (terms and (n % LINE or k > KC)):
        gemm_packed(c, ldc, init, ld_init, a, a_row, a_k, b, b_row, b_column, m, n, k, terms)
        return
    while j < n:
        columns = min(NR, n - j)
        t = Product(c=c + j, init=&zeros[0], a=a, b=b + j, b_end=&end[0], ldc=ldc, ld_init=ld_init, a_row=a_row,
                    a_k=a_k, a_tile=0, ldb=b_row, k=k, k_end=0, terms=terms, fetch_b=False, fetch_c=False, next=NULL,
                    next_row=0, pause=k, fetched=0, fetch_last=0, part=NULL)
        if init != NULL:
            t.init = init + j
        if columns % LANES:
            # The number of last rows in which whole vectors would read beyond the end of b.
            over = (columns + LANES - 1) // LANES * LANES - columns
            t.k_end = min(k, (over + b_row - 1) // b_row)
            t.k -= t.k_end
            pack(end, NR, t.b + t.k * b_row, b_row, 1, t.k_end, columns)
            if t.k == 0:
                t.b = end
                t.ldb = NR
                t.k = k
                t.k_end = 0
        sweep(&t, m, columns, NULL)
        j += NR
