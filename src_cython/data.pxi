# Bodies of fastgd/data.py.

cdef struct CountExceeding:
    int64_t *count
    const real *x
    int64_t one, rows, n
    double limit


cdef void count_exceeding(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const CountExceeding *a = <const CountExceeding *>args
    cdef real limit = <real>a.limit
    cdef int64_t i, count = 0
    for i in range(a.rows * a.n):
        count += not fabs(a.x[i]) <= limit
    a.count[0] = count

register("count_exceeding", count_exceeding, sizeof(CountExceeding))
