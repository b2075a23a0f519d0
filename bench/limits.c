/* limits: the bare costs of any server on this machine, as limits for comparison.
 *
 *   limits echo SOCKET                       a server that answers each request and does nothing
 *   limits append FILE BYTES SECONDS         write BYTES at the end of FILE, fdatasync, over and over
 *   limits overwrite FILE BYTES SECONDS      the same within a file of fixed size
 *
 * `echo` is one thread with epoll. A request is framed as in KCM: a length, then that many bytes. Their first
 * four are the size of the requested reply. The reply has the same framing and the code for success.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "samples.h"

enum { MAX_REPLY = 64 << 20, MAX_SAMPLES = 1 << 22, OVERWRITTEN = 4 << 20 };

static void die(const char *what) { fprintf(stderr, "limits: %s: %s\n", what, strerror(errno)); exit(1); }

/* A client and the received part of its request; `head`: the request's length, the size of the reply. */
typedef struct { int fd; size_t got; uint8_t head[8]; } client;

static uint8_t *reply, scratch[1 << 20];

static void answer(client *c) {
    uint32_t size;
    memcpy(&size, c->head + 4, 4);
    memcpy(reply, &size, 4);
    size_t total = 8 + (size_t)ntohl(size);
    if (total > MAX_REPLY) { fprintf(stderr, "limits: a reply of %zu bytes is too large\n", total); exit(1); }
    for (size_t sent = 0; sent < total;) {
        ssize_t n = send(c->fd, reply + sent, total - sent, MSG_NOSIGNAL);
        if (n < 0) return; /* the client has closed; the next read returns 0 */
        sent += n;
    }
    c->got = 0;
}
/* Returns whether the client is still connected. */
static int serve(client *c) {
    ssize_t n = recv(c->fd, scratch, sizeof scratch, MSG_DONTWAIT);
    if (n <= 0) return n < 0 && errno == EAGAIN;
    if (c->got < 8) memcpy(c->head + c->got, scratch, (size_t)n < 8 - c->got ? (size_t)n : 8 - c->got);
    c->got += n;
    uint32_t length;
    memcpy(&length, c->head, 4);
    if (c->got >= 8 && c->got == 4 + (size_t)ntohl(length)) answer(c);
    return 1;
}
static void echo(const char *path) {
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    strncpy(a.sun_path, path, sizeof a.sun_path - 1);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), poll = epoll_create1(0);
    if (bind(listener, (void *)&a, sizeof a) || chmod(path, 0666) || listen(listener, 1024)) die(path);
    if (!(reply = malloc(MAX_REPLY))) die("malloc");
    memset(reply, 'x', MAX_REPLY);
    memset(reply + 4, 0, 8); /* the outer status and the code */
    struct epoll_event e = { .events = EPOLLIN, .data.ptr = NULL }, events[64];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        int n = epoll_wait(poll, events, 64, -1);
        for (int i = 0; i < n; i++) {
            client *c = events[i].data.ptr;
            if (!c) {
                c = calloc(1, sizeof *c);
                if ((c->fd = accept(listener, NULL, NULL)) < 0) die("accept");
                e.data.ptr = c;
                epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &e);
            } else if (!serve(c)) { close(c->fd); free(c); }
        }
    }
}
static void fill(uint8_t *p, size_t n) {
    for (uint32_t x = 2463534242u; n--;) { x ^= x << 13; x ^= x >> 17; x ^= x << 5; *p++ = (uint8_t)x; }
}
static void sync_writes(const char *path, size_t bytes, double seconds, int overwrite) {
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (fd < 0) die(path);
    if (bytes > sizeof scratch) { errno = EINVAL; die("the size"); }
    fill(scratch, sizeof scratch);
    if (overwrite) {
        for (int i = 0; i < OVERWRITTEN; i += sizeof scratch)
            if (write(fd, scratch, sizeof scratch) != sizeof scratch) die("write");
        if (fsync(fd)) die("fsync");
    }
    float *samples = malloc(MAX_SAMPLES * sizeof *samples);
    size_t count = 0, at = 0;
    double begin = now(), deadline = begin + seconds;
    do {
        if (overwrite) at = at + bytes > OVERWRITTEN ? 0 : at;
        double t = now();
        if (pwrite(fd, scratch, bytes, (off_t)at) != (ssize_t)bytes || fdatasync(fd)) die(path);
        samples[count++] = (float)((now() - t) * 1e6);
        at += bytes;
    } while (now() < deadline && count < MAX_SAMPLES);
    printf("workload=%s ", overwrite ? "overwrite" : "append");
    print_samples(samples, count, now() - begin);
    printf(" bytes=%zu errors=0\n", bytes);
    unlink(path);
}
int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    if (argc == 3 && !strcmp(argv[1], "echo")) echo(argv[2]);
    else if (argc == 5 && !strcmp(argv[1], "append")) sync_writes(argv[2], atoi(argv[3]), atof(argv[4]), 0);
    else if (argc == 5 && !strcmp(argv[1], "overwrite")) sync_writes(argv[2], atoi(argv[3]), atof(argv[4]), 1);
    else { fprintf(stderr, "usage: limits echo SOCKET | append|overwrite FILE BYTES SECONDS\n"); return 2; }
    return 0;
}
