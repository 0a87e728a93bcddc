# Bodies of fastgd/layers/standardize.py.

cdef struct StandardizeForward:
    real *y
    const real *x
    const real *shift
    const real *scale
    int64_t rows, n


cdef void standardize_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const StandardizeForward *a = <const StandardizeForward *>args
    cdef const real *x
    cdef real *y
    cdef int64_t i, j
    for i in range(begin, end):
        x = a.x + i * a.n
        y = a.y + i * a.n
        for j in range(a.n):
            y[j] = (x[j] - a.shift[j]) * a.scale[j]

register("standardize_forward", standardize_forward, sizeof(StandardizeForward))


cdef struct StandardizeBackward:
    real *dx
    const real *dy
    const real *scale
    int64_t rows, n


cdef void standardize_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const StandardizeBackward *a = <const StandardizeBackward *>args
    cdef int64_t i, j
    for i in range(begin, end):
        for j in range(a.n):
            a.dx[i * a.n + j] = a.dy[i * a.n + j] * a.scale[j]

register("standardize_backward", standardize_backward, sizeof(StandardizeBackward))
