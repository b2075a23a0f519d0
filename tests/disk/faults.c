/* Preloaded into a process, lets its calls on the files of one folder fail or wait.
 *
 * DISK_FAULTS is a file with one `struct fault` for each kind of call. The process and the test map it, therefore
 * the test sees and changes the faults immediately. DISK_FAULTS_FOLDER is the folder, an absolute path without
 * symbolic links. tests/disk/faults.py is the test's side.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

enum call { READ, WRITE, SYNC, TRUNCATE, OPEN, UNLINK, CALLS };
enum file { ANY, WAL, DATABASE, FOLDER };

struct fault {
    int32_t error; /* an errno; 0: no call fails; negative: the signal that ends the process */
    int32_t file;  /* the file whose calls fail */
    int32_t skip;  /* the number of calls that succeed first */
    int32_t times; /* the number of calls that fail; negative: all */
    int32_t hits;  /* the number of calls that have failed */
    int32_t delay; /* in microseconds, for calls on any file; negative: until it is 0 */
    int32_t calls; /* the number of delayed calls, including those that still wait */
    int32_t waiting; /* the number of calls that wait */
    int32_t passes; /* 1: the only waiting call continues */
};

static struct fault *faults;
static char folder[PATH_MAX];

__attribute__((constructor)) static void map_faults(void)
{
    const char *path = getenv("DISK_FAULTS"), *below = getenv("DISK_FAULTS_FOLDER");
    int fd;

    if (!path || !below)
        return;
    snprintf(folder, sizeof folder, "%s", below);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        abort();
    faults = mmap(NULL, CALLS * sizeof *faults, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (faults == MAP_FAILED)
        abort();
    close(fd);
}

static int ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), wanted = strlen(end);
    return length >= wanted && strcmp(text + length - wanted, end) == 0;
}

static int concerns(enum file file, const char *path)
{
    size_t length = strlen(folder);

    if (strncmp(path, folder, length) != 0 || (path[length] != '/' && path[length] != '\0'))
        return 0;
    switch (file) {
    case WAL: return ends_with(path, "-wal");
    case DATABASE: return ends_with(path, ".db");
    case FOLDER: return path[length] == '\0';
    default: return 1;
    }
}

static int load(const int32_t *number)
{
    return __atomic_load_n(number, __ATOMIC_SEQ_CST);
}

static void add(int32_t *number, int more)
{
    __atomic_add_fetch(number, more, __ATOMIC_SEQ_CST);
}

static void wait_for(struct fault *fault)
{
    int delay = load(&fault->delay), passes = 0;

    if (delay == 0)
        return;
    add(&fault->calls, 1);
    add(&fault->waiting, 1);
    if (delay > 0)
        usleep(delay);
    while (load(&fault->delay) < 0 && (passes = load(&fault->passes)) == 0)
        usleep(500);
    add(&fault->waiting, -1);
    /* Set last: the test waits for it. */
    add(&fault->passes, -passes);
}

/* Whether this call must fail; sets errno then. */
static int fails(enum call call, const char *path)
{
    struct fault *fault = faults + call;

    if (!concerns(ANY, path))
        return 0;
    wait_for(fault);
    if (!fault->error || !concerns(fault->file, path))
        return 0;
    if (fault->skip > 0) {
        fault->skip--;
        return 0;
    }
    if (fault->times == 0)
        return 0;
    if (fault->times > 0)
        fault->times--;
    fault->hits++;
    if (fault->error < 0)
        kill(getpid(), -fault->error);
    errno = fault->error;
    return 1;
}

static int path_fails(enum call call, const char *path)
{
    return faults && (faults[call].error || faults[call].delay) && fails(call, path);
}

static int fd_fails(enum call call, int fd)
{
    char link[64], path[PATH_MAX];
    ssize_t length;
    int before = errno;

    if (!faults || !(faults[call].error || faults[call].delay))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0)
        return 0;
    path[length] = '\0';
    return fails(call, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define HOOK(result, name, call, fd, parameters, arguments) \
    result name parameters                                  \
    {                                                       \
        static __typeof__(&name) real;                      \
        if (!real)                                          \
            real = REAL(name);                              \
        return fd_fails(call, fd) ? -1 : real arguments;    \
    }

HOOK(ssize_t, pread, READ, fd, (int fd, void *to, size_t size, off_t at), (fd, to, size, at))
HOOK(ssize_t, pread64, READ, fd, (int fd, void *to, size_t size, off64_t at), (fd, to, size, at))
HOOK(ssize_t, pwrite, WRITE, fd, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at))
HOOK(ssize_t, pwrite64, WRITE, fd, (int fd, const void *from, size_t size, off64_t at), (fd, from, size, at))
HOOK(ssize_t, write, WRITE, fd, (int fd, const void *from, size_t size), (fd, from, size))
HOOK(int, fsync, SYNC, fd, (int fd), (fd))
HOOK(int, fdatasync, SYNC, fd, (int fd), (fd))
HOOK(int, ftruncate, TRUNCATE, fd, (int fd, off_t size), (fd, size))
HOOK(int, ftruncate64, TRUNCATE, fd, (int fd, off64_t size), (fd, size))

int unlink(const char *path)
{
    return path_fails(UNLINK, path) ? -1 : REAL(unlink)(path);
}

#define OPEN_HOOK(name)                                       \
    int name(const char *path, int flags, ...)                \
    {                                                         \
        va_list more;                                         \
        mode_t mode;                                          \
        va_start(more, flags);                                \
        mode = va_arg(more, mode_t);                          \
        va_end(more);                                         \
        return path_fails(OPEN, path) ? -1 : REAL(name)(path, flags, mode); \
    }

OPEN_HOOK(open)
OPEN_HOOK(open64)
