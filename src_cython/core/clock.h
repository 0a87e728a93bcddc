#ifndef FASTGD_CLOCK_H
#define FASTGD_CLOCK_H

#include <stdint.h>

/* nanoseconds_now(): the time since a fixed moment. */
#if defined(_WIN32)

#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>

static int64_t nanoseconds_now(void)
{
    LARGE_INTEGER ticks, rate;      /* ticks, and ticks in a second */
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&rate);
    int64_t seconds = ticks.QuadPart / rate.QuadPart, rest = ticks.QuadPart % rate.QuadPart;
    return seconds * 1000000000 + rest * 1000000000 / rate.QuadPart;
}

#else

#include <time.h>

static int64_t nanoseconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

#endif

static double seconds_now(void) { return 1e-9 * (double)nanoseconds_now(); }

#endif
