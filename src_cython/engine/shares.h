/* How much of a stage's work each thread of a team gets.
 *
 * Cores differ in speed: by design, or because a core shares its caches and units with another process. A barrier waits
 * for the slowest thread, so each thread's share follows its speed: at the end of a stage, the share of a thread that
 * took less time than the mean grows, and that of a slower one shrinks, by a fraction RATE of the difference. A single
 * stage changes a share little, since a thread may just have been interrupted. Results do not depend on the shares.
 */
#ifndef FASTGD_SHARES_H
#define FASTGD_SHARES_H

#include <stdint.h>

enum {
    MAX_THREADS = 256,
    SHORT_STAGE = 20000     /* nanoseconds: shorter stages say little about the speed of cores */
};

#define RATE 0.1
#define MOST_FASTER 1.5     /* than the mean; more must be an interruption */

static struct {
    int threads;                    /* of the team that the shares are for */
    double end[MAX_THREADS];        /* where the share of each thread ends, as a fraction of the work */
    int64_t taken[MAX_THREADS];     /* nanoseconds that each thread took for its share of this stage */
} shares;

/* Gives each of the threads an equal share, unless the shares are for that many threads. */
static void shares_for(int threads)
{
    if (shares.threads == threads)
        return;
    shares.threads = threads;
    for (int i = 0; i < threads; i++)
        shares.end[i] = (double)(i + 1) / threads;
}

static int number_of_shares(void) { return shares.threads; }

/* Where the share of a thread ends; that of thread -1, none, ends at 0. */
static double share_end(int thread) { return thread < 0 ? 0 : shares.end[thread]; }

/* Adapts the ends of the shares to the times that the threads took. */
static void adapt_shares(double *end, const int64_t *taken, int threads)
{
    double mean = 0, begin = 0, sum = 0;
    for (int i = 0; i < threads; i++)
        mean += (double)taken[i] / threads;
    if (mean < SHORT_STAGE)
        return;
    for (int i = 0; i < threads; i++) {
        double speed = mean / (double)(taken[i] + 1);
        speed = speed > MOST_FASTER ? MOST_FASTER : speed < 1 / MOST_FASTER ? 1 / MOST_FASTER : speed;
        sum += (end[i] - begin) * (1 + RATE * (speed - 1));
        begin = end[i];
        end[i] = sum;
    }
    for (int i = 0; i < threads; i++)
        end[i] /= sum;
}

#endif
