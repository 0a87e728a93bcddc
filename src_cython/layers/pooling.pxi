# Bodies of fastgd/layers/pooling.py.

cdef inline int64_t at_least_1(double x) noexcept nogil:
    return max(1, <int64_t>x)


cdef struct Pool:
    real *y
    const real *x
    int64_t blocks, oh, ow, c, images, h, w
    double height, width, down, across, top, left


cdef struct Window:                 # the pixels of a window that are in the image: [i0, i1) x [j0, j1)
    int64_t i0, i1, j0, j1


cdef inline Window window_of(const Pool *a, int64_t u, int64_t v) noexcept nogil:
    cdef int64_t i = u * at_least_1(a.down) - <int64_t>a.top, j = v * at_least_1(a.across) - <int64_t>a.left
    return Window(i0=max(0, i), i1=min(a.h, i + at_least_1(a.height)),
                  j0=max(0, j), j1=min(a.w, j + at_least_1(a.width)))


cdef inline inlined largest_of_window(real *y, const real *x, int64_t n, int64_t row, const int64_t height,
                                      const int64_t width) noexcept nogil:
    """y (n) <- the largest of the pixels of a window; its rows are `row` apart in x."""
    cdef int64_t k = 0, i, j
    cdef vec top
    while k < n:
        top = (<vec *>(x + k))[0]
        for i in range(height):
            for j in range(width):
                top = larger_or_nan(top, (<vec *>(x + i * row + j * n + k))[0])
        (<vec *>(y + k))[0] = top
        k += LANES


cdef void max_pool_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Pool *a = <const Pool *>args
    cdef int64_t n = a.c * IMAGES, b, u, v
    cdef const real *x
    cdef real *y = a.y + begin * a.oh * a.ow * n
    cdef Window w
    for b in range(begin, end):
        for u in range(a.oh):
            for v in range(a.ow):
                w = window_of(a, u, v)
                x = a.x + ((b * a.h + w.i0) * a.w + w.j0) * n
                if w.i1 - w.i0 == 2 and w.j1 - w.j0 == 2:
                    largest_of_window(y, x, n, a.w * n, 2, 2)
                elif w.i0 < w.i1 and w.j0 < w.j1:
                    largest_of_window(y, x, n, a.w * n, w.i1 - w.i0, w.j1 - w.j0)
                else:
                    memset(y, 0, n * sizeof(real))
                y += n

register("max_pool_forward", max_pool_forward, sizeof(Pool))


cdef struct MaxPoolBackward:
    real *dx
    const real *dy
    const real *y
    const real *x
    int64_t blocks, h, w, c, images, oh, ow
    double height, width, down, across, top, left


cdef inline inlined give_to_largest(real *dx, const real *x, const real *y, const real *dy, int64_t n, int64_t row,
                                    const int64_t height, const int64_t width, const bint is_tiled) noexcept nogil:
    """dx += dy at the first pixel of a window where x = y. is_tiled: no other window has these pixels, and dx is still
    undefined."""
    cdef int64_t k = 0, i, j, at
    cdef vec top, rest, given           # rest: dy, until a pixel has taken it
    while k < n:
        top = (<vec *>(y + k))[0]
        rest = (<vec *>(dy + k))[0]
        for i in range(height):
            for j in range(width):
                at = i * row + j * n + k
                given = where_equal((<vec *>(x + at))[0], top, rest)
                rest = where_different((<vec *>(x + at))[0], top, rest)
                (<vec *>(dx + at))[0] = given if is_tiled else (<vec *>(dx + at))[0] + given
        k += LANES


cdef void max_pool_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const MaxPoolBackward *a = <const MaxPoolBackward *>args
    cdef Pool p = Pool(y=NULL, x=NULL, blocks=a.blocks, oh=a.oh, ow=a.ow, c=a.c, images=a.images, h=a.h, w=a.w,
                       height=a.height, width=a.width, down=a.down, across=a.across, top=a.top, left=a.left)
    cdef int64_t n = a.c * IMAGES, b, u, v, at, at_y = begin * a.oh * a.ow * n, size = a.h * a.w * n
    cdef Window w
    cdef bint is_tiled = at_least_1(a.height) == at_least_1(a.down) and at_least_1(a.width) == at_least_1(a.across) \
        and a.oh * at_least_1(a.down) == a.h and a.ow * at_least_1(a.across) == a.w and a.top < 1 and a.left < 1
    if not is_tiled:
        memset(a.dx + begin * size, 0, (end - begin) * size * sizeof(real))
    for b in range(begin, end):
        for u in range(a.oh):
            for v in range(a.ow):
                w = window_of(&p, u, v)
                at = ((b * a.h + w.i0) * a.w + w.j0) * n
                if is_tiled and w.i1 - w.i0 == 2 and w.j1 - w.j0 == 2:
                    give_to_largest(a.dx + at, a.x + at, a.y + at_y, a.dy + at_y, n, a.w * n, 2, 2, True)
                else:
                    give_to_largest(a.dx + at, a.x + at, a.y + at_y, a.dy + at_y, n, a.w * n, w.i1 - w.i0,
                                    w.j1 - w.j0, is_tiled)
                at_y += n

register("max_pool_backward", max_pool_backward, sizeof(MaxPoolBackward))


cdef void average_pool_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Pool *a = <const Pool *>args
    cdef int64_t n = a.c * IMAGES, b, u, v, i, j, k
    cdef const real *x
    cdef real *y
    cdef real count
    cdef Window w
    for b in range(begin, end):
        for u in range(a.oh):
            for v in range(a.ow):
                w = window_of(a, u, v)
                count = max(1, max(0, w.i1 - w.i0) * max(0, w.j1 - w.j0))
                y = a.y + ((b * a.oh + u) * a.ow + v) * n
                for k in range(n):
                    y[k] = 0
                for i in range(w.i0, w.i1):
                    for j in range(w.j0, w.j1):
                        x = a.x + ((b * a.h + i) * a.w + j) * n
                        for k in range(n):
                            y[k] += x[k]
                for k in range(n):
                    y[k] /= count

register("average_pool_forward", average_pool_forward, sizeof(Pool))


cdef struct AveragePoolBackward:
    real *dx
    const real *dy
    int64_t blocks, h, w, c, images, oh, ow
    double height, width, down, across, top, left


cdef void average_pool_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const AveragePoolBackward *a = <const AveragePoolBackward *>args
    cdef Pool p = Pool(y=NULL, x=NULL, blocks=a.blocks, oh=a.oh, ow=a.ow, c=a.c, images=a.images, h=a.h, w=a.w,
                       height=a.height, width=a.width, down=a.down, across=a.across, top=a.top, left=a.left)
    cdef int64_t n = a.c * IMAGES, b, u, v, i, j, k, size = a.h * a.w * n
    cdef const real *dy
    cdef real *dx
    cdef real count
    cdef Window w
    for i in range(begin * size, end * size):
        a.dx[i] = 0
    for b in range(begin, end):
        for u in range(a.oh):
            for v in range(a.ow):
                w = window_of(&p, u, v)
                count = max(1, max(0, w.i1 - w.i0) * max(0, w.j1 - w.j0))
                dy = a.dy + ((b * a.oh + u) * a.ow + v) * n
                for i in range(w.i0, w.i1):
                    for j in range(w.j0, w.j1):
                        dx = a.dx + ((b * a.h + i) * a.w + j) * n
                        for k in range(n):
                            dx[k] += dy[k] / count

register("average_pool_backward", average_pool_backward, sizeof(AveragePoolBackward))


cdef struct GlobalAverageForward:
    real *y
    const real *x
    int64_t blocks, c, images, pixels


cdef void global_average_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const GlobalAverageForward *a = <const GlobalAverageForward *>args
    cdef int64_t n = a.c * IMAGES, b, p, k
    cdef real scale = <real>(1.0 / a.pixels)
    cdef const real *x
    cdef real *y
    for b in range(begin, end):
        y = a.y + b * n
        for k in range(n):
            y[k] = 0
        for p in range(a.pixels):
            x = a.x + (b * a.pixels + p) * n
            for k in range(n):
                y[k] += x[k]
        for k in range(n):
            y[k] *= scale

register("global_average_forward", global_average_forward, sizeof(GlobalAverageForward))


cdef struct GlobalAverageBackward:
    real *dx
    const real *dy
    int64_t blocks, pixels, c, images


cdef void global_average_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const GlobalAverageBackward *a = <const GlobalAverageBackward *>args
    cdef int64_t n = a.c * IMAGES, b, p, k
    cdef real scale = <real>(1.0 / a.pixels)
    cdef const real *dy
    cdef real *dx
    for b in range(begin, end):
        dy = a.dy + b * n
        for p in range(a.pixels):
            dx = a.dx + (b * a.pixels + p) * n
            for k in range(n):
                dx[k] = dy[k] * scale

register("global_average_backward", global_average_backward, sizeof(GlobalAverageBackward))
