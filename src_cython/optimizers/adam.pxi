# Bodies of fastgd/optimizers/adam.py.

cdef inline inlined adam(real *p, real *s, real g, const double *h) noexcept nogil:
    cdef real rate = <real>h[0], adapt = <real>h[3], eps = <real>h[4]
    cdef real d = decayed(g, h[5], p[0])
    s[0] = averaged(s[0], h[1], d)
    s[1] = averaged_square(s[1], h[2], d)
    p[0] = (p[0] - rate * s[0] / (adapt * sqrt(s[1]) + eps)) - <real>h[6] * p[0]


cdef void adam_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements(args, begin, end, adam, 2, 7)


cdef void adam_step_bfloat16(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_bfloat16(args, begin, end, adam, 2, 7)


cdef void adam_step_8bit(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_8bit(args, begin, end, adam, 2, 7, 0b01)

register_rule("adam_step", adam_step, adam_step_bfloat16, adam_step_8bit, 2, 7)


cdef inline inlined amsgrad(real *p, real *s, real g, const double *h) noexcept nogil:
    cdef real rate = <real>h[0], correct = <real>h[3], eps = <real>h[4]
    cdef real d = decayed(g, h[5], p[0])
    s[0] = averaged(s[0], h[1], d)
    s[1] = averaged_square(s[1], h[2], d)
    d = correct * s[1]
    s[2] = d if d > s[2] else s[2]
    p[0] = (p[0] - rate * s[0] / (sqrt(s[2]) + eps)) - <real>h[6] * p[0]


cdef void amsgrad_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements(args, begin, end, amsgrad, 3, 7)


cdef void amsgrad_step_bfloat16(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_bfloat16(args, begin, end, amsgrad, 3, 7)


cdef void amsgrad_step_8bit(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_8bit(args, begin, end, amsgrad, 3, 7, 0b001)

register_rule("amsgrad_step", amsgrad_step, amsgrad_step_bfloat16, amsgrad_step_8bit, 3, 7)


cdef inline inlined adamax(real *p, real *s, real g, const double *h) noexcept nogil:
    cdef real rate = <real>h[0], beta2 = <real>h[2], eps = <real>h[3]
    cdef real d = decayed(g, h[4], p[0])
    s[0] = averaged(s[0], h[1], d)
    s[1] = beta2 * s[1]
    d = fabs(d) + eps
    s[1] = d if d > s[1] else s[1]
    p[0] = (p[0] - rate * s[0] / s[1]) - <real>h[5] * p[0]


cdef void adamax_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements(args, begin, end, adamax, 2, 6)


cdef void adamax_step_bfloat16(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_bfloat16(args, begin, end, adamax, 2, 6)


cdef void adamax_step_8bit(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_8bit(args, begin, end, adamax, 2, 6, 0b01)

register_rule("adamax_step", adamax_step, adamax_step_bfloat16, adamax_step_8bit, 2, 6)


cdef inline inlined nadam(real *p, real *s, real g, const double *h) noexcept nogil:
    cdef real rate = <real>h[0], fresh_rate = <real>h[1], eps = <real>h[4]
    cdef real d = decayed(g, h[5], p[0])
    s[0] = averaged(s[0], h[2], d)
    s[1] = averaged_square(s[1], h[3], d)
    p[0] = (p[0] - multiply_add(rate, s[0], fresh_rate * d) / (sqrt(s[1]) + eps)) - <real>h[6] * p[0]


cdef void nadam_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements(args, begin, end, nadam, 2, 7)


cdef void nadam_step_bfloat16(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_bfloat16(args, begin, end, nadam, 2, 7)


cdef void nadam_step_8bit(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_8bit(args, begin, end, nadam, 2, 7, 0b01)

register_rule("nadam_step", nadam_step, nadam_step_bfloat16, nadam_step_8bit, 2, 7)
