# Bodies of fastgd/layers/dropout.py.

cdef struct Dropout:
    real *y
    const real *x
    const int64_t *row
    int64_t rows, n
    double rate, key, step


cdef void dropout(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Dropout *a = <const Dropout *>args
    cdef real scale = <real>(1 / (1 - a.rate))
    cdef uint32_t least = share_of_32_bits(a.rate)
    cdef uint64_t start = mixed(whole(a.key) + whole(a.step) * GOLDEN_64), h
    cdef uint32_t low, high, z
    cdef const real *x
    cdef real *y
    cdef int64_t i
    cdef int32_t j, n = <int32_t>a.n
    for i in range(begin, end):
        h = mixed(start + <uint64_t>a.row[i] * GOLDEN_64)
        low, high = <uint32_t>h, <uint32_t>(h >> 32)
        x, y = a.x + i * a.n, a.y + i * a.n
        for j in range(n):
            z = mixed_32((low + <uint32_t>j * GOLDEN) ^ high)
            y[j] = x[j] * (scale if z >= least else 0)

register("dropout", dropout, sizeof(Dropout))

constants.update(GOLDEN_64=GOLDEN_64, MIX_64=MIX_64, LAST_MIX_64=LAST_MIX_64, LAST_MIX=LAST_MIX)
