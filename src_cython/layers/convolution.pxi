# Bodies of fastgd/layers/convolution.py.
#
# A tile is a product c (rows, pixels) = init + a b, where the rows are output channels (of x in the backward pass), and
# the columns the images of a block, in one or more pixels. Its terms are those channels of all pixels in the window
# that are in the image; pixels beyond the border take no time. a is packed: for each term the rows of the tile.
#
# Over 400 lines: the forward pass and both gradients share the geometry of windows.

cdef enum:
    WINDOW_ROWS = 256               # terms of a window that are copied at a time
    BIAS_COLUMNS = 64               # outputs whose sums are kept at a time


cdef struct Geometry:
    int64_t height, width, channels, groups, down, across, top, left


cdef Geometry geometry_of(int64_t c, int64_t k, double width, double channels, double down, double across, double top,
                          double left) noexcept nogil:
    """The geometry of a convolution: see `geometry` in convolution.py."""
    cdef Geometry g
    cdef int64_t taps
    g.channels = min(<int64_t>channels, c) if channels >= 1 else c
    g.groups = c // g.channels
    g.width = max(1, <int64_t>width)
    taps = (k + g.channels - 1) // g.channels
    g.height = (taps + g.width - 1) // g.width
    g.down = max(1, <int64_t>down)
    g.across = max(1, <int64_t>across)
    g.top = <int64_t>top
    g.left = <int64_t>left
    return g


cdef inline int64_t first_of_group(int64_t group, int64_t groups, int64_t o) noexcept nogil:
    """The first of o outputs that belongs to this group or a later one."""
    return (group * o + groups - 1) // groups


cdef inline int64_t ceiling(int64_t a, int64_t b) noexcept nogil:
    """a / b rounded up, for b > 0."""
    return (a + b - 1) // b if a > 0 else -(-a // b)


cdef inline int64_t balanced(int64_t left, int64_t most) noexcept nogil:
    """The size of the next of about equal parts of at most `most`."""
    return ceiling(left, ceiling(left, most))


cdef inline int64_t whole_blocks(int64_t columns) noexcept nogil:
    """As many columns or up to IMAGES - 1 more: a multiple of LANES on every instruction set."""
    return (columns + IMAGES - 1) // IMAGES * IMAGES


cdef inline bint has_short_runs(const Geometry *g, int64_t o) noexcept nogil:
    """Whether copying the windows pays: few contiguous terms, for many outputs."""
    return g.groups == 1 and g.channels * g.width < SHORT_RUN and o >= MANY_OUTPUTS


cdef void copy_windows(real *to, const real *x, const Geometry *g, int64_t h, int64_t w, int64_t c, int64_t begin,
                       int64_t end, int64_t u, int64_t v, int64_t v_end) noexcept nogil:
    """to (pixels, end - begin, IMAGES) <- terms [begin, end) of the windows of the pixels v ... v_end - 1 in row u of a
    block of images; 0 beyond the border."""
    cdef int64_t q, i, j, s, ch, k
    cdef const real *pixel
    while v < v_end:
        ch = begin % g.channels
        s = begin // g.channels % g.width
        i = u * g.down + begin // g.channels // g.width - g.top
        for q in range(begin, end):
            j = v * g.across + s - g.left
            pixel = x + ((i * w + j) * c + ch) * IMAGES
            k = 0
            while k < IMAGES:
                (<vec *>(to + k))[0] = (<vec *>(pixel + k))[0] if 0 <= i < h and 0 <= j < w else ZERO
                k += LANES
            to += IMAGES
            ch += 1
            if ch == g.channels:
                ch = 0
                s += 1
            if s == g.width:
                s = 0
                i += 1
        v += 1


cdef struct ConvTile:
    real *c
    const real *init                # one number for each row, or NULL for 0
    const real *a
    const real *b
    int64_t c_step, b_step          # from one vector of a row to the next
    int64_t a_k                     # from one term to the next; the rows of a are contiguous
    int64_t run, across, down       # terms: `run` contiguous ones, `across` times, `down` times
    int64_t a_across, a_down, b_across, b_down


cdef inline inlined conv_tile(const ConvTile *t, const int rows, const int vectors) noexcept nogil:
    cdef vec sums[CONV_ROWS * CONV_VECTORS]
    cdef const real *at[CONV_GROUPS]
    cdef const real *a
    cdef int64_t r, s
    cdef int i, j
    for i in range(rows):
        for j in range(vectors):
            sums[i * vectors + j] = ZERO
            if t.init != NULL:
                sums[i * vectors + j] = ZERO + t.init[i]
    for r in range(t.down):
        for s in range(t.across):
            a = t.a + r * t.a_down + s * t.a_across
            for i in range(0, rows, 3):
                at[i // 3] = a + i
            add_terms(sums, at, t.b + r * t.b_down + s * t.b_across, IMAGES, t.b_step, 1, t.a_k, t.run, rows, vectors,
                      0)
    for i in range(rows):
        for j in range(vectors):
            (<vec *>(t.c + i * IMAGES + j * t.c_step))[0] = sums[i * vectors + j]


cdef inline inlined conv_tile_rows(const ConvTile *t, int64_t rows, const int vectors) noexcept nogil:
    if rows >= CONV_ROWS:
        conv_tile(t, CONV_ROWS, vectors)
    elif rows == 1:
        conv_tile(t, 1, vectors)
    elif rows == 2:
        conv_tile(t, 2, vectors)
    elif rows == 3:
        conv_tile(t, 3, vectors)
    elif rows == 4:
        conv_tile(t, min(CONV_ROWS, 4), vectors)
    elif rows == 5:
        conv_tile(t, min(CONV_ROWS, 5), vectors)
    elif rows == 6:
        conv_tile(t, min(CONV_ROWS, 6), vectors)
    elif rows == 7:
        conv_tile(t, min(CONV_ROWS, 7), vectors)
    elif rows == 8:
        conv_tile(t, min(CONV_ROWS, 8), vectors)
    elif rows == 9:
        conv_tile(t, min(CONV_ROWS, 9), vectors)
    elif rows == 10:
        conv_tile(t, min(CONV_ROWS, 10), vectors)
    elif rows == 11:
        conv_tile(t, min(CONV_ROWS, 11), vectors)


cdef void conv_pixels(ConvTile *t, int64_t rows, int64_t pixels) noexcept nogil:
    """The tile of 1 to CONV_ROWS rows and of `pixels` pixels, or of one pixel if a pixel is several vectors. Changes
    t."""
    cdef int part
    if IMAGE_VECTORS == 1:
        if pixels == 1:
            conv_tile_rows(t, rows, 1)
        elif pixels == 2:
            conv_tile_rows(t, rows, 2)
        else:
            conv_tile_rows(t, rows, CONV_VECTORS)
        return
    t.b_step = LANES
    t.c_step = LANES
    for part in range(IMAGE_VECTORS // CONV_VECTORS):
        conv_tile_rows(t, rows, CONV_VECTORS)
        t.b += CONV_VECTORS * LANES
        t.c += CONV_VECTORS * LANES


cdef inline int64_t rows_of_conv(int64_t left, int64_t terms) noexcept nogil:
    """Rows of the next tile: as many as the packed weights have room for, at least 1."""
    return balanced(left, max(1, min(CONV_ROWS, PACKED_B // <int64_t>sizeof(real) // terms)))


cdef struct Conv2DForward:
    real *y
    const real *x
    const real *weights
    const real *bias
    int64_t blocks, oh, ow, o, images, h, w, c, k
    double width, channels, down, across, top, left, least


cdef inline void raise_to(real *c, real least, int64_t n) noexcept nogil:
    """c <- max(c, least); NaN stays."""
    cdef int64_t i
    for i in range(n):
        c[i] = least if c[i] < least else c[i]


cdef void conv_image(const Conv2DForward *a, const Geometry *g, real *y, const real *x, int64_t group, int64_t n,
                     int64_t rows) noexcept nogil:
    """Outputs n ... n + rows - 1 of a block of images, with the packed weights."""
    cdef int64_t pixel = a.c * IMAGES, u, v, first, last, t0, t1, pixels, i
    cdef bint takes_all = g.channels == a.c         # so that the terms of neighbouring pixels follow each other
    cdef real least = <real>a.least
    cdef real *c
    cdef ConvTile t
    t.init = a.bias + n
    t.a_k = rows
    t.a_down = g.width * g.channels * rows
    t.a_across = g.channels * rows
    t.b_down = a.w * pixel
    t.b_across = pixel
    for u in range(a.oh):
        first = max(0, g.top - u * g.down)
        last = min(g.height, a.h + g.top - u * g.down)
        v = 0
        while v < a.ow:
            t0 = max(0, g.left - v * g.across)
            t1 = min(g.width, a.w + g.left - v * g.across)
            pixels = 1
            while t0 == 0 and pixels < PIXELS and v + pixels < a.ow and \
                    (v + pixels) * g.across - g.left + g.width <= a.w:
                pixels += 1
            t.down = last - first if t1 > t0 else 0
            t.across = 1 if takes_all else t1 - t0
            t.run = g.channels * (t1 - t0) if takes_all else g.channels
            t.a = packed_b + (first * g.width + t0) * g.channels * rows
            t.b = x + ((u * g.down + first - g.top) * a.w + v * g.across + t0 - g.left) * pixel \
                + group * g.channels * IMAGES
            t.c = c = y + ((u * a.ow + v) * a.o + n) * IMAGES
            t.b_step = g.across * pixel
            t.c_step = a.o * IMAGES
            conv_pixels(&t, rows, pixels)
            if least > -INFINITY:
                for i in range(pixels):
                    raise_to(c + i * a.o * IMAGES, least, rows * IMAGES)
            v += pixels


cdef void conv2d_forward_plain(const Conv2DForward *a, const Geometry *g, int64_t begin, int64_t end) noexcept nogil:
    """For windows of more terms than there is room to pack."""
    cdef int64_t b, u, v, n, ch, q, group, i, j, p
    cdef const real *x
    cdef real *y
    for b in range(begin, end):
        for u in range(a.oh):
            for v in range(a.ow):
                for n in range(a.o):
                    group = n * g.groups // a.o
                    y = a.y + (((b * a.oh + u) * a.ow + v) * a.o + n) * IMAGES
                    for p in range(IMAGES):
                        y[p] = a.bias[n]
                    for q in range(a.k):
                        ch = q % g.channels
                        i = u * g.down + q // g.channels // g.width - g.top
                        j = v * g.across + q // g.channels % g.width - g.left
                        if 0 <= i < a.h and 0 <= j < a.w:
                            x = a.x + (((b * a.h + i) * a.w + j) * a.c + group * g.channels + ch) * IMAGES
                            for p in range(IMAGES):
                                y[p] += a.weights[q * a.o + n] * x[p]
                    raise_to(y, <real>a.least, IMAGES)


cdef void conv_image_by_windows(const Conv2DForward *a, const Geometry *g, real *y, const real *x) noexcept nogil:
    """All outputs of a block of images, with the packed weights of all tiles, from copies of the windows."""
    cdef int64_t u, v, n, rows, pixels, i
    cdef real least = <real>a.least
    cdef real *windows = packed_a
    cdef const real *weights
    cdef ConvTile t
    t.run = a.k
    t.across = 1
    t.down = 1
    for u in range(a.oh):
        copy_windows(windows, x, g, a.h, a.w, a.c, 0, a.k, u, 0, a.ow)
        n = 0
        weights = packed_b
        while n < a.o:
            rows = rows_of_conv(a.o - n, a.k)
            t.init = a.bias + n
            t.a_k = rows
            v = 0
            while v < a.ow:
                pixels = min(<int64_t>PIXELS, a.ow - v)
                t.a = weights
                t.b = windows + v * a.k * IMAGES
                t.c = y + ((u * a.ow + v) * a.o + n) * IMAGES
                t.b_step = a.k * IMAGES
                t.c_step = a.o * IMAGES
                conv_pixels(&t, rows, pixels)
                v += pixels
            weights += rows * a.k
            n += rows
        if least > -INFINITY:
            raise_to(y + u * a.ow * a.o * IMAGES, least, a.ow * a.o * IMAGES)


cdef void pack_weights(real *packed, const Conv2DForward *a, int64_t terms, int64_t n, int64_t rows) noexcept nogil:
    """packed (terms, rows) <- the weights of outputs n ... n + rows - 1; 0 beyond the last term."""
    cdef int64_t p, i
    for p in range(terms):
        for i in range(rows):
            packed[p * rows + i] = a.weights[p * a.o + n + i] if p < a.k else 0


cdef void conv2d_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Conv2DForward *a = <const Conv2DForward *>args
    cdef Geometry g = geometry_of(a.c, a.k, a.width, a.channels, a.down, a.across, a.top, a.left)
    cdef int64_t terms = g.height * g.width * g.channels, group, n, last, rows, b
    cdef int64_t size_x = a.h * a.w * a.c * IMAGES, size_y = a.oh * a.ow * a.o * IMAGES
    if takes_winograd(&g, a.k, a.c, a.o):
        winograd_forward(a, &g, begin, end)
        return
    if terms > PACKED_TERMS_OF_CONV:
        conv2d_forward_plain(a, &g, begin, end)
        return
    if has_short_runs(&g, a.o) and a.k * a.o <= PACKED_TERMS_OF_CONV \
            and a.k * a.ow * IMAGES <= PACKED_A // <int64_t>sizeof(real):
        n = 0
        while n < a.o:
            rows = rows_of_conv(a.o - n, a.k)
            pack_weights(packed_b + n * a.k, a, a.k, n, rows)
            n += rows
        for b in range(begin, end):
            conv_image_by_windows(a, &g, a.y + b * size_y, a.x + b * size_x)
        return
    for group in range(g.groups):
        n = first_of_group(group, g.groups, a.o)
        last = first_of_group(group + 1, g.groups, a.o)
        while n < last:
            rows = rows_of_conv(last - n, terms)
            pack_weights(packed_b, a, terms, n, rows)
            for b in range(begin, end):
                conv_image(a, &g, a.y + b * size_y, a.x + b * size_x, group, n, rows)
            n += rows

register("conv2d_forward", conv2d_forward, sizeof(Conv2DForward))


cdef struct Conv2DBackwardInput:
    real *dx
    const real *dy
    const real *weights
    int64_t blocks, h, w, c, images, oh, ow, o, k
    double width, channels, down, across, top, left


cdef void conv_image_backward(const Conv2DBackwardInput *a, const Geometry *g, real *dx, const real *dy, int64_t ch,
                              int64_t rows, int64_t n, int64_t outputs) noexcept nogil:
    """Channels ch ... ch + rows - 1 of the gradient of a block of images, from `outputs` outputs from n on."""
    cdef int64_t pixel = a.o * IMAGES, i, j, first, u0, u1, v0, v1, pixels
    cdef ConvTile t
    t.init = NULL
    t.a_k = rows
    t.a_down = g.down * g.width * outputs * rows
    t.a_across = g.across * outputs * rows
    t.b_down = a.ow * pixel
    t.b_across = pixel
    for i in range(a.h):
        u0 = max(0, ceiling(i + g.top - g.height + 1, g.down))
        u1 = min(a.oh, (i + g.top) // g.down + 1)
        for first in range(min(g.across, a.w)):
            j = first
            while j < a.w:
                v0 = ceiling(j + g.left - g.width + 1, g.across)
                v1 = (j + g.left) // g.across + 1
                pixels = 1
                while v0 >= 0 and pixels < PIXELS and j + pixels * g.across < a.w and v1 + pixels <= a.ow:
                    pixels += 1
                v0 = max(0, v0)
                v1 = min(a.ow, v1)
                t.down = u1 - u0 if v1 > v0 else 0
                t.across = v1 - v0
                t.run = outputs
                if g.groups == 1 and g.across == 1:
                    t.run *= t.across
                    t.across = 1
                # The packed taps are in reverse order, so that they ascend with the pixels of dy.
                t.a = packed_b + ((g.height - 1 - i - g.top + u0 * g.down) * g.width
                                  + g.width - 1 - j - g.left + v0 * g.across) * outputs * rows
                t.b = dy + (u0 * a.ow + v0) * pixel + n * IMAGES
                t.c = dx + ((i * a.w + j) * a.c + ch) * IMAGES
                t.b_step = pixel
                t.c_step = g.across * a.c * IMAGES
                conv_pixels(&t, rows, pixels)
                j += pixels * g.across


cdef void pack_reversed(real *packed, const Conv2DBackwardInput *a, const Geometry *g, int64_t ch, int64_t rows,
                        int64_t n, int64_t outputs) noexcept nogil:
    """packed (taps in reverse order, outputs, rows) <- the weights of channels ch ... of the group, outputs n ..."""
    cdef int64_t taps = g.height * g.width, tap, p, i, row
    for tap in range(taps):
        for i in range(rows):
            row = (taps - 1 - tap) * g.channels + ch + i
            for p in range(outputs):
                packed[(tap * outputs + p) * rows + i] = a.weights[row * a.o + n + p] if row < a.k else 0


cdef void conv2d_backward_input_plain(const Conv2DBackwardInput *a, const Geometry *g, int64_t begin,
                                      int64_t end) noexcept nogil:
    """For windows of more terms than there is room to pack."""
    cdef int64_t b, u, v, n, q, i, j, p, size = a.h * a.w * a.c * IMAGES
    cdef const real *dy
    cdef real *dx
    for i in range(begin * size, end * size):
        a.dx[i] = 0
    for b in range(begin, end):
        for u in range(a.oh):
            for v in range(a.ow):
                for q in range(a.k):
                    i = u * g.down + q // g.channels // g.width - g.top
                    j = v * g.across + q // g.channels % g.width - g.left
                    if 0 <= i < a.h and 0 <= j < a.w:
                        for n in range(a.o):
                            dy = a.dy + (((b * a.oh + u) * a.ow + v) * a.o + n) * IMAGES
                            dx = a.dx + (((b * a.h + i) * a.w + j) * a.c + n * g.groups // a.o * g.channels
                                         + q % g.channels) * IMAGES
                            for p in range(IMAGES):
                                dx[p] += a.weights[q * a.o + n] * dy[p]


cdef void conv2d_backward_input(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Conv2DBackwardInput *a = <const Conv2DBackwardInput *>args
    cdef Geometry g = geometry_of(a.c, a.k, a.width, a.channels, a.down, a.across, a.top, a.left)
    cdef int64_t taps = g.height * g.width, size = a.h * a.w * a.c * IMAGES, group, n, outputs, ch, rows, b, i
    if takes_winograd(&g, a.k, a.c, a.o):
        winograd_backward_input(a, &g, begin, end)
        return
    if taps * a.o > PACKED_TERMS_OF_CONV:
        conv2d_backward_input_plain(a, &g, begin, end)
        return
    if g.groups * g.channels < a.c:             # channels that belong to no group
        for i in range(begin * size, end * size):
            a.dx[i] = 0
    for group in range(g.groups):
        n = first_of_group(group, g.groups, a.o)
        outputs = first_of_group(group + 1, g.groups, a.o) - n
        ch = 0
        while ch < g.channels:
            rows = rows_of_conv(g.channels - ch, max(1, taps * outputs))
            pack_reversed(packed_b, a, &g, ch, rows, n, outputs)
            for b in range(begin, end):
                conv_image_backward(a, &g, a.dx + b * size, a.dy + b * a.oh * a.ow * a.o * IMAGES,
                                    group * g.channels + ch, rows, n, outputs)
            ch += rows

register("conv2d_backward_input", conv2d_backward_input, sizeof(Conv2DBackwardInput))


cdef struct Conv2DBackwardWeights:
    real *dweights
    const real *x
    const real *dy
    int64_t k, o, blocks, h, w, c, images, oh, ow
    double width, channels, down, across, top, left


cdef struct WeightTile:             # part += the sum over pixels and images of x (rows, images) dy (images, columns)
    vec *part                       # memory that the compiler must not take for registers
    const real *x
    const real *dy
    int64_t x_down, x_across, dy_down, dy_across, ldb, down, across
    int64_t x_row                   # from one row of x to the next: IMAGES, unless ...
    bint is_joined                  # ... the terms of neighbouring pixels follow each other in x, as they do in dy


cdef inline inlined weight_tile(const WeightTile *t, const int rows, const int vectors) noexcept nogil:
    """Sums of the terms of PIXELS_OF_A_SUM pixels, which are added up."""
    cdef vec sums[TILE_VECTORS]
    cdef const real *at[TILE_GROUPS]
    cdef const real *x
    cdef const real *dy
    cdef vec *part = t.part
    cdef int64_t u, v, stop, pixels
    cdef int i
    for u in range(t.down):
        x = t.x + u * t.x_down
        dy = t.dy + u * t.dy_down
        v = 0
        while v < t.across:
            for i in range(rows * vectors):
                sums[i] = ZERO
            stop = min(v + PIXELS_OF_A_SUM, t.across)
            while v < stop:
                pixels = stop - v if t.is_joined else 1
                for i in range(0, rows, 3):
                    at[i // 3] = x + i * t.x_row
                if t.is_joined:
                    add_terms(sums, at, dy, t.ldb, LANES, t.x_row, 1, pixels * IMAGES, rows, vectors, 0)
                else:               # with constants
                    add_terms(sums, at, dy, t.ldb, LANES, IMAGES, 1, IMAGES, rows, vectors, 0)
                x += pixels * t.x_across
                dy += pixels * t.dy_across
                v += pixels
            for i in range(rows * vectors):
                part[i] = part[i] + sums[i]


cdef inline inlined weight_tile_rows(const WeightTile *t, int64_t rows, const int vectors,
                                     const int most) noexcept nogil:
    if rows >= most:
        weight_tile(t, most, vectors)
    elif rows == 1:
        weight_tile(t, 1, vectors)
    elif rows == 2:
        weight_tile(t, 2, vectors)
    elif rows == 3:
        weight_tile(t, 3, vectors)
    elif rows == 4:
        weight_tile(t, min(most, 4), vectors)
    elif rows == 5:
        weight_tile(t, min(most, 5), vectors)
    elif rows == 6:
        weight_tile(t, min(most, 6), vectors)
    elif rows == 7:
        weight_tile(t, min(most, 7), vectors)
    elif rows == 8:
        weight_tile(t, min(most, 8), vectors)
    elif rows == 9:
        weight_tile(t, min(most, 9), vectors)
    elif rows == 10:
        weight_tile(t, min(most, 10), vectors)
    elif rows == 11:
        weight_tile(t, min(most, 11), vectors)


cdef void any_weight_tile(const WeightTile *t, int64_t rows, int64_t vectors) noexcept nogil:
    if vectors == VECTORS:
        weight_tile_rows(t, rows, VECTORS, MR)
    elif vectors == 1:
        weight_tile_rows(t, rows, 1, NARROW_ROWS)
    elif VECTORS > 2:
        weight_tile_rows(t, rows, 2, MR)


cdef struct Terms:                  # of a row of dweights: the pixels [u0, u1) x [v0, v1) of dy
    int64_t u0, u1, v0, v1
    const real *x                   # the row's channel of x at the window of (u0, v0)


cdef Terms terms_of(const Conv2DBackwardWeights *a, const Geometry *g, const real *x, int64_t q, int64_t group,
                    int64_t u, int64_t u_end, int64_t v, int64_t v_end) noexcept nogil:
    """Those of the pixels [u, u_end) x [v, v_end) that have pixel q of the window in the image, for row q."""
    cdef int64_t tap = q // g.channels, r = tap // g.width, s = tap % g.width
    cdef Terms t
    t.u0 = max(u, ceiling(g.top - r, g.down))
    t.u1 = min(u_end, (a.h - 1 + g.top - r) // g.down + 1) if a.h - 1 + g.top >= r else 0
    t.v0 = max(v, ceiling(g.left - s, g.across))
    t.v1 = min(v_end, (a.w - 1 + g.left - s) // g.across + 1) if a.w - 1 + g.left >= s else 0
    t.x = x + (((t.u0 * g.down + r - g.top) * a.w + t.v0 * g.across + s - g.left) * a.c
               + group * g.channels + q % g.channels) * IMAGES
    return t


cdef inline void add_to_doubles(double *total, const real *x, int64_t n) noexcept nogil:
    """total += x. Whole lines in a loop of constant length, which the compiler makes vectors of."""
    cdef double line[LINE]
    cdef int64_t j = 0
    cdef int i
    while j + LINE <= n:
        for i in range(LINE):
            line[i] = x[j + i]
        for i in range(LINE):
            total[j + i] += line[i]
        j += LINE
    while j < n:
        total[j] += x[j]
        j += 1


cdef void add_weight_tiles(double *total, int64_t x_down, int64_t x_across, const Terms *terms, const real *packed,
                           int64_t ldb, int64_t rows, int64_t columns, int64_t u, int64_t v,
                           int64_t wide) noexcept nogil:
    """total (rows, columns) += the sums of these terms for rows of dweights that have the same pixels of dy, which are
    packed from pixel (u, v) on: (pixels, IMAGES, ldb), `wide` of them in a row. x_down, x_across: from one window to
    the next."""
    cdef int64_t j = 0, vectors, most, i, m, done
    cdef vec part[NARROW_ROWS * VECTORS]
    cdef WeightTile t
    t.part = part
    t.ldb = ldb
    t.x_row = IMAGES
    t.is_joined = False
    t.x_down = x_down
    t.x_across = x_across
    t.dy_down = wide * IMAGES * ldb
    t.dy_across = IMAGES * ldb
    t.down = terms.u1 - terms.u0
    t.across = terms.v1 - terms.v0
    while j < columns:
        vectors = min(VECTORS, (columns - j + LANES - 1) // LANES)
        most = NARROW_ROWS if vectors == 1 else MR
        t.dy = packed + ((terms.u0 - u) * wide + terms.v0 - v) * IMAGES * ldb + j
        done = 0
        while done < rows:
            m = balanced(rows - done, most)
            t.x = terms.x + done * IMAGES
            memset(part, 0, m * vectors * sizeof(vec))
            any_weight_tile(&t, m, vectors)
            for i in range(m):
                add_to_doubles(total + (done + i) * columns + j, <const real *>(part + i * vectors),
                               min(vectors * LANES, columns - j))
            done += m
        j += vectors * LANES


cdef inline inlined lane_tile(real *sums_of_images, int64_t ld, const WeightTile *t, const int rows,
                              const int columns) noexcept nogil:
    """sums_of_images (rows, columns, LANES) += the sum over pixels of x (rows, LANES) dy (columns, LANES); its rows are
    ld apart, its columns IMAGES."""
    cdef vec sums[LANE_ROWS * LANE_COLUMNS]
    cdef vec d[LANE_COLUMNS]
    cdef vec value
    cdef const real *x
    cdef const real *dy
    cdef int64_t u, v
    cdef int i, j
    for i in range(rows * columns):
        sums[i] = ZERO
    for u in range(t.down):
        x = t.x + u * t.x_down
        dy = t.dy + u * t.dy_down
        for v in range(t.across):
            for j in range(columns):
                d[j] = (<vec *>(dy + j * IMAGES))[0]
            for i in range(rows):
                value = (<vec *>(x + i * IMAGES))[0]
                for j in range(columns):
                    sums[i * columns + j] = sums[i * columns + j] + value * d[j]
            x += t.x_across
            dy += t.dy_across
    for i in range(rows):
        for j in range(columns):
            (<vec *>(sums_of_images + i * ld + j * IMAGES))[0] = \
                (<vec *>(sums_of_images + i * ld + j * IMAGES))[0] + sums[i * columns + j]


cdef inline inlined lane_tile_rows(real *sums, int64_t ld, const WeightTile *t, int64_t rows,
                                   const int columns) noexcept nogil:
    if rows >= LANE_ROWS:
        lane_tile(sums, ld, t, LANE_ROWS, columns)
    elif rows == 1:
        lane_tile(sums, ld, t, 1, columns)
    elif rows == 2:
        lane_tile(sums, ld, t, 2, columns)
    elif rows == 3:
        lane_tile(sums, ld, t, min(LANE_ROWS, 3), columns)
    elif rows == 4:
        lane_tile(sums, ld, t, min(LANE_ROWS, 4), columns)
    elif rows == 5:
        lane_tile(sums, ld, t, min(LANE_ROWS, 5), columns)


cdef void any_lane_tile(real *sums, int64_t ld, const WeightTile *t, int64_t rows, int64_t columns) noexcept nogil:
    if columns >= LANE_COLUMNS:
        lane_tile_rows(sums, ld, t, rows, LANE_COLUMNS)
    elif columns == 1:
        lane_tile_rows(sums, ld, t, rows, 1)
    elif columns == 2:
        lane_tile_rows(sums, ld, t, rows, 2)
    elif columns == 3:
        lane_tile_rows(sums, ld, t, rows, min(LANE_COLUMNS, 3))


cdef void add_lane_tiles(real *sums, const Conv2DBackwardWeights *a, const Geometry *g, const Terms *terms,
                         const real *dy, int64_t rows, int64_t columns) noexcept nogil:
    """sums (rows, columns, IMAGES) += the sums of these terms, image by image, for rows of dweights that have the same
    pixels of dy."""
    cdef int64_t i = 0, j, m, n
    cdef int part
    cdef WeightTile t
    t.x_down = g.down * a.w * a.c * IMAGES
    t.x_across = g.across * a.c * IMAGES
    t.dy_down = a.ow * a.o * IMAGES
    t.dy_across = a.o * IMAGES
    t.down = terms.u1 - terms.u0
    t.across = terms.v1 - terms.v0
    while i < rows:
        m = balanced(rows - i, LANE_ROWS)
        j = 0
        while j < columns:
            n = balanced(columns - j, LANE_COLUMNS)
            for part in range(IMAGE_VECTORS):
                t.x = terms.x + i * IMAGES + part * LANES
                t.dy = dy + (terms.u0 * a.ow + terms.v0) * a.o * IMAGES + j * IMAGES + part * LANES
                any_lane_tile(sums + (i * columns + j) * IMAGES + part * LANES, columns * IMAGES, &t, m, n)
            j += n
        i += m


cdef inline int64_t end_of_segment(const Geometry *g, int64_t q, int64_t end, bint is_inside) noexcept nogil:
    """The end of the rows from q on that have the same pixels of dy, and that follow each other in x."""
    cdef int64_t stop = q // g.channels + 1
    if is_inside:
        stop = ceiling(stop, g.width) * g.width
    return min(end, stop * g.channels)


cdef void sum_weights_by_lanes(const Conv2DBackwardWeights *a, const Geometry *g, int64_t begin, int64_t end,
                               int64_t group, int64_t n, int64_t columns, bint is_inside) noexcept nogil:
    """`sum_weights` for few outputs: the sums of each image apart."""
    cdef int64_t wide = min(a.ow, SUM_TERMS), high = SUM_TERMS // wide if wide == a.ow else 1
    cdef int64_t size = (end - begin) * columns, u, v, b, q, stop, i
    cdef double *total = sums_under_way
    cdef real *sums = packed_b
    cdef const real *x
    cdef const real *dy
    cdef Terms terms
    for i in range(size):
        total[i] = 0
    for b in range(a.blocks):
        x = a.x + b * a.h * a.w * a.c * IMAGES
        dy = a.dy + (b * a.oh * a.ow * a.o + n) * IMAGES
        for i in range(size * IMAGES):
            sums[i] = 0
        u = 0
        while u < a.oh:
            v = 0
            while v < a.ow:
                q = begin
                while q < end:
                    stop = end_of_segment(g, q, end, is_inside)
                    terms = terms_of(a, g, x, q, group, u, min(u + high, a.oh), v, min(v + wide, a.ow))
                    if terms.u0 < terms.u1 and terms.v0 < terms.v1:
                        add_lane_tiles(sums + (q - begin) * columns * IMAGES, a, g, &terms, dy, stop - q, columns)
                    q = stop
                v += wide
            u += high
        for i in range(size):
            total[i] += sum_of_parts(sums + i * IMAGES)


cdef inline void transpose_pixel(real *to, int64_t ldb, const real *dy, int64_t columns) noexcept nogil:
    """to (IMAGES, ldb) <- dy (columns, IMAGES) transposed; columns up to the next vector are copies."""
    cdef int64_t j = 0, i
    while j < columns:
        i = 0
        while i < IMAGES:
            transpose_strip(to + i * ldb + j, ldb, dy + j * IMAGES + i, IMAGES, columns - j)
            i += BLOCK
        j += LANES


cdef void sum_weights_by_windows(const Conv2DBackwardWeights *a, const Geometry *g, int64_t begin, int64_t end,
                                 int64_t columns) noexcept nogil:
    """`sum_weights` for windows with short runs, from copies of the windows. How many are summed at a time must not
    depend on the share [begin, end), nor on the instruction set."""
    cdef int64_t ldb = (columns + LANES - 1) // LANES * LANES, u, v, b, i
    cdef int64_t most = max(whole_blocks(columns), min(a.k, <int64_t>WINDOW_ROWS))
    cdef int64_t wide = min(a.ow, CHUNK // 2 // (IMAGES * most))    # windows of half a chunk have room in packed_a
    cdef double *total = sums_under_way
    cdef real *packed = packed_b
    cdef real *windows = packed_a
    cdef const real *dy
    cdef Terms terms
    for i in range((end - begin) * columns):
        total[i] = 0
    for b in range(a.blocks):
        for u in range(a.oh):
            v = 0
            while v < a.ow:
                terms = Terms(u0=u, u1=u + 1, v0=v, v1=min(v + wide, a.ow), x=windows)
                copy_windows(windows, a.x + b * a.h * a.w * a.c * IMAGES, g, a.h, a.w, a.c, begin, end, u, v, terms.v1)
                dy = a.dy + ((b * a.oh + u) * a.ow + v) * a.o * IMAGES
                for i in range(terms.v1 - v):
                    transpose_pixel(packed + i * IMAGES * ldb, ldb, dy + i * a.o * IMAGES, columns)
                add_weight_tiles(total, 0, (end - begin) * IMAGES, &terms, packed, ldb, end - begin, columns, u, v,
                                 wide)
                v += wide


cdef void sum_weights(const Conv2DBackwardWeights *a, const Geometry *g, int64_t begin, int64_t end, int64_t group,
                      int64_t n, int64_t columns, bint is_inside) noexcept nogil:
    """sums_under_way (rows, columns) <- rows [begin, end) of dweights for outputs n ... n + columns - 1 of one group.
    The pixels of a block of images are taken in chunks, whose gradients are packed for all these rows; the sums of
    chunks are added in float64. is_inside: whether the windows of all pixels are within the image and take all
    channels."""
    cdef int64_t ldb = (columns + LANES - 1) // LANES * LANES, size = IMAGES * whole_blocks(columns)
    cdef int64_t wide = min(a.ow, CHUNK // size), high = CHUNK // (wide * size) if wide == a.ow else 1
    cdef int64_t u, v, b, q, stop, i, j, p
    cdef double *total = sums_under_way
    cdef real *packed = packed_b
    cdef const real *dy
    cdef Terms terms
    for i in range((end - begin) * columns):
        total[i] = 0
    for b in range(a.blocks):
        u = 0
        while u < a.oh:
            v = 0
            while v < a.ow:
                p = 0
                for i in range(u, min(u + high, a.oh)):
                    for j in range(v, min(v + wide, a.ow)):
                        dy = a.dy + (((b * a.oh + i) * a.ow + j) * a.o + n) * IMAGES
                        transpose_pixel(packed + p * ldb, ldb, dy, columns)
                        p += IMAGES
                q = begin
                while q < end:
                    stop = end_of_segment(g, q, end, is_inside)
                    terms = terms_of(a, g, a.x + b * a.h * a.w * a.c * IMAGES, q, group, u, min(u + high, a.oh), v,
                                     min(v + wide, a.ow))
                    if terms.u0 < terms.u1 and terms.v0 < terms.v1:
                        add_weight_tiles(total + (q - begin) * columns, g.down * a.w * a.c * IMAGES,
                                         g.across * a.c * IMAGES, &terms, packed, ldb, stop - q, columns, u, v,
                                         min(wide, a.ow - v))
                    q = stop
                v += wide
            u += high


cdef void conv2d_backward_weights(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Conv2DBackwardWeights *a = <const Conv2DBackwardWeights *>args
    cdef Geometry g = geometry_of(a.c, a.k, a.width, a.channels, a.down, a.across, a.top, a.left)
    cdef bint is_inside = g.channels == a.c and g.left == 0 and (a.ow - 1) * g.across + g.width <= a.w
    cdef int64_t group, n, last, columns, rows, i, stop, j, p
    if takes_winograd(&g, a.k, a.c, a.o):
        winograd_backward_weights(a, &g, begin, end)
        return
    for group in range(g.groups):
        n = first_of_group(group, g.groups, a.o)
        last = first_of_group(group + 1, g.groups, a.o)
        while n < last:
            columns = min(last - n, <int64_t>CHUNK_COLUMNS)
            rows = SUMS // (columns * <int64_t>sizeof(double))
            i = begin
            while i < end:
                stop = min(i + rows, end)
                if has_short_runs(&g, columns):
                    stop = min(stop, i + WINDOW_ROWS)
                    sum_weights_by_windows(a, &g, i, stop, columns)
                elif columns <= FEW_OUTPUTS:
                    stop = min(stop, i + PACKED_TERMS_OF_CONV // (IMAGES * columns))
                    sum_weights_by_lanes(a, &g, i, stop, group, n, columns, is_inside)
                else:
                    sum_weights(a, &g, i, stop, group, n, columns, is_inside)
                for p in range(i, stop):
                    for j in range(columns):
                        a.dweights[p * a.o + n + j] = <real>sums_under_way[(p - i) * columns + j]
                i = stop
            n += columns

register("conv2d_backward_weights", conv2d_backward_weights, sizeof(Conv2DBackwardWeights))


cdef inline void add_reals(real *to, const real *x, int64_t n) noexcept nogil:
    """to += x, whole vectors."""
    cdef int64_t i = 0
    while i < n:
        (<vec *>(to + i))[0] = (<vec *>(to + i))[0] + (<vec *>(x + i))[0]
        i += LANES


cdef struct Conv2DBackwardBias:
    real *dbias
    const real *dy
    int64_t o, blocks, pixels, images


cdef void conv2d_backward_bias(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Conv2DBackwardBias *a = <const Conv2DBackwardBias *>args
    cdef real sums[BIAS_COLUMNS * IMAGES]
    cdef double total[BIAS_COLUMNS]
    cdef int64_t n = begin, columns, p, q, i
    while n < end:
        columns = min(end - n, <int64_t>BIAS_COLUMNS)
        for i in range(columns):
            total[i] = 0
        p = 0
        while p < a.blocks * a.pixels:
            for i in range(columns * IMAGES):
                sums[i] = 0
            for q in range(p, min(p + BLOCK_TERMS, a.blocks * a.pixels)):
                add_reals(sums, a.dy + (q * a.o + n) * IMAGES, columns * IMAGES)
            for i in range(columns):
                total[i] += sum_of_parts(sums + i * IMAGES)
            p += BLOCK_TERMS
        for i in range(columns):
            a.dbias[n + i] = <real>total[i]
        n += columns

register("conv2d_backward_bias", conv2d_backward_bias, sizeof(Conv2DBackwardBias))
