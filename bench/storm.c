/* storm: one user who connects again and again.
 *
 *   storm [-t seconds] [-k kind] [-u uid] [-c connections] SOCKET
 *
 *   -t SECONDS   duration (2)
 *   -k KIND      what each connection sends (b)
 *   -u UID       UID to run as (the caller's)
 *   -c COUNT     connections kept open; the oldest is closed for a new one (0: each is closed immediately)
 *
 * The kinds: nothing (b); half a request (h); as many requests of eight bytes as the kernel takes (r).
 * Prints a line when it begins, and the number of connections at the end.
 */
#define _GNU_SOURCE
#include <grp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "messages.h"
#include "samples.h"

enum { NOOPS = 25000, NOOP = 8, MOST_KEPT = 4096 };

int main(int argc, char **argv) {
    static char noops[NOOPS * NOOP];
    static int kept[MOST_KEPT];
    double seconds = 2;
    char kind = 'b';
    int count = 0, oldest = 0;
    size_t connected = 0, refused = 0;
    for (int option; (option = getopt(argc, argv, "t:k:u:c:")) != -1;) switch (option) {
        case 't': seconds = atof(optarg); break;
        case 'k': kind = *optarg; break;
        case 'c': count = atoi(optarg); break;
        case 'u':
            if (setgroups(0, NULL) || setresgid(atol(optarg), atol(optarg), atol(optarg)) ||
                setresuid(atol(optarg), atol(optarg), atol(optarg))) die("storm: setresuid");
            break;
        default: optind = argc;
    }
    if (argc - optind != 1 || !strchr("bhr", kind) || count < 0 || count > MOST_KEPT) {
        fprintf(stderr, "usage: storm [-t seconds] [-k b|h|r] [-u uid] [-c connections] SOCKET\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < NOOPS; i++) memcpy(noops + i * NOOP, "\0\0\0\4\2\0\0", NOOP);
    for (int i = 0; i < count; i++) kept[i] = -1;
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    strncpy(a.sun_path, argv[optind], sizeof a.sun_path - 1);
    printf("connecting\n");
    fflush(stdout);
    for (double begin = now(); now() - begin < seconds;) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (fd < 0) die("storm: socket");
        if (connect(fd, (void *)&a, sizeof a)) {
            if (errno != EAGAIN) die(argv[optind]);
            refused++;
            close(fd);
            continue;
        }
        connected++;
        if (kind != 'b' && send(fd, noops, kind == 'h' ? NOOP - 2 : sizeof noops, 0) < 0 &&
            errno != EPIPE && errno != ECONNRESET) die("storm: send");
        if (count) {
            if (kept[oldest] >= 0) close(kept[oldest]);
            kept[oldest] = fd;
            oldest = (oldest + 1) % count;
        } else {
            close(fd);
        }
    }
    printf("connected=%zu full=%zu\n", connected, refused);
    return 0;
}
