# Bodies of fastgd/engine/gradient.py.

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


cdef extern from *:
    """
    #define NORM_EPS 1e-6           /* added to a norm, as torch.nn.utils.clip_grad_norm_ does */
    #define LEAST_SQUARES 1e-280    /* smaller sums of squares may have lost digits */
    """
    const double NORM_EPS
    const double LEAST_SQUARES

constants.update(NORM_EPS=NORM_EPS, LEAST_SQUARES=LEAST_SQUARES)

cdef enum:
    NORM_PARTS = 16

cdef struct SumSquares:
    double *squares
    double *scales
    const real *g
    int64_t rows, n


cdef double sum_squares_of(const real *g, int64_t n, double scale) noexcept nogil:
    """The sum of (g / scale)^2, as a fixed number of partial sums, whatever the width of a vector register."""
    cdef double part[NORM_PARTS]
    cdef double total = 0, v
    cdef int64_t j = 0
    cdef int i
    for i in range(NORM_PARTS):
        part[i] = 0
    while j + NORM_PARTS <= n:
        for i in range(NORM_PARTS):
            v = g[j + i] if scale == 1 else g[j + i] / scale
            part[i] = multiply_add_double(v, v, part[i])
        j += NORM_PARTS
    while j < n:
        v = g[j] if scale == 1 else g[j] / scale
        total = multiply_add_double(v, v, total)
        j += 1
    for i in range(NORM_PARTS):
        total += part[i]
    return total


cdef void sum_squares(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const SumSquares *a = <const SumSquares *>args
    cdef double largest
    cdef int64_t i
    for i in range(begin, end):
        a.scales[i] = 1
        a.squares[i] = sum_squares_of(a.g + i * a.n, a.n, 1)
        if not LEAST_SQUARES <= a.squares[i] < INFINITY:
            largest = from_bits(magnitude(a.g + i * a.n, a.n, 0))
            if 0 < largest < INFINITY:
                a.scales[i] = largest
                a.squares[i] = sum_squares_of(a.g + i * a.n, a.n, largest)

register("sum_squares", sum_squares, sizeof(SumSquares))


cdef struct ClipFactor:
    double *norm
    double *factor
    double *scale
    const double *squares
    const double *scales
    int64_t one, rows
    double limit


cdef void clip_factor(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ClipFactor *a = <const ClipFactor *>args
    cdef double largest = 0, total = 0, root, part
    cdef int64_t i
    for i in range(a.rows):
        if a.squares[i] != 0 and a.scales[i] > largest:
            largest = a.scales[i]
    if largest == 0:
        largest = 1
    for i in range(a.rows):
        part = a.scales[i] / largest
        total += a.squares[i] * (part * part)
    root = sqrt_double(total)
    part = a.limit / (root + NORM_EPS / largest)
    a.norm[0] = largest * root
    a.factor[0] = 1 if part > largest else part
    a.scale[0] = 1 if part > largest else largest

register("clip_factor", clip_factor, sizeof(ClipFactor))


cdef struct ClipGradient:
    real *d
    const real *g
    const double *factor
    const double *scale
    int64_t n, one
    double limit


cdef void clip_gradient(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ClipGradient *a = <const ClipGradient *>args
    cdef double factor = a.factor[0], scale = a.scale[0], v
    cdef real small = <real>factor, limit = <real>a.limit
    cdef real d
    cdef int64_t i
    if scale != 1 or fabs(small) < SMALLEST_NORMAL:
        for i in range(begin, end):
            v = factor * (a.g[i] / scale)
            v = -a.limit if v < -a.limit else v
            a.d[i] = <real>(a.limit if v > a.limit else v)
        return
    for i in range(begin, end):
        d = small * a.g[i]
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
