# Bodies of fastgd/layers/embedding.py.

cdef enum:
    LISTED_TOKENS = 65536       # tokens of a share whose rows are listed at a time ...
    LISTED_ROWS = 131072        # ... and rows that are looked through at a time, on any instruction set
    EMBEDDING_COLUMNS = 256     # columns whose float64 sums are kept at a time


cdef struct EmbeddingForward:
    real *y
    const real *tokens
    const real *w
    int64_t rows, n, m


cdef void embedding_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const EmbeddingForward *a = <const EmbeddingForward *>args
    cdef int64_t i, j, token
    for i in range(begin, end):
        token = token_of(a.tokens[i], 0, a.m)
        if token >= 0:
            memcpy(a.y + i * a.n, a.w + token * a.n, a.n * sizeof(real))
        else:
            for j in range(a.n):
                a.y[i * a.n + j] = <real>NAN

register("embedding_forward", embedding_forward, sizeof(EmbeddingForward))


cdef struct EmbeddingBackward:
    real *dw
    const real *tokens
    const real *dy
    int64_t m, n, rows


cdef inline void add_listed_rows(real *dw, const real *dy, int64_t ld, int64_t i,
                                 const int32_t *following) noexcept nogil:
    """dw (ld) <- dw + the sum of the rows i, following[i], ... of dy."""
    cdef double total[EMBEDDING_COLUMNS]
    cdef const real *row
    cdef int64_t n = ld, width, k, j
    while n > 0:
        width = min(n, <int64_t>EMBEDDING_COLUMNS)
        for j in range(width):
            total[j] = 0
        k = i
        while k >= 0:
            row = dy + k * ld
            for j in range(width):
                total[j] += row[j]
            k = following[k]
        for j in range(width):
            dw[j] += <real>total[j]
        dw += width
        dy += width
        n -= width


cdef void embedding_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    """Lists the rows of each token of the share in ascending order: a first row, and the row that follows each."""
    cdef const EmbeddingBackward *a = <const EmbeddingBackward *>args
    cdef int32_t *first = <int32_t *>packed_a
    cdef int32_t *following = first + LISTED_TOKENS
    cdef int64_t m, rows, start, i, token
    cdef const real *tokens
    while begin < end:
        m = min(end - begin, <int64_t>LISTED_TOKENS)
        start = 0
        while start < a.rows:
            rows = min(a.rows - start, <int64_t>LISTED_ROWS)
            tokens = a.tokens + start
            for i in range(m):
                first[i] = -1
            for i in range(rows - 1, -1, -1):
                token = token_of(tokens[i], begin, begin + m)
                if token >= 0:
                    following[i] = first[token - begin]
                    first[token - begin] = <int32_t>i
            for i in range(m):
                if first[i] >= 0:
                    add_listed_rows(a.dw + (begin + i) * a.n, a.dy + start * a.n, a.n, first[i], following)
            start += rows
        begin += m

register("embedding_backward", embedding_backward, sizeof(EmbeddingBackward))


cdef struct PositionsForward:
    real *y
    const real *x
    const real *p
    int64_t rows, t, n


cdef void positions_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const PositionsForward *a = <const PositionsForward *>args
    cdef int64_t size = a.t * a.n, i, j
    for i in range(begin, end):
        for j in range(size):
            a.y[i * size + j] = a.x[i * size + j] + a.p[j]

register("positions_forward", positions_forward, sizeof(PositionsForward))


cdef struct PositionsBackward:
    real *dp
    const real *dy
    int64_t t, n, rows


cdef void positions_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const PositionsBackward *a = <const PositionsBackward *>args
    sum_of_rows(a.dp + begin * a.n, a.dy + begin * a.n, a.t * a.n, a.rows, (end - begin) * a.n)

register("positions_backward", positions_backward, sizeof(PositionsBackward))
