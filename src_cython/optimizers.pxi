# Bodies of fastgd/optimizers.py: for each rule what becomes of one parameter, inlined into walks over flat arrays.
#
# A rule has a pointer to the parameter, the values of its slots, the gradient, and the scalars of its kernel in their
# order. No sum has two products as its terms, of which the compiler might fuse one in a vector and the other in what is
# left over: the bits would depend on the share. Where the formula has such a sum, `multiply_add` says which is fused.
# Over 400 lines: a rule and its three entries for each optimizer, which grow with their number.

ctypedef void (*rule_t)(real *p, real *s, real g, const double *h) noexcept nogil

cdef enum:
    MAX_SCALARS = 8
    MAX_RULE_SLOTS = 3


cdef inline int64_t head_of(const real *p, int64_t begin, int64_t end) noexcept nogil:
    """The end of a first part after which p begins on a cache line, as does state that lies alike (fastgd/buffers.py):
    vectors over two lines are slow, but for what the first cache holds less so than one more part."""
    cdef int64_t head = <int64_t>((-<uintptr_t>(p + begin) & 63) // sizeof(real))
    return begin + head if end - begin > FIRST_CACHE else end


cdef inline inlined for_elements(const void *args, int64_t begin, int64_t end, rule_t rule,
                                 const int slots, const int scalars) noexcept nogil:
    """A rule on the elements begin, ..., end - 1 of the arrays of a record: p, slots, g, then n and the scalars."""
    cdef real **arrays = <real **>args
    cdef real *p = arrays[0]
    cdef const real *g = arrays[1 + slots]
    cdef double h[MAX_SCALARS]
    cdef real s[MAX_RULE_SLOTS]
    cdef int64_t i, stop = head_of(p, begin, end)
    cdef int k
    for k in range(scalars):
        h[k] = (<const double *>args)[3 + slots + k]
    while begin < end:
        for i in range(begin, stop):
            for k in range(slots):
                s[k] = arrays[1 + k][i]
            rule(p + i, s, g[i], h)
            for k in range(slots):
                arrays[1 + k][i] = s[k]
        begin, stop = stop, end


cdef inline inlined for_elements_bfloat16(const void *args, int64_t begin, int64_t end, rule_t rule,
                                          const int slots, const int scalars) noexcept nogil:
    """`for_elements` with slots of 16 bits; the seed follows the scalars."""
    cdef real *p = (<real **>args)[0]
    cdef const real *g = (<real **>args)[1 + slots]
    cdef uint16_t **arrays = <uint16_t **>args
    cdef double h[MAX_SCALARS]
    cdef real s[MAX_RULE_SLOTS]
    cdef uint32_t salt = salt_of((<const double *>args)[3 + slots + scalars]), noise
    cdef int64_t i, stop = head_of(p, begin, end)
    cdef int k
    for k in range(scalars):
        h[k] = (<const double *>args)[3 + slots + k]
    while begin < end:
        for i in range(begin, stop):
            for k in range(slots):
                s[k] = from_bfloat16(arrays[1 + k][i])
            rule(p + i, s, g[i], h)
            noise = noise_of(s, slots, salt)
            for k in range(slots):
                arrays[1 + k][i] = to_bfloat16(s[k], noise)
        begin, stop = stop, end


cdef inline inlined block_8bit(real *p, const real *g, uint8_t **codes, int32_t *bases, const int64_t n, rule_t rule,
                               const double *h, uint32_t salt, const int slots, const int signs) noexcept nogil:
    """A rule on a block of n elements; the arrays of codes and the bases of the block are those of the slots."""
    cdef real held[MAX_RULE_SLOTS][STATE_BLOCK]
    cdef int32_t largest[MAX_RULE_SLOTS]
    cdef real s[MAX_RULE_SLOTS]
    cdef int32_t magnitude
    cdef uint32_t noise
    cdef int64_t i
    cdef int k
    for k in range(slots):
        largest[k] = 0
    for i in range(n):
        for k in range(slots):
            s[k] = from_code(codes[k][i], bases[k], signs >> k & 1)
        rule(p + i, s, g[i], h)
        for k in range(slots):
            magnitude = magnitude_of(s[k])
            largest[k] = magnitude if magnitude > largest[k] else largest[k]
            held[k][i] = s[k]
    for k in range(slots):
        bases[k] = base_of(largest[k], signs >> k & 1)
    for i in range(n):
        for k in range(slots):
            s[k] = held[k][i]
        noise = noise_of(s, slots, salt)
        for k in range(slots):
            codes[k][i] = to_code(s[k], bases[k], noise, signs >> k & 1)


cdef inline inlined for_elements_8bit(const void *args, int64_t begin, int64_t end, rule_t rule,
                                      const int slots, const int scalars, const int signs) noexcept nogil:
    """`for_elements` with slots of 8 bits, of which those of the bits of `signs` are signed: an array of codes and one
    of the bases of blocks for each, then g, n, the number of blocks, the scalars, the seed. begin is that of a
    block."""
    cdef real *p = (<real **>args)[0]
    cdef const real *g = (<real **>args)[1 + 2 * slots]
    cdef double h[MAX_SCALARS]
    cdef uint32_t salt = salt_of((<const double *>args)[4 + 2 * slots + scalars])
    cdef uint8_t *codes[MAX_RULE_SLOTS]
    cdef int32_t bases[MAX_RULE_SLOTS]
    cdef int64_t n
    cdef int k
    for k in range(scalars):
        h[k] = (<const double *>args)[4 + 2 * slots + k]
    while begin < end:
        n = min(end - begin, <int64_t>STATE_BLOCK)
        for k in range(slots):
            codes[k] = (<uint8_t **>args)[1 + 2 * k] + begin
            bases[k] = (<int32_t **>args)[2 + 2 * k][begin // STATE_BLOCK]
        if n == STATE_BLOCK:
            block_8bit(p + begin, g + begin, codes, bases, STATE_BLOCK, rule, h, salt, slots, signs)
        else:
            block_8bit(p + begin, g + begin, codes, bases, n, rule, h, salt, slots, signs)
        for k in range(slots):
            (<int32_t **>args)[2 + 2 * k][begin // STATE_BLOCK] = bases[k]
        begin += n


def check_rule(str name, int slots, int scalars):
    """Raises ValueError unless the arrays on the stack of `for_elements` have room for a rule."""
    if slots > MAX_RULE_SLOTS or scalars > MAX_SCALARS:
        raise ValueError(f"rule {name}: expected at most {MAX_RULE_SLOTS} slots and {MAX_SCALARS} scalars, "
                         f"got {slots} and {scalars}; see src_cython/optimizers.pxi")


cdef void register_rule(str name, kernel_t plain, kernel_t bfloat16, kernel_t eight_bit, int slots, int scalars):
    """The bodies of a rule, and with its slots in fewer bits, or NULL."""
    check_rule(name, slots, scalars)
    register(name, plain, 8 * (3 + slots + scalars))
    if bfloat16 != NULL:
        register(name + "_bfloat16", bfloat16, 8 * (4 + slots + scalars))
    if eight_bit != NULL:
        register(name + "_8bit", eight_bit, 8 * (5 + 2 * slots + scalars))


cdef inline real decayed(real g, double weight_decay, real p) noexcept nogil:
    return g + <real>weight_decay * p


cdef inline real averaged(real a, double decay, real x) noexcept nogil:
    """decay a + (1 - decay) x."""
    return a + <real>(1 - decay) * (x - a)


cdef inline real averaged_square(real v, double decay, real d) noexcept nogil:
    """decay v + (1 - decay) d^2. The decay is cut in two positive parts, which together are not rounded as one would
    be, and leave what has overflowed infinite (unless the decay is 0)."""
    cdef real most = <real>(0.999999 * decay), fresh = <real>(1 - decay)
    cdef real rest = <real>(decay - most)
    return multiply_add(most, v, multiply_add(fresh * d, d, rest * v))


cdef inline real moved(real p, double shrink, real lr, real d) noexcept nogil:
    """p - shrink p - lr d."""
    return multiply_add(-<real>shrink, p, multiply_add(-lr, d, p))


cdef inline inlined sgd(real *p, real *s, real g, const double *h) noexcept nogil:
    cdef real lr = <real>h[0]
    cdef real d = decayed(g, h[1], p[0])
    p[0] = moved(p[0], h[2], lr, d)


cdef void sgd_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    for_elements(args, begin, end, sgd, 0, 3)

register_rule("sgd_step", sgd_step, NULL, NULL, 0, 3)


cdef struct SGDOuterStep:
    real *b
    real *w
    const real *x
    const real *dy
    int64_t n_out, n_in, one
    double lr


cdef void sgd_outer_step(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const SGDOuterStep *a = <const SGDOuterStep *>args
    cdef real lr = <real>a.lr
    cdef int64_t j
    for j in range(begin, end):
        a.b[j] -= lr * a.dy[j]
    subtract_outer(a.w + begin, a.n_out, lr, a.x, a.dy + begin, a.n_in, end - begin)

register("sgd_outer_step", sgd_outer_step, sizeof(SGDOuterStep))


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

# Not in fewer bits: what a variance near 0 is the difference of would be lost.
register_rule("rmsprop_centred_step", rmsprop_centred_step, NULL, NULL, 3, 7)


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
