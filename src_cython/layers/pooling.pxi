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


cdef void max_pool_forward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Pool *a = <const Pool *>args
    cdef int64_t n = a.c * IMAGES, b, u, v, i, j, k
    cdef const real *x
    cdef real *y
    cdef vec top
    cdef Window w
    for b in range(begin, end):
        x = a.x + b * a.h * a.w * n
        for u in range(a.oh):
            for v in range(a.ow):
                w = window_of(a, u, v)
                y = a.y + ((b * a.oh + u) * a.ow + v) * n
                k = 0
                while k < n:
                    top = ZERO
                    if w.i0 < w.i1 and w.j0 < w.j1:
                        top = (<vec *>(x + (w.i0 * a.w + w.j0) * n + k))[0]
                    for i in range(w.i0, w.i1):
                        for j in range(w.j0, w.j1):
                            top = larger_or_nan(top, (<vec *>(x + (i * a.w + j) * n + k))[0])
                    (<vec *>(y + k))[0] = top
                    k += LANES

register("max_pool_forward", max_pool_forward, sizeof(Pool))


cdef struct MaxPoolBackward:
    real *dx
    const real *dy
    const real *y
    const real *x
    int64_t blocks, h, w, c, images, oh, ow
    double height, width, down, across, top, left


cdef inline void give_where_equal(real *dx, bint is_first, vec x, vec top, vec *rest) noexcept nogil:
    """dx += rest where x = top, where rest becomes 0. is_first: whether dx is still undefined."""
    cdef vec given = where_equal(x, top, rest[0])
    (<vec *>dx)[0] = given if is_first else (<vec *>dx)[0] + given
    rest[0] = where_different(x, top, rest[0])


cdef void max_pool_backward(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const MaxPoolBackward *a = <const MaxPoolBackward *>args
    cdef Pool p = Pool(y=NULL, x=NULL, blocks=a.blocks, oh=a.oh, ow=a.ow, c=a.c, images=a.images, h=a.h, w=a.w,
                       height=a.height, width=a.width, down=a.down, across=a.across, top=a.top, left=a.left)
    cdef int64_t n = a.c * IMAGES, b, u, v, i, j, k, at, at_x, size = a.h * a.w * n
    cdef const real *x
    cdef real *dx
    cdef vec top, rest                  # rest: dy, until a pixel has taken it
    cdef Window w
    cdef bint is_tiled = at_least_1(a.height) == at_least_1(a.down) and at_least_1(a.width) == at_least_1(a.across) \
        and a.oh * at_least_1(a.down) == a.h and a.ow * at_least_1(a.across) == a.w and a.top < 1 and a.left < 1
    if not is_tiled:                    # else each pixel is in one window
        for i in range(begin * size, end * size):
            a.dx[i] = 0
    for b in range(begin, end):
        x = a.x + b * size
        dx = a.dx + b * size
        for u in range(a.oh):
            for v in range(a.ow):
                w = window_of(&p, u, v)
                at = ((b * a.oh + u) * a.ow + v) * n
                k = 0
                while k < n:
                    top = (<vec *>(a.y + at + k))[0]
                    rest = (<vec *>(a.dy + at + k))[0]
                    for i in range(w.i0, w.i1):
                        for j in range(w.j0, w.j1):
                            at_x = (i * a.w + j) * n + k
                            give_where_equal(dx + at_x, is_tiled, (<vec *>(x + at_x))[0], top, &rest)
                    k += LANES

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
