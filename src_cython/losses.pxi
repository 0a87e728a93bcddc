# Bodies of fastgd/losses.py: value and gradient of a row in one pass.

cdef struct RowLoss:
    real *loss
    real *dz
    const real *z
    const real *y
    const real *weight
    int64_t rows, k

cdef struct RowLossParameter:
    real *loss
    real *dz
    const real *z
    const real *y
    const real *weight
    int64_t rows, k
    double parameter

cdef struct LabelLoss:
    real *loss
    real *dz
    const real *z
    const int64_t *y
    const real *weight
    int64_t rows, k
    double parameter


cdef void mse_loss(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const RowLoss *a = <const RowLoss *>args
    cdef real total, d, scale
    cdef int64_t i, j
    for i in range(begin, end):
        total = 0
        scale = a.weight[i] / a.k
        for j in range(i * a.k, (i + 1) * a.k):
            d = a.z[j] - a.y[j]
            total += d * d
            a.dz[j] = 2 * scale * d
        a.loss[i] = scale * total

register("mse_loss", mse_loss, sizeof(RowLoss))


cdef void mae_loss(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const RowLoss *a = <const RowLoss *>args
    cdef real total, d, scale
    cdef int64_t i, j
    for i in range(begin, end):
        total = 0
        scale = a.weight[i] / a.k
        for j in range(i * a.k, (i + 1) * a.k):
            d = a.z[j] - a.y[j]
            total += fabs(d)
            a.dz[j] = scale * ((d > 0) - (d < 0))
        a.loss[i] = scale * total

register("mae_loss", mae_loss, sizeof(RowLoss))


cdef void huber_loss(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const RowLossParameter *a = <const RowLossParameter *>args
    cdef real total, d, scale, delta = <real>a.parameter
    cdef int64_t i, j
    for i in range(begin, end):
        total = 0
        scale = a.weight[i] / a.k
        for j in range(i * a.k, (i + 1) * a.k):
            d = a.z[j] - a.y[j]
            if fabs(d) > delta:
                total += delta * (fabs(d) - delta / 2)
                a.dz[j] = scale * (delta if d > 0 else -delta)
            else:
                total += d * d / 2
                a.dz[j] = scale * d
        a.loss[i] = scale * total

register("huber_loss", huber_loss, sizeof(RowLossParameter))


cdef inline real shifted_exp(real *p, const real *z, int64_t k, real *top) noexcept nogil:
    """p <- exp(z - max z), top <- max z; returns the sum of p. A NaN in z stays one."""
    cdef real total = 0
    cdef int64_t j
    top[0] = z[0]
    for j in range(1, k):
        if z[j] > top[0]:
            top[0] = z[j]
    for j in range(k):
        p[j] = exp(z[j] - top[0])
        total += p[j]
    return total


cdef void softmax_cross_entropy_loss(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const RowLossParameter *a = <const RowLossParameter *>args
    cdef real smoothing = <real>a.parameter, keep = <real>(1 - a.parameter)
    cdef real total, top, log_total, t, mass, loss
    cdef real *dz
    cdef const real *z
    cdef const real *y
    cdef bint valid
    cdef int64_t i, j
    for i in range(begin, end):
        dz = a.dz + i * a.k
        z = a.z + i * a.k
        y = a.y + i * a.k
        total = shifted_exp(dz, z, a.k, &top)
        log_total = log(total)
        mass = 0
        loss = 0
        valid = True
        for j in range(a.k):
            valid = valid and y[j] >= 0
            mass += y[j]
            t = keep * y[j] + smoothing / a.k
            loss += t * (log_total - (z[j] - top))
            dz[j] = a.weight[i] * (dz[j] / total - t)
        valid = valid and fabs(mass - 1) <= <real>1e-3
        a.loss[i] = a.weight[i] * loss if valid else <real>NAN

register("softmax_cross_entropy_loss", softmax_cross_entropy_loss, sizeof(RowLossParameter))


cdef void softmax_cross_entropy_labels_loss(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const LabelLoss *a = <const LabelLoss *>args
    cdef real smoothing = <real>a.parameter, keep = <real>(1 - a.parameter)
    cdef real total, top, log_total, base, shifted
    cdef real *dz
    cdef const real *z
    cdef int64_t i, j, label
    base = smoothing / a.k
    for i in range(begin, end):
        dz = a.dz + i * a.k
        z = a.z + i * a.k
        label = a.y[i]
        total = shifted_exp(dz, z, a.k, &top)
        log_total = log(total)
        shifted = 0
        for j in range(a.k):
            shifted += z[j] - top
            dz[j] = a.weight[i] * (dz[j] / total - base)
        if 0 <= label < a.k:
            dz[label] -= a.weight[i] * keep
            # The sum over j of log(total) - shifted_j is k log(total) - shifted, which may overflow.
            a.loss[i] = a.weight[i] * (log_total - keep * (z[label] - top) - (base * shifted if base > 0 else 0))
        else:
            a.loss[i] = <real>NAN

register("softmax_cross_entropy_labels_loss", softmax_cross_entropy_labels_loss, sizeof(LabelLoss))


cdef void binary_cross_entropy_loss(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const RowLoss *a = <const RowLoss *>args
    cdef real total, z, y, scale
    cdef bint valid
    cdef int64_t i, j
    for i in range(begin, end):
        total = 0
        valid = True
        scale = a.weight[i] / a.k
        for j in range(i * a.k, (i + 1) * a.k):
            z = a.z[j]
            y = a.y[j]
            valid = valid and 0 <= y <= 1
            total += ((0 if z < 0 else z) - z * y) + log1p(exp(-fabs(z)))
            a.dz[j] = scale * (sigmoid(z) - y)
        a.loss[i] = scale * total if valid else <real>NAN

register("binary_cross_entropy_loss", binary_cross_entropy_loss, sizeof(RowLoss))


cdef struct Softmax:
    real *p
    const real *z
    int64_t rows, k


cdef void softmax_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Softmax *a = <const Softmax *>args
    cdef real total, top
    cdef int64_t i, j
    for i in range(begin, end):
        total = shifted_exp(a.p + i * a.k, a.z + i * a.k, a.k, &top)
        for j in range(i * a.k, (i + 1) * a.k):
            a.p[j] /= total

register("softmax_forward", softmax_forward, sizeof(Softmax))


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
    cdef double magnitude = 0, square = 0
    cdef int64_t i
    for i in range(a.n):
        magnitude += fabs(a.w[i])
        square += <double>a.w[i] * a.w[i]
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
