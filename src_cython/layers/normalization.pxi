# Bodies of fastgd/layers/normalization.py.

cdef inline real inverse_of(real variance, double eps) noexcept nogil:
    """1 / sqrt(variance + eps), or NaN if the variance is not finite."""
    return 1 / sqrt(variance + <real>eps) if variance < INFINITY else <real>NAN


cdef struct LayerNormForward:
    real *y
    real *normal
    real *inverse
    const real *x
    const real *gamma
    const real *beta
    int64_t rows, n
    double eps


cdef void layer_norm_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const LayerNormForward *a = <const LayerNormForward *>args
    cdef const real *x
    cdef real *y
    cdef real *normal
    cdef real mean, inverse
    cdef int64_t i, j
    for i in range(begin, end):
        x, y, normal = a.x + i * a.n, a.y + i * a.n, a.normal + i * a.n
        mean = sum_of(x, a.n) / a.n
        for j in range(a.n):
            normal[j] = x[j] - mean
        inverse = inverse_of(dot_of(normal, normal, a.n) / a.n, a.eps)
        a.inverse[i] = inverse
        for j in range(a.n):
            normal[j] *= inverse
            y[j] = normal[j] * a.gamma[j] + a.beta[j]

register("layer_norm_forward", layer_norm_forward, sizeof(LayerNormForward))


cdef struct LayerNormBackward:
    real *dx
    const real *dy
    const real *normal
    const real *inverse
    const real *gamma
    int64_t rows, n


cdef void layer_norm_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const LayerNormBackward *a = <const LayerNormBackward *>args
    cdef const real *dy
    cdef const real *normal
    cdef real *dx
    cdef real mean, part, inverse
    cdef int64_t i, j
    for i in range(begin, end):
        dx, dy, normal = a.dx + i * a.n, a.dy + i * a.n, a.normal + i * a.n
        for j in range(a.n):
            dx[j] = dy[j] * a.gamma[j]
        mean = sum_of(dx, a.n) / a.n
        part = dot_of(dx, normal, a.n) / a.n
        inverse = a.inverse[i]
        for j in range(a.n):
            dx[j] = inverse * (dx[j] - mean - normal[j] * part)

register("layer_norm_backward", layer_norm_backward, sizeof(LayerNormBackward))


cdef struct NormalizationBackwardGamma:
    real *dgamma
    const real *dy
    const real *normal
    int64_t n, rows


cdef void normalization_backward_gamma(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const NormalizationBackwardGamma *a = <const NormalizationBackwardGamma *>args
    sum_of_products(a.dgamma + begin, a.dy + begin, a.normal + begin, a.n, a.rows, end - begin)

register("normalization_backward_gamma", normalization_backward_gamma, sizeof(NormalizationBackwardGamma))


cdef enum:
    COLUMNS = 64        # columns whose float64 sums are kept at a time

cdef struct BatchStatistics:
    real *mean
    real *inverse
    real *unbiased
    const real *x
    const real *running
    int64_t n, rows
    double eps


cdef void batch_statistics(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const BatchStatistics *a = <const BatchStatistics *>args
    cdef real unbiased
    cdef double means[COLUMNS]
    cdef double squares[COLUMNS]
    cdef const real *x
    cdef double d
    cdef int64_t i, n
    cdef int j
    while begin < end:
        n = min(end - begin, COLUMNS)
        for j in range(n):
            means[j] = squares[j] = 0
        for i in range(a.rows):
            x = a.x + i * a.n + begin
            for j in range(n):
                means[j] += x[j]
        for j in range(n):
            means[j] /= a.rows
        for i in range(a.rows):
            x = a.x + i * a.n + begin
            for j in range(n):
                d = x[j] - means[j]
                squares[j] += d * d
        for j in range(n):
            a.mean[begin + j] = <real>means[j]
            unbiased = a.running[begin + j] if a.rows == 1 else <real>(squares[j] / (a.rows - 1))
            a.unbiased[begin + j] = unbiased
            a.inverse[begin + j] = inverse_of(<real>(squares[j] / a.rows), a.eps) if unbiased < INFINITY else <real>NAN
        begin += n

register("batch_statistics", batch_statistics, sizeof(BatchStatistics))


cdef struct InverseDeviation:
    real *inverse
    const real *variance
    int64_t n
    double eps


cdef void inverse_deviation(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const InverseDeviation *a = <const InverseDeviation *>args
    cdef int64_t j
    for j in range(begin, end):
        a.inverse[j] = 1 / sqrt(a.variance[j] + <real>a.eps)

register("inverse_deviation", inverse_deviation, sizeof(InverseDeviation))


cdef struct BatchNormForward:
    real *y
    real *normal
    const real *x
    const real *mean
    const real *inverse
    const real *gamma
    const real *beta
    int64_t rows, n


cdef void batch_norm_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const BatchNormForward *a = <const BatchNormForward *>args
    cdef const real *x
    cdef real *y
    cdef real *normal
    cdef int64_t i, j
    for i in range(begin, end):
        x, y, normal = a.x + i * a.n, a.y + i * a.n, a.normal + i * a.n
        for j in range(a.n):
            normal[j] = (x[j] - a.mean[j]) * a.inverse[j]
        for j in range(a.n):            # a separate loop, since the compiler does not vectorize loops over more arrays
            y[j] = normal[j] * a.gamma[j] + a.beta[j]

register("batch_norm_forward", batch_norm_forward, sizeof(BatchNormForward))


cdef struct BatchNormMeans:
    real *mean
    real *part
    const real *dy
    const real *normal
    int64_t n, rows


cdef void batch_norm_means(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const BatchNormMeans *a = <const BatchNormMeans *>args
    cdef int64_t j
    sum_of_rows(a.mean + begin, a.dy + begin, a.n, a.rows, end - begin)
    sum_of_products(a.part + begin, a.dy + begin, a.normal + begin, a.n, a.rows, end - begin)
    for j in range(begin, end):
        a.mean[j] /= a.rows
        a.part[j] /= a.rows

register("batch_norm_means", batch_norm_means, sizeof(BatchNormMeans))


cdef struct BatchNormBackward:
    real *dx
    const real *dy
    const real *normal
    const real *inverse
    const real *gamma
    const real *mean
    const real *part
    int64_t rows, n


cdef void batch_norm_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const BatchNormBackward *a = <const BatchNormBackward *>args
    cdef const real *dy
    cdef const real *normal
    cdef real *dx
    cdef int64_t i, j
    for i in range(begin, end):
        dx, dy, normal = a.dx + i * a.n, a.dy + i * a.n, a.normal + i * a.n
        for j in range(a.n):
            dx[j] = a.gamma[j] * a.inverse[j] * (dy[j] - a.mean[j] - normal[j] * a.part[j])

register("batch_norm_backward", batch_norm_backward, sizeof(BatchNormBackward))
