# Bodies of fastgd/layers/normalization_of_images.py.
#
# A channel of a pixel is a vector of 16 images, whose sums never mix: so they are sums over the pixels of one image,
# each in blocks of BLOCK_TERMS pixels, which are then added in float64.

cdef enum:
    CHANNELS = 32                   # whose sums are kept at a time
    CHANNELS_OF_DX = 256            # whose factors are kept at a time


cdef struct Sums:                   # (CHANNELS, 16), over the pixels so far
    double first[CHANNELS * IMAGES]
    double second[CHANNELS * IMAGES]


# Of a channel over up to BLOCK_TERMS pixels, in each image: a mean with a rounding error, the sum of the deviations
# from it, which corrects it, and the sum of their squares.
cdef struct Moments:
    real mean[IMAGES]
    real rest[IMAGES]
    real squares[IMAGES]


cdef inline inlined moments_of_block(Moments *m, const real *x, int64_t ld, int64_t pixels) noexcept nogil:
    cdef int64_t p
    cdef int i
    cdef real share = 1 / <real>pixels
    cdef vec mean[IMAGE_VECTORS]
    cdef vec rest[IMAGE_VECTORS]
    cdef vec squares[IMAGE_VECTORS]
    cdef vec apart
    for i in range(IMAGE_VECTORS):
        mean[i] = rest[i] = squares[i] = ZERO
    for p in range(pixels):
        for i in range(IMAGE_VECTORS):
            mean[i] = mean[i] + (<vec *>(x + p * ld + i * LANES))[0]
    for i in range(IMAGE_VECTORS):
        mean[i] = mean[i] * share
    for p in range(pixels):
        for i in range(IMAGE_VECTORS):
            apart = (<vec *>(x + p * ld + i * LANES))[0] - mean[i]
            rest[i] = rest[i] + apart
            squares[i] = squares[i] + apart * apart
    for i in range(IMAGE_VECTORS):
        (<vec *>(m.mean + i * LANES))[0] = mean[i]
        (<vec *>(m.rest + i * LANES))[0] = rest[i]
        (<vec *>(m.squares + i * LANES))[0] = squares[i]


cdef inline void add_moments(double *mean, double *squares, const Moments *m, int64_t before,
                             int64_t pixels) noexcept nogil:
    """mean and squares (16) of `before` pixels <- those with `pixels` more. Chan et al. 1983,
    doi:10.1080/00031305.1983.10483115."""
    cdef double share = 1 / <double>pixels, weight = pixels / <double>(before + pixels), rest, apart
    cdef int i
    for i in range(IMAGES):
        rest = m.rest[i] * share
        apart = m.mean[i] + rest - mean[i]
        mean[i] += apart * weight
        squares[i] += m.squares[i] - rest * m.rest[i] + apart * apart * weight * before


cdef struct ImageMoments:
    real *means
    real *rests
    real *variances
    const real *x
    int64_t blocks, n, images, pixels


cdef void image_moments(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ImageMoments *a = <const ImageMoments *>args
    cdef int64_t ld = a.n * IMAGES, b, first, last, channels, j, p, k, pixels
    cdef Sums s
    cdef Moments moments
    cdef const real *x
    for b in range(begin, end):
        first = 0
        while first < a.n:
            channels = min(a.n - first, <int64_t>CHANNELS)
            memset(&s, 0, sizeof(s))
            p = 0
            while p < a.pixels:
                pixels = min(a.pixels - p, <int64_t>BLOCK_TERMS)
                x = a.x + (b * a.pixels + p) * ld + first * IMAGES
                for j in range(channels):
                    moments_of_block(&moments, x + j * IMAGES, ld, pixels)
                    add_moments(s.first + j * IMAGES, s.second + j * IMAGES, &moments, p, pixels)
                p += pixels
            for k in range(channels * IMAGES):
                a.means[b * ld + first * IMAGES + k] = <real>s.first[k]
                a.rests[b * ld + first * IMAGES + k] = <real>(s.first[k] - <real>s.first[k])
                a.variances[b * ld + first * IMAGES + k] = <real>(s.second[k] / a.pixels)
            first += channels

register("image_moments", image_moments, sizeof(ImageMoments))


cdef struct ImageStatistics:
    real *mean
    real *inverse
    real *unbiased
    const real *means
    const real *rests
    const real *variances
    const int64_t *row
    const real *running
    int64_t n, blocks, images, rows
    double eps, pixels


cdef inline int64_t of_image(int64_t i, int64_t j, int64_t n) noexcept nogil:
    """Index of channel j of image i in (blocks, n, 16)."""
    return (i // IMAGES * n + j) * IMAGES + i % IMAGES


cdef void image_statistics(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ImageStatistics *a = <const ImageStatistics *>args
    cdef int64_t rows = min(a.rows, a.blocks * IMAGES), i, j
    cdef double number = rows * a.pixels, mean, apart, squares
    for j in range(begin, end):
        mean = squares = 0
        for i in range(rows):
            mean += <double>a.means[of_image(i, j, a.n)] + a.rests[of_image(i, j, a.n)]
        mean /= rows
        for i in range(rows):
            apart = a.means[of_image(i, j, a.n)] - mean + a.rests[of_image(i, j, a.n)]
            squares += a.variances[of_image(i, j, a.n)] + apart * apart
        squares /= rows
        a.mean[j] = <real>mean
        a.unbiased[j] = a.running[j] if number == 1 else <real>(squares * (number / (number - 1)))
        a.inverse[j] = inverse_of(<real>squares, a.eps) if a.unbiased[j] < INFINITY else <real>NAN

register("image_statistics", image_statistics, sizeof(ImageStatistics))


cdef struct ImageNormForward:
    real *y
    const real *x
    const real *mean
    const real *inverse
    const real *gamma
    const real *beta
    int64_t blocks, pixels, n, images
    double least


cdef void image_norm_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ImageNormForward *a = <const ImageNormForward *>args
    cdef int64_t at = begin * a.pixels * a.n * IMAGES, p, j
    cdef int i
    cdef vec least = ZERO + <real>a.least
    for p in range(begin * a.pixels, end * a.pixels):
        for j in range(a.n):
            for i in range(IMAGE_VECTORS):
                (<vec *>(a.y + at))[0] = larger_or_nan(
                    least, ((<vec *>(a.x + at))[0] - a.mean[j]) * (a.gamma[j] * a.inverse[j]) + a.beta[j])
                at += LANES

register("image_norm_forward", image_norm_forward, sizeof(ImageNormForward))


cdef struct ImageNormSums:
    real *sums
    real *products
    const real *dy
    const real *x
    const real *mean
    const real *inverse
    const real *gamma
    const real *beta
    int64_t blocks, n, images, pixels
    double least


cdef inline inlined sums_of_block(vec *sums, vec *products, const ImageNormSums *a, int64_t at, int64_t j,
                                  int64_t pixels) noexcept nogil:
    """sums <- the sums of d of channel j over up to BLOCK_TERMS pixels, products <- those of d (x - mean)."""
    cdef vec least = ZERO + <real>a.least, apart, d
    cdef real factor = a.gamma[j] * a.inverse[j], mean = a.mean[j], beta = a.beta[j]
    cdef int64_t p
    cdef int i
    for i in range(IMAGE_VECTORS):
        sums[i] = products[i] = ZERO
    for p in range(pixels):
        for i in range(IMAGE_VECTORS):
            apart = (<vec *>(a.x + at + i * LANES))[0] - mean
            d = where_larger(apart * factor + beta, least, (<vec *>(a.dy + at + i * LANES))[0])
            sums[i] = sums[i] + d
            products[i] = products[i] + d * apart
        at += a.n * IMAGES


cdef void image_norm_sums(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ImageNormSums *a = <const ImageNormSums *>args
    cdef int64_t ld = a.n * IMAGES, b, first, channels, j, p, k, pixels, at
    cdef int i
    cdef Sums s
    cdef vec sums[IMAGE_VECTORS]
    cdef vec products[IMAGE_VECTORS]
    for b in range(begin, end):
        first = 0
        while first < a.n:
            channels = min(a.n - first, <int64_t>CHANNELS)
            memset(&s, 0, sizeof(s))
            p = 0
            while p < a.pixels:
                pixels = min(a.pixels - p, <int64_t>BLOCK_TERMS)
                for j in range(channels):
                    at = (b * a.pixels + p) * ld + (first + j) * IMAGES
                    sums_of_block(sums, products, a, at, first + j, pixels)
                    for i in range(IMAGES):
                        s.first[j * IMAGES + i] += (<real *>sums)[i]
                        s.second[j * IMAGES + i] += (<real *>products)[i]
                p += pixels
            for k in range(channels * IMAGES):
                a.sums[b * ld + first * IMAGES + k] = <real>s.first[k]
                a.products[b * ld + first * IMAGES + k] = <real>(s.second[k] * a.inverse[first + k // IMAGES])
            first += channels

register("image_norm_sums", image_norm_sums, sizeof(ImageNormSums))


cdef struct ImageNormTotal:
    real *total
    const real *sums
    int64_t n, blocks, images


cdef void image_norm_total(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ImageNormTotal *a = <const ImageNormTotal *>args
    cdef int64_t i, j
    cdef double total
    for j in range(begin, end):
        total = 0
        for i in range(a.blocks * IMAGES):
            total += a.sums[of_image(i, j, a.n)]
        a.total[j] = <real>total

register("image_norm_total", image_norm_total, sizeof(ImageNormTotal))


cdef struct ImageNormBackward:
    real *dx
    const real *dy
    const real *x
    const real *mean
    const real *inverse
    const real *gamma
    const real *beta
    const real *total
    const real *product
    const int64_t *row
    int64_t blocks, pixels, n, images, rows
    double least


cdef void image_norm_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const ImageNormBackward *a = <const ImageNormBackward *>args
    cdef int64_t ld = a.n * IMAGES, first, channels, p, j, k, at
    cdef int64_t full = max(begin, min(end, a.rows // IMAGES))
    cdef double number = <double>a.rows * a.pixels
    cdef real factor[CHANNELS_OF_DX]
    cdef real off[CHANNELS_OF_DX]
    cdef real slope[CHANNELS_OF_DX]
    cdef vec least = ZERO + <real>a.least, apart
    first = 0
    while first < a.n:
        channels = min(a.n - first, <int64_t>CHANNELS_OF_DX)
        for j in range(channels):
            factor[j] = a.gamma[first + j] * a.inverse[first + j]
            off[j] = <real>(a.total[first + j] / number)
            slope[j] = a.inverse[first + j] * <real>(a.product[first + j] / number)
        for p in range(begin * a.pixels, end * a.pixels):
            at = p * ld + first * IMAGES
            for j in range(channels):
                for k in range(IMAGE_VECTORS):
                    apart = (<vec *>(a.x + at))[0] - a.mean[first + j]
                    (<vec *>(a.dx + at))[0] = factor[j] * (where_larger(
                        apart * factor[j] + a.beta[first + j], least, (<vec *>(a.dy + at))[0]
                    ) - off[j] - apart * slope[j])
                    at += LANES
        first += channels
    for p in range(full * a.pixels * a.n, end * a.pixels * a.n):
        for k in range(max(0, a.rows - p // (a.pixels * a.n) * IMAGES), IMAGES):
            a.dx[p * IMAGES + k] = 0

register("image_norm_backward", image_norm_backward, sizeof(ImageNormBackward))
