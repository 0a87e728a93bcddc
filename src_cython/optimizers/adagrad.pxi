# Bodies of fastgd/optimizers/adagrad.py.

cdef inline inlined adagrad(real *p, real *s, real g, const double *h) noexcept nogil:
    cdef real lr = <real>h[0], inner = <real>h[1], eps = <real>h[2]
    cdef real d = decayed(g, h[3], p[0])
    s[0] += d * d
    p[0] = (p[0] - lr * d / (sqrt(s[0] + inner) + eps)) - <real>h[4] * p[0]


cdef void adagrad_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements(args, begin, end, adagrad, 1, 5)


cdef void adagrad_step_bfloat16(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_bfloat16(args, begin, end, adagrad, 1, 5)


cdef void adagrad_step_8bit(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_8bit(args, begin, end, adagrad, 1, 5, 0b0)

register_rule("adagrad_step", adagrad_step, adagrad_step_bfloat16, adagrad_step_8bit, 1, 5)


cdef inline inlined adadelta(real *p, real *s, real g, const double *h) noexcept nogil:
    cdef real lr = <real>h[0], eps = <real>h[2]
    cdef real d = decayed(g, h[3], p[0])
    s[0] = averaged_square(s[0], h[1], d)
    d = sqrt(s[1] + eps) / sqrt(s[0] + eps) * d
    s[1] = averaged_square(s[1], h[1], d)
    p[0] = moved(p[0], h[4], lr, d)


cdef void adadelta_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements(args, begin, end, adadelta, 2, 5)


cdef void adadelta_step_bfloat16(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_bfloat16(args, begin, end, adadelta, 2, 5)


cdef void adadelta_step_8bit(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_8bit(args, begin, end, adadelta, 2, 5, 0b00)

register_rule("adadelta_step", adadelta_step, adadelta_step_bfloat16, adadelta_step_8bit, 2, 5)


cdef inline inlined rmsprop(real *p, real *s, real g, const double *h) noexcept nogil:
    cdef real lr = <real>h[0], inner = <real>h[2], eps = <real>h[3]
    cdef real d = decayed(g, h[4], p[0])
    s[0] = averaged_square(s[0], h[1], d)
    p[0] = (p[0] - lr * d / (sqrt(s[0] + inner) + eps)) - <real>h[5] * p[0]


cdef void rmsprop_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements(args, begin, end, rmsprop, 1, 6)


cdef void rmsprop_step_bfloat16(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_bfloat16(args, begin, end, rmsprop, 1, 6)


cdef void rmsprop_step_8bit(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_8bit(args, begin, end, rmsprop, 1, 6, 0b0)

register_rule("rmsprop_step", rmsprop_step, rmsprop_step_bfloat16, rmsprop_step_8bit, 1, 6)


cdef inline inlined rmsprop_momentum(real *p, real *s, real g, const double *h) noexcept nogil:
    cdef real lr = <real>h[0], inner = <real>h[2], eps = <real>h[3], momentum = <real>h[4]
    cdef real d = decayed(g, h[5], p[0])
    s[0] = averaged_square(s[0], h[1], d)
    s[1] = momentum * s[1] + d / (sqrt(s[0] + inner) + eps)
    p[0] = moved(p[0], h[6], lr, s[1])


cdef void rmsprop_momentum_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements(args, begin, end, rmsprop_momentum, 2, 7)


cdef void rmsprop_momentum_step_bfloat16(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_bfloat16(args, begin, end, rmsprop_momentum, 2, 7)


cdef void rmsprop_momentum_step_8bit(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_8bit(args, begin, end, rmsprop_momentum, 2, 7, 0b10)

register_rule("rmsprop_momentum_step", rmsprop_momentum_step, rmsprop_momentum_step_bfloat16,
              rmsprop_momentum_step_8bit, 2, 7)


cdef inline inlined rmsprop_centred(real *p, real *s, real g, const double *h) noexcept nogil:
    cdef real lr = <real>h[0], inner = <real>h[2], eps = <real>h[3], momentum = <real>h[4]
    cdef real d = decayed(g, h[5], p[0])
    cdef real variance
    s[0] = averaged_square(s[0], h[1], d)
    s[1] = averaged(s[1], h[1], d)
    variance = s[0] - s[1] * s[1]
    variance = variance if variance > 0 else 0
    s[2] = momentum * s[2] + d / (sqrt(variance + inner) + eps)
    p[0] = moved(p[0], h[6], lr, s[2])


cdef void rmsprop_centred_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements(args, begin, end, rmsprop_centred, 3, 7)

# No version with low-memory state: a variance near 0 is a difference whose digits would be lost.
register_rule("rmsprop_centred_step", rmsprop_centred_step, NULL, NULL, 3, 7)
