/* A wall clock that is wrong, for whoever is started with this library preloaded: CLOCK_AHEAD says by how many seconds.

   Only what asks for the wall clock is lied to. Where a thread waits until a time on that clock, the kernel must be told that
   time by its own: waiting itself is not what is wrong. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long ahead(void) {
    const char *told = getenv("CLOCK_AHEAD");
    return told ? atol(told) : 0;
}

static long real(long number, long a, long b, long c, long d, long e, long f) {
    static long (*next)(long, ...);
    if (!next) next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return next(number, a, b, c, d, e, f);
}

int clock_gettime(clockid_t clock, struct timespec *told) {
    long failed = real(SYS_clock_gettime, clock, (long)told, 0, 0, 0, 0);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) told->tv_sec += ahead();
    return failed;
}

int gettimeofday(struct timeval *told, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    told->tv_sec = now.tv_sec;
    told->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *told) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (told) *told = now.tv_sec;
    return now.tv_sec;
}

static struct timespec truly(const struct timespec *until) {
    struct timespec moved = *until;
    moved.tv_sec -= ahead();
    return moved;
}

int sem_timedwait(sem_t *semaphore, const struct timespec *until) {
    static int (*next)(sem_t *, const struct timespec *);
    if (!next) next = dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec moved = truly(until);
    return next(semaphore, &moved);
}

/* abseil, which is in gRPC, waits this way. */
long syscall(long number, ...) {
    va_list rest;
    va_start(rest, number);
    long a = va_arg(rest, long), b = va_arg(rest, long), c = va_arg(rest, long);
    long d = va_arg(rest, long), e = va_arg(rest, long), f = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_futex && (b & FUTEX_CLOCK_REALTIME) && d) {
        struct timespec moved = truly((const struct timespec *)d);
        return real(number, a, b, c, (long)&moved, e, f);
    }
    return real(number, a, b, c, d, e, f);
}
