/* Operations: validation, dispatch, completion. User data always comes back exactly once. */
#include "service.h"
#include <string.h>

#define DELIVERY_BUDGET 4u

enum {
    USES_HANDLE = 1,
    USES_BUFFER = 2,
    USES_LENGTH = 4,
    USES_FLAGS = 8,
    USES_INLINE = 16,
    USES_CORE = 32 /* flags: the core of a spread UDP socket */
};

#define USES_RESULT (USES_BUFFER | USES_LENGTH)

/* What each operation uses; the rest of its entry must be zero. */
static const uint8_t uses[] = {
    [TS_OP_NOP] = 0,
    [TS_OP_NETIF_CONFIG] = USES_FLAGS | USES_INLINE,
    [TS_OP_NETIF_STATUS] = USES_FLAGS | USES_RESULT,
    [TS_OP_DISPATCH_CONFIG] = USES_FLAGS | USES_RESULT,
    [TS_OP_TCP_LISTEN] = USES_LENGTH | USES_FLAGS | USES_INLINE,
    [TS_OP_TCP_ACCEPT] = USES_HANDLE | USES_FLAGS,
    [TS_OP_TCP_CONNECT] = USES_FLAGS | USES_INLINE,
    [TS_OP_UDP_OPEN] = USES_FLAGS | USES_INLINE,
    [TS_OP_SEND] = USES_HANDLE | USES_RESULT | USES_CORE,
    [TS_OP_RECV] = USES_HANDLE | USES_RESULT | USES_CORE,
    [TS_OP_SENDTO] = USES_HANDLE | USES_RESULT | USES_CORE | USES_INLINE,
    [TS_OP_RECVFROM] = USES_HANDLE | USES_RESULT | USES_CORE | USES_INLINE,
    [TS_OP_SHUTDOWN] = USES_HANDLE | USES_FLAGS,
    [TS_OP_CLOSE] = USES_HANDLE,
    [TS_OP_ABORT] = USES_HANDLE,
    [TS_OP_SETSOCKOPT] = USES_HANDLE | USES_FLAGS | USES_INLINE,
    [TS_OP_GETSOCKOPT] = USES_HANDLE | USES_FLAGS,
    [TS_OP_GETSOCKNAME] = USES_HANDLE | USES_RESULT,
    [TS_OP_GETPEERNAME] = USES_HANDLE | USES_RESULT,
    [TS_OP_CANCEL] = USES_INLINE,
    [TS_OP_RESOLVE] = USES_RESULT | USES_FLAGS | USES_INLINE,
    [TS_OP_PING] = USES_LENGTH | USES_FLAGS | USES_INLINE,
    [TS_OP_STATS] = USES_FLAGS | USES_RESULT,
};

void op_push(struct op_list *list, struct op *op)
{
    op->next = NULL;
    if (list->tail == NULL) {
        list->head = op;
    } else {
        list->tail->next = op;
    }
    list->tail = op;
}

void op_remove(struct op_list *list, struct op *op)
{
    struct op *previous = NULL;
    for (struct op *other = list->head; other != NULL; previous = other, other = other->next) {
        if (other == op) {
            if (previous == NULL) {
                list->head = op->next;
            } else {
                previous->next = op->next;
            }
            list->tail = list->tail == op ? previous : list->tail;
            op->next = NULL;
            return;
        }
    }
}

static struct op *pop(struct op_list *list)
{
    struct op *op = list->head;
    if (op != NULL) {
        op_remove(list, op);
    }
    return op;
}

static int flush(struct service *service)
{
    int posted = 0;
    while (service->completed.head != NULL) {
        const struct op *op = service->completed.head;
        struct completion completion = {
            .user_low = op->user_low,
            .user_high = op->user_high,
            .result = op->result,
            .host = op->host,
            .join_id = op->join_id,
            .joined = op->joined,
        };
        if (cq_post(&completion) != 0) {
            break;
        }
        op_push(&service->free_ops, pop(&service->completed));
        posted++;
    }
    return posted;
}

/* The operation must be on no list. Its completion waits for its transfers: until then the host must not
 * reuse the buffer. */
void op_finish(struct service *service, struct op *op, int32_t result)
{
    op->result = result;
    op->finished = true;
    op->socket = NULL;
    if (op->transfers == 0u) {
        op_push(&service->completed, op);
        flush(service);
    }
}

void op_transferred(struct service *service, struct op *op)
{
    op->transfers--;
    if (op->finished && op->transfers == 0u) {
        op_push(&service->completed, op);
        flush(service);
    }
}

void op_finish_all(struct service *service, struct op_list *list, int32_t result)
{
    for (struct op *op = pop(list); op != NULL; op = pop(list)) {
        op_finish(service, op, result);
    }
}

static void on_result_written(void *context, void *item, uint32_t length, int error)
{
    struct service *service = context;
    struct op *op = item;
    bank_scratch_give(&service->stack->bank, op->scratch);
    op->result = error != 0 ? error : (int32_t)length;
    op_transferred(service, op);
}

void op_write_result(struct service *service, struct op *op, const uint32_t *words, uint32_t bytes)
{
    if (op->length < bytes) {
        op_finish(service, op, -E_INVAL);
        return;
    }
    op->scratch = bank_scratch_take(&service->stack->bank);
    if (op->scratch == 0u) {
        op_finish(service, op, -E_NOBUFS);
        return;
    }
    volatile uint32_t *target = uncached(op->scratch);
    for (uint32_t i = 0; i < bytes / 4u; i++) {
        target[i] = words[i];
    }
    memory_barrier();
    op->transfers++;
    if (dma_submit(&service->stack->dma_out, op->scratch, op->buffer, (uint16_t)bytes, op->host,
                   on_result_written, service, op) != 0) {
        op->transfers--;
        bank_scratch_give(&service->stack->bank, op->scratch);
        op_finish(service, op, -E_NOBUFS);
        return;
    }
    op_finish(service, op, (int32_t)bytes);
}

uint32_t handle_pack(uint32_t core, uint32_t host, uint32_t index, uint32_t generation)
{
    return TS_PUT(TS_HANDLE_CORE, core) | TS_PUT(TS_HANDLE_HOST, host) | TS_PUT(TS_HANDLE_INDEX, index) |
           TS_PUT(TS_HANDLE_GENERATION, generation);
}

int address_parse(const uint32_t *words, ip_addr_t *address, uint16_t *port)
{
    const uint32_t *bytes = words + TS_SOCKET_ADDRESS_ADDRESS_WORD;
    uint32_t family = TS_WORD_GET(words, TS_SOCKET_ADDRESS_FAMILY);
    uint32_t scope = words[TS_SOCKET_ADDRESS_SCOPE_WORD];
    *port = (uint16_t)TS_WORD_GET(words, TS_SOCKET_ADDRESS_PORT);
    if (family == TS_AF_INET) {
        *address = (ip_addr_t)IPADDR4_INIT(bytes[0]);
        return (scope | bytes[1] | bytes[2] | bytes[3] | words[7]) != 0u ? -E_INVAL : 0;
    }
#ifdef TWINSTACK_SMALL
    return -E_AFNOSUPPORT;
#else
    if (family != TS_AF_INET6) {
        return -E_AFNOSUPPORT;
    }
    *address = (ip_addr_t)IPADDR6_INIT(bytes[0], bytes[1], bytes[2], bytes[3]);
    ip6_addr_t *ip6 = ip_2_ip6(address);
    if (words[7] != 0u || ip6_addr_isipv4mappedipv6(ip6) || scope > UINT8_MAX ||
        (scope != 0u && ((!ip6_addr_islinklocal(ip6) && !ip6_addr_ismulticast(ip6)) ||
                         netif_get_by_index((u8_t)scope) == NULL))) {
        return -E_INVAL;
    }
    ip6_addr_set_zone(ip6, ip6_addr_has_scope(ip6, IP6_UNKNOWN) ? (u8_t)scope : IP6_NO_ZONE);
    return 0;
#endif
}

void address_write(uint32_t words[TS_SOCKET_ADDRESS_WORDS], const ip_addr_t *address, uint16_t port)
{
    bool ip6 = !IP_IS_V4(address); /* what takes both families is :: */
    memset(words, 0, TS_SOCKET_ADDRESS_BYTES);
    words[0] = TS_PUT(TS_SOCKET_ADDRESS_FAMILY, ip6 ? TS_AF_INET6 : TS_AF_INET) |
               TS_PUT(TS_SOCKET_ADDRESS_PORT, port);
    words[TS_SOCKET_ADDRESS_SCOPE_WORD] = IP_IS_V6(address) ? ip6_addr_zone(ip_2_ip6(address)) : 0u;
    memcpy(words + TS_SOCKET_ADDRESS_ADDRESS_WORD, address_words(address), IP_IS_V6(address) ? 16u : 4u);
}

static void write_statistics(struct service *service, struct op *op)
{
    struct stack *stack = service->stack;
    uint64_t cycles = time_cycles(), instructions = time_instructions(), idle = time_idle_cycles();
    uint32_t words[TS_STATS_WORDS] = {0};
    words[0] = TS_PUT(TS_STATS_CORE, stack->core) | TS_PUT(TS_STATS_EPOCH, stack->epoch) |
               TS_PUT(TS_STATS_SOCKETS, service->open);
    words[TS_STATS_CYCLES_WORD] = (uint32_t)cycles;
    words[TS_STATS_CYCLES_WORD + 1u] = (uint32_t)(cycles >> 32);
    words[TS_STATS_INSTRUCTIONS_WORD] = (uint32_t)instructions;
    words[TS_STATS_INSTRUCTIONS_WORD + 1u] = (uint32_t)(instructions >> 32);
    words[TS_STATS_IDLE_CYCLES_WORD] = (uint32_t)idle;
    words[TS_STATS_IDLE_CYCLES_WORD + 1u] = (uint32_t)(idle >> 32);
    words[TS_STATS_FRAMES_IN_WORD] = stack->rx.frames;
    words[TS_STATS_FRAMES_OUT_WORD] = stack->tx.frames;
    words[TS_STATS_TCP_SEGMENTS_IN_WORD] = stack->rx.tcp_segments;
    words[TS_STATS_TCP_SEGMENTS_OUT_WORD] = stack->tx.tcp_segments;
    words[TS_STATS_BYTES_IN_WORD] = (uint32_t)service->bytes_in;
    words[TS_STATS_BYTES_IN_WORD + 1u] = (uint32_t)(service->bytes_in >> 32);
    words[TS_STATS_BYTES_OUT_WORD] = (uint32_t)service->bytes_out;
    words[TS_STATS_BYTES_OUT_WORD + 1u] = (uint32_t)(service->bytes_out >> 32);
    words[TS_STATS_CONNECTIONS_WORD] = service->connections;
    words[TS_STATS_LOCKS_WORD] = stack->lock.taken;
    words[TS_STATS_MESSAGES_WORD] = stack->message.sent;
    words[TS_STATS_DROPPED_WORD] =
        stack->rx.dropped + stack->handover.dropped + stack->bad_checksum + service->udp.dropped;
    words[TS_STATS_RX_BUFFERS_FREE_WORD] =
        TS_PUT(TS_STATS_RX_BUFFERS_FREE, rx_free_large() + rx_free_small()) |
        TS_PUT(TS_STATS_TX_BUFFERS_FREE, stack->bank.free_count);
    op_write_result(service, op, words, TS_STATS_BYTES);
}

static void write_name(struct service *service, struct op *op, const struct socket *socket, bool peer)
{
    const struct tcp_pcb *pcb = socket->pcb;
    if (pcb == NULL) {
        op_finish(service, op, -E_NOTCONN);
        return;
    }
    uint32_t words[TS_SOCKET_ADDRESS_WORDS];
    address_write(words, peer ? &pcb->remote_ip : &pcb->local_ip, peer ? pcb->remote_port : pcb->local_port);
    op_write_result(service, op, words, TS_SOCKET_ADDRESS_BYTES);
}

static void start_shutdown(struct service *service, struct op *op, struct socket *socket, uint32_t flags)
{
    if (flags > 1u) {
        op_finish(service, op, -E_INVAL);
    } else if (socket->error != 0u || socket->broken) {
        op_finish(service, op, socket->error != 0u ? -socket->error : -E_PIPE);
    } else if (socket->shutdown != NULL) {
        op_finish(service, op, -E_BUSY);
    } else {
        socket->shutdown = op;
        socket->fin_wanted = true;
        transfer_pump_send(socket);
        socket_check_fin(socket);
    }
}

static void socket_op(struct service *service, struct op *op, struct socket *socket, const uint32_t *sqe)
{
    switch (op->operation) {
    case TS_OP_SEND:
        if (socket->error != 0u || socket->fin_wanted || socket->broken || socket->pcb == NULL) {
            op_finish(service, op, socket->error != 0u ? -socket->error : -E_PIPE);
            break;
        }
        op->socket = socket;
        op_push(&socket->sends, op);
        transfer_pump_send(socket);
        break;
    case TS_OP_RECV:
        op->socket = socket;
        op_push(&socket->receives, op);
        service->windows_due = true;
        transfer_pump_receive(socket);
        break;
    case TS_OP_SHUTDOWN:
        start_shutdown(service, op, socket, sqe[TS_SQE_OPERATION_FLAGS_WORD]);
        break;
    case TS_OP_CLOSE:
        socket_close(socket, op);
        break;
    case TS_OP_ABORT:
        socket_abort(socket);
        op_finish(service, op, 0);
        break;
    case TS_OP_SETSOCKOPT:
    case TS_OP_GETSOCKOPT:
        options_of_socket(service, op, socket, sqe);
        break;
    case TS_OP_GETSOCKNAME:
    case TS_OP_GETPEERNAME:
        write_name(service, op, socket, op->operation == TS_OP_GETPEERNAME);
        break;
    case TS_OP_SENDTO:
    case TS_OP_RECVFROM:
        op_finish(service, op, -E_OPNOTSUPP);
        break;
    default:
        op_finish(service, op, -E_INVAL);
        break;
    }
}

/* 0, or the error with which an entry is refused before anything is looked at. */
static int32_t check(const struct service *service, const uint32_t *sqe)
{
    uint32_t operation = TS_WORD_GET(sqe, TS_SQE_OPERATION);
    if (operation >= sizeof(uses)) {
        return -E_INVAL;
    }
    if (TS_WORD_GET(sqe, TS_SQE_FLAGS) != 0u || TS_WORD_GET(sqe, TS_SQE_RESERVED) != 0u) {
        return -E_INVAL;
    }
    uint32_t used = uses[operation];
    bool address = operation == TS_OP_RECVFROM; /* of a buffer, in two words */
    bool spread = TS_GET(sqe[TS_SQE_HANDLE_WORD], TS_HANDLE_CORE) == TS_ALL_CORES;
    uint32_t core = (used & USES_CORE) != 0u && spread ? (uint32_t)service->stack->core << 8 : 0u;
    uint32_t inline_bits = 0;
    for (uint32_t i = TS_SQE_INLINE_WORD + (address ? 2u : 0u); i < TS_SQE_WORDS; i++) {
        inline_bits |= sqe[i];
    }
    if (((used & USES_HANDLE) == 0u && sqe[TS_SQE_HANDLE_WORD] != 0u) ||
        ((used & USES_BUFFER) == 0u && (sqe[TS_SQE_BUFFER_WORD] | sqe[TS_SQE_BUFFER_WORD + 1u]) != 0u) ||
        ((used & USES_LENGTH) == 0u && sqe[TS_SQE_LENGTH_WORD] != 0u) ||
        ((used & USES_FLAGS) == 0u && sqe[TS_SQE_OPERATION_FLAGS_WORD] != core) ||
        (((used & USES_INLINE) == 0u || address) && inline_bits != 0u)) {
        return -E_INVAL;
    }
    if (sqe[TS_SQE_BUFFER_WORD + 1u] != 0u || (address && sqe[TS_SQE_INLINE_WORD + 1u] != 0u)) {
        return -E_FAULT; /* the host bus has 32 address bits */
    }
    return sqe[TS_SQE_LENGTH_WORD] > INT32_MAX ? -E_INVAL : 0;
}

static void dispatch(struct service *service, struct op *op, const uint32_t *sqe)
{
    uint32_t handle = sqe[TS_SQE_HANDLE_WORD], flags = sqe[TS_SQE_OPERATION_FLAGS_WORD];
    int32_t error = check(service, sqe);
    if (error != 0) {
        op_finish(service, op, error);
        return;
    }
    if ((uses[op->operation] & USES_HANDLE) != 0u) {
        bool shared = TS_GET(handle, TS_HANDLE_CORE) == TS_ALL_CORES;
        if (TS_GET(handle, TS_HANDLE_INDEX) >= (shared ? LISTENERS : SOCKETS)) {
            struct datagram *datagram = udp_of_handle(service, handle, op->host);
            if (datagram == NULL) {
                op_finish(service, op, -E_BADF);
            } else {
                udp_op(service, op, datagram, sqe);
            }
            return;
        }
        if (shared) {
            listener_handle_op(service, op, handle, sqe);
            return;
        }
        struct socket *socket = socket_of_handle(service, handle, op->host);
        if (socket == NULL) {
            op_finish(service, op, -E_BADF);
        } else {
            socket_op(service, op, socket, sqe);
        }
        return;
    }
    switch (op->operation) {
    case TS_OP_NETIF_CONFIG:
        netconf_apply(service, op, sqe);
        break;
    case TS_OP_NETIF_STATUS:
        netconf_status(service, op, flags);
        break;
    case TS_OP_DISPATCH_CONFIG:
        dispatch_config(service, op, flags);
        break;
    case TS_OP_TCP_LISTEN:
        listener_open(service, op, sqe);
        break;
    case TS_OP_TCP_CONNECT:
        connect_start(service, op, sqe);
        break;
    case TS_OP_UDP_OPEN:
        udp_open(service, op, sqe);
        break;
    case TS_OP_RESOLVE:
        resolve_start(service, op, sqe);
        break;
    case TS_OP_PING:
        ping_start(service, op, sqe);
        break;
    case TS_OP_CANCEL:
        cancel(service, op, sqe);
        break;
    case TS_OP_STATS:
        if (flags != service->stack->core) {
            op_finish(service, op, -E_INVAL); /* no such core; the manager got it */
        } else {
            write_statistics(service, op);
        }
        break;
    default:
        op_finish(service, op, 0); /* NOP */
        break;
    }
}

/* The last records are for operations that end others, and for those whose result all cores must number alike. */
static struct op *take_record(struct service *service, const uint32_t *delivery)
{
    uint32_t operation = TS_WORD_GET(delivery, TS_SQE_OPERATION);
    bool ends = operation == TS_OP_CLOSE || operation == TS_OP_ABORT || operation == TS_OP_CANCEL ||
                operation == TS_OP_TCP_LISTEN || operation == TS_OP_UDP_OPEN;
    struct op *op = service->free_ops.head, *last = op;
    for (uint32_t i = 0; i < OPERATIONS_RESERVE && !ends && last != NULL; i++) {
        last = last->next;
    }
    return last == NULL ? NULL : op;
}

/* Without a record for an entry, it completes at once, or waits in the ring until one of both is possible. */
static bool refuse_without_record(const uint32_t *delivery)
{
    struct completion completion = {
        .user_low = delivery[TS_SQE_USER_DATA_WORD],
        .user_high = delivery[TS_SQE_USER_DATA_WORD + 1u],
        .result = -E_NOBUFS,
        .host = (uint8_t)TS_WORD_GET(delivery, TS_SQ_DELIVERY_HOST),
        .join_id = (uint8_t)TS_WORD_GET(delivery, TS_SQ_DELIVERY_JOIN_ID),
        .joined = TS_WORD_GET(delivery, TS_SQ_DELIVERY_IS_JOINED) != 0u,
    };
    return cq_post(&completion) == 0;
}

static int deliver(void *context)
{
    struct service *service = context;
    uint32_t delivery[TS_SQ_DELIVERY_WORDS];
    int handled = 0;
    for (uint32_t i = 0; i < DELIVERY_BUDGET && sq_peek(&service->stack->sq, delivery) != NULL; i++) {
        struct op *op = take_record(service, delivery);
        if (op == NULL) {
            flush(service);
            op = take_record(service, delivery);
        }
        if (op == NULL) {
            if (service->completed.head != NULL || !refuse_without_record(delivery)) {
                break;
            }
            sq_consume(&service->stack->sq);
            handled++;
            continue;
        }
        op_remove(&service->free_ops, op);
        memset(op, 0, sizeof(*op));
        op->user_low = delivery[TS_SQE_USER_DATA_WORD];
        op->user_high = delivery[TS_SQE_USER_DATA_WORD + 1u];
        op->buffer = delivery[TS_SQE_BUFFER_WORD];
        op->length = delivery[TS_SQE_LENGTH_WORD];
        op->operation = (uint8_t)TS_WORD_GET(delivery, TS_SQE_OPERATION);
        op->host = (uint8_t)TS_WORD_GET(delivery, TS_SQ_DELIVERY_HOST);
        op->joined = TS_WORD_GET(delivery, TS_SQ_DELIVERY_IS_JOINED) != 0u;
        op->join_id = (uint8_t)TS_WORD_GET(delivery, TS_SQ_DELIVERY_JOIN_ID);
        sq_consume(&service->stack->sq);
        handled++;
        dispatch(service, op, delivery);
    }
    return handled;
}

static int pump(void *context)
{
    struct service *service = context;
    int work = flush(service);
    netconf_pump(service);
    listener_pump(service);
    udp_pump(service);
    uint32_t senders = 0;
    for (uint32_t i = 0; i < service->high; i++) {
        struct socket *socket = &service->sockets[(service->turn + i) % service->high];
        if (socket->state == SOCKET_FREE) {
            continue;
        }
        senders += socket->sends.head != NULL || socket->pieces != NULL ? 1u : 0u;
        if (socket->attention) {
            socket->attention = false;
            transfer_pump_receive(socket);
            if (socket->state != SOCKET_FREE) {
                transfer_pump_send(socket);
            }
        }
        if (socket->state != SOCKET_FREE && socket->fin_sent) {
            socket_check_fin(socket);
        }
    }
    service->senders = senders;
    service->turn = service->turn + 1u < service->high ? service->turn + 1u : 0u;
    options_pump(service);
    ping_pump(service);
    window_pump(service);
    return work;
}

static int on_message(void *context, uint32_t sender, const uint32_t words[4])
{
    return udp_message(context, words) || ping_message(context, words)
               ? 0
               : netconf_message(context, sender, words);
}

int service_init(struct service *service, struct stack *stack)
{
    service->stack = stack;
    flow_init(service);
    transfer_init(service);
    udp_service_init(service);
    stack->tcp_unreachable = connect_unreachable;
    stack->echo = ping_echo;
    stack->rx.refuse = socket_refuses;
    stack->rx.refuse_context = service;
    for (uint32_t i = 0; i < OPERATIONS; i++) {
        op_push(&service->free_ops, &service->ops[i]);
    }
    return netconf_init(service);
}

struct program service_program(struct service *service)
{
    return (struct program){.context = service, .deliver = deliver, .message = on_message, .pump = pump};
}
