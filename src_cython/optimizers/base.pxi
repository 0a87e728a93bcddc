# Loops that the optimizers' rules share. A rule updates one parameter and is inlined into loops over flat arrays.
#
# The arguments of a rule are a pointer to the parameter, the values of its slots, the gradient, and the scalars of its
# kernel in order. Never write a * b + c * d: the compiler may fuse either product, one in the vector loop and the other
# in the loop over the remaining elements, and the bits would depend on where a thread's share ends. Write
# multiply_add(a, b, c * d), which says which product is fused.

cdef enum:
    MAX_SCALARS = 8


cdef inline int64_t head_of(const real *p, int64_t begin, int64_t end) noexcept nogil:
    """The index from which p is aligned to cache lines, as is the state, which has the same alignment
    (fastgd/core/buffers.py): vectors across two lines are slow. For parts that fit in the L1 cache it is `end`, since a
    separate loop for the first elements would cost more."""
    cdef int64_t head = <int64_t>((-<uintptr_t>(p + begin) & 63) // sizeof(real))
    return begin + head if end - begin > FIRST_CACHE else end


cdef inline inlined for_elements(const void *args, int64_t begin, int64_t end, rule_t rule,
                                 const int slots, const int scalars) noexcept nogil:
    """Runs a rule on the elements [begin, end) of the arrays of a record: p, slots, g, then n and the scalars."""
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
    """`for_elements` with 16-bit slots; the seed follows the scalars."""
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


cdef inline inlined block_of_record(const void *args, int64_t begin, const int64_t n, rule_t rule, const double *h,
                                    uint32_t salt, const int slots, const int signs) noexcept nogil:
    """Runs a rule on the block of n elements from `begin` on."""
    cdef uint8_t *codes[MAX_RULE_SLOTS]
    cdef int32_t bases[MAX_RULE_SLOTS]
    cdef int k
    for k in range(slots):
        codes[k] = (<uint8_t **>args)[1 + 2 * k] + begin
        bases[k] = (<int32_t **>args)[2 + 2 * k][begin // STATE_BLOCK]
    block_8bit((<real **>args)[0] + begin, (<real **>args)[1 + 2 * slots] + begin, codes, bases, n, rule, h, salt,
               slots, signs)
    for k in range(slots):
        (<int32_t **>args)[2 + 2 * k][begin // STATE_BLOCK] = bases[k]


cdef inline inlined for_elements_8bit(const void *args, int64_t begin, int64_t end, rule_t rule,
                                      const int slots, const int scalars, const int signs) noexcept nogil:
    """`for_elements` with 8-bit slots; bit i of `signs` says whether slot i is signed. The record has p, for each slot
    an array of codes and one of bases, then g, n, the number of blocks, the scalars, the seed. `begin` must be the
    beginning of a block."""
    cdef double h[MAX_SCALARS]
    cdef uint32_t salt = salt_of((<const double *>args)[4 + 2 * slots + scalars])
    cdef int k
    for k in range(scalars):
        h[k] = (<const double *>args)[4 + 2 * slots + k]
    while end - begin >= STATE_BLOCK:
        block_of_record(args, begin, STATE_BLOCK, rule, h, salt, slots, signs)
        begin += STATE_BLOCK
    if begin < end:
        block_of_record(args, begin, end - begin, rule, h, salt, slots, signs)


def check_rule(str name, int slots, int scalars):
    """Raises ValueError unless the arrays on the stack of `for_elements` have room for a rule."""
    if slots > MAX_RULE_SLOTS or scalars > MAX_SCALARS:
        raise ValueError(f"rule {name}: expected at most {MAX_RULE_SLOTS} slots and {MAX_SCALARS} scalars, "
                         f"got {slots} and {scalars}; see src_cython/optimizers/base.pxi")


cdef void register_rule(str name, kernel_t plain, kernel_t bfloat16, kernel_t eight_bit, int slots, int scalars):
    """Registers the bodies of a rule: with full-precision slots, with 16-bit and 8-bit slots; NULL for none."""
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
    """decay v + (1 - decay) d^2. The decay is split into two positive parts, whose sum is more precise than one rounded
    number and keeps an overflowed v infinite (unless the decay is 0)."""
    cdef real most = <real>(0.999999 * decay), fresh = <real>(1 - decay)
    cdef real rest = <real>(decay - most)
    return multiply_add(most, v, multiply_add(fresh * d, d, rest * v))


cdef inline real moved(real p, double shrink, real lr, real d) noexcept nogil:
    """p - shrink p - lr d."""
    return multiply_add(-<real>shrink, p, multiply_add(-lr, d, p))
