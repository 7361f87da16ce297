/* Sockets: life cycle and lwIP's callbacks. */
#include "service.h"
#include "lwip/priv/tcp_priv.h"
#include <string.h>

#define IPV4_SOURCE 12u /* RFC 791 3.1 */
#define IPV6_SOURCE 8u  /* RFC 8200 3 */

void socket_set_load(const struct service *service)
{
    mmio_write(TS_CORE_LOAD, service->open);
}

struct socket *socket_open(struct service *service, uint8_t host, uint8_t state)
{
    for (uint32_t i = 0; i < SOCKETS; i++) {
        struct socket *socket = &service->sockets[i];
        if (socket->state == SOCKET_FREE) {
            uint16_t generation = (uint16_t)(socket->generation + 1u);
            memset(socket, 0, sizeof(*socket));
            socket->generation = generation == 0u ? 1u : generation;
            socket->service = service;
            socket->host = host;
            socket->state = state;
            socket->rcvbuf = SOCKET_QUOTA_BUFFERS;
            socket->sndbuf = SOCKET_TX_BUFFERS;
            service->open++;
            service->high = LWIP_MAX(service->high, i + 1u);
            socket_set_load(service);
            return socket;
        }
    }
    return NULL;
}

uint32_t socket_handle(const struct socket *socket)
{
    const struct service *service = socket->service;
    return handle_pack(service->stack->core, socket->host, (uint32_t)(socket - service->sockets),
                       socket->generation);
}

struct socket *socket_of_handle(struct service *service, uint32_t handle, uint8_t host)
{
    uint32_t index = TS_GET(handle, TS_HANDLE_INDEX);
    if (index >= SOCKETS || TS_GET(handle, TS_HANDLE_CORE) != service->stack->core ||
        TS_GET(handle, TS_HANDLE_HOST) != host) {
        return NULL;
    }
    struct socket *socket = &service->sockets[index];
    bool open = socket->state == SOCKET_OPEN && socket->generation == TS_GET(handle, TS_HANDLE_GENERATION);
    return open && socket_handle(socket) == handle ? socket : NULL;
}

static void detach(struct socket *socket)
{
    if (socket->pcb != NULL) {
        tcp_arg(socket->pcb, NULL);
        tcp_recv(socket->pcb, NULL);
        tcp_sent(socket->pcb, NULL);
        tcp_err(socket->pcb, NULL);
        socket->pcb = NULL;
    }
}

void socket_release(struct socket *socket, int32_t result)
{
    struct service *service = socket->service;
    detach(socket);
    service->windows_due = true;
    if (socket->state == SOCKET_BACKLOG) {
        listener_forget(socket);
    }
    op_finish_all(service, &socket->sends, result);
    op_finish_all(service, &socket->receives, result);
    if (socket->connect != NULL) {
        op_finish(service, socket->connect, result);
    }
    if (socket->shutdown != NULL) {
        op_finish(service, socket->shutdown, result);
    }
    socket->connect = NULL;
    socket->shutdown = NULL;
    transfer_drop_pieces(socket);
    transfer_drop_received(socket);
    if (socket->port != 0u) {
        directory_release(service->stack, DIRECTORY_TCP, socket->port);
    }
    socket->state = SOCKET_FREE;
    service->open--;
    socket_set_load(service);
}

static err_t on_received(void *context, struct tcp_pcb *pcb, struct pbuf *p, err_t error)
{
    struct socket *socket = context;
    (void)error;
    if (p == NULL) {
        socket->eof = true;
        socket_check_fin(socket);
        if (socket->state != SOCKET_FREE) {
            transfer_pump_receive(socket);
        }
        return ERR_OK;
    }
    if (socket->state == SOCKET_LINGER) { /* nobody will read it: the peer is told (RFC 1122 4.2.2.13) */
        pbuf_free(p);
        socket_release(socket, -E_CONNRESET);
        tcp_abort(pcb);
        return ERR_ABRT;
    }
    window_received(socket, p->next != NULL);
    while (p != NULL) {
        struct pbuf *next = p->next;
        p->next = NULL;
        p->tot_len = p->len;
        if (p->len == 0u) {
            pbuf_free(p);
        } else {
            socket->rx_bytes += p->len;
            socket->rx_held++;
            if (socket->rx_tail == NULL) {
                socket->rx_head = p;
            } else {
                socket->rx_tail->next = p;
            }
            socket->rx_tail = p;
        }
        p = next;
    }
    transfer_pump_receive(socket);
    return ERR_OK;
}

static err_t on_sent(void *context, struct tcp_pcb *pcb, u16_t length)
{
    struct socket *socket = context;
    (void)pcb;
    socket->progress = time_ms();
    transfer_acknowledged(socket, length);
    transfer_pump_send(socket);
    return ERR_OK;
}

/* lwIP has freed the PCB already. */
static void on_error(void *context, err_t error)
{
    struct socket *socket = context;
    struct service *service = socket->service;
    int32_t reason = error == ERR_CLSD ? 0 : error == ERR_RST ? -E_CONNRESET : -E_TIMEDOUT;
    socket->pcb = NULL;
    switch (socket->state) {
    case SOCKET_CONNECTING:
        connect_done(socket, connect_error(socket, error));
        return;
    case SOCKET_OPEN:
        break;
    default:
        socket_release(socket, reason);
        return;
    }
    if (reason == 0) {
        socket->eof = true; /* both directions ended in order */
    } else {
        socket->error = (uint8_t)-reason;
    }
    op_finish_all(service, &socket->sends, reason != 0 ? reason : -E_PIPE);
    if (socket->shutdown != NULL) {
        struct op *op = socket->shutdown;
        socket->shutdown = NULL;
        op_finish(service, op, reason);
    }
    transfer_drop_pieces(socket);
    transfer_pump_receive(socket);
}

void socket_attach(struct socket *socket, struct tcp_pcb *pcb)
{
    socket->pcb = pcb;
    socket->service->windows_due = true;
    socket->wide = pcb->rcv_wnd != 0u;
    socket->progress = time_ms();
    tcp_arg(pcb, socket);
    tcp_recv(pcb, on_received);
    tcp_sent(pcb, on_sent);
    tcp_err(pcb, on_error);
}

/* lwIP tells nobody that the peer acknowledged a FIN, and frees a PCB in TIME_WAIT without a word: look at
 * its state after each round of input. */
void socket_check_fin(struct socket *socket)
{
    enum tcp_state state = socket->pcb == NULL ? CLOSED : socket->pcb->state;
    if (state == TIME_WAIT) {
        detach(socket);
    }
    bool acknowledged = state == CLOSED || state == FIN_WAIT_2 || state == TIME_WAIT;
    if (socket->fin_sent && acknowledged && socket->shutdown != NULL) {
        struct op *op = socket->shutdown;
        socket->shutdown = NULL;
        op_finish(socket->service, op, 0);
        if (socket->state == SOCKET_LINGER) {
            transfer_pump_send(socket); /* that was all */
        }
    }
    if (socket->state == SOCKET_LINGER && socket->pcb == NULL) {
        socket_release(socket, -E_CANCELED);
    }
}

/* RFC 9293 3.6.1, RFC 1122 4.2.2.13: with data that nobody will read the connection is reset. So it is after a SEND that
 * failed: the peer must not take what it has for the whole. */
void socket_close(struct socket *socket, struct op *op)
{
    struct service *service = socket->service;
    op_finish_all(service, &socket->sends, -E_CANCELED);
    op_finish_all(service, &socket->receives, -E_CANCELED);
    if (socket->shutdown != NULL) {
        op_finish(service, socket->shutdown, -E_CANCELED);
        socket->shutdown = NULL;
    }
    if (socket->pcb == NULL || socket->rx_head != NULL || socket->broken || socket->linger == 1u) {
        socket_abort(socket);
        op_finish(service, op, 0);
        return;
    }
    socket->state = SOCKET_LINGER; /* until what was accepted for sending is acknowledged */
    socket->fin_wanted = true;
    if (socket->linger == 0u) {
        op_finish(service, op, 0);
    } else {
        op->submitted = time_ms();
        socket->shutdown = op;
    }
    transfer_pump_send(socket);
    if (socket->state == SOCKET_LINGER) {
        socket_check_fin(socket);
    }
}

void socket_abort(struct socket *socket)
{
    struct tcp_pcb *pcb = socket->pcb;
    socket_release(socket, -E_CANCELED);
    if (pcb != NULL) {
        tcp_abort(pcb);
    }
}

/* A peer that fills our window with tiny segments must not take the buffers of others: less than half full on
 * average are refused while RX buffers run low. Half-size segments are what a peer sends that has never seen
 * a window of two segments (RFC 9293 3.8.6.2.1). */
bool socket_refuses(void *context, const volatile uint32_t *descriptor, const uint8_t *header)
{
    struct service *service = context;
    uint32_t flags = descriptor[TS_RX_DESCRIPTOR_IS_TCP_WORD];
    uint32_t l3 = TS_FRAME_PAD_BYTES + TS_WORD_GET(descriptor, TS_RX_DESCRIPTOR_L3_OFFSET);
    uint32_t l4 = TS_FRAME_PAD_BYTES + TS_WORD_GET(descriptor, TS_RX_DESCRIPTOR_L4_OFFSET);
    bool small = TS_WORD_GET(descriptor, TS_RX_DESCRIPTOR_BUFFER_CLASS) != 0u;
    uint32_t reserve = small ? RX_SMALL_RESERVE : RX_LARGE_RESERVE;
    bool ip6 = TS_GET(flags, TS_RX_DESCRIPTOR_IS_IPV6) != 0u;
    uint32_t source = l3 + (ip6 ? IPV6_SOURCE : IPV4_SOURCE), bytes = ip6 ? 16u : 4u;
    if (TS_GET(flags, TS_RX_DESCRIPTOR_IS_TCP) == 0u ||
        TS_WORD_GET(descriptor, TS_RX_DESCRIPTOR_PAYLOAD_LENGTH) == 0u || l4 + 4u > TS_HEADER_COPY_BYTES ||
        source + 2u * bytes > l4 || (small ? rx_free_small() : rx_free_large()) >= reserve) {
        return false;
    }
    u16_t remote_port = (u16_t)(header[l4] << 8 | header[l4 + 1u]);
    u16_t local_port = (u16_t)(header[l4 + 2u] << 8 | header[l4 + 3u]);
    for (uint32_t i = 0; i < SOCKETS; i++) {
        const struct socket *socket = &service->sockets[i];
        const struct tcp_pcb *pcb = socket->pcb;
        if (socket->state != SOCKET_FREE && pcb != NULL && pcb->remote_port == remote_port &&
            pcb->local_port == local_port && IP_IS_V6(&pcb->remote_ip) == ip6 &&
            memcmp(address_words(&pcb->remote_ip), header + source, bytes) == 0 &&
            memcmp(address_words(&pcb->local_ip), header + source + bytes, bytes) == 0) {
            uint32_t full = (socket->rx_bytes + TCP_MSS - 1u) / TCP_MSS;
            return socket->receives.head == NULL && socket->rx_held >= socket->rcvbuf + 2u * full;
        }
    }
    return false;
}
