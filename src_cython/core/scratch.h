/* Memory that every thread has for what kernels pack and for sums under way: on the heap, made before the thread first
 * runs a kernel, so that a lack of memory is an error of that moment. (Thread-local arrays of this size are made by the
 * system when they are first touched, and it ends the process if it cannot.) */
#ifndef FASTGD_SCRATCH_H
#define FASTGD_SCRATCH_H

enum {
    /* Elements of flat arrays that the kernels of a chain take at a time, a multiple of every kernel's grain. */
    CHAIN_ELEMENTS = 1024,
    CHAIN_BYTES = CHAIN_ELEMENTS * 8,   /* what one of them leaves for another */
    KERNEL_BYTES = (1 << 20) + (1 << 18),
    SCRATCH_BYTES = CHAIN_BYTES + KERNEL_BYTES
};

/* For the few bytes that are thread-local: reserved when a thread starts, so that touching them can't fail. */
#if defined(__GLIBC__)
#define always_there __attribute__((tls_model("initial-exec")))
#else
#define always_there
#endif

/* Where the memory of the thread that asks begins; that of kernels follows that of chains. */
typedef char *(*scratch_function)(void);

#endif
