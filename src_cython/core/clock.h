#ifndef FASTGD_CLOCK_H
#define FASTGD_CLOCK_H

#include <stdint.h>
#include <time.h>

/* The time since a fixed moment. */
static int64_t nanoseconds_now(void)
{
    struct timespec t;
#if defined(CLOCK_MONOTONIC)
    clock_gettime(CLOCK_MONOTONIC, &t);
#else
    timespec_get(&t, TIME_UTC);
#endif
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static double seconds_now(void) { return 1e-9 * (double)nanoseconds_now(); }

#endif
