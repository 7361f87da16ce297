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

/* Take a port in the directory whose segments will come to this core: `*port`, or if that is zero a random one. 0 or an
 * error. */
static int take_port(struct service *service, struct tcp_pcb *pcb, const ip_addr_t *remote,
                     const ip_addr_t *local, uint16_t remote_port, uint16_t *port)
{
    struct stack *stack = service->stack;
    bool chosen = *port != 0u;
    for (uint32_t attempt = 0; attempt < (chosen ? 1u : PORT_TRIES); attempt++) {
        uint16_t candidate = chosen ? *port : (uint16_t)(PORT_FIRST + (platform_random() >> 9 & PORT_MASK));
        int error = is_listener_port(service, candidate) ? -E_ADDRINUSE
                                                         : directory_take(stack, DIRECTORY_TCP, candidate);
        if (error == 0) {
            error = flow_open(pcb, remote, local, remote_port, candidate);
            if (error == 0) {
                *port = candidate;
                return 0;
            }
            directory_release(stack, DIRECTORY_TCP, candidate);
        }
        if (error != -E_ADDRINUSE && error != -E_EXIST) {
            return error;
        }
    }
    return chosen ? -E_ADDRINUSE : -E_ADDRNOTAVAIL;
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
    uint32_t port = sqe[TS_SQE_OPERATION_FLAGS_WORD];
    uint32_t address = sqe[TS_SQE_INLINE_WORD + TS_SOCKET_ADDRESS_EXTRA_WORD];
    if (error == 0 &&
        (remote_port == 0u || port > UINT16_MAX || (address != 0u && (port == 0u || IP_IS_V6(&remote))))) {
        error = -E_INVAL;
    }
    if (error == 0 && ports_route(&remote, &local, &next_hop) == NULL) {
        error = -E_NETUNREACH;
    }
    if (error == 0 && address != 0u && address != ip_2_ip4(&local)->addr) {
        error = -E_ADDRNOTAVAIL;
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
        uint16_t chosen = (uint16_t)port;
        error = take_port(service, pcb, &remote, &local, remote_port, &chosen);
        socket->port = error == 0 ? chosen : 0u;
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
    socket->error = 0u; /* what routers said */
    service->connections++;
    op_finish(service, op, (int32_t)socket_handle(socket));
}

/* An ICMP error that quotes our SYN (RFC 5927 4.1: its sequence number must fit). A closed port ends the attempt; what may
 * pass is remembered, and told if the attempt fails (RFC 1122 4.2.3.9). */
void connect_unreachable(void *context, const ip_addr_t *peer, const uint8_t *quoted, int error)
{
    struct service *service = context;
    for (uint32_t i = 0; i < service->high; i++) {
        struct socket *socket = &service->sockets[i];
        struct tcp_pcb *pcb = socket->pcb;
        if (socket->state != SOCKET_CONNECTING || pcb == NULL ||
            !ip_addr_zoneless_eq(&pcb->remote_ip, peer) ||
            (uint32_t)(quoted[0] << 8 | quoted[1]) != pcb->local_port ||
            (uint32_t)(quoted[2] << 8 | quoted[3]) != pcb->remote_port ||
            ((uint32_t)quoted[4] << 24 | (uint32_t)quoted[5] << 16 | (uint32_t)quoted[6] << 8 | quoted[7]) !=
                pcb->lastack) {
            continue;
        }
        if (error != E_CONNREFUSED) {
            socket->error = (uint8_t)error;
            return;
        }
        connect_done(socket, -E_CONNREFUSED);
        tcp_close(pcb); /* sends nothing */
        return;
    }
}

/* Why a connect failed. A time-out without an entry for the next hop means that nobody is there. */
int connect_error(struct socket *socket, err_t error)
{
    if (error == ERR_RST) {
        return -E_CONNREFUSED;
    }
    if (socket->error != 0u) {
        return -socket->error;
    }
    bool known =
        socket->connect != NULL && ports_neighbour_known(socket->service->stack, socket->connect->next_hop);
    return known ? -E_TIMEDOUT : -E_HOSTUNREACH;
}
