/* A pool of threads that run a plan together.
 *
 * team_run(work, context, threads) runs work(context, i, n) for i = 0 .. n - 1 concurrently, with the caller as number
 * 0, and returns when all are done; n is `threads` or fewer (see team_size.h). While a team is at work, another caller
 * (a second Python thread with another network) works alone: work(context, 0, 1). Inside the work, `last_to_arrive` and
 * `release` form a barrier at which the last thread to arrive may do something alone before all continue:
 *
 *     if (last_to_arrive(thread, threads)) { ...; release(threads); }
 *
 * Threads wait by spinning for a while, then by sleeping. A thread that wakes on the core of another thread of its team
 * moves to another core, since the system may leave both there, each waiting for the other to yield the core. The child
 * of a fork starts with an empty pool.
 *
 * The work runs with subnormal numbers flushed to 0, which is set per thread and restored afterwards. Processors are
 * many times slower on subnormal numbers, and these arise where gradients vanish and their averages decay.
 */
#ifndef FASTGD_POOL_H
#define FASTGD_POOL_H

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include "core/clock.h"
#include "core/scratch.h"
#include "engine/shares.h"
#include "engine/team_size.h"
#include "engine/threads.h"

static __thread always_there char *scratch;

/* The scratch memory of the calling thread; see scratch.h. */
static char *scratch_of_thread(void) { return scratch; }

typedef void (*team_work)(void *context, int thread, int threads);

/* Flushes subnormal numbers to 0; returns the mode before, for `restore_subnormals`. */
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
static uint64_t flush_subnormals(void)
{
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040);    /* inputs, and results */
    return before;
}
static void restore_subnormals(uint64_t before) { _mm_setcsr((unsigned)before); }
#elif defined(__aarch64__)
static uint64_t flush_subnormals(void)
{
    uint64_t before;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(before));
    __asm__ __volatile__("msr fpcr, %0" : : "r"(before | (uint64_t)1 << 24));
    return before;
}
static void restore_subnormals(uint64_t before) { __asm__ __volatile__("msr fpcr, %0" : : "r"(before)); }
#else
static uint64_t flush_subnormals(void) { return 0; }
static void restore_subnormals(uint64_t before) { (void)before; }
#endif

static void work_flushed(team_work work, void *context, int thread, int threads)
{
    uint64_t before = flush_subnormals();
    work(context, thread, threads);
    restore_subnormals(before);
}

#if defined(__x86_64__) || defined(__i386__)
#define relax() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define relax() __asm__ __volatile__("yield")
#else
#define relax() ((void)0)
#endif

enum {
    SPIN_TIME = 100000,         /* nanoseconds: longer than a barrier should take, shorter than a burst of steps */
    SPINS = 32                  /* between two readings of the clock */
};

/* A number whose change threads wait for, on a separate cache line. */
typedef struct {
    _Alignas(64) atomic_uint value;
    atomic_uint sleepers;
    mutex mutex;
    condition changed;
} watched;

static struct {
    watched jobs[MAX_THREADS];      /* number of each worker's last job, so that only workers of the team wake */
    watched gate;                   /* how often the barrier has opened */
    _Alignas(64) atomic_uint arrived;
    mutex busy;                     /* held by the caller whose team is at work */
    team_work work;
    void *context;
    int threads;                    /* of the team */
    unsigned job;                   /* number of the last job */
    atomic_int cores[MAX_THREADS];  /* the last known core of each thread of the team */
    char *scratch[MAX_THREADS];     /* of the workers */
    int started;                    /* number of workers; worker i is thread i + 1 of a team */
    unsigned last_job[MAX_THREADS]; /* number of the last job before a worker started, which it must not run */
} pool;

static void watched_set(watched *w, unsigned value)
{
    atomic_store(&w->value, value);
    if (atomic_load(&w->sleepers)) {
        mutex_lock(&w->mutex);
        condition_wake_all(&w->changed);
        mutex_unlock(&w->mutex);
    }
}

/* Waits until the value differs from `old`; has_slept: result, whether the thread slept. */
static unsigned watched_wait(watched *w, unsigned old, int *has_slept)
{
    unsigned value;
    *has_slept = 0;
    int64_t begin = 0, now = 0;
    /* Without sched_yield: on a core shared with a busy process, each call costs a whole time slice. */
    do {
        for (int i = 0; i < SPINS; i++) {
            value = atomic_load_explicit(&w->value, memory_order_acquire);
            if (value != old)
                return value;
            relax();
        }
        now = nanoseconds_now();
        begin = begin ? begin : now;
    } while (now - begin < SPIN_TIME);
    *has_slept = 1;
    /* A sleeper is counted before it reads the value again, and a setter sets the value before it reads the number
     * of sleepers, so at least one of them notices the other. */
    mutex_lock(&w->mutex);
    atomic_fetch_add(&w->sleepers, 1);
    while ((value = atomic_load(&w->value)) == old)
        condition_wait(&w->changed, &w->mutex);
    atomic_fetch_sub(&w->sleepers, 1);
    mutex_unlock(&w->mutex);
    return value;
}

/* Records the core of a thread of the team. If a thread with a smaller number is there too, moves this one to another
 * core that it may use. */
static void settle(int thread)
{
#if defined(__linux__)
    cpu_set_t allowed, others;
    int core = sched_getcpu(), is_shared = 0;
    atomic_store(&pool.cores[thread], core);
    if (core < 0 || thread == 0 || sched_getaffinity(0, sizeof allowed, &allowed))
        return;
    others = allowed;
    for (int i = 0; i < thread; i++) {
        int taken = atomic_load(&pool.cores[i]);
        is_shared |= taken == core;
        if (taken >= 0 && taken < CPU_SETSIZE)
            CPU_CLR(taken, &others);
    }
    if (is_shared && CPU_COUNT(&others)) {
        sched_setaffinity(0, sizeof others, &others);
        sched_setaffinity(0, sizeof allowed, &allowed);
    }
#else
    (void)thread;
#endif
}

static int last_to_arrive(int thread, int threads)
{
    int has_slept;
    if (threads == 1)
        return 1;
    unsigned gate = atomic_load(&pool.gate.value);
    int64_t taken = shares.taken[thread] = note_arrival();
    if (atomic_fetch_add(&pool.arrived, 1) == (unsigned)threads - 1) {
        team.elapsed += taken;
        adapt_shares(shares.end, shares.taken, threads);
        return 1;
    }
    watched_wait(&pool.gate, gate, &has_slept);
    if (has_slept)
        settle(thread);
    return 0;
}

static void release(int threads)
{
    if (threads == 1)
        return;
    atomic_store(&pool.arrived, 0);
    team.opened = nanoseconds_now();
    watched_set(&pool.gate, atomic_load(&pool.gate.value) + 1);
}

static void team_member(int thread, int threads)
{
    work_flushed(pool.work, pool.context, thread, threads);
    if (last_to_arrive(thread, threads))
        release(threads);
}

static thread_result worker(void *last_job)
{
    int thread = (int)((unsigned *)last_job - pool.last_job) + 1;
    int has_slept, is_new = 1;
    unsigned job = *(unsigned *)last_job;
    scratch = pool.scratch[thread - 1];
    for (;;) {
        job = watched_wait(&pool.jobs[thread - 1], job, &has_slept);
        if (has_slept || is_new)
            settle(thread);
        is_new = 0;
        team_member(thread, pool.threads);
    }
    return 0;
}

static void pool_reset(void)
{
    char *kept[MAX_THREADS];        /* the memory of threads that are gone is used again */
    memcpy(kept, pool.scratch, sizeof kept);
    memset(&pool, 0, sizeof pool);
    memcpy(pool.scratch, kept, sizeof kept);
    team_size_reset();
    mutex_initialize(&pool.busy);
    for (int i = 0; i < MAX_THREADS; i++) {
        mutex_initialize(&pool.jobs[i].mutex);
        condition_initialize(&pool.jobs[i].changed);
        atomic_store(&pool.cores[i], -1);   /* unknown */
    }
    mutex_initialize(&pool.gate.mutex);
    condition_initialize(&pool.gate.changed);
}

static thread_key scratch_key;

/* Allocates the scratch memory of the calling thread, which is freed when the thread ends; returns 0 on failure. */
static int make_scratch(void)
{
    if (!scratch && (scratch = memory_new(SCRATCH_BYTES)) && !key_set(scratch_key, scratch)) {
        memory_delete(scratch);
        scratch = NULL;
    }
    return scratch != NULL;
}

/* Once, when the module is imported. */
static void pool_initialize(void)
{
    key_new(&scratch_key);
    pool_reset();
    in_children(pool_reset);
}

/* Starts workers until there are `wanted`, or as many as the system allows; returns their number. */
static int start_workers(int wanted)
{
    while (pool.started < wanted) {
        char **memory = &pool.scratch[pool.started];
        if (!*memory && !(*memory = memory_new(SCRATCH_BYTES)))
            break;
        pool.last_job[pool.started] = atomic_load(&pool.jobs[pool.started].value);
        if (!thread_start(worker, &pool.last_job[pool.started]))
            break;
        pool.started++;
    }
    return pool.started < wanted ? pool.started : wanted;
}

/* is_watched: result, whether the work may call `should_regroup`. If that returns true, the work returns, and the
 * caller calls `team_run` again. */
static void team_run(team_work work, void *context, int threads, int *is_watched)
{
    *is_watched = 0;
    if (threads > MAX_THREADS)
        threads = MAX_THREADS;
    if (threads <= 1 || !mutex_try(&pool.busy)) {
        work_flushed(work, context, 0, 1);
        return;
    }
    *is_watched = !team.is_fixed;
    team.wanted = threads;
    if (*is_watched && threads > team.limit)
        threads = team.limit;
    int given = start_workers(threads - 1) + 1;
    if (given < threads)
        team.wanted = threads = given;      /* trying again in every step would cost time */
    begin_measuring();
    if (threads == 1) {
        work_flushed(work, context, 0, 1);
    } else {
        pool.work = work;
        pool.context = context;
        pool.threads = threads;
        shares_for(threads);
        pool.job++;
        settle(0);
        for (int i = 0; i < threads - 1; i++)
            watched_set(&pool.jobs[i], pool.job);
        team_member(0, threads);
    }
    mutex_unlock(&pool.busy);
}

#endif
