/* How many threads a team should have.
 *
 * A barrier waits for the slowest thread. If other processes want the cores, that thread may be off its core for
 * milliseconds, and a team of two takes many times as long as one thread. If steps are short, moving data between cores
 * may cost more than the second thread saves. So every team is compared with a team of half as many threads: the time
 * of a step is compared with the work in it. If steps are short enough, the work is also measured on one thread from
 * time to time.
 *
 * The time that the team gains is kept as credit, up to CREDIT or what GAINS steps gain: long steps lose more when the
 * machine hesitates, and gain it back soon. When a step has used up the credit, half of the threads leave; in the
 * middle of a step, all but the first leave. They return after PATIENCE times the time that was lost, or
 * later if returning proves too early again and again. So sharing costs at most a fraction 1 / PATIENCE of the time,
 * whatever other processes do, and on free cores almost nothing is lost. (A process that was stopped for minutes counts
 * as having lost no more than LONGEST_REST / PATIENCE.) Results do not depend on the number of threads, so it may
 * change between any two stages.
 */
#ifndef FASTGD_TEAM_SIZE_H
#define FASTGD_TEAM_SIZE_H

#include <stdatomic.h>
#include <stdint.h>

#include "core/clock.h"

enum {
    WAKING = 150000,            /* nanoseconds that waking a team may cost */
    CREDIT = 4000000,           /* nanoseconds, about the loss when another process takes the core of a thread */
    GAINS = 4,
    PATIENCE = 32, MOST_PATIENCE = 256,
    LONG_REST = 500000000,      /* nanoseconds: the longest rest that patience above PATIENCE may lead to */
    LONGEST_REST = 2000000000,  /* nanoseconds: the longest rest */
    COMPARED = 8, OFTEN = 2048, /* the work is measured on one thread after COMPARED steps of a team, then each time
                                 * after 4 times as many, but at least every OFTEN steps, roughly */
    COMPARED_STEPS = 3,         /* ... for this many steps */
    NO_LIMIT = 1 << 20
};

static struct {
    int wanted;                     /* threads requested */
    int limit;                      /* the most threads that pay */
    int is_fixed;                   /* whether to ignore the limit */
    int64_t credit, rest;           /* nanoseconds: gained by the team; to wait before a larger team is tried */
    int64_t patience;
    int64_t opened, elapsed;        /* when the barrier last opened; time of the step, by the last thread to arrive */
    atomic_llong spent;             /* time of the step, summed over the threads */
} team;

static void team_size_reset(void)
{
    team.limit = NO_LIMIT;
    team.patience = PATIENCE;
    team.credit = WAKING;
}

/* Each thread of the team calls it when its share of a stage is done; returns the time since the stage began. */
static int64_t note_arrival(void)
{
    int64_t taken = nanoseconds_now() - team.opened;
    atomic_fetch_add(&team.spent, taken);
    return taken;
}

static void begin_measuring(void)
{
    team.opened = nanoseconds_now();
    team.elapsed = 0;
    atomic_store(&team.spent, 0);
}

static int half(int threads) { return threads > 1 ? threads / 2 : 1; }

/* Lets half of the threads leave for `rest` nanoseconds. */
static int shrink(int threads, int64_t rest)
{
    team.limit = half(threads);
    team.rest = rest;
    return 1;
}

/* Lets half of the threads leave because the team has lost this much more than its credit. */
static int shrink_for(int threads, int64_t lost)
{
    int64_t rest, least;
    lost += WAKING;
    least = PATIENCE * lost;
    rest = team.patience * lost;
    if (rest > LONG_REST)
        rest = LONG_REST;
    if (team.patience < MOST_PATIENCE)
        team.patience *= 2;
    team.credit = 0;
    if (least > LONGEST_REST)
        least = LONGEST_REST;
    return shrink(threads, rest > least ? rest : least);
}

/* Whether the pool must form the team again with another number of threads. One thread calls it at the end of each
 * stage of a step of this many rows. pace: two numbers kept by the caller, initially 0: nanoseconds of work per row in
 * steps of this pass, and the number of its steps that teams have made. */
static int should_regroup(double *pace, double rows, int threads, int step_is_done)
{
    if (!step_is_done) {
        double others = *pace * rows / half(threads);
        return threads > 1 && *pace > 0 && team.elapsed > others + team.credit && shrink_for(threads, team.elapsed);
    }
    if (threads == 1) {
        int64_t now = nanoseconds_now();
        double most = 1.125 * pace[0];
        team.rest -= now - team.opened;
        double work = (double)(now - team.opened) / rows;
        team.opened = now;
        pace[0] = pace[0] == 0 || work < most ? work : most;
    } else {
        double work = (double)atomic_load(&team.spent) / rows;
        pace[0] = pace[0] == 0 || work < pace[0] ? work : pace[0];
        int64_t gain = (int64_t)(pace[0] * rows / half(threads)) - team.elapsed;
        int64_t most = GAINS * gain > CREDIT ? GAINS * gain : CREDIT;
        team.credit += gain;
        team.rest -= team.elapsed;
        if (team.credit < 0)
            return shrink_for(threads, -team.credit);
        if (gain > 0 && team.credit > most) {
            team.credit = most;
            team.patience = PATIENCE;
        }
        int64_t steps = (int64_t)++pace[1], power = COMPARED;
        while (power < steps && power < OFTEN)
            power *= 4;
        if (steps % power == 0 && team.elapsed < CREDIT)
            return shrink(threads, (int64_t)(COMPARED_STEPS * pace[0] * rows) + 1);
        team.elapsed = 0;
        atomic_store(&team.spent, 0);
    }
    if (threads >= team.wanted || team.rest > 0)
        return 0;
    team.limit = 2 * threads < team.wanted ? 2 * threads : NO_LIMIT;
    if (team.credit < WAKING)
        team.credit = WAKING;
    return 1;
}

static void fix_threads(int is_fixed) { team.is_fixed = is_fixed; }
static int thread_limit(void) { return team.limit; }

#endif
