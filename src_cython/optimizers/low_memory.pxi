# Low-memory optimizer state; see fastgd/optimizers/low_memory.py. Numbers are handled as the bits of a float32.

cdef extern from "core/simd.h" nogil:
    uint32_t bits_of_float(float x)
    float float_of_bits(uint32_t bits)

cdef extern from "optimizers/codes.h" nogil:
    ctypedef void (*rule_t "rule_function")(real *p, real *s, real g, const double *h) noexcept nogil
    enum: DROPPED, STATE_BLOCK, LARGEST_SIGNED, LARGEST_UNSIGNED, MAX_RULE_SLOTS
    inlined block_8bit(real *p, const real *g, uint8_t **codes, int32_t *bases, int64_t n, rule_t rule, const double *h,
                       uint32_t salt, int slots, int signs)

constants.update(MANTISSA=DROPPED, STATE_BLOCK=STATE_BLOCK, LARGEST_SIGNED=LARGEST_SIGNED,
                 LARGEST_UNSIGNED=LARGEST_UNSIGNED, GOLDEN=GOLDEN, MIX=MIX)


cdef inline uint32_t salt_of(double seed) noexcept nogil:
    cdef uint32_t z = <uint32_t>whole(seed) * GOLDEN
    z = (z ^ (z >> 16)) * MIX
    return z ^ (z >> 13)


cdef inline uint32_t noise_of(const real *s, const int slots, uint32_t salt) noexcept nogil:
    """Random bits for the slots of a parameter."""
    cdef uint32_t b = 0
    cdef int k
    for k in range(slots):
        b += bits_of_float(<float>s[k])
    return (b ^ salt) * GOLDEN


cdef inline real from_bfloat16(uint16_t q) noexcept nogil:
    return float_of_bits(<uint32_t>q << 16)


cdef inline uint16_t to_bfloat16(real x, uint32_t noise) noexcept nogil:
    return <uint16_t>((bits_of_float(<float>x) + (noise >> 16)) >> 16)
