# Convolutions 3 x 3 with strides of 1 by Winograd's minimal filtering F(2 x 2, 3 x 3), for convolution.py.
# Lavin & Gray 2016, arXiv:1509.09308. A tile of 2 x 2 outputs takes 16 products of channels instead of 36:
#
#     v = B^T d B     of the 4 x 4 pixels d of a window, channel by channel
#     u = G g G^T     of the weights g of a channel and an output
#     m[p] = sum over channels of u[p] v[p], for each of the 16 points p
#     y = A^T m A
#
# The gradient of the weights is G^T dU G, where dU[p] is the sum over tiles and images of v[p] times the transformed
# gradient A dY A^T.
#
# Its rounding errors are not larger than those of direct sums, whose terms are more.
#
# Over 400 lines: the three products share windows, tiles and scratch memory.

cdef enum:
    POINTS = 16
    WINOGRAD_CHANNELS = 8           # fewer, of x or of y, are not worth the transforms
    SMALL_ROWS = CONV_ROWS * 2 // 3
    WINOGRAD_COLUMNS = 64           # outputs whose gradients are transformed together
    WINOGRAD_SPACE = 393216         # bytes of windows and gradients that are transformed together
    TILES_OF_SUMS = 96              # whose terms of the gradient of the weights are added before float64 takes over


cdef struct Winograd:
    real *y                         # (oh, ow, o, IMAGES), of one block of images
    const real *x                   # (h, w, c, IMAGES)
    const real *init                # one number for each output channel, or NULL for 0
    int64_t h, w, c, oh, ow, o, top, left
    int64_t channels                # of x that are taken, from the first
    real least                      # y <- max(y, least)


cdef inline inlined transform_patch(vec *v, const vec *d) noexcept nogil:
    """v <- B^T d B (4 x 4)."""
    cdef vec t[POINTS]
    cdef int i
    for i in range(4):
        t[i] = d[i] - d[8 + i]
        t[4 + i] = d[4 + i] + d[8 + i]
        t[8 + i] = d[8 + i] - d[4 + i]
        t[12 + i] = d[4 + i] - d[12 + i]
    for i in range(0, POINTS, 4):
        v[i] = t[i] - t[i + 2]
        v[i + 1] = t[i + 1] + t[i + 2]
        v[i + 2] = t[i + 2] - t[i + 1]
        v[i + 3] = t[i + 1] - t[i + 3]


cdef void transform_window(real *v, int64_t step, int64_t ld, const Winograd *g, const real *zeros, int64_t i,
                           int64_t j) noexcept nogil:
    """The points of v, `step` apart, (channels, IMAGES) each, in rows `ld` apart <- the window whose first pixel is
    (i, j). zeros: (channels, IMAGES), for pixels beyond the border."""
    cdef const real *at[POINTS]
    cdef vec d[POINTS]
    cdef int64_t pixel = g.c * IMAGES, k = 0, ch
    cdef int r, s, part
    for r in range(4):
        for s in range(4):
            at[4 * r + s] = zeros
            if 0 <= i + r < g.h and 0 <= j + s < g.w:
                at[4 * r + s] = g.x + ((i + r) * g.w + j + s) * pixel
    for ch in range(g.channels):
        for part in range(IMAGE_VECTORS):
            for r in range(POINTS):
                d[r] = (<vec *>(at[r] + k))[0]
            transform_patch(d, d)
            for r in range(POINTS):
                (<vec *>(v + r * step + part * LANES))[0] = d[r]
            k += LANES
        v += ld


cdef void transform_products(const Winograd *g, const real *m, int64_t step, int64_t n, int64_t rows, int64_t u,
                             int64_t v) noexcept nogil:
    """y at the pixels from (u, v) on, channels n ... n + rows - 1 <- A^T m A + init."""
    cdef real *y = g.y + ((u * g.ow + v) * g.o + n) * IMAGES
    cdef int64_t right = g.o * IMAGES, down = g.ow * right, k = 0
    cdef bint has_right = v + 1 < g.ow, has_down = u + 1 < g.oh
    cdef vec a[4]
    cdef vec b[4]
    cdef vec init = ZERO, least = ZERO + g.least
    cdef int j
    while k < rows * IMAGES:
        for j in range(4):
            a[j] = (<vec *>(m + (4 + j) * step + k))[0]
            b[j] = (<vec *>(m + (8 + j) * step + k))[0]
            a[j], b[j] = (<vec *>(m + j * step + k))[0] + a[j] + b[j], \
                a[j] - b[j] - (<vec *>(m + (12 + j) * step + k))[0]
        if g.init != NULL:
            init = ZERO + g.init[n + k // IMAGES]
        (<vec *>(y + k))[0] = larger_or_nan(least, a[0] + a[1] + a[2] + init)
        if has_right:
            (<vec *>(y + right + k))[0] = larger_or_nan(least, a[1] - a[2] - a[3] + init)
        if has_down:
            (<vec *>(y + down + k))[0] = larger_or_nan(least, b[0] + b[1] + b[2] + init)
        if has_right and has_down:
            (<vec *>(y + down + right + k))[0] = larger_or_nan(least, b[1] - b[2] - b[3] + init)
        k += LANES


cdef inline inlined transform_weights(real *u, int64_t step, const real *g, int64_t tap) noexcept nogil:
    """The points of u, `step` apart, for LANES outputs <- G g G^T; the taps of g are `tap` apart."""
    cdef vec t[12]
    cdef vec half, middle
    cdef int i
    for i in range(3):
        half = ((<vec *>(g + i * tap))[0] + (<vec *>(g + (6 + i) * tap))[0]) * <real>0.5
        middle = (<vec *>(g + (3 + i) * tap))[0] * <real>0.5
        t[i] = (<vec *>(g + i * tap))[0]
        t[3 + i] = half + middle
        t[6 + i] = half - middle
        t[9 + i] = (<vec *>(g + (6 + i) * tap))[0]
    for i in range(4):
        half = (t[3 * i] + t[3 * i + 2]) * <real>0.5
        middle = t[3 * i + 1] * <real>0.5
        (<vec *>(u + 4 * i * step))[0] = t[3 * i]
        (<vec *>(u + (4 * i + 1) * step))[0] = half + middle
        (<vec *>(u + (4 * i + 2) * step))[0] = half - middle
        (<vec *>(u + (4 * i + 3) * step))[0] = t[3 * i + 2]


cdef void pack_winograd(real *u, const real *weights, int64_t c, int64_t o, int64_t n, int64_t end,
                        int64_t ld) noexcept nogil:
    """u (POINTS, c, ld) <- the transforms of weights (9, c, o) for outputs n ... end - 1."""
    cdef real g[9 * LANES]
    cdef int64_t ch, j, tap, i
    for ch in range(c):
        j = n
        while j < end:
            if j + LANES <= o:
                transform_weights(u + ch * ld + j - n, c * ld, weights + ch * o + j, c * o)
            else:
                for tap in range(9):
                    for i in range(LANES):
                        g[tap * LANES + i] = weights[(tap * c + ch) * o + j + i] if j + i < o else 0
                transform_weights(u + ch * ld + j - n, c * ld, g, LANES)
            j += LANES


cdef void pack_winograd_reversed(real *u, const real *weights, int64_t c, int64_t o, int64_t ch, int64_t end,
                                 int64_t ld) noexcept nogil:
    """u (POINTS, o, ld) <- the transforms of the weights (9, c, o) of the gradient of channels ch ... end - 1: in
    reverse order, outputs and channels exchanged."""
    cdef real g[9 * BLOCK * LANES]
    cdef int64_t i = ch, n, tap, j, p
    while i < end:
        n = 0
        while n < o:
            for tap in range(9):
                if n + BLOCK <= o:
                    transpose_strip(g + (8 - tap) * BLOCK * LANES, LANES, weights + (tap * c + i) * o + n, o, c - i)
                else:
                    for p in range(o - n):
                        for j in range(LANES):
                            g[((8 - tap) * BLOCK + p) * LANES + j] = \
                                weights[(tap * c + min(i + j, c - 1)) * o + n + p]
            for p in range(min(<int64_t>BLOCK, o - n)):
                transform_weights(u + (n + p) * ld + i - ch, o * ld, g + p * LANES, BLOCK * LANES)
            n += BLOCK
        i += LANES


cdef inline int64_t winograd_windows() noexcept nogil:
    """For how many windows of a channel there is room."""
    return (PACKED_A // <int64_t>sizeof(real) // IMAGES - POINTS) // (POINTS + 1)


cdef inline int64_t winograd_tiles(int64_t c) noexcept nogil:
    """For how many windows side by side there is room, with their products; 0 if c is too large."""
    cdef int64_t room = PACKED_A // <int64_t>sizeof(real) // IMAGES - c - POINTS
    return min(<int64_t>PIXELS, room // (POINTS * (c + MOST_CONV_ROWS)))


cdef inline int64_t winograd_outputs(int64_t c) noexcept nogil:
    """Of how many outputs there is room for the weights."""
    return PACKED_B // <int64_t>sizeof(real) // (POINTS * c) // LANES * LANES


cdef inline bint takes_winograd(const Geometry *g, int64_t k, int64_t c, int64_t o) noexcept nogil:
    """Whether a convolution of c channels to o outputs with weights (k, o), or its gradient, goes this way."""
    return g.channels == c and g.width == 3 and k == 9 * c and g.down == 1 and g.across == 1 \
        and min(c, o) >= WINOGRAD_CHANNELS and winograd_tiles(max(c, o)) > 0 and winograd_outputs(max(c, o)) > 0


cdef struct PointTiles:             # m[p] (rows, vectors) <- u[p] (rows, c) v[p] (c, vectors) for all points p
    real *m                         # rows IMAGES apart
    const real *u                   # terms u_term apart
    const real *v
    int64_t m_step, u_step, v_step  # from point to point
    int64_t u_term, m_vector, v_vector, c


cdef inline inlined point_tiles(const PointTiles *t, const int rows, const int vectors) noexcept nogil:
    cdef vec sums[CONV_ROWS * CONV_VECTORS]
    cdef const real *at[CONV_GROUPS]
    cdef real *m = t.m
    cdef int64_t p
    cdef int i, j
    for p in range(POINTS):
        for i in range(rows * vectors):
            sums[i] = ZERO
        for i in range(0, rows, 3):
            at[i // 3] = t.u + p * t.u_step + i
        add_terms(sums, at, t.v + p * t.v_step, IMAGES, t.v_vector, 1, t.u_term, t.c, rows, vectors, 0)
        for i in range(rows):
            for j in range(vectors):
                (<vec *>(m + i * IMAGES + j * t.m_vector))[0] = sums[i * vectors + j]
        m += t.m_step


cdef void any_point_tiles(PointTiles *t, int64_t rows, int64_t tiles) noexcept nogil:
    """The tiles of CONV_ROWS rows, or SMALL_ROWS if that is enough, for so many windows, or for one window if a pixel
    is several vectors. Rows beyond `rows` are computed, too; the memory is there. Changes t."""
    cdef int part
    if IMAGE_VECTORS == 1 and tiles == 1:
        if rows <= SMALL_ROWS:
            point_tiles(t, SMALL_ROWS, 1)
        else:
            point_tiles(t, CONV_ROWS, 1)
    elif IMAGE_VECTORS == 1 and tiles == 2:
        if rows <= SMALL_ROWS:
            point_tiles(t, SMALL_ROWS, 2)
        else:
            point_tiles(t, CONV_ROWS, 2)
    elif IMAGE_VECTORS == 1:
        if rows <= SMALL_ROWS:
            point_tiles(t, SMALL_ROWS, CONV_VECTORS)
        else:
            point_tiles(t, CONV_ROWS, CONV_VECTORS)
    else:
        t.v_vector = t.m_vector = LANES
        for part in range(IMAGE_VECTORS // CONV_VECTORS):
            if rows <= SMALL_ROWS:
                point_tiles(t, SMALL_ROWS, CONV_VECTORS)
            else:
                point_tiles(t, CONV_ROWS, CONV_VECTORS)
            t.v += CONV_VECTORS * LANES
            t.m += CONV_VECTORS * LANES


cdef void winograd_block(const Winograd *g, const real *weights, int64_t ld, int64_t first, int64_t end) noexcept nogil:
    """Outputs first ... end - 1 of a block of images, with their packed weights (POINTS, c, ld)."""
    cdef int64_t most_tiles = winograd_tiles(g.c), pixel = g.c * IMAGES, tiles, u, v, n, rows, i
    cdef int64_t step = most_tiles * pixel + IMAGES     # not a multiple of a page
    cdef real *windows = packed_a
    cdef real *products = windows + POINTS * step
    cdef real *zeros = products + POINTS * most_tiles * CONV_ROWS * IMAGES
    cdef PointTiles t
    t.m_step = most_tiles * CONV_ROWS * IMAGES
    t.u_step = g.c * ld
    t.v_step = step
    t.u_term = ld
    t.c = g.c
    memset(zeros, 0, pixel * sizeof(real))
    for u in range(0, g.oh, 2):
        v = 0
        while v < g.ow:
            tiles = balanced((g.ow - v + 1) // 2, most_tiles)
            for i in range(tiles):
                transform_window(windows + i * pixel, step, IMAGES, g, zeros, u - g.top, v + 2 * i - g.left)
            n = first
            while n < end:
                rows = min(end - n, <int64_t>CONV_ROWS)
                t.m = products
                t.u = weights + n - first
                t.v = windows
                t.v_vector = pixel
                t.m_vector = CONV_ROWS * IMAGES
                any_point_tiles(&t, rows, tiles)
                for i in range(tiles):
                    transform_products(g, products + i * CONV_ROWS * IMAGES, t.m_step, n, rows, u, v + 2 * i)
                n += rows
            v += 2 * tiles


cdef void winograd_forward(const Conv2DForward *a, const Geometry *geometry, int64_t begin, int64_t end) noexcept nogil:
    cdef int64_t most_outputs = winograd_outputs(a.c), n = 0, outputs, ld, b
    cdef Winograd g = Winograd(y=NULL, x=NULL, init=a.bias, h=a.h, w=a.w, c=a.c, oh=a.oh, ow=a.ow, o=a.o,
                               top=geometry.top, left=geometry.left, channels=a.c, least=<real>a.least)
    while n < a.o:
        outputs = min(a.o - n, most_outputs)
        ld = (outputs + LANES - 1) // LANES * LANES
        pack_winograd(packed_b, a.weights, a.c, a.o, n, n + outputs, ld)
        for b in range(begin, end):
            g.x = a.x + b * a.h * a.w * a.c * IMAGES
            g.y = a.y + b * a.oh * a.ow * a.o * IMAGES
            winograd_block(&g, packed_b, ld, n, n + outputs)
        n += outputs


cdef void winograd_backward_input(const Conv2DBackwardInput *a, const Geometry *geometry, int64_t begin,
                                  int64_t end) noexcept nogil:
    cdef int64_t most_channels = winograd_outputs(a.o), ch = 0, channels, ld, b
    cdef Winograd g = Winograd(y=NULL, x=NULL, init=NULL, h=a.oh, w=a.ow, c=a.o, oh=a.h, ow=a.w, o=a.c,
                               top=2 - geometry.top, left=2 - geometry.left, channels=a.o, least=-INFINITY)
    while ch < a.c:
        channels = min(a.c - ch, most_channels)
        ld = (channels + LANES - 1) // LANES * LANES
        pack_winograd_reversed(packed_b, a.weights, a.c, a.o, ch, ch + channels, ld)
        for b in range(begin, end):
            g.x = a.dy + b * a.oh * a.ow * a.o * IMAGES
            g.y = a.dx + b * a.h * a.w * a.c * IMAGES
            winograd_block(&g, packed_b, ld, ch, ch + channels)
        ch += channels


cdef void transform_gradient(real *d, int64_t step, real *pixels, const real *dy, const Conv2DBackwardWeights *a,
                             int64_t n, int64_t columns, int64_t u, int64_t v) noexcept nogil:
    """The points of d, `step` apart, (IMAGES, columns up to the next vector) each <- A dY A^T for outputs n ... of the
    tile at (u, v); dy: a block of images. pixels: room for four of them."""
    cdef int64_t ldb = (columns + LANES - 1) // LANES * LANES, size = IMAGES * ldb, k = 0, i, j
    cdef vec t[8]
    cdef vec y[4]
    for i in range(2):
        for j in range(2):
            if u + i < a.oh and v + j < a.ow:
                transpose_pixel(pixels + (2 * i + j) * size, ldb, dy + (((u + i) * a.ow + v + j) * a.o + n) * IMAGES,
                                columns)
            else:
                memset(pixels + (2 * i + j) * size, 0, size * sizeof(real))
    while k < size:
        for i in range(4):
            y[i] = (<vec *>(pixels + i * size + k))[0]
        for j in range(2):
            t[j] = y[j]
            t[2 + j] = y[j] + y[2 + j]
            t[4 + j] = y[j] - y[2 + j]
            t[6 + j] = ZERO - y[2 + j]
        for i in range(4):
            (<vec *>(d + 4 * i * step + k))[0] = t[2 * i]
            (<vec *>(d + (4 * i + 1) * step + k))[0] = t[2 * i] + t[2 * i + 1]
            (<vec *>(d + (4 * i + 2) * step + k))[0] = t[2 * i] - t[2 * i + 1]
            (<vec *>(d + (4 * i + 3) * step + k))[0] = ZERO - t[2 * i + 1]
        k += LANES


cdef inline void weights_of_points(real *dweights, int64_t tap, const double *point, int64_t step) noexcept nogil:
    """The taps of a weight, `tap` apart <- G^T dU G; the points of dU are `step` apart."""
    cdef double t[12]
    cdef double half, middle
    cdef int i
    for i in range(4):
        half = (point[(4 * i + 1) * step] + point[(4 * i + 2) * step]) / 2
        middle = (point[(4 * i + 1) * step] - point[(4 * i + 2) * step]) / 2
        t[i] = point[4 * i * step] + half
        t[4 + i] = middle
        t[8 + i] = half + point[(4 * i + 3) * step]
    for i in range(3):
        half = (t[4 * i + 1] + t[4 * i + 2]) / 2
        middle = (t[4 * i + 1] - t[4 * i + 2]) / 2
        dweights[i * tap] = <real>(t[4 * i] + half)
        dweights[(3 + i) * tap] = <real>middle
        dweights[(6 + i) * tap] = <real>(half + t[4 * i + 3])


cdef inline int64_t channels_of_sums(int64_t columns) noexcept nogil:
    """Of how many channels there is room for the sums with so many outputs."""
    return POINT_SUMS // (POINTS * columns * <int64_t>sizeof(double))


cdef void add_points(real *parts, const real *windows, int64_t row, const real *gradients, int64_t ldb,
                     int64_t channels, int64_t columns, int64_t tiles) noexcept nogil:
    """parts += the products of a point of windows (channels, tiles, IMAGES), whose rows are `row` apart, and gradients
    (tiles, IMAGES, ldb), register tile after register tile."""
    cdef int64_t j = 0, vectors, most, done, m
    cdef WeightTile t
    t.ldb = ldb
    t.x_row = row
    t.x_across = IMAGES
    t.dy_across = IMAGES * ldb
    t.is_joined = True
    t.x_down = t.dy_down = 0
    t.down = 1
    t.across = tiles
    while j < columns:
        vectors = min(VECTORS, (columns - j + LANES - 1) // LANES)
        most = NARROW_ROWS if vectors == 1 else MR
        t.dy = gradients + j
        done = 0
        while done < channels:
            m = balanced(channels - done, most)
            t.x = windows + done * row
            t.part = <vec *>parts
            any_weight_tile(&t, m, vectors)
            parts += m * vectors * LANES
            done += m
        j += vectors * LANES


cdef void add_parts(double *total, real *parts, int64_t channels, int64_t columns) noexcept nogil:
    """total (channels, columns) += the parts of a point, as `add_points` leaves them; parts <- 0."""
    cdef int64_t j = 0, vectors, most, done, m, i
    while j < columns:
        vectors = min(VECTORS, (columns - j + LANES - 1) // LANES)
        most = NARROW_ROWS if vectors == 1 else MR
        done = 0
        while done < channels:
            m = balanced(channels - done, most)
            for i in range(m):
                add_to_doubles(total + (done + i) * columns + j, parts + i * vectors * LANES,
                               min(vectors * LANES, columns - j))
            memset(parts, 0, m * vectors * sizeof(vec))
            parts += m * vectors * LANES
            done += m
        j += vectors * LANES


cdef void winograd_sums(const Conv2DBackwardWeights *a, const Geometry *geometry, int64_t ch, int64_t channels,
                        int64_t n, int64_t columns) noexcept nogil:
    """sums_under_way (POINTS, channels, columns) <- dU for channels ch ... and outputs n ... `most_tiles` tiles are
    transformed together: as many whatever the share of a thread and the width of a vector, so no bit depends on
    these."""
    cdef int64_t ldb = (columns + LANES - 1) // LANES * LANES
    cdef int64_t together = WINOGRAD_SPACE // (POINTS * IMAGES * <int64_t>sizeof(real))
    cdef int64_t most_tiles = max(1, together // (min(a.c, channels_of_sums(columns)) + columns))
    cdef int64_t row = most_tiles * IMAGES, x_step = channels * row + IMAGES
    cdef int64_t dy_step = most_tiles * IMAGES * ldb + IMAGES
    cdef int64_t across = (a.ow + 1) // 2, of_image = across * ((a.oh + 1) // 2), since = 0
    cdef int64_t b, u, v, i, p, tile, tiles
    cdef real *windows = packed_a
    cdef real *zeros = windows + POINTS * x_step
    cdef real *gradients = packed_b
    cdef real *pixels = gradients + POINTS * dy_step
    cdef real *parts = pixels + 4 * IMAGES * ldb
    cdef const real *dy
    cdef Winograd g = Winograd(y=NULL, x=NULL, init=NULL, h=a.h, w=a.w, c=a.c, oh=a.oh, ow=a.ow, o=a.o,
                               top=geometry.top, left=geometry.left, channels=channels, least=0)
    memset(sums_under_way, 0, POINTS * channels * columns * sizeof(double))
    memset(parts, 0, POINTS * channels * ldb * sizeof(real))
    memset(zeros, 0, channels * IMAGES * sizeof(real))
    for b in range(a.blocks):
        g.x = a.x + (b * a.h * a.w * a.c + ch) * IMAGES
        dy = a.dy + b * a.oh * a.ow * a.o * IMAGES
        tile = 0
        while tile < of_image:
            tiles = balanced(of_image - tile, most_tiles)
            for i in range(tiles):
                u = (tile + i) // across * 2
                v = (tile + i) % across * 2
                transform_window(windows + i * IMAGES, x_step, row, &g, zeros, u - g.top, v - g.left)
                transform_gradient(gradients + i * IMAGES * ldb, dy_step, pixels, dy, a, n, columns, u, v)
            for p in range(POINTS):
                add_points(parts + p * channels * ldb, windows + p * x_step, row, gradients + p * dy_step, ldb,
                           channels, columns, tiles)
            tile += tiles
            since += tiles
            if since >= TILES_OF_SUMS or (b + 1 == a.blocks and tile == of_image):
                for p in range(POINTS):
                    add_parts(sums_under_way + p * channels * columns, parts + p * channels * ldb, channels, columns)
                since = 0


cdef void winograd_backward_weights(const Conv2DBackwardWeights *a, const Geometry *geometry, int64_t begin,
                                    int64_t end) noexcept nogil:
    """The gradient for as large a share of the channels as [begin, end) is of the rows of dweights."""
    cdef int64_t n = 0, columns, ch, last = end * a.c // a.k, channels, i, j
    while n < a.o:
        columns = balanced(a.o - n, WINOGRAD_COLUMNS)
        ch = begin * a.c // a.k
        while ch < last:
            channels = balanced(last - ch, min(channels_of_sums(columns), winograd_windows()))
            winograd_sums(a, geometry, ch, channels, n, columns)
            for i in range(channels):
                for j in range(columns):
                    weights_of_points(a.dweights + (ch + i) * a.o + n + j, a.c * a.o,
                                      sums_under_way + i * columns + j, channels * columns)
            ch += channels
        n += columns
