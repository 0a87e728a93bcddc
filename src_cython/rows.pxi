# What rows of numbers, or one, are reduced to. The partial results of one row are always 16, whatever the width of a
# vector: the bits are the same on every instruction set. A shorter row is summed in its order.

cdef enum:
    ROW_PARTS = 16

cdef inline real sum_of_parts(real *part) noexcept nogil:
    """The sum of ROW_PARTS partial results, which are lost."""
    cdef int i
    for i in range(8):
        part[i] += part[i + 8]
    for i in range(4):
        part[i] += part[i + 4]
    return (part[0] + part[2]) + (part[1] + part[3])


cdef inline real sum_of(const real *x, int64_t n) noexcept nogil:
    """x[0] + ... + x[n - 1]."""
    cdef real part[ROW_PARTS]
    cdef real total = 0
    cdef int64_t j = 0
    cdef int i
    if n >= ROW_PARTS:
        for i in range(ROW_PARTS):
            part[i] = 0
        while j + ROW_PARTS <= n:
            for i in range(ROW_PARTS):
                part[i] += x[j + i]
            j += ROW_PARTS
        total = sum_of_parts(part)
    while j < n:
        total += x[j]
        j += 1
    return total


cdef inline real dot_of(const real *x, const real *y, int64_t n) noexcept nogil:
    """x[0] y[0] + ... + x[n - 1] y[n - 1]."""
    cdef real part[ROW_PARTS]
    cdef real total = 0
    cdef int64_t j = 0
    cdef int i
    if n >= ROW_PARTS:
        for i in range(ROW_PARTS):
            part[i] = 0
        while j + ROW_PARTS <= n:
            for i in range(ROW_PARTS):
                part[i] += x[j + i] * y[j + i]
            j += ROW_PARTS
        total = sum_of_parts(part)
    while j < n:
        total = multiply_add(x[j], y[j], total)
        j += 1
    return total


cdef inline real largest_of(const real *x, int64_t n) noexcept nogil:
    """The largest of x; NaN only if x[0] is."""
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
        for i in range(ROW_PARTS):
            top = part[i] if part[i] > top else top
    while j < n:
        top = x[j] if x[j] > top else top
        j += 1
    return top


cdef inline inlined sum_of_vectors(real *s, const real *x, int64_t ldx, int64_t m, const int vectors) noexcept nogil:
    """s (vectors LANES) <- the sum of the rows of x (m, vectors LANES). Inlined with constant vectors, so that the sums
    are registers."""
    cdef vec sums[4]
    cdef int64_t i
    cdef int j
    for j in range(vectors):
        sums[j] = (<vec *>(x + j * LANES))[0]
    for i in range(1, m):
        for j in range(vectors):
            sums[j] = sums[j] + (<vec *>(x + i * ldx + j * LANES))[0]
    for j in range(vectors):
        (<vec *>(s + j * LANES))[0] = sums[j]


cdef inline void sum_of_rows(real *s, const real *x, int64_t ldx, int64_t m, int64_t n) noexcept nogil:
    """s (n) <- the sum of the rows of x (m, n), from the first to the last."""
    cdef real sums[LANES]
    cdef int64_t i, j
    while n >= 4 * LANES:
        sum_of_vectors(s, x, ldx, m, 4)
        s += 4 * LANES
        x += 4 * LANES
        n -= 4 * LANES
    while n >= LANES:
        sum_of_vectors(s, x, ldx, m, 1)
        s += LANES
        x += LANES
        n -= LANES
    for j in range(n):
        sums[j] = x[j]
    for i in range(1, m):
        for j in range(n):
            sums[j] += x[i * ldx + j]
    for j in range(n):
        s[j] = sums[j]
