/* Listeners live on all cores, as with SO_REUSEPORT. Every core gets LISTEN and CLOSE in the same order and
 * decides from the listener table alone, so that all come to the same handle; a core short of PCBs retries in
 * listener_pump(). */
#include "service.h"

#define DEFAULT_BACKLOG 8u

static err_t on_accept(void *context, struct tcp_pcb *pcb, err_t error);

static void start_listening(struct listener *listener)
{
    struct tcp_pcb *pcb = tcp_new_ip_type(IP_GET_TYPE(&listener->address));
    if (pcb == NULL) {
        return;
    }
    ip_set_option(pcb, SOF_REUSEADDR); /* old connections of the port are no obstacle */
    flow_listen(pcb);
    if (tcp_bind(pcb, &listener->address, listener->port) != ERR_OK) {
        tcp_close(pcb);
        return;
    }
    struct tcp_pcb *listening = tcp_listen_with_backlog(pcb, listener->length);
    if (listening == NULL) {
        tcp_close(pcb);
        return;
    }
    listener->pcb = listening;
    tcp_arg(listening, listener);
    tcp_accept(listening, on_accept);
}

static bool clash(const ip_addr_t *a, const ip_addr_t *b)
{
    bool common = IP_GET_TYPE(a) == IP_GET_TYPE(b) || IP_IS_ANY_TYPE_VAL(*a) || IP_IS_ANY_TYPE_VAL(*b);
    return common && (ip_addr_isany(a) || ip_addr_isany(b) || ip_addr_eq(a, b));
}

void listener_open(struct service *service, struct op *op, const uint32_t *sqe)
{
    ip_addr_t address;
    uint16_t port = 0;
    uint32_t flags = sqe[TS_SQE_OPERATION_FLAGS_WORD];
    int32_t error = address_parse(sqe + TS_SQE_INLINE_WORD, &address, &port);
    bool any = error == 0 && IP_IS_V6(&address) && ip_addr_isany(&address);
    if (error == 0 && (port == 0u || sqe[TS_SQE_INLINE_WORD + TS_SOCKET_ADDRESS_EXTRA_WORD] != 0u ||
                       (flags & ~(uint32_t)TS_LISTEN_FLAG_V6ONLY) != 0u || (flags != 0u && !any))) {
        error = -E_INVAL;
    }
    if (any && flags == 0u) {
        IP_SET_TYPE_VAL(address, IPADDR_TYPE_ANY); /* IPv4, too */
    }
    struct listener *chosen = NULL;
    for (uint32_t i = 0; i < LISTENERS && error == 0; i++) {
        struct listener *listener = &service->listeners[i];
        if (listener->used && listener->port == port && clash(&listener->address, &address)) {
            error = -E_ADDRINUSE;
        } else if (!listener->used && chosen == NULL) {
            chosen = listener;
        }
    }
    if (error != 0 || chosen == NULL) {
        op_finish(service, op, error != 0 ? error : -E_NFILE);
        return;
    }
    uint16_t generation = (uint16_t)(chosen->generation + 1u);
    *chosen = (struct listener){
        .service = service,
        .address = address,
        .port = port,
        .generation = generation == 0u ? 1u : generation,
        .host = op->host,
        .length = (uint8_t)(op->length == 0u ? DEFAULT_BACKLOG : LWIP_MIN(op->length, UINT8_MAX)),
        .used = true,
    };
    options_default(&chosen->options);
    start_listening(chosen);
    op_finish(service, op,
              (int32_t)handle_pack(TS_ALL_CORES, op->host, (uint32_t)(chosen - service->listeners),
                                   chosen->generation));
}

/* One completion of the multishot ACCEPT; false if the completion FIFO is full. */
static bool hand_over(struct socket *socket, const struct op *accept)
{
    struct service *service = socket->service;
    struct completion completion = {
        .user_low = accept->user_low,
        .user_high = accept->user_high,
        .result = (int32_t)socket_handle(socket),
        .host = accept->host,
        .more = true,
    };
    if (service->completed.head != NULL || cq_post(&completion) != 0) {
        return false;
    }
    socket->state = SOCKET_OPEN;
    socket->attention = true;
    if (socket->pcb != NULL) {
        tcp_backlog_accepted(socket->pcb);
    }
    return true;
}

static err_t on_accept(void *context, struct tcp_pcb *pcb, err_t error)
{
    struct listener *listener = context;
    if (pcb == NULL || error != ERR_OK) {
        return ERR_VAL;
    }
    struct service *service = listener->service;
    struct socket *socket = socket_open(service, listener->host, SOCKET_BACKLOG);
    if (socket == NULL) {
        tcp_abort(pcb);
        return ERR_ABRT;
    }
    service->connections++;
    socket_attach(socket, pcb);
    options_to_socket(&listener->options, socket);
    if (!flow_accept(pcb)) {
        socket_abort(socket);
        return ERR_ABRT;
    }
    if (listener->accept != NULL && listener->backlog == NULL && hand_over(socket, listener->accept)) {
        return ERR_OK;
    }
    tcp_backlog_delayed(pcb);
    socket->listener = listener;
    struct socket **link = &listener->backlog;
    while (*link != NULL) {
        link = &(*link)->next;
    }
    *link = socket;
    return ERR_OK;
}

static void unlink_backlog(struct socket *socket)
{
    for (struct socket **link = &socket->listener->backlog; *link != NULL; link = &(*link)->next) {
        if (*link == socket) {
            *link = socket->next;
            break;
        }
    }
    socket->next = NULL;
    socket->listener = NULL;
}

/* A connection that ended before it was accepted. */
void listener_forget(struct socket *socket)
{
    if (socket->listener != NULL) {
        if (socket->pcb != NULL) {
            tcp_backlog_accepted(socket->pcb);
        }
        unlink_backlog(socket);
    }
}

static void close_listener(struct service *service, struct listener *listener)
{
    struct op *accept = listener->accept;
    listener->accept = NULL;
    while (listener->backlog != NULL) {
        socket_abort(listener->backlog);
    }
    if (listener->pcb != NULL) {
        tcp_close(listener->pcb);
        listener->pcb = NULL;
    }
    listener->used = false;
    if (accept != NULL) {
        op_finish(service, accept, -E_CANCELED);
    }
}

void listener_handle_op(struct service *service, struct op *op, uint32_t handle, const uint32_t *sqe)
{
    uint32_t index = TS_GET(handle, TS_HANDLE_INDEX);
    struct listener *listener = index < LISTENERS ? &service->listeners[index] : NULL;
    if (listener == NULL || !listener->used || listener->generation != TS_GET(handle, TS_HANDLE_GENERATION) ||
        TS_GET(handle, TS_HANDLE_HOST) != op->host || listener->host != op->host ||
        handle_pack(TS_ALL_CORES, op->host, index, listener->generation) != handle) {
        op_finish(service, op, -E_BADF);
        return;
    }
    if (op->operation == TS_OP_TCP_ACCEPT &&
        sqe[TS_SQE_OPERATION_FLAGS_WORD] == TS_OPERATION_FLAG_ACCEPT_MULTISHOT) {
        if (listener->accept != NULL) {
            op_finish(service, op, -E_BUSY);
            return;
        }
        listener->accept = op;
        listener_pump(service);
    } else if (op->operation == TS_OP_CLOSE || op->operation == TS_OP_ABORT) {
        close_listener(service, listener);
        op_finish(service, op, 0);
    } else if (op->operation == TS_OP_SETSOCKOPT || op->operation == TS_OP_GETSOCKOPT) {
        options_of_listener(service, op, listener, sqe);
    } else {
        op_finish(service, op, -E_INVAL);
    }
}

void listener_pump(struct service *service)
{
    for (uint32_t i = 0; i < LISTENERS; i++) {
        struct listener *listener = &service->listeners[i];
        if (!listener->used) {
            continue;
        }
        if (listener->pcb == NULL) {
            start_listening(listener);
        }
        while (listener->accept != NULL && listener->backlog != NULL) {
            struct socket *socket = listener->backlog;
            if (!hand_over(socket, listener->accept)) {
                break;
            }
            unlink_backlog(socket);
        }
    }
}
