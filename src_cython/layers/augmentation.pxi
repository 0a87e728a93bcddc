# Bodies of fastgd/layers/augmentation.py.

cdef struct RandomFlip:
    real *y
    const real *x
    const int64_t *row
    int64_t rows, h, w, c
    double horizontal, vertical, key, step


cdef inline void mirror(real *y, const real *x, int64_t w, int64_t c) noexcept nogil:
    """The pixels of a row, from last to first."""
    cdef int64_t v, k
    if c == 1:
        for v in range(w):
            y[v] = x[w - 1 - v]
    elif c == 3:            # a constant, so that the compiler leaves no loop
        for v in range(w):
            for k in range(3):
                y[3 * v + k] = x[3 * (w - 1 - v) + k]
    else:
        for v in range(w):
            for k in range(c):
                y[v * c + k] = x[(w - 1 - v) * c + k]


cdef void random_flip(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const RandomFlip *a = <const RandomFlip *>args
    cdef uint64_t start = mixed(whole(a.key) + whole(a.step) * GOLDEN_64), hashed
    cdef int64_t n = a.w * a.c, i, u
    cdef bint mirrors_columns, mirrors_rows
    cdef const real *x
    cdef real *y
    for i in range(begin, end):
        hashed = mixed(start + <uint64_t>a.row[i] * GOLDEN_64)
        mirrors_columns = <uint32_t>hashed < a.horizontal * 4294967296.0
        mirrors_rows = <uint32_t>(hashed >> 32) < a.vertical * 4294967296.0
        for u in range(a.h):
            y = a.y + (i * a.h + u) * n
            x = a.x + (i * a.h + (a.h - 1 - u if mirrors_rows else u)) * n
            if mirrors_columns:
                mirror(y, x, a.w, a.c)
            else:
                memcpy(y, x, n * sizeof(real))

register("random_flip", random_flip, sizeof(RandomFlip))


cdef struct RandomCrop:
    real *y
    const real *x
    const int64_t *row
    int64_t rows, h, w, c
    double down, across, key, step, direction


cdef inline int64_t shift_of(uint32_t half, double padding, int64_t size) noexcept nogil:
    """The shift that 32 random bits choose: an integer in [-padding, padding]."""
    cdef int64_t most = 0
    if padding > 0:
        most = <int64_t>padding if padding < size else size
    return <int64_t>(<uint64_t>half * <uint64_t>(2 * most + 1) >> 32) - most


cdef void random_crop(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const RandomCrop *a = <const RandomCrop *>args
    cdef uint64_t start = mixed(whole(a.key) + whole(a.step) * GOLDEN_64), hashed
    cdef int64_t n = a.w * a.c, i, u, s, t, v0, v1
    cdef real *y
    for i in range(begin, end):
        hashed = mixed(start + <uint64_t>a.row[i] * GOLDEN_64)
        s = shift_of(<uint32_t>hashed, a.down, a.h)
        t = shift_of(<uint32_t>(hashed >> 32), a.across, a.w)
        if a.direction < 0:
            s, t = -s, -t
        v0 = min(a.w, max(0, -t))           # columns [v0, v1) of y are in x
        v1 = max(v0, min(a.w, a.w - t))
        for u in range(a.h):
            y = a.y + (i * a.h + u) * n
            if u + s < 0 or u + s >= a.h:
                memset(y, 0, n * sizeof(real))
                continue
            memset(y, 0, v0 * a.c * sizeof(real))
            memcpy(y + v0 * a.c, a.x + (i * a.h + u + s) * n + (v0 + t) * a.c, (v1 - v0) * a.c * sizeof(real))
            memset(y + v1 * a.c, 0, (a.w - v1) * a.c * sizeof(real))

register("random_crop", random_crop, sizeof(RandomCrop))
