# Bodies of fastgd/layers/normalization_of_images.py.

cdef enum:
    CHANNELS = 32                   # whose sums are kept at a time


cdef void add_values(double *total, double *products, const real *x, const real *y, const real *shift, int64_t ld,
                     int64_t m, int64_t n, int64_t images) noexcept nogil:
    """total (n) += the sums of d = x - shift over m pixels and the first `images` images, products (n) += those of d y,
    or of d d if y is NULL. Blocks of BLOCK_TERMS pixels are summed for each image apart."""
    cdef real sums[CHANNELS * IMAGES]
    cdef real sums_of_products[CHANNELS * IMAGES]
    cdef int64_t first = 0, i, j, k, last
    cdef const real *a
    cdef vec d
    while first < m:
        last = min(first + BLOCK_TERMS, m)
        for k in range(n * IMAGES):
            sums[k] = sums_of_products[k] = 0
        for i in range(first, last):
            for j in range(n):
                a = x + i * ld + j * IMAGES
                k = j * IMAGES
                while k < (j + 1) * IMAGES:
                    d = (<vec *>a)[0] - shift[j]
                    (<vec *>(sums + k))[0] = (<vec *>(sums + k))[0] + d
                    if y != NULL:
                        d = d * (<vec *>(y + i * ld + k))[0]
                    else:
                        d = d * d
                    (<vec *>(sums_of_products + k))[0] = (<vec *>(sums_of_products + k))[0] + d
                    a += LANES
                    k += LANES
        for j in range(n):
            for k in range(images, IMAGES):
                sums[j * IMAGES + k] = sums_of_products[j * IMAGES + k] = 0
            total[j] += sum_of_parts(sums + j * IMAGES)
            products[j] += sum_of_parts(sums_of_products + j * IMAGES)
        first = last


cdef void sum_values(double *total, double *products, const real *x, const real *y, const real *shift, int64_t channels,
                     int64_t pixels, int64_t n, int64_t rows) noexcept nogil:
    """`add_values` from 0 for all pixels of `rows` images."""
    cdef int64_t whole = rows // IMAGES, ld = channels * IMAGES, j
    for j in range(n):
        total[j] = products[j] = 0
    add_values(total, products, x, y, shift, ld, whole * pixels, n, IMAGES)
    if rows % IMAGES:
        x += whole * pixels * ld
        y = y + whole * pixels * ld if y != NULL else NULL
        add_values(total, products, x, y, shift, ld, pixels, n, rows % IMAGES)


cdef struct ImageStatistics:
    real *mean
    real *inverse
    real *unbiased
    const real *x
    const int64_t *row
    const real *running
    int64_t n, blocks, pixels, images, rows
    double eps


cdef void image_statistics(const void *args, int64_t begin, int64_t end) noexcept nogil:
    """The mean of the deviations from the rounded mean corrects for its rounding."""
    cdef const ImageStatistics *a = <const ImageStatistics *>args
    cdef int64_t rows = min(a.rows, a.blocks * IMAGES), n, j
    cdef double number = rows * a.pixels, off, squares
    cdef double total[CHANNELS]
    cdef double products[CHANNELS]
    cdef real unbiased
    while begin < end:
        n = min(end - begin, <int64_t>CHANNELS)
        for j in range(n):
            a.mean[begin + j] = 0
        sum_values(total, products, a.x + begin * IMAGES, NULL, a.mean + begin, a.n, a.pixels, n, rows)
        for j in range(n):
            a.mean[begin + j] = <real>(total[j] / number)
        sum_values(total, products, a.x + begin * IMAGES, NULL, a.mean + begin, a.n, a.pixels, n, rows)
        for j in range(n):
            off = total[j] / number
            squares = products[j] - off * total[j]
            a.mean[begin + j] = <real>(a.mean[begin + j] + off)
            unbiased = a.running[begin + j] if number == 1 else <real>(squares / (number - 1))
            a.unbiased[begin + j] = unbiased
            a.inverse[begin + j] = inverse_of(<real>(squares / number), a.eps) if unbiased < INFINITY else <real>NAN
        begin += n

register("image_statistics", image_statistics, sizeof(ImageStatistics))


cdef struct ImageNormForward:
    real *y
    real *normal
    const real *x
    const real *mean
    const real *inverse
    const real *gamma
    const real *beta
    int64_t blocks, pixels, n, images


cdef void image_norm_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ImageNormForward *a = <const ImageNormForward *>args
    cdef int64_t at = begin * a.pixels * a.n * IMAGES, p, j, k
    cdef vec normal
    for p in range(begin * a.pixels, end * a.pixels):
        for j in range(a.n):
            k = 0
            while k < IMAGES:
                normal = ((<vec *>(a.x + at))[0] - a.mean[j]) * a.inverse[j]
                (<vec *>(a.normal + at))[0] = normal
                (<vec *>(a.y + at))[0] = normal * a.gamma[j] + a.beta[j]
                at += LANES
                k += LANES

register("image_norm_forward", image_norm_forward, sizeof(ImageNormForward))


cdef struct ImageNormBackwardGamma:
    real *dgamma
    const real *dy
    const real *normal
    int64_t n, blocks, pixels, images


cdef void image_norm_backward_gamma(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ImageNormBackwardGamma *a = <const ImageNormBackwardGamma *>args
    cdef double total[CHANNELS]
    cdef double products[CHANNELS]
    cdef real zero[CHANNELS]
    cdef int64_t n, j
    for j in range(CHANNELS):
        zero[j] = 0
    while begin < end:
        n = min(end - begin, <int64_t>CHANNELS)
        sum_values(total, products, a.dy + begin * IMAGES, a.normal + begin * IMAGES, zero, a.n, a.pixels, n,
                   a.blocks * IMAGES)
        for j in range(n):
            a.dgamma[begin + j] = <real>products[j]
        begin += n

register("image_norm_backward_gamma", image_norm_backward_gamma, sizeof(ImageNormBackwardGamma))


cdef struct ImageNormMeans:
    real *mean
    real *part
    const real *dy
    const real *normal
    const int64_t *row
    int64_t n, blocks, pixels, images, rows


cdef void image_norm_means(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ImageNormMeans *a = <const ImageNormMeans *>args
    cdef int64_t rows = min(a.rows, a.blocks * IMAGES), n, j
    cdef double total[CHANNELS]
    cdef double products[CHANNELS]
    cdef real zero[CHANNELS]
    for j in range(CHANNELS):
        zero[j] = 0
    while begin < end:
        n = min(end - begin, <int64_t>CHANNELS)
        sum_values(total, products, a.dy + begin * IMAGES, a.normal + begin * IMAGES, zero, a.n, a.pixels, n, rows)
        for j in range(n):
            a.mean[begin + j] = <real>(total[j] / (rows * a.pixels))
            a.part[begin + j] = <real>(products[j] / (rows * a.pixels))
        begin += n

register("image_norm_means", image_norm_means, sizeof(ImageNormMeans))


cdef struct ImageNormBackward:
    real *dx
    const real *dy
    const real *normal
    const real *inverse
    const real *gamma
    const real *mean
    const real *part
    const int64_t *row
    int64_t blocks, pixels, n, images, rows


cdef void image_norm_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ImageNormBackward *a = <const ImageNormBackward *>args
    cdef int64_t size = a.pixels * a.n * IMAGES, b, at, p, j, k
    cdef real factor
    for b in range(begin, end):
        at = b * size
        for p in range(a.pixels):
            for j in range(a.n):
                factor = a.gamma[j] * a.inverse[j]
                k = 0
                while k < IMAGES:
                    (<vec *>(a.dx + at))[0] = \
                        ((<vec *>(a.dy + at))[0] - a.mean[j] - (<vec *>(a.normal + at))[0] * a.part[j]) * factor
                    at += LANES
                    k += LANES
        for p in range(a.pixels * a.n if (b + 1) * IMAGES > a.rows else 0):
            for k in range(max(0, a.rows - b * IMAGES), IMAGES):
                a.dx[b * size + p * IMAGES + k] = 0

register("image_norm_backward", image_norm_backward, sizeof(ImageNormBackward))
