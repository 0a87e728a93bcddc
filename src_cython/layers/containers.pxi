# Bodies of fastgd/layers/containers.py.

cdef struct AddRows:
    real *y
    const real *a
    const real *b
    int64_t rows, n


cdef void add_rows(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const AddRows *a = <const AddRows *>args
    cdef int64_t i
    for i in range(begin * a.n, end * a.n):
        a.y[i] = a.a[i] + a.b[i]

register("add_rows", add_rows, sizeof(AddRows))


cdef struct PutColumns:
    real *y
    const real *x
    int64_t rows, n, k
    double first


cdef void put_columns(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const PutColumns *a = <const PutColumns *>args
    cdef int64_t first = <int64_t>a.first, width = min(a.k, a.n - first), i
    if width > 0:
        for i in range(begin, end):
            memcpy(a.y + i * a.n + first, a.x + i * a.k, width * sizeof(real))

register("put_columns", put_columns, sizeof(PutColumns))


cdef struct TakeColumns:
    real *y
    const real *x
    int64_t rows, k, n
    double first


cdef void take_columns(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const TakeColumns *a = <const TakeColumns *>args
    cdef int64_t first = <int64_t>a.first, width = max(0, min(a.k, a.n - first)), i, j
    for i in range(begin, end):
        memcpy(a.y + i * a.k, a.x + i * a.n + first, width * sizeof(real))
        for j in range(width, a.k):
            a.y[i * a.k + j] = 0

register("take_columns", take_columns, sizeof(TakeColumns))
