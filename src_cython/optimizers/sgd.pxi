# Bodies of fastgd/optimizers/sgd.py.

cdef inline inlined sgd(real *p, real *s, real g, const double *h) noexcept nogil:
    cdef real lr = <real>h[0]
    cdef real d = decayed(g, h[1], p[0])
    p[0] = moved(p[0], h[2], lr, d)


cdef void sgd_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements(args, begin, end, sgd, 0, 3)

register_rule("sgd_step", sgd_step, NULL, NULL, 0, 3)


cdef struct SGDRankOneUpdate:
    real *b
    real *w
    const real *x
    const real *dy
    int64_t n_out, n_in, one
    double lr


cdef void sgd_rank_one_update(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const SGDRankOneUpdate *a = <const SGDRankOneUpdate *>args
    cdef real lr = <real>a.lr
    cdef int64_t j
    for j in range(begin, end):
        a.b[j] -= lr * a.dy[j]
    subtract_outer(a.w + begin, a.n_out, lr, a.x, a.dy + begin, a.n_in, end - begin)

register("sgd_rank_one_update", sgd_rank_one_update, sizeof(SGDRankOneUpdate))


cdef inline inlined momentum(real *p, real *s, real g, const double *h) noexcept nogil:
    cdef real lr = <real>h[0], momentum = <real>h[1]
    cdef real d = decayed(g, h[2], p[0])
    s[0] = momentum * s[0] + d
    p[0] = moved(p[0], h[3], lr, s[0])


cdef void momentum_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements(args, begin, end, momentum, 1, 4)


cdef void momentum_step_bfloat16(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_bfloat16(args, begin, end, momentum, 1, 4)


cdef void momentum_step_8bit(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_8bit(args, begin, end, momentum, 1, 4, 0b1)

register_rule("momentum_step", momentum_step, momentum_step_bfloat16, momentum_step_8bit, 1, 4)


cdef inline inlined nesterov(real *p, real *s, real g, const double *h) noexcept nogil:
    cdef real lr = <real>h[0], momentum = <real>h[1]
    cdef real d = decayed(g, h[2], p[0])
    s[0] = momentum * s[0] + d
    p[0] = moved(p[0], h[3], lr, d + momentum * s[0])


cdef void nesterov_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements(args, begin, end, nesterov, 1, 4)


cdef void nesterov_step_bfloat16(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_bfloat16(args, begin, end, nesterov, 1, 4)


cdef void nesterov_step_8bit(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_8bit(args, begin, end, nesterov, 1, 4, 0b1)

register_rule("nesterov_step", nesterov_step, nesterov_step_bfloat16, nesterov_step_8bit, 1, 4)
