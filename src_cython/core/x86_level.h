/* The level of the x86-64 instruction set (1 to 4, as in -march=x86-64-v3) that processor and operating system run, as
 * the psABI of x86-64 defines the levels. Not the compiler's __builtin_cpu_supports: Clang before 18, and so Apple's for
 * long, does not know the names of the levels. */
#ifndef FASTGD_X86_LEVEL_H
#define FASTGD_X86_LEVEL_H

#include <cpuid.h>

static int x86_level(void)
{
    enum {
        LEAF_1_V2 = 1 << 0 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23,  /* SSE3 SSSE3 CX16 SSE4.1 SSE4.2 POPCNT */
        LEAF_1_V3 = 1 << 12 | 1 << 22 | 1 << 27 | 1 << 28 | 1 << 29,          /* FMA MOVBE OSXSAVE AVX F16C */
        LEAF_7_V3 = 1 << 3 | 1 << 5 | 1 << 8,                                 /* BMI1 AVX2 BMI2 */
        EXTENDED_V2 = 1 << 0,                                                 /* LAHF and SAHF */
        EXTENDED_V3 = 1 << 5,                                                 /* LZCNT */
        SAVED_V3 = 6, SAVED_V4 = 0xe6                                         /* registers that the system saves */
    };
    const unsigned LEAF_7_V4 = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31;    /* AVX-512 F DQ CD BW VL */
    unsigned a, b, leaf_1 = 0, leaf_7 = 0, extended = 0, d, saved, high;
    if (!__get_cpuid(1, &a, &b, &leaf_1, &d) || (leaf_1 & LEAF_1_V2) != LEAF_1_V2)
        return 1;
    if (!__get_cpuid(0x80000001, &a, &b, &extended, &d) || !(extended & EXTENDED_V2))
        return 1;
    if ((leaf_1 & LEAF_1_V3) != LEAF_1_V3 || !(extended & EXTENDED_V3))
        return 2;
    if (!__get_cpuid_count(7, 0, &a, &leaf_7, &b, &d) || (leaf_7 & LEAF_7_V3) != LEAF_7_V3)
        return 2;
    __asm__ __volatile__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    if ((saved & SAVED_V3) != SAVED_V3)
        return 2;
    return (leaf_7 & LEAF_7_V4) == LEAF_7_V4 && (saved & SAVED_V4) == SAVED_V4 ? 4 : 3;
}

#endif
