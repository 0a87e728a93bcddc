# Bodies of fastgd/losses.py: value and gradient of a row in one pass. Over 400 lines: one body after the other.

cdef enum:
    SOFTMAX_ROWS = 64       # rows of softmax that are computed together ...
    SOFTMAX_SIZE = 8192     # ... if they have no more elements than this, which stay in the L1 cache

cdef extern from *:
    """
    #define MASS_TOLERANCE 1e-3     /* how far the sum of a row of probabilities may be from 1 */
    #define SHORTEST 1e-8           /* the least length of a vector by which a cosine is divided */
    """
    const double MASS_TOLERANCE
    const double SHORTEST

constants.update(MASS_TOLERANCE=MASS_TOLERANCE, SHORTEST=SHORTEST)

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
    cdef const real *z
    cdef const real *y
    cdef real *dz
    cdef real total, d, scale
    cdef int64_t i, j
    for i in range(begin, end):
        z, y, dz = a.z + i * a.k, a.y + i * a.k, a.dz + i * a.k
        scale = a.weight[i] / a.k
        if a.k < ROW_PARTS:
            total = 0
            for j in range(a.k):
                d = z[j] - y[j]
                total = multiply_add(d, d, total)
                dz[j] = 2 * scale * d
        else:                   # loops that the compiler vectorizes
            for j in range(a.k):
                dz[j] = z[j] - y[j]
            total = dot_of(dz, dz, a.k)
            for j in range(a.k):
                dz[j] *= 2 * scale
        a.loss[i] = scale * total

register("mse_loss", mse_loss, sizeof(RowLoss))


cdef void mae_loss(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const RowLoss *a = <const RowLoss *>args
    cdef const real *z
    cdef const real *y
    cdef real *dz
    cdef real total, d, scale
    cdef int64_t i, j
    for i in range(begin, end):
        z, y, dz = a.z + i * a.k, a.y + i * a.k, a.dz + i * a.k
        scale = a.weight[i] / a.k
        if a.k < ROW_PARTS:
            total = 0
            for j in range(a.k):
                d = z[j] - y[j]
                total += fabs(d)
                dz[j] = scale * ((d > 0) - (d < 0))
        else:
            for j in range(a.k):
                dz[j] = fabs(z[j] - y[j])
            total = sum_of(dz, a.k)
            for j in range(a.k):
                d = z[j] - y[j]
                dz[j] = scale * ((d > 0) - (d < 0))
        a.loss[i] = scale * total

register("mae_loss", mae_loss, sizeof(RowLoss))


cdef void huber_loss(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const RowLossParameter *a = <const RowLossParameter *>args
    cdef double total
    cdef real d, scale, delta = <real>a.parameter
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
        a.loss[i] = <real>(scale * total)

register("huber_loss", huber_loss, sizeof(RowLossParameter))


cdef inline int64_t rows_of_softmax(int64_t rows, int64_t k) noexcept nogil:
    """How many of the rows are computed together."""
    return min(rows, max(1, min(<int64_t>SOFTMAX_ROWS, SOFTMAX_SIZE // k)))


cdef inline void softmax_columns(real *p, real *total, real *top, const real *z, int64_t rows,
                                 int64_t k) noexcept nogil:
    """`softmax` for rows shorter than ROW_PARTS, with the same bits: a vector holds a column of several rows."""
    cdef real t[ROW_PARTS * SOFTMAX_ROWS]
    cdef real largest[SOFTMAX_ROWS]
    cdef real sums[SOFTMAX_ROWS]
    cdef real *column
    cdef int64_t i, j
    for i in range(rows):
        for j in range(k):
            t[j * SOFTMAX_ROWS + i] = z[i * k + j]
        largest[i] = z[i * k]
        sums[i] = 0
    for j in range(1, k):
        column = t + j * SOFTMAX_ROWS
        for i in range(rows):
            largest[i] = column[i] if column[i] > largest[i] else largest[i]
    for j in range(k):
        column = t + j * SOFTMAX_ROWS
        for i in range(rows):
            column[i] = exp(column[i] - largest[i])
            sums[i] += column[i]
    for i in range(rows):
        top[i] = largest[i]
        total[i] = sums[i]
        sums[i] = 1 / sums[i]
    for j in range(k):
        column = t + j * SOFTMAX_ROWS
        for i in range(rows):
            column[i] *= sums[i]
    for i in range(rows):
        for j in range(k):
            p[i * k + j] = t[j * SOFTMAX_ROWS + i]


cdef inline void softmax(real *p, real *log_total, real *top, const real *z, int64_t rows, int64_t k) noexcept nogil:
    """For each row: p <- softmax(z), top <- max z, log_total <- log of the sum of exp(z - top). NaN in z gives NaN.
    One loop computes the exponentials of all rows, and one the logarithms, since a row may be shorter than a vector."""
    cdef real inverse
    cdef int64_t i, j
    if k < ROW_PARTS and rows >= LANES:
        softmax_columns(p, log_total, top, z, rows, k)
    else:
        for i in range(rows):
            top[i] = largest_of(z + i * k, k)
            for j in range(i * k, (i + 1) * k):
                p[j] = z[j] - top[i]
        for j in range(rows * k):
            p[j] = exp(p[j])
        for i in range(rows):
            log_total[i] = sum_of(p + i * k, k)
            inverse = 1 / log_total[i]
            for j in range(i * k, (i + 1) * k):
                p[j] *= inverse
    for i in range(rows):
        log_total[i] = log(log_total[i])


cdef void softmax_cross_entropy_loss(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const RowLossParameter *a = <const RowLossParameter *>args
    cdef real keep = <real>(1 - a.parameter), base = <real>(a.parameter / a.k)
    cdef real log_total[SOFTMAX_ROWS]
    cdef real top[SOFTMAX_ROWS]
    cdef double mass, loss
    cdef real t, weight, block_mass, block_loss
    cdef const real *z
    cdef const real *y
    cdef real *dz
    cdef bint valid
    cdef int64_t i, j, stop, rows
    while begin < end:
        rows = rows_of_softmax(end - begin, a.k)
        softmax(a.dz + begin * a.k, log_total, top, a.z + begin * a.k, rows, a.k)
        for i in range(rows):
            dz = a.dz + begin * a.k
            z = a.z + begin * a.k
            y = a.y + begin * a.k
            weight = a.weight[begin]
            mass = loss = 0
            valid = True
            j = 0
            while j < a.k:
                stop = min(j + BLOCK_TERMS, a.k)
                block_mass = block_loss = 0
                while j < stop:
                    valid = valid and y[j] >= 0
                    block_mass += y[j]
                    t = keep * y[j] + base
                    block_loss = multiply_add(t, log_total[i] - (z[j] - top[i]), block_loss)
                    dz[j] = weight * (dz[j] - t)
                    j += 1
                mass += block_mass
                loss += block_loss
            valid = valid and fabs_double(mass - 1) <= MASS_TOLERANCE
            a.loss[begin] = <real>(weight * loss) if valid else <real>NAN
            begin += 1

register("softmax_cross_entropy_loss", softmax_cross_entropy_loss, sizeof(RowLossParameter))


cdef void softmax_cross_entropy_labels_loss(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const LabelLoss *a = <const LabelLoss *>args
    cdef real keep = <real>(1 - a.parameter), base = <real>(a.parameter / a.k)
    cdef real log_total[SOFTMAX_ROWS]
    cdef real top[SOFTMAX_ROWS]
    cdef real chosen[SOFTMAX_ROWS]
    cdef real sums[SOFTMAX_ROWS]
    cdef real rest, weight
    cdef const real *z
    cdef real *dz
    cdef int64_t i, j, rows, label
    while begin < end:
        rows = rows_of_softmax(end - begin, a.k)
        z = a.z + begin * a.k
        dz = a.dz + begin * a.k
        for i in range(rows):   # what is needed of z, whose memory dz may be
            label = a.y[begin + i]
            chosen[i] = z[i * a.k + label] if 0 <= label < a.k else 0
            sums[i] = sum_of(z + i * a.k, a.k) if base > 0 else 0
        softmax(dz, log_total, top, z, rows, a.k)
        for i in range(rows):
            label = a.y[begin + i]
            weight = a.weight[begin + i]
            for j in range(i * a.k, (i + 1) * a.k):
                dz[j] = weight * (dz[j] - base)
            if 0 <= label < a.k:
                dz[i * a.k + label] -= weight * keep
                # The sum over j of log_total - (z_j - top).
                rest = base * (a.k * (log_total[i] + top[i]) - sums[i]) if base > 0 else 0
                a.loss[begin + i] = weight * (keep * (log_total[i] - (chosen[i] - top[i])) + rest)
            else:
                a.loss[begin + i] = <real>NAN
        begin += rows

register("softmax_cross_entropy_labels_loss", softmax_cross_entropy_labels_loss, sizeof(LabelLoss))


cdef void binary_cross_entropy_loss(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const RowLoss *a = <const RowLoss *>args
    cdef double total
    cdef real z, y, scale
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
        a.loss[i] = <real>(scale * total) if valid else <real>NAN

register("binary_cross_entropy_loss", binary_cross_entropy_loss, sizeof(RowLoss))


cdef void poisson_loss(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const RowLoss *a = <const RowLoss *>args
    cdef double total
    cdef real y, d, scale
    cdef bint valid
    cdef int64_t i, j
    for i in range(begin, end):
        total = 0
        valid = True
        scale = a.weight[i] / a.k
        for j in range(i * a.k, (i + 1) * a.k):
            y = a.y[j]
            d = exp(a.z[j]) - y
            valid = valid and y >= 0
            total += d + y * (log(y if y > 0 else <real>1) - a.z[j])
            a.dz[j] = scale * d
        a.loss[i] = <real>(scale * total) if valid else <real>NAN

register("poisson_loss", poisson_loss, sizeof(RowLoss))


cdef struct GaussianLoss:
    real *loss
    real *dz
    const real *z
    const real *y
    const real *weight
    int64_t rows, two, k


cdef void gaussian_nll_loss(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const GaussianLoss *a = <const GaussianLoss *>args
    cdef const real *mean
    cdef const real *log_variance
    cdef double total
    cdef real d, precision, scale
    cdef int64_t i, j
    for i in range(begin, end):
        mean = a.z + 2 * i * a.k
        log_variance = mean + a.k
        total = 0
        scale = a.weight[i] / a.k
        for j in range(a.k):
            d = mean[j] - a.y[i * a.k + j]
            precision = exp(-log_variance[j])
            total += (log_variance[j] + d * d * precision) / 2
            a.dz[2 * i * a.k + j] = scale * (d * precision)
            a.dz[(2 * i + 1) * a.k + j] = scale * ((1 - d * d * precision) / 2)
        a.loss[i] = <real>(scale * total)

register("gaussian_nll_loss", gaussian_nll_loss, sizeof(GaussianLoss))


cdef void hinge_loss(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const RowLoss *a = <const RowLoss *>args
    cdef double total
    cdef real y, margin, scale
    cdef bint valid
    cdef int64_t i, j
    for i in range(begin, end):
        total = 0
        valid = True
        scale = a.weight[i] / a.k
        for j in range(i * a.k, (i + 1) * a.k):
            y = a.y[j]
            margin = 1 - y * a.z[j]
            valid = valid and (y == 1 or y == -1)
            total += 0 if margin < 0 else margin
            a.dz[j] = scale * (-y if margin > 0 else (0 if margin <= 0 else margin))
        a.loss[i] = <real>(scale * total) if valid else <real>NAN

register("hinge_loss", hinge_loss, sizeof(RowLoss))


cdef void kl_divergence_loss(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const RowLoss *a = <const RowLoss *>args
    cdef real log_total[SOFTMAX_ROWS]
    cdef real top[SOFTMAX_ROWS]
    cdef double mass, loss
    cdef real y, weight
    cdef const real *z
    cdef real *dz
    cdef bint valid
    cdef int64_t i, j, rows
    while begin < end:
        rows = rows_of_softmax(end - begin, a.k)
        softmax(a.dz + begin * a.k, log_total, top, a.z + begin * a.k, rows, a.k)
        for i in range(rows):
            dz = a.dz + begin * a.k
            z = a.z + begin * a.k
            weight = a.weight[begin]
            mass = loss = 0
            valid = True
            for j in range(a.k):
                y = a.y[begin * a.k + j]
                valid = valid and y >= 0
                mass += y
                loss += y * (log(y if y > 0 else <real>1) + (log_total[i] - (z[j] - top[i])))
                dz[j] = weight * (dz[j] - y)
            valid = valid and fabs_double(mass - 1) <= MASS_TOLERANCE
            a.loss[begin] = <real>(weight * loss) if valid else <real>NAN
            begin += 1

register("kl_divergence_loss", kl_divergence_loss, sizeof(RowLoss))


cdef void cosine_similarity_loss(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const RowLoss *a = <const RowLoss *>args
    cdef double zz, yy, zy, length, other, cosine, along
    cdef const real *z
    cdef const real *y
    cdef int64_t i, j
    for i in range(begin, end):
        z = a.z + i * a.k
        y = a.y + i * a.k
        zz = yy = zy = 0
        for j in range(a.k):
            zz += <double>z[j] * z[j]
            yy += <double>y[j] * y[j]
            zy += <double>z[j] * y[j]
        length, other = sqrt_double(zz), sqrt_double(yy)
        along = zy if length > SHORTEST else 0      # of the derivative of the length of z
        length = SHORTEST if length < SHORTEST else length
        other = SHORTEST if other < SHORTEST else other
        cosine = zy / (length * other)
        along = along / (length * other) / (length * length)
        for j in range(a.k):
            a.dz[j + i * a.k] = <real>(a.weight[i] * (along * z[j] - y[j] / (length * other)))
        a.loss[i] = <real>(a.weight[i] * (1 - cosine))

register("cosine_similarity_loss", cosine_similarity_loss, sizeof(RowLoss))


cdef void exp_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Elementwise *a = <const Elementwise *>args
    cdef int64_t i
    for i in range(begin * a.n, end * a.n):
        a.y[i] = exp(a.x[i])

register("exp_forward", exp_forward, sizeof(Elementwise))


cdef struct Softmax:
    real *p
    const real *z
    int64_t rows, k


cdef void softmax_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Softmax *a = <const Softmax *>args
    cdef real log_total[SOFTMAX_ROWS]
    cdef real top[SOFTMAX_ROWS]
    cdef int64_t rows
    while begin < end:
        rows = rows_of_softmax(end - begin, a.k)
        softmax(a.p + begin * a.k, log_total, top, a.z + begin * a.k, rows, a.k)
        begin += rows

register("softmax_forward", softmax_forward, sizeof(Softmax))
