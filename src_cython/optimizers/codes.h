/* Optimizer state in 8-bit codes; see fastgd/optimizers/low_memory.py.
 *
 * A code is the 12 upper bits of a float32 less the base of its block, so codes are unpacked and packed in 16-bit
 * words, the upper halves of float32 numbers. A vector of bytes holds the codes of four vectors of float32, a, b, c, d;
 * as words, a and b share one vector, a in the lower half of each 32-bit lane and b in the upper, and c and d share
 * another.
 *
 * Elements are updated in groups, whose numbers are in local arrays of constant size. The compiler vectorizes the loop
 * over a group, unrolls it, and keeps what it can of the arrays in registers. */
#ifndef FASTGD_CODES_H
#define FASTGD_CODES_H

#include "core/random.h"
#include "core/simd.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
    DROPPED = 20,               /* bits of a float32 below those that a code keeps */
    STATE_BLOCK = 256,          /* codes that share a base */
    LARGEST_SIGNED = 127,       /* the largest codes */
    LARGEST_UNSIGNED = 255,
    NO_SIGN = 0x7FFFFFFF,
    AHEAD = 4096 / sizeof(real),    /* elements: from memory, the processor alone fetches p and g too late */
    MAX_RULE_SLOTS = 3,
    /* More than the 32 iterations of a loop that GCC unrolls before it vectorizes (CMakeLists.txt). */
    GROUP = 64,
};

typedef uint8_t bytes_vec __attribute__((vector_size(VECTOR_BYTES), aligned(1), may_alias));
typedef uint16_t words_vec __attribute__((vector_size(VECTOR_BYTES), aligned(2), may_alias));
typedef int16_t signed_words __attribute__((vector_size(VECTOR_BYTES), aligned(2), may_alias));
typedef uint32_t lanes_vec __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));

/* Updates one parameter; see optimizers/base.pxi. */
typedef void (*rule_function)(real *p, real *s, real g, const double *h);

/* max(a, b) of unsigned lanes, and max(a - b, 0) of unsigned words. */
#if defined(__AVX512BW__)
#define larger(a, b) ((lanes_vec)_mm512_max_epu32((__m512i)(a), (__m512i)(b)))
#define excess(a, b) ((words_vec)_mm512_subs_epu16((__m512i)(a), (__m512i)(b)))
#elif defined(__AVX2__)
#define larger(a, b) ((lanes_vec)_mm256_max_epu32((__m256i)(a), (__m256i)(b)))
#define excess(a, b) ((words_vec)_mm256_subs_epu16((__m256i)(a), (__m256i)(b)))
#elif defined(__SSE4_1__)
#define larger(a, b) ((lanes_vec)_mm_max_epu32((__m128i)(a), (__m128i)(b)))
#define excess(a, b) ((words_vec)_mm_subs_epu16((__m128i)(a), (__m128i)(b)))
#else
#define larger(a, b) ((b) + (((a) - (b)) & (lanes_vec)((a) > (b))))
#define excess(a, b) (((a) - (b)) & (words_vec)((a) > (b)))
#endif

/* Orders of bytes within 16 bytes, of words of two vectors, and of 32-bit lanes. */
#define TO_QUARTERS(o) o, o + 8, o + 4, o + 12, o + 1, o + 9, o + 5, o + 13, \
                       o + 2, o + 10, o + 6, o + 14, o + 3, o + 11, o + 7, o + 15
#define FROM_QUARTERS(o) o, o + 4, o + 8, o + 12, o + 2, o + 6, o + 10, o + 14, \
                         o + 1, o + 5, o + 9, o + 13, o + 3, o + 7, o + 11, o + 15
#define WORDS (VECTOR_BYTES / 2)
#define EVEN_AND_ODD(o) o, o + WORDS + 1, o + 2, o + WORDS + 3, o + 4, o + WORDS + 5, o + 6, o + WORDS + 7
#if VECTOR_BYTES == 64
#define EACH_16(order) order(0), order(16), order(32), order(48)
#define EACH_8(order) order(0), order(8), order(16), order(24)
#define COLUMNS 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15
#define ROWS COLUMNS
#elif VECTOR_BYTES == 32
#define EACH_16(order) order(0), order(16)
#define EACH_8(order) order(0), order(8)
#define COLUMNS 0, 2, 4, 6, 1, 3, 5, 7
#define ROWS 0, 4, 1, 5, 2, 6, 3, 7
#else
#define EACH_16(order) order(0)
#define EACH_8(order) order(0)
#define COLUMNS 0, 1, 2, 3
#define ROWS COLUMNS
#endif

/* A vector of codes in the order of memory, as 32-bit lanes that hold one each of a, c, b and d; and back. */
static inline words_vec quartered(bytes_vec x)
{
    lanes_vec y = (lanes_vec)x;
    x = (bytes_vec)__builtin_shufflevector(y, y, COLUMNS);
    return (words_vec)__builtin_shufflevector(x, x, EACH_16(TO_QUARTERS));
}

static inline bytes_vec in_order(words_vec x)
{
    bytes_vec y = (bytes_vec)x;
    lanes_vec z = (lanes_vec)__builtin_shufflevector(y, y, EACH_16(FROM_QUARTERS));
    return (bytes_vec)__builtin_shufflevector(z, z, ROWS);
}

/* The upper halves of numbers from codes that begin at bit 4, with the sign, if any, at bit 15. */
static inline words_vec upper_halves(words_vec x, uint16_t base, int is_signed)
{
    return is_signed ? (x + base) & ~(words_vec)(x + x == 0) : x + base;
}

/* Writes the bits of the numbers of a group. */
static inline __attribute__((always_inline)) void unpack_group(uint32_t *to, const uint8_t *codes, int32_t base,
                                                               int is_signed)
{
    uint16_t shifted = (uint16_t)((uint32_t)base << 4);
    for (int i = 0; i < GROUP; i += VECTOR_BYTES) {
        words_vec x = quartered(*(const bytes_vec *)(codes + i)), ab, cd;
        if (is_signed) {
            ab = (words_vec)((signed_words)(x << 8) >> 4) & 0x87F0;
            cd = (words_vec)((signed_words)x >> 4) & 0x87F0;
        } else {
            ab = (x << 4) & 0x0FF0;
            cd = (x >> 4) & 0x0FF0;
        }
        lanes_vec *t = (lanes_vec *)(to + i);
        lanes_vec first = (lanes_vec)upper_halves(ab, shifted, is_signed);
        lanes_vec second = (lanes_vec)upper_halves(cd, shifted, is_signed);
        t[0] = first << 16;
        t[1] = first & 0xFFFF0000;
        t[2] = second << 16;
        t[3] = second & 0xFFFF0000;
    }
}

/* Updates the largest magnitudes of a block by those of a group. Only NaN has a sign in an unsigned slot, and it is
 * the largest with it and without. */
static inline __attribute__((always_inline)) void update_largest(lanes_vec *largest, const uint32_t *numbers,
                                                                 int is_signed)
{
    for (int i = 0; i < GROUP; i += VECTOR_BYTES / 4) {
        lanes_vec x = *(const lanes_vec *)(numbers + i);
        if (is_signed)
            x &= NO_SIGN;
        *largest = larger(*largest, x);
    }
}

/* Rounds the numbers of a group and keeps what their codes need: 11 bits of magnitude from bit 4 of a word on, and the
 * signs where the codes will have them. */
static inline __attribute__((always_inline)) void round_group(uint16_t *magnitudes, uint8_t *signs,
                                                              const uint32_t *numbers, const uint32_t *noise,
                                                              int is_signed)
{
    for (int i = 0; i < GROUP; i += VECTOR_BYTES) {
        const lanes_vec *x = (const lanes_vec *)(numbers + i), *z = (const lanes_vec *)(noise + i);
        words_vec ab = __builtin_shufflevector((words_vec)((x[0] + z[0]) >> 16), (words_vec)(x[1] + z[1]),
                                               EACH_8(EVEN_AND_ODD));
        words_vec cd = __builtin_shufflevector((words_vec)((x[2] + z[2]) >> 16), (words_vec)(x[3] + z[3]),
                                               EACH_8(EVEN_AND_ODD));
        if (is_signed)
            *(words_vec *)(signs + i) = ((ab >> 8) | (cd & 0xFF00)) & 0x8080;
        ((words_vec *)(magnitudes + i))[0] = ab & 0x7FF0;
        ((words_vec *)(magnitudes + i))[1] = cd & 0x7FF0;
    }
}

/* Writes the codes of n elements, whole groups. */
static inline __attribute__((always_inline)) void pack(uint8_t *codes, const uint16_t *magnitudes,
                                                       const uint8_t *signs, int32_t base, int64_t n, int is_signed)
{
    words_vec shifted = (words_vec){0} + (uint16_t)((uint32_t)base << 4);
    for (int64_t i = 0; i < n; i += VECTOR_BYTES) {
        words_vec ab = excess(*(const words_vec *)(magnitudes + i), shifted);
        words_vec cd = excess(*(const words_vec *)(magnitudes + i + WORDS), shifted);
        words_vec x = (ab >> 4) | (cd << 4);
        if (is_signed)
            x |= *(const words_vec *)(signs + i);
        *(bytes_vec *)(codes + i) = in_order(x);
    }
}

/* The base of a block with these largest magnitudes. */
static inline int32_t base_of(lanes_vec largest, int is_signed)
{
    uint32_t top = 0;
    for (int i = 0; i < VECTOR_BYTES / 4; i++)
        top = largest[i] > top ? largest[i] : top;
    int32_t base = (int32_t)((top & NO_SIGN) >> DROPPED) + 1 - (is_signed ? LARGEST_SIGNED : LARGEST_UNSIGNED);
    return base > 0 ? base : 0;
}

/* Runs a rule on a group; `numbers` has the bits of the numbers of its slots, before and after. `noise` gets the random
 * bits for rounding them. Numbers from `n` on do not exist. */
static inline __attribute__((always_inline)) void update_group(real *restrict p, const real *restrict g,
                                                               uint32_t (*numbers)[GROUP], uint32_t *noise, int64_t n,
                                                               rule_function rule, const double *h, uint32_t salt,
                                                               int slots)
{
#pragma GCC ivdep
    for (int i = 0; i < GROUP; i++) {
        real s[MAX_RULE_SLOTS];
        uint32_t sum = 0;
        for (int k = 0; k < slots; k++)
            s[k] = float_of_bits(numbers[k][i]);
        rule(p + i, s, g[i], h);
        for (int k = 0; k < slots; k++) {
            numbers[k][i] = bits_of_float((float)s[k]);
            sum += numbers[k][i];
        }
        noise[i] = (sum ^ salt) * GOLDEN >> (32 - DROPPED);
    }
    if (n < GROUP)
        for (int k = 0; k < slots; k++)
            memset(numbers[k] + n, 0, (GROUP - n) * sizeof(uint32_t));
}

/* Runs a rule on a block of n elements, with the codes and the base of the block for each slot. */
static inline __attribute__((always_inline)) void block_8bit(real *p, const real *g, uint8_t **codes, int32_t *bases,
                                                             int64_t n, rule_function rule, const double *h,
                                                             uint32_t salt, int slots, int signs)
{
    uint16_t magnitudes[MAX_RULE_SLOTS][STATE_BLOCK] __attribute__((aligned(64)));
    uint8_t sign_bits[MAX_RULE_SLOTS][STATE_BLOCK] __attribute__((aligned(64)));
    lanes_vec largest[MAX_RULE_SLOTS];
    uint32_t numbers[MAX_RULE_SLOTS][GROUP], noise[GROUP];
    /* The last elements if they do not fill a group. */
    int64_t rest = n % GROUP, whole = n - rest;
    uint8_t last_codes[MAX_RULE_SLOTS][GROUP];
    for (int k = 0; k < slots; k++)
        largest[k] = (lanes_vec){0};
#pragma GCC unroll 1
    for (int64_t i = 0; i < whole; i += GROUP) {
        for (int k = 0; k < slots; k++)
            unpack_group(numbers[k], codes[k] + i, bases[k], signs >> k & 1);
        for (int64_t j = i + AHEAD; j < i + AHEAD + GROUP; j += LINE) {
            prefetch_to_write(p + j);
            prefetch(g + j);
        }
        update_group(p + i, g + i, numbers, noise, GROUP, rule, h, salt, slots);
        for (int k = 0; k < slots; k++) {
            update_largest(largest + k, numbers[k], signs >> k & 1);
            round_group(magnitudes[k] + i, sign_bits[k] + i, numbers[k], noise, signs >> k & 1);
        }
    }
    if (rest) {
        real last_p[GROUP] = {0}, last_g[GROUP] = {0};
        memcpy(last_p, p + whole, rest * sizeof(real));
        memcpy(last_g, g + whole, rest * sizeof(real));
        for (int k = 0; k < slots; k++) {
            memset(last_codes[k], 0, GROUP);
            memcpy(last_codes[k], codes[k] + whole, rest);
            unpack_group(numbers[k], last_codes[k], bases[k], signs >> k & 1);
        }
        update_group(last_p, last_g, numbers, noise, rest, rule, h, salt, slots);
        for (int k = 0; k < slots; k++) {
            update_largest(largest + k, numbers[k], signs >> k & 1);
            round_group(magnitudes[k] + whole, sign_bits[k] + whole, numbers[k], noise, signs >> k & 1);
        }
        memcpy(p + whole, last_p, rest * sizeof(real));
    }
    for (int k = 0; k < slots; k++) {
        int is_signed = signs >> k & 1;
        bases[k] = base_of(largest[k], is_signed);
        pack(codes[k], magnitudes[k], sign_bits[k], bases[k], whole, is_signed);
        if (rest) {
            pack(last_codes[k], magnitudes[k] + whole, sign_bits[k] + whole, bases[k], GROUP, is_signed);
            memcpy(codes[k] + whole, last_codes[k], rest);
        }
    }
}

#endif
