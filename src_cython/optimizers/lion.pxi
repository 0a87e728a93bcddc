# Bodies of fastgd/optimizers/lion.py.

cdef inline inlined lion(real *p, real *s, real g, const double *h) noexcept nogil:
    cdef real lr = <real>h[0]
    cdef real d = decayed(g, h[3], p[0])
    cdef real c = averaged(s[0], h[1], d)
    c = lr if c > 0 else (-lr if c < 0 else c)
    s[0] = averaged(s[0], h[2], d)
    p[0] = (p[0] - c) - <real>h[4] * p[0]


cdef void lion_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements(args, begin, end, lion, 1, 5)


cdef void lion_step_bfloat16(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_bfloat16(args, begin, end, lion, 1, 5)


cdef void lion_step_8bit(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements_8bit(args, begin, end, lion, 1, 5, 0b1)

register_rule("lion_step", lion_step, lion_step_bfloat16, lion_step_8bit, 1, 5)
