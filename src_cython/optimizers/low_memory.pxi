# Low-memory optimizer state; see fastgd/optimizers/low_memory.py. Numbers are handled as the bits of a float32.

cdef extern from "core/simd.h" nogil:
    uint32_t bits_of_float(float x)
    float float_of_bits(uint32_t bits)

cdef enum:
    MANTISSA = 20           # bits of a float32 below those that an 8-bit code keeps
    STATE_BLOCK = 256       # 8-bit codes that share a base
    LARGEST_SIGNED = 127      # the largest codes
    LARGEST_UNSIGNED = 255
    NO_SIGN = 0x7FFFFFFF
    SIGN_AND_CODE = 0x87F00000  # bits of a code that is shifted by MANTISSA
    UPPER_MAGNITUDE = 0x7FF     # bits of a float32 above MANTISSA, without the sign

constants.update(MANTISSA=MANTISSA, STATE_BLOCK=STATE_BLOCK, LARGEST_SIGNED=LARGEST_SIGNED,
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


cdef inline real from_code(uint8_t q, int32_t base, const bint signed) noexcept nogil:
    """The number with code q in a block with this base."""
    cdef uint32_t low = <uint32_t>base << MANTISSA
    cdef uint32_t b = <uint32_t><int8_t>q << MANTISSA
    if not signed:
        return float_of_bits((<uint32_t>q << MANTISSA) + low)
    return float_of_bits((b & <uint32_t>SIGN_AND_CODE) + low if q & LARGEST_SIGNED else 0)


cdef inline int32_t magnitude_of(real x) noexcept nogil:
    """The bits without the sign, which as integers have the order of the magnitudes."""
    return <int32_t>(bits_of_float(<float>x) & <uint32_t>NO_SIGN)


cdef inline int32_t base_of(int32_t largest, const bint signed) noexcept nogil:
    """The base of a block with this largest magnitude."""
    cdef int32_t base = (largest >> MANTISSA) + 1 - (LARGEST_SIGNED if signed else LARGEST_UNSIGNED)
    return base if base > 0 else 0


cdef inline uint8_t to_code(real x, int32_t base, uint32_t noise, const bint signed) noexcept nogil:
    # 16-bit numbers from here on, twice as many per vector.
    cdef uint16_t upper = <uint16_t>((bits_of_float(<float>x) + (noise >> (32 - MANTISSA))) >> MANTISSA)
    cdef uint16_t code = upper & UPPER_MAGNITUDE, low = <uint16_t>base
    code = (code if code > low else low) - low
    return <uint8_t>(code | upper >> 4 & 128) if signed else <uint8_t>code
