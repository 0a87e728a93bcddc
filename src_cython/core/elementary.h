/* Elementary functions of a real, without branches so that the compiler vectorizes them.
 *
 * They use only IEEE additions, multiplications, fused multiply-adds and divisions in a fixed order, so the bits are
 * the same in every lane and on every instruction set with FMA. No sum here has two products as its terms, since the
 * compiler could fuse either. Errors are in units in the last place (ulp), measured by tests/test_elementary.py. NaN
 * gives NaN.
 */
#ifndef FASTGD_ELEMENTARY_H
#define FASTGD_ELEMENTARY_H

#include "core/simd.h"

#if REAL_BYTES == 4
#define ROUNDING 12582912.0f          /* 1.5 * 2^23: adding it rounds to an integer, which its low bits then hold */
#define MANTISSA 23
#define BIAS 127
#define EXP_LOW -104.0f               /* exp is 0 below, infinite above */
#define EXP_HIGH 89.0f
#define LOG2E 1.44269504088896341f
#define LN2_HIGH 0.693359375f         /* few bits: its product with an exponent is exact */
#define LN2_LOW -2.12194440054690583e-4f
#define SQRT_HALF_BITS 0x3f3504f3
enum { EXP_TERMS = 8, LOG_TERMS = 5, CDF_TERMS = 11 };
#else
#define ROUNDING 6755399441055744.0   /* 1.5 * 2^52 */
#define MANTISSA 52
#define BIAS 1023
#define EXP_LOW -746.0
#define EXP_HIGH 710.0
#define LOG2E 1.44269504088896340736
#define LN2_HIGH 6.93147180369123816490e-01
#define LN2_LOW 1.90821492927058770002e-10
#define SQRT_HALF_BITS 0x3fe6a09e667f3bcd
enum { EXP_TERMS = 14, LOG_TERMS = 11, CDF_TERMS = 26 };
#endif

/* 1 / k!, and 1 / (2 k + 1) */
static const real inverse_factorial[14] = {
    1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800,
    1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800,
};
static const real inverse_odd[11] = {
    1.0, 1.0 / 3, 1.0 / 5, 1.0 / 7, 1.0 / 9, 1.0 / 11, 1.0 / 13, 1.0 / 15, 1.0 / 17, 1.0 / 19, 1.0 / 21,
};
/* Chebyshev fit in u = 2 t - 1 of erfc(z) exp(z^2) / t, t = 2 / (2 + z), on 0 < t <= 1. */
static const real scaled_erfc[CDF_TERMS] = {
#if REAL_BYTES == 4
    0.5107913569f, 0.3435803187f, 0.1397357335f, 0.01822166943f, -0.01075162619f, -0.003243451918f, 0.001529157161f,
    0.0004306704884f, -0.0002993827121f, -3.660187694e-5f, 4.21611972e-5f,
#else
    0.51079135262101152502, 0.3435803422069051367, 0.13973604627801475144, 0.018221115753459039907,
    -0.010755330944036531378, -0.0032395925345820674646, 0.0015453060141013286862, 0.0004186480432791113325,
    -0.00033153657669014611945, -0.000017185831874889772353, 0.000072234188295048040594, -0.000017073781133818806634,
    -0.000010842985329964307241, 8.0578758671469779234e-6, -5.7764236115139591284e-7, -1.8150355080533496394e-6,
    1.0305699215295247622e-6, -1.3754508234429250749e-8, -3.2624609353311333033e-7, 1.7867229479294613225e-7,
    3.6000845292383760784e-8, -6.965842943490735206e-8, 6.5204346142829986832e-9, 1.3216325517937448133e-8,
    -1.9111737285877114148e-9, -1.0590333144071675258e-9,
#endif
};

/* The bits are unsigned, so that the bits of a NaN or of a number out of range can be shifted and added. */
static inline real from_bits(unsigned_bits b)
{
    union { unsigned_bits b; real x; } u = { b };
    return u.x;
}

static inline unsigned_bits to_bits(real x)
{
    union { real x; unsigned_bits b; } u = { x };
    return u.b;
}

/* coefficients[first] + x coefficients[first + 1] + ... up to coefficients[last - 1] */
static inline __attribute__((always_inline)) real polynomial(const real *coefficients, int first, int last, real x)
{
    real sum = coefficients[last - 1];
#pragma GCC unroll 32
    for (int k = last - 2; k >= first; k--)
        sum = sum * x + coefficients[k];
    return sum;
}

/* 2^n for -BIAS < n <= BIAS, a negative n as its two's complement. */
static inline real power_of_two(unsigned_bits n)
{
    return from_bits((n + BIAS) << MANTISSA);
}

/* The integer nearest to x, |x| < 2^(MANTISSA - 2), in two's complement: the low bits of a sum. */
static inline unsigned_bits nearest(real x)
{
    return to_bits(x + ROUNDING) - to_bits(ROUNDING);
}

/* x = n log 2 + r, |r| <= log 2 / 2; returns r, and exp(r) - 1 - r as tail. x is between EXP_LOW and EXP_HIGH. */
static inline real reduced_exp(real x, real *n, real *tail)
{
    *n = (x * LOG2E + ROUNDING) - ROUNDING;
    real r = x - *n * LN2_HIGH;
    r = r - *n * LN2_LOW;
    *tail = r * r * polynomial(inverse_factorial, 2, EXP_TERMS, r);
    return r;
}

static inline real clamped(real x, real low, real high)
{
    x = x < low ? low : x;
    return x > high ? high : x;
}

/* Error <= 1 unit. */
static inline real exp_real(real x)
{
    real n, tail;
    real r = reduced_exp(clamped(x, EXP_LOW, EXP_HIGH), &n, &tail);
    real head = 1 + r;
    real e = head + ((1 - head + r) + tail);    /* adds the rounding error of the first sum */
    unsigned_bits half = nearest(n / 2);        /* two factors, since 2^n may not be a normal number */
    return e * power_of_two(half) * power_of_two(nearest(n) - half);
}

/* exp(x) - 1 for x <= BIAS / 2 (for larger x 2^n would overflow early); error <= 2 units. */
static inline real expm1_real(real x)
{
    real n, tail;
    real r = reduced_exp(clamped(x, -MANTISSA, BIAS / 2), &n, &tail);
    real scale = power_of_two(nearest(n));
    return scale * (r + tail) + (scale - 1);
}

/* For normal x > 0; error <= 1.5 units. */
static inline real log_real(real x)
{
    /* The exponent of x / sqrt(1/2), by shifts and sums that every instruction set has for vectors. */
    unsigned_bits biased = (to_bits(x) - SQRT_HALF_BITS + ((unsigned_bits)BIAS << MANTISSA)) >> MANTISSA;
    real f = from_bits(to_bits(x) - ((biased - BIAS) << MANTISSA)) - 1;     /* sqrt(1/2) <= 1 + f < sqrt(2) */
    real s = f / (2 + f), square = s * s;
    /* log(1 + f) = 2 atanh(s) = f - s (f - 2 (s^2 / 3 + s^4 / 5 + ...)) */
    real tail = 2 * square * polynomial(inverse_odd, 1, LOG_TERMS, square);
    real exponent = from_bits(to_bits(ROUNDING) + biased) - ROUNDING - BIAS;
    real low = exponent * LN2_LOW + (f - s * (f - tail));
    real result = exponent * LN2_HIGH + low;
    return x < (real)INFINITY ? result : x;
}

/* log(1 + x) for 0 <= x <= 1; error <= 2 units. */
static inline real log1p_real(real x)
{
    real u = 1 + x;
    return log_real(u) + (x - (u - 1)) / u;
}

/* Error <= 3 units; exactly odd. */
static inline real tanh_real(real x)
{
    real magnitude = x < 0 ? -x : x;
    real u = expm1_real(2 * clamped(magnitude, 0, (MANTISSA + 3) / 2));
    real t = u / (u + 2);
    return x < 0 ? -t : t;
}

static inline real sigmoid_real(real x)
{
    real e = exp_real(x < 0 ? x : -x);          /* the argument is not positive, so it cannot overflow */
    return (x < 0 ? e : 1) / (1 + e);
}

/* The density and the distribution function of the normal distribution. */
static inline real normal_cdf(real x, real *density)
{
    real z = (x < 0 ? -x : x) * (real)0.70710678118654752440;
    real t = 2 / (2 + z);
    real e = exp_real(-z * z);
    real tail = (real)0.5 * t * e * polynomial(scaled_erfc, 0, CDF_TERMS, 2 * t - 1);
    *density = (real)0.39894228040143267794 * e;
    return x < 0 ? tail : 1 - tail;
}

#endif
