/* Scratch memory of each thread, for packed data and partial sums. It is allocated on the heap before the thread first
 * runs a kernel, so that a lack of memory can be reported as an error. (The system allocates thread-local arrays of
 * this size when they are first used, and kills the process if it cannot.) */
#ifndef FASTGD_SCRATCH_H
#define FASTGD_SCRATCH_H

enum {
    /* Elements of flat arrays that the kernels of a chain take at a time, a multiple of every kernel's grain. */
    CHAIN_ELEMENTS = 1024,
    CHAIN_BYTES = CHAIN_ELEMENTS * 8,   /* the block that one link leaves for the next */
    KERNEL_BYTES = 12 << 18,
    SCRATCH_BYTES = CHAIN_BYTES + KERNEL_BYTES
};

/* For the few thread-local bytes: reserved when a thread starts, so that the first use cannot fail. */
#if defined(__GLIBC__)
#define always_there __attribute__((tls_model("initial-exec")))
#else
#define always_there
#endif

/* The scratch memory of the calling thread: first the block of chains, then the memory of kernels. */
typedef char *(*scratch_function)(void);

#endif
