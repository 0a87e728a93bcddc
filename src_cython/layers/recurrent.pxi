# Bodies of fastgd/layers/recurrent.py.

cdef struct Transposed:
    real *y
    const real *x
    int64_t n, m


cdef void transposed(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Transposed *a = <const Transposed *>args
    transpose(a.y + begin * a.m, a.m, a.x + begin, a.n, end - begin, a.m)

register("transposed", transposed, sizeof(Transposed))
