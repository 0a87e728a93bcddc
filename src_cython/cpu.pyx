# cython: language_level=3
"""Variants of the kernels: which are built, and which this processor and operating system can run."""

cdef extern from *:
    """
    #if defined(__x86_64__) || defined(_M_X64)
    /* The compiler's builtin checks cpuid, and the registers that the operating system saves on a context switch. */
    static const char *fastgd_variants(void) {
        __builtin_cpu_init();
        if (__builtin_cpu_supports("x86-64-v4")) return "v4 v3 v2";
        if (__builtin_cpu_supports("x86-64-v3")) return "v3 v2";
        if (__builtin_cpu_supports("x86-64-v2")) return "v2";
        return "";
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
