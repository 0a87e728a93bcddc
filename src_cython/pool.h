/* A pool of threads that walk a plan together.
 *
 * team_run(work, context, threads) runs work(context, i, n) for i = 0 .. n - 1 at once, the caller being number 0, and
 * returns when all are done; n is `threads` or fewer (see "How many threads pay"). While one team is at work another
 * caller (a second Python thread with a network of its own) works alone: work(context, 0, 1). Inside, `last_to_arrive`
 * and `release` are a barrier whose last comer may do something alone before all go on:
 *
 *     if (last_to_arrive(thread, threads)) { ...; release(threads); }
 *
 * Threads wait spinning for a while, then asleep. One that wakes on the core of another of its team leaves it: the
 * system may let both stay there, each waiting for the other to give the core up. The child of a fork starts with an
 * empty pool.
 *
 * Work runs with numbers too small to be normal taken as 0, on its own thread and for its own time: a processor needs
 * many times as long for them, and they come by themselves where gradients vanish and averages of them decay.
 *
 * How many threads pay
 *
 * A barrier waits for the slowest thread. Where other processes want the cores, that thread may be off its core for
 * milliseconds, and a team of two takes many times as long as one thread; where steps are short, the way of data from
 * core to core may cost more than the second thread saves. So every team is compared with one of half as many threads
 * (alone, for two): the time of a step against the work in it, which is measured alone now and then. What the team
 * gains is kept as credit, up to CREDIT; when that is used up, also within a step, half of the threads leave. They come
 * back after PATIENCE times the time that was lost, later if that proves too early again and again. So sharing costs
 * at most a part 1 / PATIENCE of the time, whatever other processes do, and on free cores next to nothing is lost.
 * Results do not depend on the number of threads, so it may change between any two stages.
 */
#ifndef FASTGD_POOL_H
#define FASTGD_POOL_H

#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "scratch.h"

static __thread always_there char *scratch;

/* The memory of the calling thread for kernels; see scratch.h. */
static char *scratch_of_thread(void) { return scratch; }

typedef void (*team_work)(void *context, int thread, int threads);

/* Time since some moment. */
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

enum {
    MAX_THREADS = 256,
    SPIN_TIME = 100000,         /* nanoseconds: longer than a barrier should take, shorter than a burst of steps */
    SPINS = 32,                 /* between two looks at the clock */
    WAKING = 150000,            /* nanoseconds that it may cost to wake a team */
    CREDIT = 4000000,           /* ... and about what is lost when another process has the core of a thread */
    PATIENCE = 32, MOST_PATIENCE = 256,
    LONG_REST = 500000000,      /* nanoseconds that more patience than the least may cost */
    COMPARED = 8, OFTEN = 1024, /* a team's steps after which the work is measured alone, and again after 4 times as
                                 * many, but at least so often */
    COMPARED_STEPS = 3          /* ... for so many steps */
};

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
    int wanted;                     /* threads asked for */
    int limit;                      /* threads that pay */
    int is_fixed;                   /* whether as many as are asked for are taken all the same */
    int64_t credit, rest;           /* nanoseconds: gained by the team, and to pass before a larger one is tried */
    int64_t patience;
    int64_t opened, elapsed;        /* when the barrier last opened; time of the step before the last to arrive */
    atomic_llong spent;             /* ... and the sum of it over the threads */
    atomic_int cores[MAX_THREADS];  /* on which each thread of the team last was known to be */
    char *scratch[MAX_THREADS];     /* of the workers */
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

/* Waits for another value than the old, and tells whether it had to sleep. */
static unsigned watched_wait(watched *w, unsigned old, int *has_slept)
{
    unsigned value;
    *has_slept = 0;
    int64_t begin = 0, now = 0;
    /* Never by sched_yield: beside a busy process each call of it costs a whole time slice. */
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
    /* A sleeper is counted before it looks again, and a setter sets before it looks for sleepers: one sees the other. */
    pthread_mutex_lock(&w->mutex);
    atomic_fetch_add(&w->sleepers, 1);
    while ((value = atomic_load(&w->value)) == old)
        pthread_cond_wait(&w->changed, &w->mutex);
    atomic_fetch_sub(&w->sleepers, 1);
    pthread_mutex_unlock(&w->mutex);
    return value;
}

/* Makes known on which core a thread of the team is; if one of a smaller number is there, moves it to another core that
 * it may use. */
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
    int64_t taken = nanoseconds_now() - pool.opened;
    atomic_fetch_add(&pool.spent, taken);
    if (atomic_fetch_add(&pool.arrived, 1) == (unsigned)threads - 1) {
        pool.elapsed += taken;
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
    pool.opened = nanoseconds_now();
    watched_set(&pool.gate, atomic_load(&pool.gate.value) + 1);
}

static void begin_measuring(void)
{
    pool.opened = nanoseconds_now();
    pool.elapsed = 0;
    atomic_store(&pool.spent, 0);
}

static int half(int threads) { return threads > 1 ? threads / 2 : 1; }

/* Half of the threads leave for a while. */
static int shrink(int threads, int64_t rest)
{
    pool.limit = half(threads);
    pool.rest = rest;
    return 1;
}

/* ... because the team has used its credit up, and so much more. */
static int shrink_for(int threads, int64_t lost)
{
    int64_t rest, least;
    lost += WAKING;
    least = PATIENCE * lost;
    rest = pool.patience * lost;
    if (rest > LONG_REST)
        rest = LONG_REST;
    if (pool.patience < MOST_PATIENCE)
        pool.patience *= 2;
    return shrink(threads, rest > least ? rest : least);
}

/* Called alone, at the end of a stage of a step of so many rows: whether the team is to be made anew, with another
 * number of threads. pace: nanoseconds of work in a row of such steps, or 0, and how many steps teams have made; the
 * caller keeps it. */
static int should_regroup(double *pace, double rows, int threads, int step_is_done)
{
    if (!step_is_done) {
        double others = *pace * rows / half(threads);
        return threads > 1 && *pace > 0 && pool.elapsed > others + pool.credit && shrink_for(threads, pool.elapsed);
    }
    if (threads == 1) {
        int64_t now = nanoseconds_now();
        double most = 1.125 * pace[0];
        pool.rest -= now - pool.opened;
        double work = (double)(now - pool.opened) / rows;
        pool.opened = now;
        pace[0] = pace[0] == 0 || work < most ? work : most;
    } else {
        double work = (double)atomic_load(&pool.spent) / rows;
        pace[0] = pace[0] == 0 || work < pace[0] ? work : pace[0];
        pool.credit += (int64_t)(pace[0] * rows / half(threads)) - pool.elapsed;
        pool.rest -= pool.elapsed;
        if (pool.credit < 0)
            return shrink_for(threads, -pool.credit);
        if (pool.credit > CREDIT) {
            pool.credit = CREDIT;
            pool.patience = PATIENCE;
        }
        int64_t steps = (int64_t)++pace[1], power = COMPARED;
        while (power < steps && power < OFTEN)
            power *= 4;
        if (power > OFTEN)
            power = OFTEN;
        if (steps % power == 0 && pool.elapsed < CREDIT)
            return shrink(threads, (int64_t)(COMPARED_STEPS * pace[0] * rows) + 1);
        pool.elapsed = 0;
        atomic_store(&pool.spent, 0);
    }
    if (threads >= pool.wanted || pool.rest > 0)
        return 0;
    pool.limit = 2 * threads < pool.wanted ? 2 * threads : MAX_THREADS;
    if (pool.credit < WAKING)
        pool.credit = WAKING;
    return 1;
}

static void team_member(int thread, int threads)
{
    work_flushed(pool.work, pool.context, thread, threads);
    if (last_to_arrive(thread, threads))
        release(threads);
}

static void *worker(void *last_job)
{
    int thread = (int)((unsigned *)last_job - pool.last_job) + 1;
    unsigned job = *(unsigned *)last_job;
    scratch = pool.scratch[thread - 1];
    for (;;) {
        int has_slept, threads;
        job = watched_wait(&pool.job, job, &has_slept);
        threads = (int)(job & 255) + 1;
        if (thread >= threads)
            continue;
        if (has_slept)
            settle(thread);
        team_member(thread, threads);
    }
    return NULL;
}

static void pool_reset(void)
{
    char *kept[MAX_THREADS];        /* that of threads which are no more serves again */
    memcpy(kept, pool.scratch, sizeof kept);
    memset(&pool, 0, sizeof pool);
    memcpy(pool.scratch, kept, sizeof kept);
    pool.limit = MAX_THREADS;
    pool.patience = PATIENCE;
    pool.credit = WAKING;
    pthread_mutex_init(&pool.busy, NULL);
    pthread_mutex_init(&pool.job.mutex, NULL);
    pthread_cond_init(&pool.job.changed, NULL);
    pthread_mutex_init(&pool.gate.mutex, NULL);
    pthread_cond_init(&pool.gate.changed, NULL);
}

static pthread_key_t scratch_key;

/* Makes the memory of the calling thread, which is freed when the thread ends; returns 0 if there is none. */
static int make_scratch(void)
{
    if (!scratch && !posix_memalign((void **)&scratch, 64, SCRATCH_BYTES) && pthread_setspecific(scratch_key, scratch)) {
        free(scratch);
        scratch = NULL;
    }
    return scratch != NULL;
}

/* Once, when the module is imported. */
static void pool_initialize(void)
{
    pthread_key_create(&scratch_key, free);
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
        char **memory = &pool.scratch[pool.started];
        if (!*memory && posix_memalign((void **)memory, 64, SCRATCH_BYTES)) {
            *memory = NULL;
            break;
        }
        pool.last_job[pool.started] = atomic_load(&pool.job.value);
        if (pthread_create(&id, NULL, worker, &pool.last_job[pool.started]))
            break;
        pthread_detach(id);
        pool.started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pool.started < wanted ? pool.started : wanted;
}

/* is_watched: where the work may ask `should_regroup`, it returns when that says so, to be run again. */
static void team_run(team_work work, void *context, int threads, int *is_watched)
{
    *is_watched = 0;
    if (threads > MAX_THREADS)
        threads = MAX_THREADS;
    if (threads <= 1 || pthread_mutex_trylock(&pool.busy)) {
        work_flushed(work, context, 0, 1);
        return;
    }
    *is_watched = !pool.is_fixed;
    pool.wanted = threads;
    if (*is_watched && threads > pool.limit)
        threads = pool.limit;
    threads = start_workers(threads - 1) + 1;
    begin_measuring();
    if (threads == 1) {
        work_flushed(work, context, 0, 1);
    } else {
        pool.work = work;
        pool.context = context;
        settle(0);
        unsigned number = (atomic_load(&pool.job.value) >> 8) + 1;
        watched_set(&pool.job, number << 8 | (unsigned)(threads - 1));
        team_member(0, threads);
    }
    pthread_mutex_unlock(&pool.busy);
}

static void fix_threads(int is_fixed) { pool.is_fixed = is_fixed; }
static int thread_limit(void) { return pool.limit; }

#else /* no POSIX threads: every team is its caller alone */

static void pool_initialize(void) {}
static int make_scratch(void)
{
    scratch = scratch ? scratch : malloc(SCRATCH_BYTES);
    return scratch != NULL;
}
static int last_to_arrive(int thread, int threads) { (void)thread, (void)threads; return 1; }
static void release(int threads) { (void)threads; }
static int should_regroup(double *pace, double rows, int threads, int step_is_done)
{
    (void)pace, (void)rows, (void)threads, (void)step_is_done;
    return 0;
}
static void fix_threads(int is_fixed) { (void)is_fixed; }
static int thread_limit(void) { return 1; }
static void team_run(team_work work, void *context, int threads, int *is_watched)
{
    (void)threads;
    *is_watched = 0;
    work_flushed(work, context, 0, 1);
}

#endif
#endif
