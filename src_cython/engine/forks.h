/* Forks. The child of a fork has only one thread, the one that forked.
 *
 * `this_thread()` is the number of the calling thread; no other thread of this process or its parents has or had it.
 * `fork_count` increases in every child; `forking_thread` is the number of the remaining thread. Code that records the
 * count together with a thread can detect later that the thread may be gone. Both change only in a child that has one
 * thread.
 *
 * A fork by Python waits until no thread is in the middle of a step, so that the child's parameters and optimizer state
 * are those between two steps. Steps run between `steps_begin` and `steps_end`, with `step_done` after each. These are
 * called without the GIL: a step may need it to report an error, and the forking thread releases it while it waits. The
 * wait is bounded, since a step may itself wait for a lock that the forking thread holds.
 */
#ifndef FASTGD_FORKS_H
#define FASTGD_FORKS_H

#include <stdatomic.h>
#include <stdint.h>

#include "core/scratch.h"

static uint64_t fork_count, forking_thread;
static atomic_ullong threads_counted;
static __thread always_there uint64_t own_number;

static inline uint64_t this_thread(void)
{
    if (!own_number)
        own_number = atomic_fetch_add(&threads_counted, 1) + 1;
    return own_number;
}

#if defined(__unix__) || defined(__APPLE__)

#include <pthread.h>
#include <time.h>

static atomic_int forks_waiting, threads_in_steps;
static __thread always_there int own_steps;  /* how many nested runs of steps this thread is in */

/* A fork waits up to two seconds. */
enum { WAIT_NANOSECONDS = 50000, MOST_WAITS = 40000 };

static void wait_a_little(void)
{
    struct timespec time = {0, WAIT_NANOSECONDS};
    nanosleep(&time, NULL);
}

static void enter_steps(void)
{
    for (;;) {
        atomic_fetch_add(&threads_in_steps, 1);
        if (!atomic_load(&forks_waiting))
            return;
        atomic_fetch_sub(&threads_in_steps, 1);
        while (atomic_load(&forks_waiting))
            wait_a_little();
    }
}

static void steps_begin(void)
{
    if (!own_steps++)
        enter_steps();
}

static void steps_end(void)
{
    if (!--own_steps)
        atomic_fetch_sub(&threads_in_steps, 1);
}

static inline void step_done(void)
{
    if (atomic_load_explicit(&forks_waiting, memory_order_relaxed)) {
        atomic_fetch_sub(&threads_in_steps, 1);
        enter_steps();
    }
}

static void fork_begins(void)
{
    atomic_fetch_add(&forks_waiting, 1);
    for (int i = 0; i < MOST_WAITS && atomic_load(&threads_in_steps) > (own_steps > 0); i++)
        wait_a_little();
}

static void fork_ends(void) { atomic_fetch_sub(&forks_waiting, 1); }

static void in_child(void)
{
    fork_count++;
    forking_thread = own_number;
    atomic_store(&forks_waiting, 0);
    atomic_store(&threads_in_steps, own_steps > 0);
}

/* Once, when the module is imported. */
static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }

#else /* no fork */

static void watch_forks(void) {}
static void steps_begin(void) {}
static void steps_end(void) {}
static void step_done(void) {}
static void fork_begins(void) {}
static void fork_ends(void) {}

#endif
#endif
