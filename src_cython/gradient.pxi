# Bodies of fastgd/gradient.py.

cdef struct AccumulateGradient:
    real *d
    const real *g
    int64_t n
    double keep, weight


cdef void accumulate_gradient(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const AccumulateGradient *a = <const AccumulateGradient *>args
    cdef real keep = <real>a.keep, weight = <real>a.weight
    cdef int64_t i
    for i in range(begin, end):
        a.d[i] = multiply_add(weight, a.g[i], keep * a.d[i])

register("accumulate_gradient", accumulate_gradient, sizeof(AccumulateGradient))


cdef enum:
    NORM_PARTS = 16

cdef struct SumSquares:
    double *squares
    const real *g
    int64_t blocks, width


cdef double sum_squares_of(const real *g, int64_t n) noexcept nogil:
    """In parts whose number does not depend on the width of a vector."""
    cdef double part[NORM_PARTS]
    cdef double total = 0
    cdef int64_t j = 0
    cdef int i
    for i in range(NORM_PARTS):
        part[i] = 0
    while j + NORM_PARTS <= n:
        for i in range(NORM_PARTS):
            part[i] = multiply_add_double(<double>g[j + i], <double>g[j + i], part[i])
        j += NORM_PARTS
    while j < n:
        total = multiply_add_double(<double>g[j], <double>g[j], total)
        j += 1
    for i in range(NORM_PARTS):
        total += part[i]
    return total


cdef void sum_squares(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const SumSquares *a = <const SumSquares *>args
    cdef int64_t i
    for i in range(begin, end):
        a.squares[i] = sum_squares_of(a.g + i * a.width, a.width)

register("sum_squares", sum_squares, sizeof(SumSquares))


cdef struct ClipFactor:
    double *norm
    double *factor
    const double *squares
    int64_t one, blocks
    double limit


cdef void clip_factor(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ClipFactor *a = <const ClipFactor *>args
    cdef double total = 0
    cdef int64_t i
    for i in range(a.blocks):
        total += a.squares[i]
    a.norm[0] = sqrt_double(total)
    a.factor[0] = a.limit / (a.norm[0] + 1e-6)
    if a.factor[0] > 1:
        a.factor[0] = 1

register("clip_factor", clip_factor, sizeof(ClipFactor))


cdef struct ClipGradient:
    real *d
    const real *g
    const double *factor
    int64_t n, one
    double limit


cdef void clip_gradient(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ClipGradient *a = <const ClipGradient *>args
    cdef real scale = <real>a.factor[0], limit = <real>a.limit
    cdef real d
    cdef int64_t i
    for i in range(begin, end):
        d = scale * a.g[i]
        d = -limit if d < -limit else d
        a.d[i] = limit if d > limit else d

register("clip_gradient", clip_gradient, sizeof(ClipGradient))


cdef struct AverageParameters:
    real *average
    const real *p
    int64_t n
    double decay


cdef void average_parameters(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const AverageParameters *a = <const AverageParameters *>args
    cdef real fresh = <real>(1 - a.decay)
    cdef int64_t i
    for i in range(begin, end):
        a.average[i] += fresh * (a.p[i] - a.average[i])

register("average_parameters", average_parameters, sizeof(AverageParameters))
