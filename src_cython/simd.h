/* What the kernels stand on: the element type, and one vector of it.
 *
 * real   float or double, by -DREAL; tgmath.h makes exp(x) and its kin follow it.
 * vec    VECTOR_BYTES of real, in GCC's and Clang's vector extension: + - * / work lane by lane, a scalar operand
 *        is broadcast, and loads and stores may be unaligned.
 * LANES  reals in a vec.
 */
#ifndef FASTGD_SIMD_H
#define FASTGD_SIMD_H

#include <stdint.h>
#include <tgmath.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

typedef REAL real;
typedef real vec __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

enum {
    LANES = VECTOR_BYTES / sizeof(real),
    MR = 6,             /* rows of a register tile of the matrix product: 6 x 2 vectors of accumulators */
    NR = 2 * LANES,     /* columns of a register tile */
    KC = 128,           /* rows of a packed panel */
    TILE = MR * NR,
    PANEL = KC * NR
};

#endif
