/* flood: one user who floods a server with requests over many connections, in one process.
 *
 *   flood [-t seconds] [-c connections] [-k kinds] [-u uid] [-n credentials] [-s size] SOCKET
 *
 *   -t SECONDS   duration (2)
 *   -c COUNT     connections (200)
 *   -k KINDS     their kinds by letter, in turn (slh)
 *   -u UID       UID to run as (the caller's)
 *   -n COUNT     credentials in the ccache that is listed (500)
 *   -s BYTES     size of a credential that is stored (60000)
 *
 * Four kinds send a request when the reply to the last one was read: STOREs (s), GET_CRED_LISTs (l),
 * GET_PRINCIPALs (p), and first halves of STOREs that are never completed (h). The other kinds send as much
 * as the kernel takes: NOOPs of eight bytes (t), unknown operations (u), invalid requests (x), and
 * GET_CRED_LISTs whose replies are not read (n). If the server closes a connection, it is made again.
 * Prints a line when the ccaches are filled and the flood begins, and the number of replies at the end.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "messages.h"
#include "samples.h"

enum kind { STORES, LISTS, PINGS, HALVES, TINY, UNKNOWN, BROKEN, UNREAD, KINDS };
static const char letters[] = "slphtuxn";
enum { STORED = 8, LISTED_SIZE = 1200, CHUNK = 1 << 18 };

typedef struct {
    int fd;
    enum kind kind;
    const buf *request;
    size_t sent, size;  /* bytes of the request: sent so far, and to send */
    size_t got;         /* bytes of the reply so far; its first 4 are the length */
    uint8_t head[4];
} conn;

static const char *sockpath, *kinds = "slh";
static buf requests[KINDS][STORED];
static size_t answered[KINDS], redialled;
static int poller;

static buf *message(buf *b, int opcode, const char *name) {
    b->n = 0;
    put32(b, 0); put8(b, 2); put8(b, 0); put16(b, opcode); put(b, name, strlen(name) + 1);
    return b;
}
static buf *finished(buf *b) { uint32_t n = htonl(b->n - 4); memcpy(b->p, &n, 4); return b; }

static int dial(int flags) {
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | flags, 0);
    if (fd < 0) die("flood: socket");
    strncpy(a.sun_path, sockpath, sizeof a.sun_path - 1);
    if (connect(fd, (void *)&a, sizeof a)) { if (errno == EAGAIN) { close(fd); return -1; } die(sockpath); }
    return fd;
}
static void open_conn(conn *c) {
    c->sent = c->got = c->size = 0;
    if ((c->fd = dial(SOCK_NONBLOCK)) < 0) return;
    struct epoll_event e = { .events = EPOLLIN | EPOLLOUT, .data.ptr = c };
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e)) die("flood: epoll_ctl");
}
static void reopen(conn *c) { if (c->fd >= 0) close(c->fd); redialled++; open_conn(c); }
static void watch(conn *c, uint32_t events) {
    struct epoll_event e = { .events = events, .data.ptr = c };
    if (epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e)) die("flood: epoll_ctl");
}

static int is_pipelined(enum kind k) { return k >= TINY; }
static int may_wait(void) { return errno == EAGAIN || errno == EINTR; }

/* Sends as much as the kernel takes, and reads as much as it has. */
static void pipeline(conn *c) {
    static uint8_t chunk[CHUNK];
    const buf *b = &requests[c->kind][0];
    ssize_t n = write(c->fd, b->p + c->sent, b->n - c->sent);
    if (n > 0) c->sent = (c->sent + n) % b->n;
    else if (n < 0 && !may_wait()) { reopen(c); return; }
    if (c->kind == UNREAD) return;
    n = read(c->fd, chunk, sizeof chunk);
    if (n > 0) answered[c->kind] += n / 12;
    else if (!n || !may_wait()) reopen(c);
}

static void drive(conn *c) {
    static uint8_t chunk[CHUNK];
    if (is_pipelined(c->kind)) { pipeline(c); return; }
    if (!c->size) {
        c->request = &requests[c->kind][c->kind == STORES ? answered[STORES] % STORED : 0];
        c->size = c->kind == HALVES ? c->request->n / 2 : c->request->n;
        c->sent = 0;
    }
    while (c->sent < c->size) {
        ssize_t n = write(c->fd, c->request->p + c->sent, c->size - c->sent);
        if (n < 0) { if (may_wait()) return; reopen(c); return; }
        c->sent += n;
    }
    if (!c->got) watch(c, EPOLLIN);
    for (;;) {
        ssize_t n = read(c->fd, chunk, sizeof chunk);
        if (n < 0 && may_wait()) return;
        if (n <= 0) { reopen(c); return; }
        for (ssize_t i = 0; i < n && c->got + i < 4; i++) c->head[c->got + i] = chunk[i];
        c->got += n;
        if (c->got < 4) continue;
        uint32_t word;
        memcpy(&word, c->head, 4);
        if (c->got < 8 + (size_t)ntohl(word)) continue;
        answered[c->kind]++;
        c->got = c->size = 0;
        watch(c, EPOLLIN | EPOLLOUT);
        return;
    }
}

/* Sends one request, and waits for the reply. */
static void ask(int fd, const buf *b) {
    uint8_t reply[4096];
    if (write(fd, b->p, b->n) != (ssize_t)b->n || read(fd, reply, sizeof reply) < 12)
        die("flood: filling the ccaches");
    if (memcmp(reply + 8, "\0\0\0", 4)) {
        fprintf(stderr, "flood: the server refused a request that fills the ccaches\n");
        exit(1);
    }
}

/* Repeats a request until it exceeds a socket's buffer. */
static void repeat(buf *to, const buf *one) { while (to->n < CHUNK) put(to, one->p, one->n); }

static void prepare(int listed, int stored_size) {
    char name[2][64];
    buf b = { 0 };
    int fd = dial(0);
    for (int i = 0; i < 2; i++) snprintf(name[i], sizeof name[i], "%ld:flood%d", (long)getuid(), i);
    put_principal(message(&b, INITIALIZE, name[0]), "flood", NULL); ask(fd, finished(&b));
    put32(message(&b, REPLACE, name[1]), 0); put_principal(&b, "flood", NULL); put32(&b, listed);
    for (int i = 0; i < listed; i++) { put32(&b, credsize); put_credential(&b, "flood", i); }
    ask(fd, finished(&b));
    close(fd);
    finished(message(&requests[LISTS][0], GET_CRED_LIST, name[1]));
    finished(message(&requests[PINGS][0], GET_PRINCIPAL, name[1]));
    credsize = stored_size;
    for (int i = 0; i < STORED; i++) {
        put_credential(message(&requests[STORES][i], STORE, name[0]), "flood", i);
        finished(&requests[STORES][i]);
    }
    put(&requests[HALVES][0], requests[STORES][0].p, requests[STORES][0].n);
    buf tiny = { 0 }, unknown = { 0 }, list = { 0 };
    put32(&tiny, 4); put8(&tiny, 2); put8(&tiny, 0); put16(&tiny, 0);
    put32(&unknown, 4); put8(&unknown, 2); put8(&unknown, 0); put16(&unknown, 999);
    finished(message(&list, GET_CRED_LIST, name[1]));
    repeat(&requests[TINY][0], &tiny);
    repeat(&requests[UNKNOWN][0], &unknown);
    repeat(&requests[UNREAD][0], &list);
    put(&requests[BROKEN][0], "GET / HTTP/1.1\r\n\r\n", 18);
}

int main(int argc, char **argv) {
    double seconds = 2;
    int count = 200, listed = 500, stored_size = 60000;
    for (int option; (option = getopt(argc, argv, "t:c:k:u:n:s:")) != -1;) switch (option) {
        case 't': seconds = atof(optarg); break;
        case 'c': count = atoi(optarg); break;
        case 'k': kinds = optarg; break;
        case 'n': listed = atoi(optarg); break;
        case 's': stored_size = atoi(optarg); break;
        case 'u':
            if (setgroups(0, NULL) || setresgid(atol(optarg), atol(optarg), atol(optarg)) ||
                setresuid(atol(optarg), atol(optarg), atol(optarg))) die("flood: setresuid");
            break;
        default: optind = argc;
    }
    if (argc - optind != 1 || count < 1 || !*kinds || strspn(kinds, letters) != strlen(kinds) ||
        stored_size < 256 || stored_size > POOL / 2) {
        fprintf(stderr, "usage: flood [-t seconds] [-c connections] [-k kinds] [-u uid] [-n credentials]\n"
                        "             [-s size] SOCKET\n");
        return 2;
    }
    sockpath = argv[optind];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    fill_pool();
    credsize = LISTED_SIZE;
    prepare(listed, stored_size);
    if ((poller = epoll_create1(0)) < 0) die("flood: epoll");
    conn *conns = calloc(count, sizeof *conns);
    for (int i = 0; i < count; i++) {
        conns[i].kind = strchr(letters, kinds[i % strlen(kinds)]) - letters;
        open_conn(&conns[i]);
    }
    printf("flooding\n");
    fflush(stdout);
    for (double begin = now(); now() - begin < seconds;) {
        struct epoll_event events[256];
        int n = epoll_wait(poller, events, 256, 100);
        for (int i = 0; i < n; i++) drive(events[i].data.ptr);
        for (int i = 0; i < count; i++) if (conns[i].fd < 0) open_conn(&conns[i]);
    }
    printf("stores=%zu lists=%zu pings=%zu tiny=%zu unknown=%zu redialled=%zu\n", answered[STORES],
           answered[LISTS], answered[PINGS], answered[TINY], answered[UNKNOWN], redialled);
    return 0;
}
