/* An ECS agent in plain C99 over libzmq alone: it publishes one KV item, ten times a second.
 *
 *     publish_kv tcp://127.0.0.1:7750 x01/c-example
 *
 * What it does, in the words of schemas/spec/: it registers (registry.md) with a description of itself, sends
 * heartbeats as often as the broker wants, publishes the item `sine` (kv.md), registers again when the broker does
 * not know it, and takes its leave at SIGINT or SIGTERM. It answers nothing: it has described nothing to answer.
 *
 * Every message has two parts, header and body (envelope.md), each one MessagePack map. The writer below knows the
 * five forms that are sent; the reader finds a field of a map and skips every other form within its bounds. */

#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

enum {
    PROTOCOL_VERSION = 1,
    DEADLINE_MS = 3000, /* of a request */
    PUBLISH_MS = 100, LINGER_MS = 200,
    REGISTER_MS = 500, /* pause between two attempts to register */
    MESSAGE_BYTES_MAX = 2048,
    DEPTH_MAX = 32 /* deeper bodies are refused: envelope.md */
};

/* ---- Writing MessagePack ---- */

/* A message under construction. What does not fit is left out, and `is_full` says so. */
struct writer {
    uint8_t bytes[MESSAGE_BYTES_MAX];
    size_t used;
    bool is_full;
};

static void put(struct writer *to, const void *bytes, size_t count) {
    to->is_full |= count > sizeof to->bytes - to->used;
    if (to->is_full) return;
    memcpy(to->bytes + to->used, bytes, count);
    to->used += count;
}

/* A form's first byte and a big-endian number of `width` bytes behind it. */
static void put_number(struct writer *to, uint8_t form, uint64_t number, int width) {
    uint8_t bytes[9] = {form};
    for (int i = 0; i < width; i++) bytes[1 + i] = (uint8_t)(number >> 8 * (width - 1 - i));
    put(to, bytes, 1 + (size_t)width);
}

static void put_map(struct writer *to, uint32_t entries) { put_number(to, 0xdf, entries, 4); }
static void put_list(struct writer *to, uint32_t entries) { put_number(to, 0xdd, entries, 4); }
static void put_uint(struct writer *to, uint64_t number) { put_number(to, 0xcf, number, 8); }
static void put_text(struct writer *to, const char *text) {
    put_number(to, 0xdb, strlen(text), 4), put(to, text, strlen(text));
}

static void put_double(struct writer *to, double number) {
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits), put_number(to, 0xcb, bits, 8);
}

/* Names and texts of fields in turn, up to a NULL. */
static void put_texts(struct writer *to, const char *first, ...) {
    va_list more;
    va_start(more, first);
    for (const char *text = first; text != NULL; text = va_arg(more, const char *)) put_text(to, text);
    va_end(more);
}

/* ---- Reading MessagePack ---- */

/* The bytes that are still to be read. */
struct reader {
    const uint8_t *at, *end;
};

static bool take(struct reader *from, uint64_t count) {
    if (count > (uint64_t)(from->end - from->at)) return false;
    from->at += count;
    return true;
}

static bool take_number(struct reader *from, int width, uint64_t *number) {
    const uint8_t *bytes = from->at;
    *number = 0;
    if (!take(from, (uint64_t)width)) return false;
    for (int i = 0; i < width; i++) *number = *number << 8 | bytes[i];
    return true;
}

/* Reads the first byte of a value and its length or number. `kind` is one of: u(int), t(ext), m(ap), l(ist), b(ytes
 * of any other form: `*number` of them follow), x (nothing follows). */
static bool take_head(struct reader *from, char *kind, uint64_t *number) {
    uint64_t form;
    if (!take_number(from, 1, &form)) return false;
    *kind = 'x', *number = 0;
    if (form <= 0x7f) return *kind = 'u', *number = form, true;
    if (form <= 0x9f) return *kind = form <= 0x8f ? 'm' : 'l', *number = form & 0x0f, true;
    if (form <= 0xbf) return *kind = 't', *number = form & 0x1f, true;
    if (form >= 0xe0 || form == 0xc0 || form == 0xc2 || form == 0xc3) return true;
    switch (form) {
    case 0xc4: case 0xc5: case 0xc6: *kind = 'b'; return take_number(from, 1 << (form - 0xc4), number);
    case 0xca: case 0xcb: *kind = 'b'; *number = 4u << (form - 0xca); return true;
    case 0xcc: case 0xcd: case 0xce: case 0xcf: *kind = 'u'; return take_number(from, 1 << (form - 0xcc), number);
    case 0xd0: case 0xd1: case 0xd2: case 0xd3: *kind = 'b'; *number = 1u << (form - 0xd0); return true;
    case 0xd9: case 0xda: case 0xdb: *kind = 't'; return take_number(from, 1 << (form - 0xd9), number);
    case 0xdc: case 0xdd: *kind = 'l'; return take_number(from, 2 << (form - 0xdc), number);
    case 0xde: case 0xdf: *kind = 'm'; return take_number(from, 2 << (form - 0xde), number);
    default: return false; /* extensions and 0xc1 are no form of a message */
    }
}

static bool skip(struct reader *from, int depth) {
    char kind;
    uint64_t number;
    if (depth >= DEPTH_MAX || !take_head(from, &kind, &number)) return false;
    if (kind == 't' || kind == 'b') return take(from, number);
    uint64_t entries = kind == 'm' ? 2 * number : kind == 'l' ? number : 0;
    for (; entries > 0; entries--)
        if (!skip(from, depth + 1)) return false; /* a claimed length ends where the bytes end */
    return true;
}

/* Moves to the value of a map's field. */
static bool find(struct reader *map, const char *name) {
    char kind;
    uint64_t entries, bytes;
    if (!take_head(map, &kind, &entries) || kind != 'm') return false;
    for (; entries > 0; entries--) {
        if (!take_head(map, &kind, &bytes) || kind != 't' || !take(map, bytes)) return false;
        if (bytes == strlen(name) && memcmp(map->at - bytes, name, bytes) == 0) return true;
        if (!skip(map, 1)) return false;
    }
    return false;
}

/* The text of a map's field; NULL if there is none. It has no zero at its end. */
static const char *text_of(struct reader map, const char *name, int *bytes) {
    char kind;
    uint64_t count;
    if (!find(&map, name) || !take_head(&map, &kind, &count) || kind != 't') return NULL;
    const char *text = (const char *)map.at;
    return take(&map, count) ? *bytes = (int)count, text : NULL;
}

static bool text_is(struct reader map, const char *name, const char *wanted) {
    int bytes;
    const char *text = text_of(map, name, &bytes);
    return text != NULL && (size_t)bytes == strlen(wanted) && memcmp(text, wanted, (size_t)bytes) == 0;
}

static bool uint_of(struct reader map, const char *name, uint64_t *number) {
    char kind;
    return find(&map, name) && take_head(&map, &kind, number) && kind == 'u';
}

/* ---- The conversation ---- */

struct agent {
    void *socket;
    const char *name;
    uint64_t instance, last_id, register_id, heartbeat_ms;
    bool is_registered;
};

/* Sends header and body. What finds no room is dropped: the next value comes in a moment, a heartbeat too. */
static void send_message(struct agent *agent, const char *kind, uint64_t id, const struct writer *body) {
    struct writer header = {.used = 0};
    put_map(&header, id == 0 ? 3 : 4);
    put_text(&header, "v"), put_uint(&header, PROTOCOL_VERSION);
    put_texts(&header, "kind", kind, NULL);
    put_text(&header, "id"), put_uint(&header, id);
    if (id != 0) put_text(&header, "deadline_ms"), put_uint(&header, DEADLINE_MS);
    if (header.is_full || body->is_full) {
        fprintf(stderr, "publish_kv: %s does not fit into %d bytes\n", kind, MESSAGE_BYTES_MAX);
        exit(1);
    }
    if (zmq_send(agent->socket, header.bytes, header.used, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0)
        zmq_send(agent->socket, body->bytes, body->used, ZMQ_DONTWAIT);
}

static void send_register(struct agent *agent) {
    char host[65] = "unknown";
    gethostname(host, sizeof host - 1);
    struct writer body = {.used = 0};
    put_map(&body, 8);
    put_texts(&body, "name", agent->name, "kind", "c-example", "host", host, "version", "0.1.0", "state", "ready", NULL);
    put_text(&body, "pid"), put_uint(&body, (uint64_t)getpid());
    put_text(&body, "instance"), put_uint(&body, agent->instance);
    put_text(&body, "subsystems"), put_list(&body, 1), put_map(&body, 3);
    put_texts(&body, "name", agent->name, "help", "Publishes a sine ten times a second, from C", "items", NULL);
    put_list(&body, 1), put_map(&body, 4);
    put_texts(&body, "name", "sine", "type", "f64", "unit", "V", "help", "One period in ten seconds", NULL);
    agent->register_id = ++agent->last_id;
    send_message(agent, "agent.register", agent->register_id, &body);
}

/* A heartbeat, or the leave, which has no fields: those that a reader does not know it ignores. */
static void send_state(struct agent *agent, const char *kind) {
    struct writer body = {.used = 0};
    put_map(&body, 1), put_texts(&body, "state", "ready", NULL);
    send_message(agent, kind, ++agent->last_id, &body);
}

static void send_value(struct agent *agent, double value) {
    struct writer body = {.used = 0};
    put_map(&body, 3), put_texts(&body, "subsystem", agent->name, "item", "sine", "value", NULL), put_double(&body, value);
    send_message(agent, "kv.publish", 0, &body);
}

static void received(struct agent *agent, struct reader header, struct reader body) {
    uint64_t id = 0, heartbeat_ms = 0;
    int bytes;
    if (text_is(header, "kind", "error")) {
        const char *message = text_of(body, "message", &bytes);
        if (message != NULL) fprintf(stderr, "publish_kv: %.*s\n", bytes, message);
        if (text_is(body, "code", "not_registered")) agent->is_registered = false; /* the broker came back */
    } else if (uint_of(header, "id", &id) && id == agent->register_id && uint_of(body, "heartbeat_ms", &heartbeat_ms)) {
        agent->heartbeat_ms = heartbeat_ms;
        agent->is_registered = true;
        fprintf(stderr, "publish_kv: registered as %s\n", agent->name);
    }
}

static struct reader reader_of(zmq_msg_t *part) {
    const uint8_t *bytes = zmq_msg_data(part);
    return (struct reader){bytes, bytes + zmq_msg_size(part)};
}

/* Takes one message if one waits; parts beyond the second are dropped. */
static bool receive(struct agent *agent) {
    zmq_msg_t parts[3];
    int count = 0;
    for (int i = 0; i < 3; i++) zmq_msg_init(&parts[i]);
    for (int more = 1; more; count++) {
        zmq_msg_t *part = &parts[count < 2 ? count : 2];
        if (zmq_msg_recv(part, agent->socket, ZMQ_DONTWAIT) < 0) break;
        more = zmq_msg_more(part);
    }
    if (count == 2) received(agent, reader_of(&parts[0]), reader_of(&parts[1]));
    for (int i = 0; i < 3; i++) zmq_msg_close(&parts[i]);
    return count > 0;
}

static volatile sig_atomic_t is_stopping;
static void stop(int signal_number) { (void)signal_number, is_stopping = 1; }

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void run(struct agent *agent) {
    uint64_t register_at = 0, heartbeat_at = 0, publish_at = now_ms();
    while (!is_stopping) {
        uint64_t now = now_ms();
        if (!agent->is_registered && now >= register_at) send_register(agent), register_at = now + REGISTER_MS;
        if (agent->is_registered && now >= heartbeat_at) send_state(agent, "agent.heartbeat"), heartbeat_at = now + agent->heartbeat_ms;
        if (now >= publish_at) {
            if (agent->is_registered) send_value(agent, sin(6.283185307179586 * (double)now / 10000.0));
            publish_at = publish_at + PUBLISH_MS > now ? publish_at + PUBLISH_MS : now + PUBLISH_MS;
        }
        zmq_pollitem_t item = {.socket = agent->socket, .events = ZMQ_POLLIN};
        zmq_poll(&item, 1, publish_at > now ? (long)(publish_at - now) : 0);
        while (receive(agent)) {}
    }
    if (agent->is_registered) send_state(agent, "agent.leave");
}

int main(int count, char **arguments) {
    if (count != 3) {
        fprintf(stderr, "usage: publish_kv ENDPOINT NAME\nfor example: publish_kv tcp://127.0.0.1:7750 x01/c-example\n");
        return 2;
    }
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGINT, &action, NULL), sigaction(SIGTERM, &action, NULL);
    void *context = zmq_ctx_new();
    struct agent agent = {.socket = zmq_socket(context, ZMQ_DEALER), .name = arguments[2], .heartbeat_ms = 1000};
    agent.instance = now_ms() << 20 ^ (uint64_t)getpid(); /* another one for each start of this process */
    int linger_ms = LINGER_MS, yes = 1;
    zmq_setsockopt(agent.socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    zmq_setsockopt(agent.socket, ZMQ_IMMEDIATE, &yes, sizeof yes); /* nothing is queued for a broker that is away */
    if (zmq_connect(agent.socket, arguments[1]) != 0) {
        fprintf(stderr, "publish_kv: %s: %s; give tcp://HOST:PORT or ipc://PATH\n", arguments[1], zmq_strerror(errno));
        return 2;
    }
    run(&agent);
    zmq_close(agent.socket);
    zmq_ctx_term(context);
    return 0;
}
