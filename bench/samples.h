/* Measured times: the clock, and the printed percentiles. */
#ifndef SAMPLES_H
#define SAMPLES_H

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline int compare_samples(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* Prints count, rate and percentiles of samples in microseconds, and sorts them. */
static inline void print_samples(float *samples, size_t count, double elapsed) {
    qsort(samples, count, sizeof *samples, compare_samples);
    printf("ops=%zu rate=%.1f p50_us=%.2f p99_us=%.2f max_us=%.2f", count, (double)count / elapsed,
           (double)samples[count / 2], (double)samples[count * 99 / 100], (double)samples[count - 1]);
}

#endif
