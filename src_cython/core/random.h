/* Counter-based random numbers: hashes of counters. */
#ifndef FASTGD_RANDOM_H
#define FASTGD_RANDOM_H

#include <stdint.h>

/* 2^64 and 2^32 over the golden ratio, odd: multiples of them spread evenly. */
#define GOLDEN_64 UINT64_C(0x9E3779B97F4A7C15)
#define GOLDEN UINT32_C(0x9E3779B1)
/* Factors of the mixing of SplitMix64 (Steele, Lea & Flood 2014), and of the last one of MurmurHash3 (Appleby). */
#define MIX_64 UINT64_C(0xBF58476D1CE4E5B9)
#define LAST_MIX_64 UINT64_C(0x94D049BB133111EB)
#define MIX UINT32_C(0x85EBCA6B)
#define LAST_MIX UINT32_C(0xC2B2AE35)

/* An integer as 64 bits in two's complement; 0 for numbers out of range. */
static inline uint64_t whole(double x)
{
    return x > -9223372036854775808.0 && x < 9223372036854775808.0 ? (uint64_t)(int64_t)x : 0;
}

/* rate * 2^32 for a rate in [0, 1). */
static inline uint32_t share_of_32_bits(double x)
{
    return x > 0 && x < 1 ? (uint32_t)(x * 4294967296.0) : 0;
}

/* The mixing of SplitMix64. */
static inline uint64_t mixed(uint64_t z)
{
    z = (z ^ (z >> 30)) * MIX_64;
    z = (z ^ (z >> 27)) * LAST_MIX_64;
    return z ^ (z >> 31);
}

/* The last mixing of MurmurHash3. */
static inline uint32_t mixed_32(uint32_t z)
{
    z = (z ^ (z >> 16)) * MIX;
    z = (z ^ (z >> 13)) * LAST_MIX;
    return z ^ (z >> 16);
}

#endif
