// Reading at an offset of a file.

#include <errno.h>
#include <stdint.h>

#ifdef _WIN32
// Not called: rows of mapped files are read through their mapping (fastgd/data/mapped.py).
static int read_at(int file, void *out, int64_t size, int64_t offset) {
    (void)file, (void)out, (void)size, (void)offset;
    return 1;
}
#else
#include <unistd.h>

// Reads `size` bytes from `offset` on; returns 0, or 1 if that fails or the file has fewer bytes.
static int read_at(int file, void *out, int64_t size, int64_t offset) {
    char *next = (char *)out;
    while (size > 0) {
        ssize_t got = pread(file, next, (size_t)size, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return 1;
        next += got;
        offset += got;
        size -= got;
    }
    return 0;
}
#endif
