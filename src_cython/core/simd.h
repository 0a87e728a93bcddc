/* The element type of the kernels, and vectors of it.
 *
 * real   float or double, by -DREAL; sqrt(x) and its kin follow the type of x.
 * vec    VECTOR_BYTES of real, in GCC's and Clang's vector extension: + - * / work lane by lane, a scalar operand
 *        is broadcast, and loads and stores may be unaligned.
 * LANES  reals in a vec.
 */
#ifndef FASTGD_SIMD_H
#define FASTGD_SIMD_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core/scratch.h"

/* The register tile of the matrix product, MR rows of VECTORS vectors: as many sums as fit in the registers next to a
 * row of B and a broadcast element of A. A tile of one vector has NARROW_ROWS rows. For a batch of one, the tile is
 * SUM_PARTS rows of GEMV_VECTORS. */
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
enum { MR = 12, VECTORS = 2, NARROW_ROWS = 12, GEMV_VECTORS = 4 };
#elif defined(__AVX__)
#define VECTOR_BYTES 32
enum { MR = 6, VECTORS = 2, NARROW_ROWS = 12, GEMV_VECTORS = 2 };
#elif defined(__aarch64__)
#define VECTOR_BYTES 16
enum { MR = 8, VECTORS = 3, NARROW_ROWS = 8, GEMV_VECTORS = 4 };
#else
#define VECTOR_BYTES 16
enum { MR = 4, VECTORS = 2, NARROW_ROWS = 4, GEMV_VECTORS = 2 };
#endif

/* As in tgmath.h, whose complex functions Clang cannot compile with Microsoft's C library. */
#define sqrt(x) _Generic((x), float: sqrtf, default: sqrt)(x)
#define fabs(x) _Generic((x), float: fabsf, default: fabs)(x)
#define fma(a, b, c) _Generic((a) + (b) + (c), float: fmaf, default: fma)(a, b, c)

typedef REAL real;
typedef real vec __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

#define ZERO ((vec){0})

enum {
    LANES = VECTOR_BYTES / sizeof(real),
    LINE = 64 / sizeof(real),     /* of a cache */
    NR = VECTORS * LANES,         /* columns of a register tile */
    SUM_PARTS = 4,                /* partial sums for a batch of one, which hide the latency of additions */
    SUM_TERMS = 48,               /* consecutive terms of a float32 sum over rows, whose relative error is then at most
                                   * 8e-7 for similar terms, whatever the number of rows; divides KC */
    SUM_ROWS = 12 * 1536 / sizeof(real),    /* rows whose sums are added in float32, then in float64: 12 KC */
    KC = 1536 / sizeof(real),     /* rows of a packed panel: KC x NR fits in the L2 cache */
    ROWS_AHEAD = KC * NR * sizeof(real) > 32768 ? 16 : 0,   /* of a panel that the L1 cache cannot hold: how many rows
                                   * before their use a tile prefetches them into it */
    MC = 43,                      /* tiles of a packed block of A: MC MR x KC fits in the L2 cache */
    NC = 1024 / NR * NR,          /* columns of B whose panels are kept for several blocks of A */
    TILE_VECTORS = MR * VECTORS,
    IMAGES = 16,                  /* side by side in a block: see fastgd/engine/rows.py */
    IMAGE_VECTORS = IMAGES / LANES, /* at least 1 */
    /* The register tile of a convolution, CONV_ROWS outputs of CONV_VECTORS vectors: parts of one pixel, or pixels. */
    CONV_VECTORS = IMAGE_VECTORS == 1 ? 3 : 2,
    CONV_ROWS = IMAGE_VECTORS == 1 ? 8 : VECTORS == 2 ? MR : 8,
    MOST_CONV_ROWS = 8,           /* on any instruction set */
    CONV_GROUPS = (CONV_ROWS + 2) / 3,
    PIXELS = IMAGE_VECTORS == 1 ? CONV_VECTORS : 1,
    PIXELS_OF_A_SUM = SUM_TERMS / IMAGES,   /* see SUM_TERMS */
    /* Where there are few outputs: a tile of LANE_ROWS x LANE_COLUMNS sums, each a vector of images. */
    LANE_ROWS = MR >= 8 ? 6 : 3,
    LANE_COLUMNS = MR >= 8 ? 4 : 3,
    FEW_OUTPUTS = 8,
    SHORT_RUN = 8,                /* terms: windows with shorter runs are copied, which makes one run of them ... */
    MANY_OUTPUTS = 16,            /* ... if at least as many outputs use the copies */
    CHUNK_COLUMNS = 1024,         /* outputs whose gradients are packed together, for the gradient of weights */
    CHUNK = 65536,                /* reals that are packed together */
    MOST_VECTORS = VECTORS > CONV_VECTORS ? VECTORS : CONV_VECTORS,
    TILE_GROUPS = (NARROW_ROWS + 2) / 3,
    PANEL = KC * NR,
    PREFETCHED = 4,               /* lines prefetched at a time within a tile: more delay its own loads */
    LEAST_PAUSE = 4 * PREFETCHED, /* terms between them, for the same reason */
    MOST_PREFETCHED = LINE,       /* rows prefetched between tiles */
    MOST_TRANSPOSED = 256,        /* columns of a product that is computed as its transpose */
    PACKED_TERMS = 8,             /* contiguous columns of A that are packed together */
    LISTED = 256,                 /* nonzero elements of a batch of one that are listed at a time */
    OUTER_VECTORS = 2,            /* vectors of a row of an outer product */
    DOT_ROWS = 4,                 /* dot products computed together, each in DOT_PARTS sums, 64 bytes */
    DOT_PARTS = 64 / sizeof(real),
    DOT_VECTORS = 64 / VECTOR_BYTES,
    FAR = 524288 / sizeof(real),  /* reals that do not stay in the L2 cache from one step to the next */
    PACK_ROWS = 4 * MR,           /* a panel is packed if A has this many rows, or half as many and B is larger ... */
    NEAR = 65536 / sizeof(real),  /* ... that the L1 cache does not keep: a panel of them is prefetched */
    SPREAD = 2 * FAR,             /* ... than this: then the L2 cache may not keep it in place until the next tile */
    FIRST_CACHE = 32768 / sizeof(real), /* ... and the panel in place is spread over more than the L1 cache holds */
    PACK_COLUMNS = 1024 / sizeof(real), /* A is packed if B has at least this many columns */
    PACK_STRIDE = 4096 / sizeof(real), /* ... and its rows are this many reals apart */
    PACK_SIZE = 131072 / sizeof(real) /* ... or its columns, contiguous, are spread over this many reals */
};

/* A thread's scratch memory, in bytes: a packed block of A, whose last vector may reach beyond its end, the panels of NC
 * columns of B and the following panel, and partial sums over rows. */
enum {
    PACKED_A = MC * 12 * KC * sizeof(real) + 64,    /* of the largest MR: the same on every instruction set */
    PACKED_B = (NC / NR + 1) * PANEL * sizeof(real),
    SUMS = 1 << 18,
    POINT_SUMS = 1 << 19,         /* the same memory for the gradient of weights by Winograd's transform */
    PACKED_TERMS_OF_CONV = PACKED_B / sizeof(real)  /* terms of one row of packed weights */
};
_Static_assert(PACKED_A % 64 == 0 && SUMS <= POINT_SUMS && PACKED_A + PACKED_B + POINT_SUMS <= KERNEL_BYTES, "scratch.h");
static scratch_function scratch_of_thread;
#define packed_a ((real *)(scratch_of_thread() + CHAIN_BYTES))
#define packed_b ((real *)(scratch_of_thread() + CHAIN_BYTES + PACKED_A))
#define sums_under_way ((double *)(scratch_of_thread() + CHAIN_BYTES + PACKED_A + PACKED_B))

/* The bits of a real, and those without its sign; the smallest number that is not taken as 0. */
#if REAL_BYTES == 4
typedef int32_t bits __attribute__((may_alias));
typedef uint32_t unsigned_bits;
#define MAGNITUDE INT32_MAX
#define SMALLEST_NORMAL FLT_MIN
#else
typedef int64_t bits __attribute__((may_alias));
typedef uint64_t unsigned_bits;
#define MAGNITUDE INT64_MAX
#define SMALLEST_NORMAL DBL_MIN
#endif

/* A float as its bits, and back. */
static inline uint32_t bits_of_float(float x)
{
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    return b;
}

static inline float float_of_bits(uint32_t b)
{
    float x;
    memcpy(&x, &b, sizeof x);
    return x;
}

/* A function that is called with constant arguments: its loops unroll, and its arrays become registers. */
#define inlined __attribute__((always_inline)) void

#define prefetch(address) __builtin_prefetch(address)
#define prefetch_to_write(address) __builtin_prefetch(address, 1)

/* a b + c, always fused. A compiler that vectorizes a sum but adds lane after lane would multiply first, and round
 * twice. */
#if defined(__FMA__) || defined(__aarch64__)
#define multiply_add(a, b, c) fma(a, b, c)
#else
#define multiply_add(a, b, c) ((a) * (b) + (c))
#endif

/* Lane by lane: b where it is larger than a, or NaN, else a; x where a = b, else 0; x where a differs from b, else 0; x
 * where a > b, else 0. */
typedef bits vec_bits __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));
static inline vec larger_or_nan(vec a, vec b)
{
    vec_bits is_larger = (vec_bits)((b > a) | (b != b));
    return (vec)(((vec_bits)b & is_larger) | ((vec_bits)a & ~is_larger));
}
static inline vec where_equal(vec a, vec b, vec x) { return (vec)((vec_bits)x & (vec_bits)(a == b)); }
static inline vec where_different(vec a, vec b, vec x) { return (vec)((vec_bits)x & (vec_bits)(a != b)); }
static inline vec where_larger(vec a, vec b, vec x) { return (vec)((vec_bits)x & (vec_bits)(a > b)); }

/* Tells the compiler what it cannot see. */
#define assume(condition) do { if (!(condition)) __builtin_unreachable(); } while (0)

/* A block of BLOCK x BLOCK transposed in registers: 16-byte vectors, which every instruction set shuffles well. */
typedef real block __attribute__((vector_size(16), aligned(sizeof(real)), may_alias));
/* A whole number of blocks, BLOCKS, covers any incomplete vector. */
enum { BLOCK = 16 / sizeof(real), BLOCKS = VECTOR_BYTES / 16 };

static inline void transpose_block(real *to, int64_t ld_to, const real *from, int64_t ld_from)
{
#define ROW(i) (*(const block *)(from + (i) * ld_from))
#define TO(i) (*(block *)(to + (i) * ld_to))
#if REAL_BYTES == 4
    block r0 = ROW(0), r1 = ROW(1), r2 = ROW(2), r3 = ROW(3);
    block low01 = __builtin_shufflevector(r0, r1, 0, 4, 1, 5), high01 = __builtin_shufflevector(r0, r1, 2, 6, 3, 7);
    block low23 = __builtin_shufflevector(r2, r3, 0, 4, 1, 5), high23 = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
    TO(0) = __builtin_shufflevector(low01, low23, 0, 1, 4, 5);
    TO(1) = __builtin_shufflevector(low01, low23, 2, 3, 6, 7);
    TO(2) = __builtin_shufflevector(high01, high23, 0, 1, 4, 5);
    TO(3) = __builtin_shufflevector(high01, high23, 2, 3, 6, 7);
#else
    block r0 = ROW(0), r1 = ROW(1);
    TO(0) = __builtin_shufflevector(r0, r1, 0, 2);
    TO(1) = __builtin_shufflevector(r0, r1, 1, 3);
#endif
#undef ROW
#undef TO
}

/* to (BLOCK, LANES) <- from (LANES, BLOCK) transposed: BLOCKS blocks at a time. Of `from` only `rows` rows exist; the
 * last of them stands for those that follow. */
static inline __attribute__((always_inline)) void transpose_strip(real *to, int64_t ld_to, const real *from,
                                                                  int64_t ld_from, int64_t rows)
{
#define ROW(i) (*(const block *)(from + ((i) < rows ? (i) : rows - 1) * ld_from))
#define TO(i) (*(vec *)(to + (i) * ld_to))
#if REAL_BYTES == 4
#define FIRST_8 0, 1, 2, 3, 4, 5, 6, 7
#define FIRST_16 FIRST_8, 8, 9, 10, 11, 12, 13, 14, 15
#else
#define FIRST_8 0, 1, 2, 3
#define FIRST_16 FIRST_8, 4, 5, 6, 7
#endif
#if VECTOR_BYTES == 16
#define EACH_BLOCK(lanes) lanes(0)
#define ROWS_FROM(i) ROW(i)
#elif VECTOR_BYTES == 32
#define EACH_BLOCK(lanes) lanes(0), lanes(1)
#define ROWS_FROM(i) __builtin_shufflevector(ROW(i), ROW((i) + BLOCK), FIRST_8)
#else
#define EACH_BLOCK(lanes) lanes(0), lanes(1), lanes(2), lanes(3)
#define ROWS_FROM(i) __builtin_shufflevector(__builtin_shufflevector(ROW(i), ROW((i) + BLOCK), FIRST_8), \
    __builtin_shufflevector(ROW((i) + 2 * BLOCK), ROW((i) + 3 * BLOCK), FIRST_8), FIRST_16)
#endif
#if REAL_BYTES == 4
#define LOW(q) 4 * (q), 4 * (q) + LANES, 4 * (q) + 1, 4 * (q) + 1 + LANES
#define HIGH(q) 4 * (q) + 2, 4 * (q) + 2 + LANES, 4 * (q) + 3, 4 * (q) + 3 + LANES
#define EVEN(q) 4 * (q), 4 * (q) + 1, 4 * (q) + LANES, 4 * (q) + 1 + LANES
#define ODD(q) 4 * (q) + 2, 4 * (q) + 3, 4 * (q) + 2 + LANES, 4 * (q) + 3 + LANES
    vec r0 = ROWS_FROM(0), r1 = ROWS_FROM(1), r2 = ROWS_FROM(2), r3 = ROWS_FROM(3);
    vec low01 = __builtin_shufflevector(r0, r1, EACH_BLOCK(LOW));
    vec low23 = __builtin_shufflevector(r2, r3, EACH_BLOCK(LOW));
    vec high01 = __builtin_shufflevector(r0, r1, EACH_BLOCK(HIGH));
    vec high23 = __builtin_shufflevector(r2, r3, EACH_BLOCK(HIGH));
    TO(0) = __builtin_shufflevector(low01, low23, EACH_BLOCK(EVEN));
    TO(1) = __builtin_shufflevector(low01, low23, EACH_BLOCK(ODD));
    TO(2) = __builtin_shufflevector(high01, high23, EACH_BLOCK(EVEN));
    TO(3) = __builtin_shufflevector(high01, high23, EACH_BLOCK(ODD));
#undef LOW
#undef HIGH
#else
#define EVEN(q) 2 * (q), 2 * (q) + LANES
#define ODD(q) 2 * (q) + 1, 2 * (q) + 1 + LANES
    vec r0 = ROWS_FROM(0), r1 = ROWS_FROM(1);
    TO(0) = __builtin_shufflevector(r0, r1, EACH_BLOCK(EVEN));
    TO(1) = __builtin_shufflevector(r0, r1, EACH_BLOCK(ODD));
#endif
#undef EVEN
#undef ODD
#undef ROWS_FROM
#undef EACH_BLOCK
#undef FIRST_8
#undef FIRST_16
#undef ROW
#undef TO
}

/* Reduces 64 bytes of vectors to 16: adds the second half to the first, twice. */
static inline __attribute__((always_inline)) block folded(const vec *v)
{
#if VECTOR_BYTES == 16
    return (v[0] + v[2]) + (v[1] + v[3]);
#else
    typedef real half __attribute__((vector_size(32), aligned(sizeof(real)), may_alias));
#if VECTOR_BYTES == 32
    half h = v[0] + v[1];
#elif REAL_BYTES == 4
    half h = __builtin_shufflevector(v[0], v[0], 0, 1, 2, 3, 4, 5, 6, 7)
           + __builtin_shufflevector(v[0], v[0], 8, 9, 10, 11, 12, 13, 14, 15);
#else
    half h = __builtin_shufflevector(v[0], v[0], 0, 1, 2, 3) + __builtin_shufflevector(v[0], v[0], 4, 5, 6, 7);
#endif
#if REAL_BYTES == 4
    return __builtin_shufflevector(h, h, 0, 1, 2, 3) + __builtin_shufflevector(h, h, 4, 5, 6, 7);
#else
    return __builtin_shufflevector(h, h, 0, 1) + __builtin_shufflevector(h, h, 2, 3);
#endif
#endif
}

/* The sum of the DOT_PARTS parts of each of DOT_ROWS dot products. */
static inline __attribute__((always_inline)) void sum_parts(real *c, const vec *sums)
{
    block blocks[DOT_ROWS];
    for (int i = 0; i < DOT_ROWS; i++)
        blocks[i] = folded(sums + i * DOT_VECTORS);
    for (int i = 0; i < DOT_ROWS; i += BLOCK) {
        block t[BLOCK];
        transpose_block((real *)t, BLOCK, (const real *)(blocks + i), BLOCK);
#if REAL_BYTES == 4
        *(block *)(c + i) = (t[0] + t[2]) + (t[1] + t[3]);
#else
        *(block *)(c + i) = t[0] + t[1];
#endif
    }
}

#endif
