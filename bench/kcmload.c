/* kcmload: send requests to a KCM server over its Unix socket and time the replies.
 *
 *   kcmload [options] SOCKET WORKLOAD [-- COMMAND [ARGUMENT]...]
 *
 *   -t SECONDS   duration (2)
 *   -n COUNT     credentials in each ccache (10)
 *   -s BYTES     size of a credential (1200)
 *   -c COUNT     connections; each is a process with its own ccache (1)
 *   -u UID       UID of the first process; each other one has the next UID (all as the caller)
 *   -m COUNT     ccaches of each UID, for `spread` (1)
 *   -U COUNT     UIDs, for `spread` (1)
 *   -e           SOCKET belongs to `limits echo`: it gets the same messages, and only echoes
 *
 * Workloads
 *   ping      GET_PRINCIPAL
 *   list      the requests of klist, each time on a new connection
 *   listc     the same on a connection that stays open
 *   store     INITIALIZE, then COUNT STOREs, over and over; a STORE is timed
 *   storeat   fill to COUNT, then pairs of STORE and REMOVE_CRED at that size; the STORE is timed
 *   retrieve  RETRIEVE of a stored credential; where it is unsupported, all are listed, as by libkrb5
 *   kinit     the 7 operations of kinit with a new connection; then an untimed DESTROY
 *   replace   REPLACE of a whole ccache
 *   fill      a ccache of COUNT credentials by INITIALIZE and STOREs, once; it stays in the server
 *   spread    ccaches of COUNT credentials for the caller and the UIDs 1000001, 1000002 …, by REPLACE,
 *             once; they stay in the server
 *   start     start COMMAND with a listening socket as its descriptor 3, as systemd does, and time from
 *             the exec to the second reply (GET_DEFAULT_CACHE, then GET_PRINCIPAL); over and over
 *
 * Where one request is timed, it is built before the clock starts. Prints one line of key=value;
 * `bytes` is the sum of the credentials' sizes in all ccaches. Exit status: 3 if the server lacks the
 * operation, 1 for any other error.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "messages.h"
#include "samples.h"

enum { FCC_NOFILE = -1765328189, FCC_INTERNAL = -1765328188, CC_NOSUPP = -1765328137, CC_IO = -1765328191 };
enum { MAX_SAMPLES = 1 << 22, GC_CACHED = 1, TIMEOUT = 60, MAX_REPLACED = 1024 };
enum { UNSUPPORTED = 3 };

static const char *sockpath, *workload;
static char **command;
static double seconds = 2;
static int ncreds = 10, conns = 1, ccaches = 1, uids = 1, echo;
static long first_uid = -1;

/* The memory that a connection's process shares with its parent. */
typedef struct { size_t count; int errors; float samples[MAX_SAMPLES]; } results;

/* `expected` is the size of the expected reply, which the echo server reads; `got` the size of the last reply. */
typedef struct { int fd, id; size_t expected, got; buf req, rep; char name[64], client[32]; results *results; } conn;

static struct shared { volatile int ready, go; volatile double deadline; } *shared;


/* Messages */

static size_t principal_size(const char *client) { return 4 + 4 + 4 + strlen("LOAD.TEST") + 4 + strlen(client); }

static buf *request(conn *c, int opcode, const char *name, size_t payload) {
    c->req.n = 0; c->expected = 4 + payload;
    put32(&c->req, 0); put8(&c->req, 2); put8(&c->req, 0); put16(&c->req, opcode);
    if (name) put(&c->req, name, strlen(name) + 1);
    return &c->req;
}

/* The connection */

static void dial(conn *c) {
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    if (strlen(sockpath) >= sizeof a.sun_path) { errno = ENAMETOOLONG; die(sockpath); }
    strcpy(a.sun_path, sockpath);
    if ((c->fd = socket(AF_UNIX, SOCK_STREAM, 0)) < 0) die("socket");
    for (int k = 0; connect(c->fd, (void *)&a, sizeof a); k++) {
        if (errno != EAGAIN || k > 10000) die(sockpath);
        usleep(100);
    }
    struct timeval limit = { .tv_sec = TIMEOUT };
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
}
static void redial(conn *c) { close(c->fd); dial(c); }

/* Sends the request, waits for the reply and returns its code. */
static int32_t call(conn *c) {
    uint32_t word = htonl(c->req.n - 4);
    memcpy(c->req.p, &word, 4);
    if (echo) { word = htonl(c->expected); memcpy(c->req.p + 4, &word, 4); }
    for (size_t sent = 0; sent < c->req.n;) {
        ssize_t n = write(c->fd, c->req.p + sent, c->req.n - sent);
        if (n < 0) die("write");
        sent += n;
    }
    size_t got = 0, size = 8;
    while (got < size) {
        if (c->rep.cap < size) { c->rep.n = 0; room(&c->rep, size > 65536 ? size : 65536); }
        ssize_t n = read(c->fd, c->rep.p + got, c->rep.cap - got);
        if (n < 0) die("no reply");
        if (n == 0) { fprintf(stderr, "kcmload: %s: the server closed the connection\n", workload); exit(1); }
        got += n;
        if (got >= 8) { memcpy(&word, c->rep.p, 4); size = 8 + ntohl(word); }
    }
    c->got = size - 8;
    memcpy(&word, c->rep.p + (c->got >= 4 ? 8 : 4), 4);
    return (int32_t)ntohl(word);
}
static int unsupported(int32_t code) { return code == FCC_INTERNAL || code == CC_NOSUPP || code == CC_IO; }
static void must(conn *c, const char *operation, int32_t code) {
    if (code && !c->results->errors++)
        fprintf(stderr, "kcmload: %s: the reply to %s has the code %d\n", workload, operation, code);
}
static void record(conn *c, double begin) {
    c->results->samples[c->results->count++] = (float)((now() - begin) * 1e6);
}

/* The operations */

static void initialize(conn *c) {
    put_principal(request(c, INITIALIZE, c->name, 0), c->client, NULL);
    must(c, "INITIALIZE", call(c));
}
static void request_store(conn *c, int i) { put_credential(request(c, STORE, c->name, 0), c->client, i); }
static void store(conn *c, int i) { request_store(c, i); must(c, "STORE", call(c)); }

static void request_replace(conn *c, int count) {
    buf *b = request(c, REPLACE, c->name, 0);
    put32(b, 0); put_principal(b, c->client, NULL); put32(b, count);
    for (int i = 0; i < count; i++) { put32(b, credsize); put_credential(b, c->client, i); }
}
/* One REPLACE takes so many; STOREs bring the others. */
static void replace_and_store(conn *c) {
    int filled = ncreds < MAX_REPLACED ? ncreds : MAX_REPLACED;
    request_replace(c, filled);
    must(c, "REPLACE", call(c));
    for (int i = filled; i < ncreds; i++) store(c, i);
}

/* Fills the ccache by REPLACE where the server has it, else by STOREs; filling is not timed.
 * A server without REPLACE refuses large requests as well: a small REPLACE finds out. */
static void fill(conn *c) {
    request_replace(c, 1);
    if (!unsupported(call(c))) { replace_and_store(c); return; }
    initialize(c);
    for (int i = 0; i < ncreds; i++) store(c, i);
}
static void list_credentials(conn *c) {
    request(c, GET_KDC_OFFSET, c->name, 4); call(c);
    request(c, GET_CRED_LIST, c->name, 4 + (size_t)ncreds * (4 + credsize));
    int32_t code = call(c);
    if (!unsupported(code)) { must(c, "GET_CRED_LIST", code); return; }
    request(c, GET_CRED_UUID_LIST, c->name, 0); must(c, "GET_CRED_UUID_LIST", call(c));
    size_t size = c->got - 4;
    uint8_t *uuids = malloc(size + 1);
    memcpy(uuids, c->rep.p + 12, size);
    for (size_t at = 0; at < size; at += 16) {
        put(request(c, GET_CRED_BY_UUID, c->name, 0), uuids + at, 16);
        must(c, "GET_CRED_BY_UUID", call(c));
    }
    free(uuids);
}
static void klist(conn *c) {
    request(c, GET_DEFAULT_CACHE, NULL, strlen(c->name) + 1); must(c, "GET_DEFAULT_CACHE", call(c));
    request(c, GET_PRINCIPAL, c->name, principal_size(c->client)); must(c, "GET_PRINCIPAL", call(c));
    list_credentials(c);
}
static void kinit(conn *c) {
    char name[64];
    snprintf(name, sizeof name, "%ld:0123abcd", (long)getuid());
    request(c, GET_DEFAULT_CACHE, NULL, strlen(name) + 1); must(c, "GET_DEFAULT_CACHE", call(c));
    request(c, GET_PRINCIPAL, name, 0); call(c);
    request(c, GEN_NEW, NULL, strlen(name) + 1); must(c, "GEN_NEW", call(c));
    if (!echo) snprintf(name, sizeof name, "%.*s", (int)c->got - 4, (char *)c->rep.p + 12);
    strcpy(c->name, name);
    initialize(c);
    put32(request(c, SET_KDC_OFFSET, c->name, 0), 0); must(c, "SET_KDC_OFFSET", call(c));
    store(c, 0);
    request(c, SET_DEFAULT_CACHE, c->name, 0); must(c, "SET_DEFAULT_CACHE", call(c));
}
static void destroy(conn *c) { request(c, DESTROY, c->name, 0); must(c, "DESTROY", call(c)); }

/* The workloads. A step is one sample. */

static void ping_step(conn *c, int k) {
    (void)k;
    request(c, GET_PRINCIPAL, c->name, principal_size(c->client));
    double begin = now(); int32_t code = call(c); record(c, begin);
    must(c, "GET_PRINCIPAL", code);
}
static void list_step(conn *c, int k) { (void)k; double begin = now(); redial(c); klist(c); record(c, begin); }
static void listc_step(conn *c, int k) { (void)k; double begin = now(); klist(c); record(c, begin); }
static void timed_store(conn *c, int i) {
    request_store(c, i);
    double begin = now(); int32_t code = call(c); record(c, begin);
    must(c, "STORE", code);
}
static void store_step(conn *c, int k) { if (k % ncreds == 0) initialize(c); timed_store(c, k % ncreds); }
static void storeat_step(conn *c, int k) {
    timed_store(c, 1000000 + k);
    buf *b = request(c, REMOVE_CRED, c->name, 0);
    put32(b, 0); put_tag(b, c->client, 1000000 + k);
    int32_t code = call(c);
    if (!unsupported(code)) must(c, "REMOVE_CRED", code);
}
static void retrieve_step(conn *c, int k) {
    (void)k;
    buf *b = request(c, RETRIEVE, c->name, credsize);
    put32(b, GC_CACHED); put_tag(b, c->client, ncreds / 2);
    double begin = now(); int32_t code = call(c);
    int listed = unsupported(code);
    if (listed) list_credentials(c);
    record(c, begin);
    if (!listed) must(c, "RETRIEVE", code);
}
static void kinit_step(conn *c, int k) {
    (void)k;
    double begin = now(); redial(c); kinit(c); record(c, begin);
    destroy(c);
}
static void replace_step(conn *c, int k) {
    (void)k;
    request_replace(c, ncreds);
    double begin = now(); int32_t code = call(c); record(c, begin);
    if (unsupported(code)) exit(UNSUPPORTED);
    must(c, "REPLACE", code);
}
static void fill_step(conn *c, int k) {
    (void)k;
    double begin = now(); initialize(c);
    for (int i = 0; i < ncreds; i++) store(c, i);
    record(c, begin);
}
static void spread_step(conn *c, int k) {
    (void)k;
    double begin = now();
    for (int uid = 0; uid < uids; uid++)
        for (int i = 0; i < ccaches; i++) {
            int n = sprintf(c->name, "%d", uid ? 1000000 + uid : (int)getuid());
            if (i) sprintf(c->name + n, ":%d", i);
            replace_and_store(c);
        }
    record(c, begin);
}

/* `fills`: it begins with a full ccache; `once`: it has one step, and its ccaches stay in the server. */
static const struct workload { const char *name; void (*step)(conn *, int); int fills, once; } workloads[] = {
    { "ping", ping_step, 1, 0 },         { "list", list_step, 1, 0 },     { "listc", listc_step, 1, 0 },
    { "store", store_step, 0, 0 },       { "storeat", storeat_step, 1, 0 }, { "retrieve", retrieve_step, 1, 0 },
    { "kinit", kinit_step, 0, 0 },       { "replace", replace_step, 0, 0 }, { "fill", fill_step, 0, 1 },
    { "spread", spread_step, 0, 1 },     { NULL, NULL, 0, 0 }
};

static void become(uid_t uid) {
    if (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid)) die("setresuid");
}
static void run(const struct workload *w, int id, results *r) {
    conn c = { .id = id, .results = r };
    if (first_uid >= 0) become((uid_t)(first_uid + id));
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(c.name, sizeof c.name, "%ld:load%d", (long)getuid(), id);
    snprintf(c.client, sizeof c.client, "user%d", id);
    dial(&c);
    if (w->fills) fill(&c);
    __sync_fetch_and_add(&shared->ready, 1);
    while (!shared->go) usleep(50);
    int k = 0;
    do w->step(&c, k++); while (!w->once && now() < shared->deadline && r->count < MAX_SAMPLES);
    if (!w->once && w->step != kinit_step) destroy(&c);
    close(c.fd);
}

/* The start of a server, by socket activation */

static int listening_socket(void) {
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    strncpy(a.sun_path, sockpath, sizeof a.sun_path - 1);
    unlink(sockpath);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (void *)&a, sizeof a) || listen(fd, 64)) die(sockpath);
    return fd;
}
static pid_t start_server(int listener) {
    pid_t pid = fork();
    if (pid < 0) die("fork");
    if (pid == 0) {
        char own_pid[16];
        sprintf(own_pid, "%d", (int)getpid());
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        setenv("LISTEN_PID", own_pid, 1); setenv("LISTEN_FDS", "1", 1);
        /* dup2 of a descriptor to itself would leave it close-on-exec. */
        if (listener == 3) listener = dup(listener);
        dup2(listener, 3);
        execvp(command[0], command);
        die(command[0]);
    }
    return pid;
}
static void run_start(results *r) {
    int listener = listening_socket(), status;
    /* The first start fills the caches and does not count. */
    for (int k = 0; k < 4 || now() < shared->deadline; k++) {
        conn c = { .results = r };
        double begin = now();
        pid_t pid = start_server(listener);
        dial(&c);
        request(&c, GET_DEFAULT_CACHE, NULL, 0); must(&c, "GET_DEFAULT_CACHE", call(&c));
        snprintf(c.name, sizeof c.name, "%.*s", (int)c.got - 4, (char *)c.rep.p + 12);
        request(&c, GET_PRINCIPAL, c.name, 0);
        int32_t code = call(&c);
        record(&c, begin);
        if (code != FCC_NOFILE) must(&c, "GET_PRINCIPAL", code);
        if (k == 0) r->count = 0;
        close(c.fd);
        kill(pid, SIGTERM);
        if (waitpid(pid, &status, 0) != pid || status) {
            fprintf(stderr, "kcmload: start: the server failed after SIGTERM (wait status %d)\n", status);
            r->errors++;
        }
        free(c.req.p); free(c.rep.p);
    }
    unlink(sockpath);
}

/* The processes */

static void *share(size_t size) {
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) die("mmap");
    return p;
}
/* Waits for one child and returns whether there was one; exits if the child failed. */
static int reap(int flags) {
    int status;
    pid_t pid = waitpid(-1, &status, flags);
    if (pid > 0 && status) exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    return pid > 0;
}
static double run_all(const struct workload *w, results **all) {
    for (int i = 0; i < conns; i++) {
        all[i] = share(sizeof **all);
        pid_t pid = fork();
        if (pid < 0) die("fork");
        if (pid == 0) { run(w, i, all[i]); exit(0); }
    }
    while (shared->ready < conns) { usleep(50); reap(WNOHANG); }
    double begin = now();
    shared->deadline = begin + seconds; shared->go = 1;
    for (int i = 0; i < conns; i++) if (!reap(0)) die("wait");
    return now() - begin;
}
static size_t bytes_left(const struct workload *w) {
    size_t each = (size_t)ncreds * credsize;
    return w->step == spread_step ? each * ccaches * uids : each * conns;
}
static void usage(void) {
    fprintf(stderr, "usage: kcmload [-t seconds] [-n credentials] [-s size] [-c connections] [-u uid] [-m ccaches]\n"
                    "               [-U uids] [-e] SOCKET WORKLOAD [-- COMMAND...]\n");
    exit(2);
}
int main(int argc, char **argv) {
    for (int option; (option = getopt(argc, argv, "t:n:s:c:u:m:U:e")) != -1;) switch (option) {
        case 't': seconds = atof(optarg); break;
        case 'n': ncreds = atoi(optarg); break;
        case 's': credsize = atoi(optarg); break;
        case 'c': conns = atoi(optarg); break;
        case 'u': first_uid = atol(optarg); break;
        case 'm': ccaches = atoi(optarg); break;
        case 'U': uids = atoi(optarg); break;
        case 'e': echo = 1; break;
        default: usage();
    }
    if (argc - optind < 2 || ncreds < 1 || conns < 1 || credsize < 256 || credsize > POOL / 2) usage();
    sockpath = argv[optind]; workload = argv[optind + 1]; command = argv + optind + 2;
    signal(SIGPIPE, SIG_IGN);
    fill_pool();
    shared = share(sizeof *shared);

    results *all[conns];
    double elapsed;
    const struct workload *w = workloads;
    if (!strcmp(workload, "start")) {
        if (command[0] && !strcmp(command[0], "--")) command++;
        if (!command[0]) usage();
        conns = 1; all[0] = share(sizeof **all);
        double begin = now();
        shared->deadline = begin + seconds;
        run_start(all[0]);
        elapsed = now() - begin;
    } else {
        while (w->name && strcmp(w->name, workload)) w++;
        if (!w->name) { fprintf(stderr, "kcmload: unknown workload %s\n", workload); return 2; }
        elapsed = run_all(w, all);
    }

    size_t count = 0; int errors = 0;
    for (int i = 0; i < conns; i++) { count += all[i]->count; errors += all[i]->errors; }
    float *samples = malloc(count * sizeof *samples), *to = samples;
    for (int i = 0; i < conns; i++) { memcpy(to, all[i]->samples, all[i]->count * sizeof *to); to += all[i]->count; }
    printf("workload=%s ", workload);
    print_samples(samples, count, elapsed);
    printf(" bytes=%zu errors=%d\n", bytes_left(w), errors);
    return errors ? 1 : 0;
}
