# Bodies of fastgd/lowmemory.py. Numbers are taken as the bits of a float32.

cdef extern from "simd.h" nogil:
    uint32_t bits_of_float(float x)
    float float_of_bits(uint32_t bits)

cdef enum:
    MANTISSA = 20
    STATE_BLOCK = 256       # that of fastgd/program.py


cdef inline uint32_t hashed(uint32_t bits, uint32_t salt) noexcept nogil:
    cdef uint32_t h = (bits ^ salt) * <uint32_t>0x85EBCA77
    return (h ^ (h >> 15)) * <uint32_t>0x9E3779B1


cdef inline uint32_t salt_of(double seed) noexcept nogil:
    return <uint32_t>(<int64_t>seed * <int64_t>0x9E3779B1)


cdef struct UnpackBfloat16:
    real *x
    const uint16_t *q
    int64_t n


cdef void unpack_bfloat16(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const UnpackBfloat16 *a = <const UnpackBfloat16 *>args
    cdef int64_t i
    for i in range(begin, end):
        a.x[i] = float_of_bits(<uint32_t>a.q[i] << 16)

register("unpack_bfloat16", unpack_bfloat16, sizeof(UnpackBfloat16))


cdef struct PackBfloat16:
    uint16_t *q
    const real *x
    int64_t n
    double seed


cdef void pack_bfloat16(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const PackBfloat16 *a = <const PackBfloat16 *>args
    cdef uint32_t salt = salt_of(a.seed), b
    cdef int64_t i
    for i in range(begin, end):
        b = bits_of_float(<float>a.x[i])
        a.q[i] = <uint16_t>((b + (hashed(b, salt) >> 16)) >> 16)

register("pack_bfloat16", pack_bfloat16, sizeof(PackBfloat16))


cdef struct Unpack8:
    real *x
    const uint8_t *q
    const int32_t *top
    int64_t blocks, width


cdef struct Pack8:
    uint8_t *q
    int32_t *top
    const real *x
    int64_t blocks, width
    double seed


cdef inline int32_t top_of(const real *x, int64_t n) noexcept nogil:
    """The place, exponent and 3 bits of mantissa, above that of the largest magnitude."""
    cdef int32_t largest = 0, v
    cdef int64_t i
    for i in range(n):
        v = <int32_t>(bits_of_float(<float>x[i]) & <uint32_t>0x7FFFFFFF)
        largest = v if v > largest else largest
    return (largest >> MANTISSA) + 1


cdef inline uint32_t bits_at(int32_t place) noexcept nogil:
    return <uint32_t>(place if place > 0 else 0) << MANTISSA


cdef inline int32_t place_of(uint32_t b, uint32_t salt, uint32_t magnitude) noexcept nogil:
    """Exponent and 3 bits of mantissa of a number, rounded stochastically."""
    return <int32_t>(((b & magnitude) + (hashed(b, salt) >> (32 - MANTISSA))) >> MANTISSA)


cdef void unpack_signed(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Unpack8 *a = <const Unpack8 *>args
    cdef int32_t code, base
    cdef uint32_t b
    cdef real *x
    cdef const uint8_t *q
    cdef int64_t i, j
    for i in range(begin, end):
        x, q, base = a.x + i * a.width, a.q + i * a.width, a.top[i] - 127
        for j in range(a.width):
            code = q[j] & 127
            b = bits_at(code + base) if code else 0
            x[j] = float_of_bits(b | <uint32_t>(q[j] & 128) << 24)

register("unpack_signed", unpack_signed, sizeof(Unpack8))


cdef void pack_signed(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Pack8 *a = <const Pack8 *>args
    cdef uint32_t salt = salt_of(a.seed), b
    cdef int32_t place, base
    cdef const real *x
    cdef uint8_t *q
    cdef int64_t i, j
    for i in range(begin, end):
        x, q = a.x + i * a.width, a.q + i * a.width
        a.top[i] = top_of(x, a.width)
        base = a.top[i] - 127
        for j in range(a.width):
            b = bits_of_float(<float>x[j])
            place = place_of(b, salt, 0x7FFFFFFF) - base
            q[j] = <uint8_t>(<uint32_t>(place if place > 0 else 0) | (b >> 24) & 128)

register("pack_signed", pack_signed, sizeof(Pack8))


cdef void unpack_unsigned(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Unpack8 *a = <const Unpack8 *>args
    cdef int32_t code, base
    cdef real *x
    cdef const uint8_t *q
    cdef int64_t i, j
    for i in range(begin, end):
        x, q, base = a.x + i * a.width, a.q + i * a.width, a.top[i] - 255
        for j in range(a.width):
            code = q[j]
            x[j] = float_of_bits(bits_at(code + base) if code else 0)

register("unpack_unsigned", unpack_unsigned, sizeof(Unpack8))


cdef void pack_unsigned(const void *args, int64_t begin, int64_t end) noexcept nogil:
    cdef const Pack8 *a = <const Pack8 *>args
    cdef uint32_t salt = salt_of(a.seed), b
    cdef int32_t place, base
    cdef const real *x
    cdef uint8_t *q
    cdef int64_t i, j
    for i in range(begin, end):
        x, q = a.x + i * a.width, a.q + i * a.width
        a.top[i] = top_of(x, a.width)
        base = a.top[i] - 255
        for j in range(a.width):
            b = bits_of_float(<float>x[j])
            place = place_of(b, salt, 0xFFFFFFFF) - base
            q[j] = <uint8_t>((place if place > 1 else 1) if b else 0)

register("pack_unsigned", pack_unsigned, sizeof(Pack8))
