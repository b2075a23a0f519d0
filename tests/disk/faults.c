/* Preloaded into a process, makes its calls on files below one folder fail, or take longer.
 *
 * DISK_FAULTS is a file of one `struct fault` for each kind of call, mapped by the process and by the test, which
 * therefore sees and changes what happens at once; DISK_FAULTS_FOLDER is the folder, an absolute path without
 * symbolic links. tests/disk/faults.py is the other side.
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
enum file { ANY, JOURNAL, DATABASE, FOLDER };

struct fault {
    int32_t error; /* the errno; 0: nothing fails; below 0: the signal that ends the process, negative */
    int32_t file;  /* on which file */
    int32_t skip;  /* so many calls go well before */
    int32_t times; /* so many fail; below 0: all */
    int32_t hits;  /* so many have failed */
    int32_t delay; /* each call waits so many microseconds; below 0: until that is 0. On any file. */
    int32_t calls; /* so many were delayed, those that still wait included */
    int32_t waiting; /* so many wait */
    int32_t passes; /* 1: the one that waits goes on */
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

static int is_meant(enum file file, const char *path)
{
    size_t length = strlen(folder);

    if (strncmp(path, folder, length) != 0 || (path[length] != '/' && path[length] != '\0'))
        return 0;
    switch (file) {
    case JOURNAL: return ends_with(path, "-wal");
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
    /* Last: then the test goes on. */
    add(&fault->passes, -passes);
}

/* Whether this call is to fail; errno is set then. */
static int fails(enum call call, const char *path)
{
    struct fault *fault = faults + call;

    if (!is_meant(ANY, path))
        return 0;
    wait_for(fault);
    if (!fault->error || !is_meant(fault->file, path))
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
