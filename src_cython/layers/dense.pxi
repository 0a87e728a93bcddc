# Bodies of fastgd/layers/dense.py.

cdef struct DenseForward:
    real *y
    const real *x
    const real *w
    const real *b
    int64_t rows, n_out, n_in


cdef void dense_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const DenseForward *a = <const DenseForward *>args
    cdef int64_t i
    if a.rows == 1:
        gemv(a.y, a.b, a.x, a.w, a.n_out, a.n_out, a.n_in)
        return
    if a.n_out == 1 and a.n_in >= DOT_PARTS:
        gemv_transposed(a.y + begin, a.w, a.x + begin * a.n_in, end - begin, a.n_in)
        for i in range(begin, end):
            a.y[i] += a.b[0]
        return
    gemm(a.y + begin * a.n_out, a.n_out, a.b, 0, a.x + begin * a.n_in, a.n_in, 1, a.w, a.n_out, 1,
         end - begin, a.n_out, a.n_in, 0)

register("dense_forward", dense_forward, sizeof(DenseForward))


cdef struct DenseBackwardInput:
    real *dx
    const real *dy
    const real *w
    int64_t rows, n_in, n_out


cdef void dense_backward_input(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const DenseBackwardInput *a = <const DenseBackwardInput *>args
    if a.rows == 1:
        gemv_transposed(a.dx, a.dy, a.w, a.n_in, a.n_out)
        return
    if a.n_out == 1:
        outer(a.dx + begin * a.n_in, a.n_in, a.dy + begin, a.w, end - begin, a.n_in)
        return
    gemm(a.dx + begin * a.n_in, a.n_in, NULL, 0, a.dy + begin * a.n_out, a.n_out, 1, a.w, 1, a.n_out,
         end - begin, a.n_in, a.n_out, 0)

register("dense_backward_input", dense_backward_input, sizeof(DenseBackwardInput))


cdef struct DenseBackwardWeights:
    real *dw
    const real *x
    const real *dy
    int64_t n_in, n_out, rows


cdef void dense_backward_weights(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const DenseBackwardWeights *a = <const DenseBackwardWeights *>args
    if a.rows == 1:
        outer(a.dw + begin * a.n_out, a.n_out, a.x + begin, a.dy, end - begin, a.n_out)
        return
    if a.n_out == 1:
        gemv_over_rows(a.dw + begin, a.dy, a.x + begin, a.n_in, end - begin, a.rows)
        return
    gemm_over_rows(a.dw + begin * a.n_out, a.n_out, a.x + begin, a.n_in, a.dy, a.n_out, end - begin, a.n_out, a.rows)

register("dense_backward_weights", dense_backward_weights, sizeof(DenseBackwardWeights))


cdef struct DenseBackwardBias:
    real *db
    const real *dy
    int64_t n_out, rows


cdef void dense_backward_bias(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const DenseBackwardBias *a = <const DenseBackwardBias *>args
    sum_of_rows(a.db + begin, a.dy + begin, a.n_out, a.rows, end - begin)

register("dense_backward_bias", dense_backward_bias, sizeof(DenseBackwardBias))


cdef struct AddBias:
    real *y
    const real *b
    int64_t rows, n


cdef void add_bias(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const AddBias *a = <const AddBias *>args
    cdef int64_t i, j
    for i in range(begin, end):
        for j in range(a.n):
            a.y[i * a.n + j] += a.b[j]

register("add_bias", add_bias, sizeof(AddBias))
