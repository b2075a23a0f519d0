/* A library to preload into a server: each sync of a file takes SLOW_SYNC_US microseconds longer. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static void wait_for_disk(void)
{
    const char *microseconds = getenv("SLOW_SYNC_US");

    if (microseconds)
        usleep(atoi(microseconds));
}

#define SLOW(name)                                         \
    int name(int fd)                                       \
    {                                                      \
        static int (*real)(int);                           \
        if (!real)                                         \
            real = (int (*)(int))dlsym(RTLD_NEXT, #name);  \
        wait_for_disk();                                   \
        return real(fd);                                   \
    }

SLOW(fsync)
SLOW(fdatasync)
