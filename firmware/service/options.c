/* SETSOCKOPT and GETSOCKOPT of connections and listeners, and the time-outs that come of them. */
#include "service.h"
#include "lwip/priv/tcp_priv.h"

#define TIMED_EVERY_MS  10u
#define SMALLEST_RCVBUF SOCKET_QUOTA_BUFFERS /* fewer, and peers would send half segments: see window.c */
#define LARGEST_RCVBUF  (SOCKET_WINDOW_MAX / TCP_MSS)
#define MS              1000u

/* Where an option is kept, and what it may be. Buffers are kept in segments. */
struct field {
    uint8_t offset, size;
    uint32_t least, most;
};

#define FIELD(name, least, most)                                                                             \
    {                                                                                                        \
        offsetof(struct tcp_options, name), sizeof(((struct tcp_options *)0)->name), least, most             \
    }

static const struct field fields[] = {
    [TS_SOCKET_OPTION_NODELAY] = FIELD(nodelay, 0u, 1u),
    [TS_SOCKET_OPTION_KEEPALIVE] = FIELD(keepalive, 0u, 1u),
    [TS_SOCKET_OPTION_KEEPIDLE] = FIELD(keep_idle, 1u, 32767u),
    [TS_SOCKET_OPTION_KEEPINTVL] = FIELD(keep_interval, 1u, 32767u),
    [TS_SOCKET_OPTION_KEEPCNT] = FIELD(keep_count, 1u, 127u),
    [TS_SOCKET_OPTION_LINGER] = FIELD(linger, 0u, UINT16_MAX),
    [TS_SOCKET_OPTION_RCVBUF] = FIELD(rcvbuf, SMALLEST_RCVBUF, LARGEST_RCVBUF),
    [TS_SOCKET_OPTION_SNDBUF] = FIELD(sndbuf, 1u, SOCKET_TX_BUFFERS),
    [TS_SOCKET_OPTION_USER_TIMEOUT] = FIELD(user_timeout, 0u, INT32_MAX),
    [TS_SOCKET_OPTION_TTL] = FIELD(ttl, 1u, 255u),
    [TS_SOCKET_OPTION_TOS] = FIELD(tos, 0u, 255u),
};

static bool in_segments(uint32_t option)
{
    return option == TS_SOCKET_OPTION_RCVBUF || option == TS_SOCKET_OPTION_SNDBUF;
}

/* Options that are kept in the socket, not in the PCB. */
static bool in_socket(uint32_t option)
{
    return in_segments(option) || option == TS_SOCKET_OPTION_LINGER ||
           option == TS_SOCKET_OPTION_USER_TIMEOUT;
}

static bool known(uint32_t option)
{
    return option < sizeof(fields) / sizeof(fields[0]) && fields[option].size != 0u;
}

static int set(struct tcp_options *options, uint32_t option, uint32_t value)
{
    const struct field *field = &fields[option];
    void *at = (uint8_t *)options + field->offset;
    if (in_segments(option)) { /* a wish: rounded up, and bounded */
        value = value / TCP_MSS + (value % TCP_MSS != 0u ? 1u : 0u);
        value = LWIP_MIN(LWIP_MAX(value, field->least), field->most);
    }
    if (value < field->least || value > field->most) {
        return -E_INVAL;
    }
    if (field->size == 1u) {
        *(uint8_t *)at = (uint8_t)value;
    } else if (field->size == 2u) {
        *(uint16_t *)at = (uint16_t)value;
    } else {
        *(uint32_t *)at = value;
    }
    return 0;
}

static int32_t get(const struct tcp_options *options, uint32_t option)
{
    const struct field *field = &fields[option];
    const void *at = (const uint8_t *)options + field->offset;
    uint32_t value = field->size == 1u   ? *(const uint8_t *)at
                     : field->size == 2u ? *(const uint16_t *)at
                                         : *(const uint32_t *)at;
    return (int32_t)(in_segments(option) ? value * TCP_MSS : value);
}

void options_default(struct tcp_options *options)
{
    *options = (struct tcp_options){
        .keep_idle = TCP_KEEPIDLE_DEFAULT / MS,
        .keep_interval = TCP_KEEPINTVL_DEFAULT / MS,
        .keep_count = TCP_KEEPCNT_DEFAULT,
        .ttl = TCP_TTL,
        .rcvbuf = SOCKET_QUOTA_BUFFERS,
        .sndbuf = SOCKET_TX_BUFFERS,
        .nodelay = 1u,
    };
}

void options_to_pcb(const struct tcp_options *options, struct tcp_pcb *pcb)
{
    pcb->ttl = options->ttl;
    pcb->tos = options->tos;
    pcb->keep_idle = options->keep_idle * MS;
    pcb->keep_intvl = options->keep_interval * MS;
    pcb->keep_cnt = options->keep_count;
    if (options->keepalive != 0u) {
        ip_set_option(pcb, SOF_KEEPALIVE);
    } else {
        ip_reset_option(pcb, SOF_KEEPALIVE);
    }
    if (options->nodelay != 0u) {
        tcp_nagle_disable(pcb);
    } else {
        tcp_nagle_enable(pcb);
    }
}

void options_to_socket(const struct tcp_options *options, struct socket *socket)
{
    socket->linger = options->linger;
    socket->rcvbuf = options->rcvbuf;
    socket->sndbuf = options->sndbuf;
    socket->user_timeout = options->user_timeout;
}

static void collect(struct tcp_options *options, const struct socket *socket)
{
    const struct tcp_pcb *pcb = socket->pcb;
    options_default(options);
    options->linger = socket->linger;
    options->rcvbuf = socket->rcvbuf;
    options->sndbuf = socket->sndbuf;
    options->user_timeout = socket->user_timeout;
    if (pcb != NULL) {
        options->ttl = pcb->ttl;
        options->tos = pcb->tos;
        options->keep_idle = (uint16_t)(pcb->keep_idle / MS);
        options->keep_interval = (uint16_t)(pcb->keep_intvl / MS);
        options->keep_count = (uint8_t)pcb->keep_cnt;
        options->keepalive = ip_get_option(pcb, SOF_KEEPALIVE) ? 1u : 0u;
        options->nodelay = tcp_nagle_disabled(pcb) ? 1u : 0u;
    }
}

/* 0, a value, or an error; `options` may be changed. */
static int32_t operate(struct tcp_options *options, const uint32_t *sqe, uint32_t error)
{
    uint32_t option = sqe[TS_SQE_OPERATION_FLAGS_WORD];
    bool is_set = TS_WORD_GET(sqe, TS_SQE_OPERATION) == TS_OP_SETSOCKOPT;
    if (!is_set && (option == TS_SOCKET_OPTION_TYPE || option == TS_SOCKET_OPTION_ERROR)) {
        return option == TS_SOCKET_OPTION_TYPE ? 1 : (int32_t)error;
    }
    if (!known(option)) {
        return -E_NOPROTOOPT;
    }
    if (!is_set) {
        return get(options, option);
    }
    for (uint32_t i = TS_SQE_INLINE_WORD + 1u; i < TS_SQE_WORDS; i++) {
        if (sqe[i] != 0u) {
            return -E_INVAL;
        }
    }
    return set(options, option, sqe[TS_SQE_INLINE_WORD]);
}

/* After the end of the connection what is set has no effect, and part of it is not known any more. */
void options_of_socket(struct service *service, struct op *op, struct socket *socket, const uint32_t *sqe)
{
    struct tcp_options options;
    uint32_t option = sqe[TS_SQE_OPERATION_FLAGS_WORD];
    collect(&options, socket);
    int32_t result = operate(&options, sqe, socket->error);
    if (op->operation == TS_OP_SETSOCKOPT && result == 0) {
        options_to_socket(&options, socket);
        if (socket->pcb != NULL) {
            options_to_pcb(&options, socket->pcb);
            tcp_output(socket->pcb); /* what Nagle's algorithm held back */
        }
        socket->attention = true; /* more may fit now */
        service->windows_due = true;
    } else if (result >= 0 && socket->pcb == NULL && known(option) && !in_socket(option)) {
        result = -E_NOTCONN;
    }
    op_finish(service, op, result);
}

void options_of_listener(struct service *service, struct op *op, struct listener *listener,
                         const uint32_t *sqe)
{
    op_finish(service, op, operate(&listener->options, sqe, 0u));
}

/* A CLOSE that has lingered long enough. */
static void check_linger(struct socket *socket, uint32_t now)
{
    struct op *op = socket->shutdown;
    if (now - op->submitted >= (socket->linger - 1u) * MS) {
        socket->shutdown = NULL;
        op_finish(socket->service, op, -E_AGAIN); /* EWOULDBLOCK */
        socket_abort(socket);
    }
}

/* RFC 5482: the time counts from when data began to wait, or from the last acknowledgement. It replaces lwIP's bound on
 * retransmissions. */
static void check_user_timeout(struct socket *socket, uint32_t now)
{
    struct tcp_pcb *pcb = socket->pcb;
    if (pcb->unacked == NULL && pcb->unsent == NULL) {
        socket->progress = now;
    } else if (now - socket->progress >= socket->user_timeout) {
        tcp_abort(pcb); /* on_error() */
    } else {
        pcb->nrtx = LWIP_MIN(pcb->nrtx, TCP_MAXRTX - 2u);
    }
}

void options_pump(struct service *service)
{
    uint32_t now = time_ms();
    if (now - service->timed < TIMED_EVERY_MS) {
        return;
    }
    service->timed = now;
    for (uint32_t i = 0; i < service->high; i++) {
        struct socket *socket = &service->sockets[i];
        if (socket->state == SOCKET_LINGER && socket->shutdown != NULL) {
            check_linger(socket, now);
        }
        if (socket->state >= SOCKET_OPEN && socket->user_timeout != 0u && socket->pcb != NULL) {
            check_user_timeout(socket, now);
        }
    }
}
