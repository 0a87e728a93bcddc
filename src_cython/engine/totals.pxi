# Bodies of fastgd/engine/totals.py.

cdef struct SumLoss:
    double *total
    const real *loss
    int64_t one, rows


cdef void sum_loss(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const SumLoss *a = <const SumLoss *>args
    cdef double total = 0
    cdef int64_t i
    for i in range(a.rows):
        total += a.loss[i]
    a.total[0] = total

register("sum_loss", sum_loss, sizeof(SumLoss))


cdef struct PenaltyValue:
    double *total
    const real *w
    int64_t one, n
    double l1, l2


cdef void penalty_value(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const PenaltyValue *a = <const PenaltyValue *>args
    cdef double magnitudes[ROW_PARTS]
    cdef double squares[ROW_PARTS]
    cdef double w, magnitude = 0, square = 0
    cdef int64_t i = 0
    cdef int j
    for j in range(ROW_PARTS):
        magnitudes[j] = squares[j] = 0
    while i + ROW_PARTS <= a.n:
        for j in range(ROW_PARTS):
            w = a.w[i + j]
            magnitudes[j] += fabs_double(w)
            squares[j] += w * w
        i += ROW_PARTS
    for j in range(ROW_PARTS):
        magnitude += magnitudes[j]
        square += squares[j]
    while i < a.n:
        w = a.w[i]
        magnitude += fabs_double(w)
        square = multiply_add_double(w, w, square)
        i += 1
    a.total[0] += a.l1 * magnitude + a.l2 / 2 * square

register("penalty_value", penalty_value, sizeof(PenaltyValue))


cdef struct PenaltyGradient:
    real *g
    const real *w
    int64_t n
    double l1, l2


cdef void penalty_gradient(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const PenaltyGradient *a = <const PenaltyGradient *>args
    cdef real l1 = <real>a.l1, l2 = <real>a.l2
    cdef int64_t i
    for i in range(begin, end):
        a.g[i] += l1 * ((a.w[i] > 0) - (a.w[i] < 0)) + l2 * a.w[i]

register("penalty_gradient", penalty_gradient, sizeof(PenaltyGradient))
