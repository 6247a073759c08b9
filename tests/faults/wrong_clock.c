/* A wall clock that is wrong, for one process: to be loaded before the C library (LD_PRELOAD).
 *
 * The file named by FRAUDSTREAM_TEST_CLOCK holds how wrong, in nanoseconds: a signed 64-bit integer
 * in the machine's own order. It is mapped, so whoever writes to it steps the clock of a running
 * process. The monotonic clock is left alone, as it is when the clock of a machine is set.
 *
 * A wait until an instant of the wall clock ends when that clock says so, as the kernel does it:
 * set back by an hour meanwhile, it lasts an hour longer. Waits are cut in pieces to see to that.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define PIECE (20 * SECOND / 1000)
/* An instant before 2001 is one of the monotonic clock, which begins when the machine does. */
#define OLDEST (SECOND * SECOND)

static volatile int64_t nothing;
static volatile int64_t *offset = &nothing;

__attribute__((constructor)) static void map_offset(void)
{
    const char *path = getenv("FRAUDSTREAM_TEST_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *found = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (found != MAP_FAILED)
        offset = found;
}

static int64_t to_ns(const struct timespec *time)
{
    return time->tv_sec * SECOND + time->tv_nsec;
}

static struct timespec to_timespec(int64_t ns)
{
    return (struct timespec){.tv_sec = ns / SECOND, .tv_nsec = ns % SECOND};
}

static int64_t true_ns(void)
{
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    return to_ns(&now);
}

static int64_t wrong_ns(void)
{
    return true_ns() + *offset;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    long result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        *time = to_timespec(to_ns(time) + *offset);
    return (int)result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    (void)zone;
    int64_t us = wrong_ns() / 1000;
    *time = (struct timeval){.tv_sec = us / 1000000, .tv_usec = us % 1000000};
    return 0;
}

time_t time(time_t *out)
{
    time_t now = wrong_ns() / SECOND;
    if (out)
        *out = now;
    return now;
}

int timespec_get(struct timespec *time, int base)
{
    *time = to_timespec(wrong_ns());
    return base;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until)
{
    int64_t until_ns = to_ns(until);
    if (until_ns < OLDEST)
        return pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, until);
    for (;;) {
        int64_t left_ns = until_ns - wrong_ns();
        struct timespec piece = to_timespec(true_ns() + (left_ns < PIECE ? left_ns : PIECE));
        int result = pthread_cond_clockwait(condition, mutex, CLOCK_REALTIME, &piece);
        if (result != ETIMEDOUT || left_ns <= PIECE)
            return result;
    }
}

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex,
                  const struct timespec *restrict until)
{
    int result = pthread_cond_timedwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, until);
    return result == 0 ? thrd_success : result == ETIMEDOUT ? thrd_timedout : thrd_error;
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until)
{
    int64_t until_ns = to_ns(until);
    if (until_ns < OLDEST)
        return sem_clockwait(semaphore, CLOCK_MONOTONIC, until);
    for (;;) {
        int64_t left_ns = until_ns - wrong_ns();
        struct timespec piece = to_timespec(true_ns() + (left_ns < PIECE ? left_ns : PIECE));
        int result = sem_clockwait(semaphore, CLOCK_REALTIME, &piece);
        if (result == 0 || errno != ETIMEDOUT || left_ns <= PIECE)
            return result;
    }
}
