# Reductions of rows of numbers. A row always has 16 partial results, whatever the width of a vector, so the bits are
# the same on every instruction set. A shorter row is summed in order.
#
# In float32 a sum of similar terms loses a digit each time it has grown tenfold. So sums have at most 32 terms, and
# these sums of blocks are added in float64. The blocks do not depend on threads or vectors.

cdef enum:
    ROW_PARTS = 16
    BLOCK_TERMS = 32                      # summed in `real`
    SUM_ELEMENTS = ROW_PARTS * BLOCK_TERMS
    SUM_COLUMNS = 512                   # columns whose float64 sums are kept at a time
    SUM_VECTORS = 4                     # vectors of a row whose sums are registers

cdef inline real sum_of_parts(real *part) noexcept nogil:
    """The sum of ROW_PARTS partial results, which it overwrites."""
    cdef int i
    for i in range(8):
        part[i] += part[i + 8]
    for i in range(4):
        part[i] += part[i + 4]
    return (part[0] + part[2]) + (part[1] + part[3])


cdef inline real sum_of_block(const real *x, int64_t n) noexcept nogil:
    """x[0] + ... + x[n - 1], n <= SUM_ELEMENTS."""
    cdef real part[ROW_PARTS]
    cdef real rest = 0
    cdef int64_t whole = n - n % ROW_PARTS, j = whole
    cdef int i
    while j < n:
        rest += x[j]
        j += 1
    if n < ROW_PARTS:
        return rest
    for i in range(ROW_PARTS):
        part[i] = 0
    j = 0
    while j < whole:
        for i in range(ROW_PARTS):
            part[i] += x[j + i]
        j += ROW_PARTS
    return sum_of_parts(part) + rest


cdef inline real sum_of(const real *x, int64_t n) noexcept nogil:
    """x[0] + ... + x[n - 1]."""
    cdef double total = 0
    if n <= SUM_ELEMENTS:
        return sum_of_block(x, n)
    while n > 0:
        total += sum_of_block(x, min(n, <int64_t>SUM_ELEMENTS))
        x += SUM_ELEMENTS
        n -= SUM_ELEMENTS
    return <real>total


cdef inline real dot_of_block(const real *x, const real *y, int64_t n) noexcept nogil:
    """x[0] y[0] + ... + x[n - 1] y[n - 1], n <= SUM_ELEMENTS."""
    cdef real part[ROW_PARTS]
    cdef real rest = 0
    cdef int64_t whole = n - n % ROW_PARTS, j = whole
    cdef int i
    while j < n:
        rest = multiply_add(x[j], y[j], rest)
        j += 1
    if n < ROW_PARTS:
        return rest
    for i in range(ROW_PARTS):
        part[i] = 0
    j = 0
    while j < whole:
        for i in range(ROW_PARTS):
            part[i] += x[j + i] * y[j + i]
        j += ROW_PARTS
    return sum_of_parts(part) + rest


cdef inline real dot_of(const real *x, const real *y, int64_t n) noexcept nogil:
    """x[0] y[0] + ... + x[n - 1] y[n - 1]."""
    cdef double total = 0
    if n <= SUM_ELEMENTS:
        return dot_of_block(x, y, n)
    while n > 0:
        total += dot_of_block(x, y, min(n, <int64_t>SUM_ELEMENTS))
        x += SUM_ELEMENTS
        y += SUM_ELEMENTS
        n -= SUM_ELEMENTS
    return <real>total


cdef inline real largest_of(const real *x, int64_t n) noexcept nogil:
    """The largest of x; any of them, or NaN, if one is NaN."""
    cdef real part[ROW_PARTS]
    cdef real top = x[0]
    cdef int64_t j = 0
    cdef int i
    if n >= ROW_PARTS:
        for i in range(ROW_PARTS):
            part[i] = x[i]
        while j + ROW_PARTS <= n:
            for i in range(ROW_PARTS):
                part[i] = x[j + i] if x[j + i] > part[i] else part[i]
            j += ROW_PARTS
        for i in range(8):
            part[i] = part[i + 8] if part[i + 8] > part[i] else part[i]
        for i in range(4):
            part[i] = part[i + 4] if part[i + 4] > part[i] else part[i]
        for i in range(4):
            top = part[i] if part[i] > top else top
    while j < n:
        top = x[j] if x[j] > top else top
        j += 1
    return top


cdef inline inlined sum_of_vectors(real *s, const real *x, const real *y, int64_t ld, int64_t m, const int vectors,
                                   const bint times) noexcept nogil:
    """s (vectors LANES) <- the sum over the rows of x (m, vectors LANES), multiplied by y if `times`. Inlined with
    constants: so the sums are registers, and every product is fused with the sum that it is added to."""
    cdef vec sums[SUM_VECTORS]
    cdef int64_t i
    cdef int j
    for j in range(vectors):
        sums[j] = (<vec *>(x + j * LANES))[0]
        if times:
            sums[j] = sums[j] * (<vec *>(y + j * LANES))[0]
    for i in range(1, m):
        for j in range(vectors):
            if times:
                sums[j] = sums[j] + (<vec *>(x + i * ld + j * LANES))[0] * (<vec *>(y + i * ld + j * LANES))[0]
            else:
                sums[j] = sums[j] + (<vec *>(x + i * ld + j * LANES))[0]
    for j in range(vectors):
        (<vec *>(s + j * LANES))[0] = sums[j]


cdef inline inlined sum_of_row_block(real *s, const real *x, const real *y, int64_t ld, int64_t m, int64_t n,
                                     const bint times) noexcept nogil:
    """`sum_of_rows_times` of up to BLOCK_TERMS rows, from the first to the last."""
    cdef real sums[LANES]
    cdef int64_t i, j
    while n >= SUM_VECTORS * LANES:
        sum_of_vectors(s, x, y, ld, m, SUM_VECTORS, times)
        s += SUM_VECTORS * LANES
        x += SUM_VECTORS * LANES
        y += SUM_VECTORS * LANES
        n -= SUM_VECTORS * LANES
    while n >= LANES:
        sum_of_vectors(s, x, y, ld, m, 1, times)
        s += LANES
        x += LANES
        y += LANES
        n -= LANES
    for j in range(n):
        sums[j] = x[j] * y[j] if times else x[j]
    for i in range(1, m):
        for j in range(n):
            if times:
                sums[j] = multiply_add(x[i * ld + j], y[i * ld + j], sums[j])
            else:
                sums[j] += x[i * ld + j]
    for j in range(n):
        s[j] = sums[j]


cdef inline inlined sum_of_rows_times(real *s, const real *x, const real *y, int64_t ld, int64_t m, int64_t n,
                                      const bint times) noexcept nogil:
    """s (n) <- the sum over the rows of x (m, n), multiplied by y if `times`: sums of blocks of BLOCK_TERMS rows
    are added in float64."""
    cdef double totals[SUM_COLUMNS]
    cdef real sums[SUM_COLUMNS]
    cdef int64_t i, j, width
    if m <= BLOCK_TERMS:
        sum_of_row_block(s, x, y, ld, m, n, times)
        return
    while n > 0:
        width = min(n, <int64_t>SUM_COLUMNS)
        for j in range(width):
            totals[j] = 0
        i = 0
        while i < m:
            sum_of_row_block(sums, x + i * ld, y + i * ld, ld, min(m - i, <int64_t>BLOCK_TERMS), width, times)
            for j in range(width):
                totals[j] += sums[j]
            i += BLOCK_TERMS
        for j in range(width):
            s[j] = <real>totals[j]
        s += width
        x += width
        y += width
        n -= width


cdef void sum_of_rows(real *s, const real *x, int64_t ld, int64_t m, int64_t n) noexcept nogil:
    """s (n) <- the sum over the rows of x (m, n)."""
    sum_of_rows_times(s, x, x, ld, m, n, False)


cdef void sum_of_products(real *s, const real *x, const real *y, int64_t ld, int64_t m, int64_t n) noexcept nogil:
    """s (n) <- the sum over the rows of x y, elementwise, for x and y (m, n)."""
    sum_of_rows_times(s, x, y, ld, m, n, True)
