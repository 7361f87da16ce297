/* Outgoing connections: a random local port, in the flow table before the SYN leaves. */
#include "service.h"
#include "lwip/etharp.h"
#include "lwip/ip4.h"

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
static int take_port(struct service *service, struct tcp_pcb *pcb, uint32_t remote, uint32_t local,
                     uint16_t remote_port, uint16_t *port)
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
    ip4_addr_t remote = {0};
    uint16_t remote_port = 0;
    int error = address_parse(sqe + TS_SQE_INLINE_WORD, &remote.addr, &remote_port);
    if (error != 0) {
        op_finish(service, op, error);
        return;
    }
    struct netif *netif = ip4_route(&remote);
    if (netif == NULL || remote.addr == 0u || netif_ip4_addr(netif)->addr == 0u ||
        (!ip4_addr_net_eq(&remote, netif_ip4_addr(netif), netif_ip4_netmask(netif)) &&
         netif_ip4_gw(netif)->addr == 0u)) {
        op_finish(service, op, -E_NETUNREACH);
        return;
    }
    struct socket *socket = socket_open(service, op->host, SOCKET_CONNECTING);
    if (socket == NULL) {
        op_finish(service, op, -E_NFILE);
        return;
    }
    uint32_t local = netif_ip4_addr(netif)->addr;
    bool direct = ip4_addr_net_eq(&remote, netif_ip4_addr(netif), netif_ip4_netmask(netif));
    socket->next_hop = direct ? remote.addr : netif_ip4_gw(netif)->addr;
    struct tcp_pcb *pcb = tcp_new();
    error = -E_NFILE;
    if (pcb != NULL) {
        flow_track(pcb);
        error = take_port(service, pcb, remote.addr, local, remote_port, &socket->port);
    }
    if (error == 0) {
        ip_addr_t address = {local};
        ip_set_option(pcb, SOF_REUSEADDR);
        if (tcp_bind(pcb, &address, socket->port) != ERR_OK) {
            error = -E_ADDRNOTAVAIL;
        }
    }
    if (error == 0) {
        socket->connect = op;
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

/* Why a connect failed. A time-out without an ARP entry for the next hop means that nobody is there. */
int connect_error(struct socket *socket, err_t error)
{
    if (error == ERR_RST) {
        return -E_CONNREFUSED;
    }
    const ip4_addr_t next_hop = {socket->next_hop};
    for (uint32_t port = 0; port < socket->service->stack->ports; port++) {
        struct eth_addr *mac;
        const ip4_addr_t *address;
        if (etharp_find_addr(&socket->service->stack->netifs[port], &next_hop, &mac, &address) >= 0) {
            return -E_TIMEDOUT;
        }
    }
    return -E_HOSTUNREACH;
}
