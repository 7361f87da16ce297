/* CANCEL: end an operation that waits, by its user data. What is in the middle of a transfer goes on. */
#include "service.h"

struct which {
    uint32_t low, high;
    uint8_t host;
};

static bool is(const struct op *op, const struct which *which)
{
    return op != NULL && op->user_low == which->low && op->user_high == which->high &&
           op->host == which->host;
}

/* Transfers that have not begun. */
static void cancel_list(struct service *service, struct op_list *list, const struct which *which)
{
    for (struct op *op = list->head, *next; op != NULL; op = next) {
        next = op->next;
        if (is(op, which) && op->submitted == 0u) {
            op_remove(list, op);
            op_finish(service, op, -E_CANCELED);
        }
    }
}

static void cancel_socket(struct service *service, struct socket *socket, const struct which *which)
{
    if (is(socket->connect, which)) {
        socket_abort(socket);
        return;
    }
    cancel_list(service, &socket->receives, which);
    cancel_list(service, &socket->sends, which);
    if (is(socket->shutdown, which)) {
        struct op *op = socket->shutdown;
        socket->shutdown = NULL;
        op_finish(service, op, -E_CANCELED);
    }
    transfer_pump_send(
        socket); /* a FIN may have waited for a SEND, or a closed socket for the end of its CLOSE */
}

void cancel(struct service *service, struct op *op, const uint32_t *sqe)
{
    const struct which which = {sqe[TS_SQE_INLINE_WORD], sqe[TS_SQE_INLINE_WORD + 1u], op->host};
    for (uint32_t i = TS_SQE_INLINE_WORD + 2u; i < TS_SQE_WORDS; i++) {
        if (sqe[i] != 0u) {
            op_finish(service, op, -E_INVAL);
            return;
        }
    }
    for (uint32_t i = 0; i < LISTENERS; i++) {
        struct op *accept = service->listeners[i].accept;
        if (is(accept, &which)) {
            service->listeners[i].accept = NULL;
            op_finish(service, accept, -E_CANCELED);
        }
    }
    for (uint32_t i = 0; i < service->high; i++) {
        if (service->sockets[i].state != SOCKET_FREE) {
            cancel_socket(service, &service->sockets[i], &which);
        }
    }
    for (uint32_t i = 0; i < PINGS; i++) {
        struct op *ping = service->pings[i].op;
        if (is(ping, &which)) {
            service->pings[i].op = NULL;
            op_finish(service, ping, -E_CANCELED);
        }
    }
    for (uint32_t i = 0; i < RESOLVES; i++) { /* lwIP goes on asking */
        struct op *resolve = service->resolves[i].op;
        if (is(resolve, &which)) {
            service->resolves[i].op = NULL;
            op_finish(service, resolve, -E_CANCELED);
        }
    }
    udp_cancel(service, which.low, which.high, which.host);
    op_finish(service, op, 0);
}
