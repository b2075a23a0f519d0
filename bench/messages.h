/* Encoding of KCM requests. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    GEN_NEW = 3, INITIALIZE, DESTROY, STORE, RETRIEVE, GET_PRINCIPAL, GET_CRED_UUID_LIST, GET_CRED_BY_UUID,
    REMOVE_CRED, GET_DEFAULT_CACHE = 20, SET_DEFAULT_CACHE, GET_KDC_OFFSET, SET_KDC_OFFSET,
    GET_CRED_LIST = 13001, REPLACE
};
enum { POOL = 1 << 17 };

/* The size of a credential; keys and tickets are cut out of the pool. */
static int credsize = 1200;
static uint8_t pool[POOL];

typedef struct { uint8_t *p; size_t n, cap; } buf;

static inline void die(const char *what) { fprintf(stderr, "%s: %s\n", what, strerror(errno)); exit(1); }

static inline void fill_pool(void) {
    uint64_t x = 88172645463325252u;
    for (size_t i = 0; i < POOL; i++) { x ^= x << 13; x ^= x >> 7; x ^= x << 17; pool[i] = (uint8_t)x; }
}

static inline void *room(buf *b, size_t n) {
    if (b->n + n > b->cap) {
        b->cap = (b->n + n) * 2 + 256;
        if (!(b->p = realloc(b->p, b->cap))) die("realloc");
    }
    b->n += n;
    return b->p + b->n - n;
}
static inline void put(buf *b, const void *p, size_t n) { memcpy(room(b, n), p, n); }
static inline void put8(buf *b, uint8_t v) { put(b, &v, 1); }
static inline void put16(buf *b, uint16_t v) { v = htons(v); put(b, &v, 2); }
static inline void put32(buf *b, uint32_t v) { v = htonl(v); put(b, &v, 4); }
static inline void put_data(buf *b, const char *s) { put32(b, strlen(s)); put(b, s, strlen(s)); }

static inline void put_principal(buf *b, const char *first, const char *second) {
    put32(b, 1); put32(b, second ? 2 : 1); put_data(b, "LOAD.TEST"); put_data(b, first);
    if (second) put_data(b, second);
}
/* Credential 0 is the TGT. */
static inline void put_server(buf *b, int i) {
    char host[64];
    snprintf(host, sizeof host, "h%d.load.test", i);
    if (i) put_principal(b, "host", host); else put_principal(b, "krbtgt", "LOAD.TEST");
}
static inline void put_credential(buf *b, const char *client, int i) {
    size_t begin = b->n;
    uint32_t t = (uint32_t)time(NULL);
    put_principal(b, client, NULL); put_server(b, i);
    put16(b, 18); put32(b, 32); put(b, pool + i % 1000, 32);
    put32(b, t); put32(b, t); put32(b, t + 36000); put32(b, t + 604800);
    put8(b, 0); put32(b, 0x40e00000); put32(b, 0); put32(b, 0);
    size_t ticket = (size_t)credsize - (b->n - begin) - 8;
    put32(b, ticket); put(b, pool + i * 61 % (POOL / 2), ticket); put32(b, 0);
}
/* The tag of libkrb5's requests: client and server. */
static inline void put_tag(buf *b, const char *client, int i) {
    put32(b, 1 | 2); put_principal(b, client, NULL); put_server(b, i);
    for (int k = 0; k < 4; k++) put32(b, 0);
    put8(b, 0);
    for (int k = 0; k < 4; k++) put32(b, 0);
}
