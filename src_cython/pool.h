/* A pool of threads that walk a plan together.
 *
 * team_run(work, context, threads) runs work(context, i, threads) for i = 0 .. threads - 1 at once, the caller being
 * number 0, and returns when all are done. While one team is at work another caller (a second Python thread with a
 * network of its own) works alone: work(context, 0, 1). Inside, `last_to_arrive` and `release` are a barrier whose
 * last comer may do something alone before all go on:
 *
 *     if (last_to_arrive(threads)) { ...; release(threads); }
 *
 * Threads wait spinning for a while, then asleep. The child of a fork starts with an empty pool.
 *
 * Work runs with numbers too small to be normal taken as 0, on its own thread and for its own time: a processor needs
 * many times as long for them, and they come by themselves where gradients vanish and averages of them decay.
 */
#ifndef FASTGD_POOL_H
#define FASTGD_POOL_H

#include <stdint.h>
#include <time.h>

/* Elements of flat arrays that the kernels of a chain take at a time, a multiple of every kernel's grain; and what one
 * of them leaves for another. */
enum { CHAIN_ELEMENTS = 1024 };
static __thread __attribute__((aligned(64))) char chain_scratch[CHAIN_ELEMENTS * 8];

typedef void (*team_work)(void *context, int thread, int threads);

/* Seconds since some moment. */
static double seconds_now(void)
{
    struct timespec t;
#if defined(CLOCK_MONOTONIC)
    clock_gettime(CLOCK_MONOTONIC, &t);
#else
    timespec_get(&t, TIME_UTC);
#endif
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Takes subnormal numbers as 0; returns what `restore_subnormals` needs to take them as numbers again. */
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

#if defined(__unix__) || defined(__APPLE__)

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#if defined(__x86_64__) || defined(__i386__)
#define relax() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define relax() __asm__ __volatile__("yield")
#else
#define relax() ((void)0)
#endif

/* SPINS is some 20 to 50 microseconds: longer than a barrier should take, shorter than a burst of steps. */
enum { MAX_THREADS = 256, SPINS = 1000, YIELDS = 20 };

/* A number that threads wait for to change, on a cache line of its own. */
typedef struct {
    _Alignas(64) atomic_uint value;
    atomic_uint sleepers;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
} watched;

static struct {
    watched job;                    /* number of the job << 8 | its threads - 1 */
    watched gate;                   /* how often the barrier has opened */
    _Alignas(64) atomic_uint arrived;
    pthread_mutex_t busy;           /* held by the caller whose team is at work */
    team_work work;
    void *context;
    int started;                    /* workers; number i is thread i + 1 of a team */
    unsigned last_job[MAX_THREADS]; /* what a new worker has not to do */
} pool;

static void watched_set(watched *w, unsigned value)
{
    atomic_store(&w->value, value);
    if (atomic_load(&w->sleepers)) {
        pthread_mutex_lock(&w->mutex);
        pthread_cond_broadcast(&w->changed);
        pthread_mutex_unlock(&w->mutex);
    }
}

static unsigned watched_wait(watched *w, unsigned old)
{
    unsigned value;
    for (int i = 0; i < SPINS + YIELDS; i++) {
        value = atomic_load_explicit(&w->value, memory_order_acquire);
        if (value != old)
            return value;
        if (i < SPINS)
            relax();
        else
            sched_yield();
    }
    /* A sleeper is counted before it looks again, and a setter sets before it looks for sleepers: one sees the other. */
    pthread_mutex_lock(&w->mutex);
    atomic_fetch_add(&w->sleepers, 1);
    while ((value = atomic_load(&w->value)) == old)
        pthread_cond_wait(&w->changed, &w->mutex);
    atomic_fetch_sub(&w->sleepers, 1);
    pthread_mutex_unlock(&w->mutex);
    return value;
}

static int last_to_arrive(int threads)
{
    if (threads == 1)
        return 1;
    unsigned gate = atomic_load(&pool.gate.value);
    if (atomic_fetch_add(&pool.arrived, 1) == (unsigned)threads - 1)
        return 1;
    watched_wait(&pool.gate, gate);
    return 0;
}

static void release(int threads)
{
    if (threads == 1)
        return;
    atomic_store(&pool.arrived, 0);
    watched_set(&pool.gate, atomic_load(&pool.gate.value) + 1);
}

static void team_member(int thread, int threads)
{
    work_flushed(pool.work, pool.context, thread, threads);
    if (last_to_arrive(threads))
        release(threads);
}

static void *worker(void *last_job)
{
    int thread = (int)((unsigned *)last_job - pool.last_job) + 1;
    unsigned job = *(unsigned *)last_job;
    for (;;) {
        job = watched_wait(&pool.job, job);
        int threads = (int)(job & 255) + 1;
        if (thread < threads)
            team_member(thread, threads);
    }
    return NULL;
}

static void pool_reset(void)
{
    memset(&pool, 0, sizeof pool);
    pthread_mutex_init(&pool.busy, NULL);
    pthread_mutex_init(&pool.job.mutex, NULL);
    pthread_cond_init(&pool.job.changed, NULL);
    pthread_mutex_init(&pool.gate.mutex, NULL);
    pthread_cond_init(&pool.gate.changed, NULL);
}

/* Once, when the module is imported. */
static void pool_initialize(void)
{
    pool_reset();
    pthread_atfork(NULL, NULL, pool_reset);
}

/* Starts workers until there are `wanted`, or as many as the system gives; signals stay with the caller's thread. */
static int start_workers(int wanted)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool.started < wanted) {
        pthread_t id;
        pool.last_job[pool.started] = atomic_load(&pool.job.value);
        if (pthread_create(&id, NULL, worker, &pool.last_job[pool.started]))
            break;
        pthread_detach(id);
        pool.started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pool.started < wanted ? pool.started : wanted;
}

static void team_run(team_work work, void *context, int threads)
{
    if (threads > MAX_THREADS)
        threads = MAX_THREADS;
    if (threads <= 1 || pthread_mutex_trylock(&pool.busy)) {
        work_flushed(work, context, 0, 1);
        return;
    }
    threads = start_workers(threads - 1) + 1;
    pool.work = work;
    pool.context = context;
    unsigned number = (atomic_load(&pool.job.value) >> 8) + 1;
    watched_set(&pool.job, number << 8 | (unsigned)(threads - 1));
    team_member(0, threads);
    pthread_mutex_unlock(&pool.busy);
}

#else /* no POSIX threads: every team is its caller alone */

static void pool_initialize(void) {}
static int last_to_arrive(int threads) { (void)threads; return 1; }
static void release(int threads) { (void)threads; }
static void team_run(team_work work, void *context, int threads)
{
    (void)threads;
    work_flushed(work, context, 0, 1);
}

#endif
#endif
