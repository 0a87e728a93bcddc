/* How many threads of a team pay.
 *
 * A barrier waits for the slowest thread. Where other processes want the cores, that thread may be off its core for
 * milliseconds, and a team of two takes many times as long as one thread; where steps are short, the way of data from
 * core to core may cost more than the second thread saves. So every team is compared with one of half as many threads
 * (alone, for two): the time of a step against the work in it, which is measured alone now and then where steps are
 * short enough. What the team gains is kept as credit, up to CREDIT; when a step has used that up, half of the threads
 * leave, or in the middle of a step all but the first. They come back after PATIENCE times the time that was lost,
 * later if that proves too early again and again. So sharing costs at most a part 1 / PATIENCE of the time, whatever
 * other processes do, and on free cores next to nothing is lost. (A process that was stopped for minutes has lost no
 * more than LONGEST_REST / PATIENCE.) Results do not depend on the number of threads, so it may change between any two
 * stages.
 */
#ifndef FASTGD_TEAM_SIZE_H
#define FASTGD_TEAM_SIZE_H

#include <stdatomic.h>
#include <stdint.h>

enum {
    WAKING = 150000,            /* nanoseconds that it may cost to wake a team */
    CREDIT = 4000000,           /* ... and about what is lost when another process has the core of a thread */
    PATIENCE = 32, MOST_PATIENCE = 256,
    LONG_REST = 500000000,      /* nanoseconds that more patience than the least may cost */
    LONGEST_REST = 2000000000,  /* ... and that any may */
    COMPARED = 8, OFTEN = 2048, /* a team's steps after which the work is measured alone, and again after 4 times as
                                 * many, but at least so often */
    COMPARED_STEPS = 3,         /* ... for so many steps */
    NO_LIMIT = 1 << 20
};

static struct {
    int wanted;                     /* threads asked for */
    int limit;                      /* threads that pay */
    int is_fixed;                   /* whether as many as are asked for are taken all the same */
    int64_t credit, rest;           /* nanoseconds: gained by the team, and to pass before a larger one is tried */
    int64_t patience;
    int64_t opened, elapsed;        /* when the barrier last opened; time of the step before the last to arrive */
    atomic_llong spent;             /* ... and the sum of it over the threads */
} team;

static void team_size_reset(void)
{
    team.limit = NO_LIMIT;
    team.patience = PATIENCE;
    team.credit = WAKING;
}

/* Called by each thread of the team when its share of a stage is done; returns the time since the stage began. */
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

/* Half of the threads leave for a while. */
static int shrink(int threads, int64_t rest)
{
    team.limit = half(threads);
    team.rest = rest;
    return 1;
}

/* ... because the team has used its credit up, and so much more. */
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

/* Called alone, at the end of a stage of a step of so many rows: whether the team is to be made anew, with another
 * number of threads. pace: nanoseconds of work in a row of such steps, or 0, and how many steps teams have made; the
 * caller keeps it. */
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
        team.credit += (int64_t)(pace[0] * rows / half(threads)) - team.elapsed;
        team.rest -= team.elapsed;
        if (team.credit < 0)
            return shrink_for(threads, -team.credit);
        if (team.credit > CREDIT) {
            team.credit = CREDIT;
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
