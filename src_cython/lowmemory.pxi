# State of optimizers in fewer bits, as fastgd/lowmemory.py says. Numbers are taken as the bits of a float32.

cdef extern from "simd.h" nogil:
    uint32_t bits_of_float(float x)
    float float_of_bits(uint32_t bits)

cdef enum:
    MANTISSA = 20           # bits below those that a code of 8 bits keeps
    STATE_BLOCK = 256       # that of fastgd/lowmemory.py
    SIGNED_TOP = 127
    UNSIGNED_TOP = 255


cdef inline uint32_t hashed(uint32_t bits, uint32_t salt) noexcept nogil:
    return (bits ^ salt) * <uint32_t>0x9E3779B1


cdef inline uint32_t salt_of(double seed) noexcept nogil:
    return <uint32_t>(<int64_t>seed * <int64_t>0x9E3779B1)


cdef inline real from_bfloat16(uint16_t q) noexcept nogil:
    return float_of_bits(<uint32_t>q << 16)


cdef inline uint16_t to_bfloat16(real x, uint32_t salt) noexcept nogil:
    cdef uint32_t b = bits_of_float(<float>x)
    return <uint16_t>((b + (hashed(b, salt) >> 16)) >> 16)


cdef inline real from_code(uint8_t q, int32_t top, const bint signed) noexcept nogil:
    """The number of which q is the code in a block with this top."""
    cdef int32_t code = q & SIGNED_TOP if signed else q
    cdef int32_t place = code + (top - (SIGNED_TOP if signed else UNSIGNED_TOP))
    cdef uint32_t b = <uint32_t>(place if place > 0 else 0) << MANTISSA if code else 0
    if signed:
        b |= <uint32_t>(q & 128) << 24
    return float_of_bits(b)


cdef inline int32_t magnitude_of(real x) noexcept nogil:
    """The bits without the sign: their order as integers is that of the magnitudes."""
    return <int32_t>(bits_of_float(<float>x) & <uint32_t>0x7FFFFFFF)


cdef inline uint8_t to_code(real x, int32_t top, uint32_t salt, const bint signed) noexcept nogil:
    cdef uint32_t b = bits_of_float(<float>x)
    cdef int32_t place = <int32_t>(((b & <uint32_t>0x7FFFFFFF) + (hashed(b, salt) >> (32 - MANTISSA))) >> MANTISSA)
    place -= top - (SIGNED_TOP if signed else UNSIGNED_TOP)
    if signed:
        return <uint8_t>(<uint32_t>(place if place > 0 else 0) | (b >> 24) & 128)
    return <uint8_t>((place if place > 1 else 1) if b else 0)
