# cython: language_level=3, freethreading_compatible=True
"""Variants of the kernels: which are built, and which this processor and operating system can run."""

cdef extern from *:
    """
    #if defined(__x86_64__) || defined(_M_X64)
    #include "core/x86_level.h"
    static const char *fastgd_variants(void) {
        static const char *const of_level[] = {"", "v2", "v3 v2", "v4 v3 v2"};
        return of_level[x86_level() - 1];
    }
    #elif defined(__aarch64__) || defined(_M_ARM64)
    static const char *fastgd_variants(void) { return "aarch64"; }
    #else
    static const char *fastgd_variants(void) { return "generic"; }
    #endif
    """
    const char *fastgd_variants()
    const char *FASTGD_BUILT


def built():
    """Names of the variants that are built."""
    return tuple(FASTGD_BUILT.decode("ascii").split())


def variants():
    """Names of the variants that are built and can run here, the fastest first."""
    return tuple(name for name in fastgd_variants().decode("ascii").split() if name in built())
