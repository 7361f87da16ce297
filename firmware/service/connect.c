/* Outgoing connections: a random local port, in the flow table before the SYN leaves. */
#include "service.h"
#include <string.h>

#define PORT_FIRST 49152u /* RFC 6335 6: dynamic ports */
#define PORT_MASK  16383u
#define PORT_TRIES 256u /* one expected; with a full flow table as many as there are cores */

static bool is_listener_port(const struct service *service, uint16_t port)
{
    for (uint32_t i = 0; i < LISTENERS; i++) {
        if (service->listeners[i].used && service->listeners[i].port == port) {
            return true;
        }
    }
    return false;
}

/* Take a random port in the directory whose segments will come to this core; 0 or an error. */
static int take_port(struct service *service, struct tcp_pcb *pcb, const ip_addr_t *remote,
                     const ip_addr_t *local, uint16_t remote_port, uint16_t *port)
{
    struct stack *stack = service->stack;
    for (uint32_t attempt = 0; attempt < PORT_TRIES; attempt++) {
        uint16_t candidate = (uint16_t)(PORT_FIRST + (platform_random() >> 9 & PORT_MASK));
        if (is_listener_port(service, candidate)) {
            continue;
        }
        int error = directory_take(stack, DIRECTORY_TCP, candidate);
        if (error == -E_ADDRINUSE) {
            continue;
        }
        if (error != 0) {
            return error;
        }
        error = flow_open(pcb, remote, local, remote_port, candidate);
        if (error == 0) {
            *port = candidate;
            return 0;
        }
        directory_release(stack, DIRECTORY_TCP, candidate);
        if (error != -E_EXIST) {
            return error;
        }
    }
    return -E_ADDRNOTAVAIL;
}

static err_t on_connected(void *context, struct tcp_pcb *pcb, err_t error)
{
    struct socket *socket = context;
    (void)error; /* lwIP has no failure here */
    window_start(pcb);
    socket->wide = pcb->rcv_wnd != 0u;
    connect_done(socket, 0);
    return ERR_OK;
}

void connect_start(struct service *service, struct op *op, const uint32_t *sqe)
{
    ip_addr_t remote, local, next_hop;
    uint16_t remote_port = 0;
    int error = address_parse(sqe + TS_SQE_INLINE_WORD, &remote, &remote_port);
    if (error == 0 && (remote_port == 0u || sqe[TS_SQE_INLINE_WORD + TS_SOCKET_ADDRESS_EXTRA_WORD] != 0u)) {
        error = -E_INVAL;
    }
    if (error == 0 && ports_route(&remote, &local, &next_hop) == NULL) {
        error = -E_NETUNREACH;
    }
    if (error != 0) {
        op_finish(service, op, error);
        return;
    }
    struct socket *socket = socket_open(service, op->host, SOCKET_CONNECTING);
    if (socket == NULL) {
        op_finish(service, op, -E_NFILE);
        return;
    }
    struct tcp_pcb *pcb = tcp_new_ip_type(IP_GET_TYPE(&remote));
    error = -E_NFILE;
    if (pcb != NULL) {
        flow_track(pcb);
        tcp_nagle_disable(pcb);
        error = take_port(service, pcb, &remote, &local, remote_port, &socket->port);
    }
    if (error == 0) {
        ip_set_option(pcb, SOF_REUSEADDR);
        if (tcp_bind(pcb, &local, socket->port) != ERR_OK) {
            error = -E_ADDRNOTAVAIL;
        }
    }
    if (error == 0) {
        socket->connect = op;
        memset(op->next_hop, 0, sizeof(op->next_hop));
        memcpy(op->next_hop, address_words(&next_hop), IP_IS_V6(&next_hop) ? 16u : 4u);
        socket_attach(socket, pcb);
        err_t result = tcp_connect(pcb, &remote, remote_port, on_connected);
        if (result == ERR_OK) {
            return;
        }
        socket->connect = NULL;
        error = result == ERR_RTE ? -E_NETUNREACH : result == ERR_USE ? -E_ADDRNOTAVAIL : -E_NOBUFS;
    }
    socket_release(socket, error);
    if (pcb != NULL) {
        tcp_abort(pcb); /* still closed: sends nothing */
    }
    op_finish(service, op, error);
}

void connect_done(struct socket *socket, int32_t result)
{
    struct service *service = socket->service;
    struct op *op = socket->connect;
    socket->connect = NULL;
    if (result != 0) {
        socket_release(socket, result);
        op_finish(service, op, result);
        return;
    }
    socket->state = SOCKET_OPEN;
    service->connections++;
    op_finish(service, op, (int32_t)socket_handle(socket));
}

/* Why a connect failed. A time-out without an entry for the next hop means that nobody is there. */
int connect_error(struct socket *socket, err_t error)
{
    if (error == ERR_RST) {
        return -E_CONNREFUSED;
    }
    bool known =
        socket->connect != NULL && ports_neighbour_known(socket->service->stack, socket->connect->next_hop);
    return known ? -E_TIMEDOUT : -E_HOSTUNREACH;
}
