# Bodies of fastgd/layers/past.py.

cdef enum:
    PAST_POSITIONS = 512        # whose scores are computed at a time


cdef struct AddPositions:
    real *y
    const real *x
    const real *p
    const int64_t *position
    int64_t rows, n, t, one


cdef void add_positions(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const AddPositions *a = <const AddPositions *>args
    cdef const real *p
    cdef int64_t i, j
    for i in range(begin, end):
        p = a.p + max(0, min(a.position[0] + i, a.t - 1)) * a.n
        for j in range(a.n):
            a.y[i * a.n + j] = a.x[i * a.n + j] + p[j]

register("add_positions", add_positions, sizeof(AddPositions))


cdef struct AppendToCache:
    real *keys
    real *values
    const real *qkv
    const int64_t *position
    int64_t h, t, d, rows, three, one


cdef void append_to_cache(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const AppendToCache *a = <const AppendToCache *>args
    cdef int64_t i, u, at, size = a.d * sizeof(real)
    cdef const real *k
    for i in range(begin, end):
        for u in range(max(0, -a.position[0]), min(a.rows, a.t - a.position[0])):
            k = a.qkv + ((3 * u + 1) * a.h + i) * a.d
            at = (i * a.t + a.position[0] + u) * a.d
            memcpy(a.keys + at, k, size)
            memcpy(a.values + at, k + a.h * a.d, size)

register("append_to_cache", append_to_cache, sizeof(AppendToCache))


cdef struct CachedAttention:
    real *y
    const real *qkv
    const real *keys
    const real *values
    const int64_t *position
    int64_t rows, h, d, three, t, one


cdef void attend(real *y, const real *q, const real *keys, const real *values, int64_t n, int64_t d,
                 real scale) noexcept nogil:
    """y (d) <- softmax(scale q keys^T) values for n keys. Sums of earlier keys are scaled when a larger score comes
    (Milakov & Gimelshein 2018, arXiv:1805.02867)."""
    cdef real weights[PAST_POSITIONS]
    cdef real top = -INFINITY, largest, factor
    cdef double total = 0
    cdef int64_t first = 0, count, j
    for j in range(d):
        y[j] = 0
    while first < n:
        count = min(n - first, <int64_t>PAST_POSITIONS)
        gemv_transposed(weights, q, keys + first * d, count, d)
        largest = largest_of(weights, count) * scale
        if not largest <= top:
            factor = exp(top - largest) if first else 0
            top = largest
            total *= factor
            for j in range(d):
                y[j] *= factor
        for j in range(count):
            weights[j] = exp(weights[j] * scale - top)
        total += sum_of(weights, count)
        gemv_rows(y, y, weights, NULL, values + first * d, d, d, count)
        first += count
    factor = <real>(1 / total)
    for j in range(d):
        y[j] *= factor


cdef void cached_attention(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const CachedAttention *a = <const CachedAttention *>args
    cdef real scale = <real>(1 / sqrt_double(<double>a.d))
    cdef int64_t u, i, head, seen
    for u in range(begin, end):
        seen = 1 + max(0, min(a.position[0] + u, a.t - 1))
        for i in range(a.h):
            head = i * a.t * a.d
            attend(a.y + (u * a.h + i) * a.d, a.qkv + (3 * u * a.h + i) * a.d, a.keys + head, a.values + head, seen,
                   a.d, scale)

register("cached_attention", cached_attention, sizeof(CachedAttention))
