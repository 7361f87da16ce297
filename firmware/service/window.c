/* Receive windows: what is advertised has an RX buffer waiting for it.
 *
 * A window is handed out in whole segments, each counted as one RX buffer from the moment it is granted until
 * its last byte has come. The sum over all connections stays within the free buffers, less a reserve for
 * control traffic and for the acknowledgements of what is in flight. Since a right edge never moves back,
 * connections that keep a window and send nothing could shut out others for ever: a socket with a posted RECV
 * and less than one segment gets one in excess of the sum after STARVED_MS. */
#include "service.h"
#include "lwip/priv/tcp_priv.h"

#define FIRST_SEGMENTS 2u /* senders cut segments to half of the largest window they have seen */
#define DELAYED_ACK_MS 10u
#define STARVED_MS     20u
#define SMALLEST_MSS   536u /* RFC 9293 3.7.1; smaller segments count as they come */

static uint32_t unit_of(const struct tcp_pcb *pcb)
{
    return LWIP_MAX(pcb->mss, SMALLEST_MSS);
}

static bool can_receive(const struct tcp_pcb *pcb)
{
    return pcb->state == SYN_RCVD || pcb->state == ESTABLISHED || pcb->state == FIN_WAIT_1 ||
           pcb->state == FIN_WAIT_2;
}

/* RX buffers that are neither promised nor reserved. Connections without an entry in the flow table share what the queue
 * of strangers may hold, less one: `others`. */
static int32_t budget(int32_t *others)
{
    uint32_t held = LWIP_MIN(udp_held(), RX_OTHER_LARGE); /* part of what the queue of strangers may hold */
    uint32_t taken = RX_CONTROL_RESERVE - LWIP_MIN(held, RX_CONTROL_RESERVE) + RX_ACK_RESERVE;
    *others = (int32_t)RX_OTHER_LARGE - 1 - (int32_t)held;
    for (const struct tcp_pcb *pcb = tcp_active_pcbs; pcb != NULL; pcb = pcb->next) {
        if (can_receive(pcb) && (pcb->flags & TF_RXCLOSED) == 0u) {
            uint32_t promised = (pcb->rcv_wnd + unit_of(pcb) - 1u) / unit_of(pcb);
            taken += promised;
            *others -= pcb->state != SYN_RCVD && !flow_has(pcb) ? (int32_t)promised : 0;
        }
    }
    return (int32_t)(rx_free_large() - taken);
}

/* The window with which a connection starts, before its first segment with a window that counts. */
void window_start(struct tcp_pcb *pcb)
{
    int32_t others;
    pcb->rcv_wnd = 0;
    pcb->rcv_wnd =
        (tcpwnd_size_t)(budget(&others) >= (int32_t)FIRST_SEGMENTS ? FIRST_SEGMENTS * unit_of(pcb) : 0u);
    pcb->rcv_ann_wnd = pcb->rcv_wnd;
}

static void acknowledge(struct tcp_pcb *pcb)
{
    tcp_ack_now(pcb);
    tcp_output(pcb);
}

/* What the peer may still send by what it has been told. */
static uint32_t advertised_by(const struct tcp_pcb *pcb)
{
    uint32_t advertised = pcb->rcv_ann_right_edge - pcb->rcv_nxt;
    return advertised > UINT16_MAX ? 0u : advertised; /* the peer sent beyond the edge */
}

/* False, too, once something else has carried the acknowledgement. */
static bool is_ack_due(struct socket *socket)
{
    socket->ack_due = socket->ack_due && (socket->pcb->flags & TF_ACK_DELAY) != 0u;
    return socket->ack_due;
}

/* Move the right edge. The peer hears at once if that frees it, or doubles a window by two segments or more; else with
 * the next acknowledgement (RFC 9293 3.8.6.2.2), which may be due now. */
static void grant(struct socket *socket, uint32_t segments)
{
    struct tcp_pcb *pcb = socket->pcb;
    uint32_t advertised = advertised_by(pcb);
    pcb->rcv_wnd = (tcpwnd_size_t)(pcb->rcv_wnd + segments * unit_of(pcb));
    pcb->rcv_ann_wnd = pcb->rcv_wnd;
    bool doubles = pcb->rcv_wnd >= 2u * advertised && pcb->rcv_wnd - advertised >= TCP_WND_UPDATE_THRESHOLD;
    if (!is_ack_due(socket) && (advertised < unit_of(pcb) || doubles)) {
        acknowledge(pcb);
    }
}

/* Data has come in order. lwIP would acknowledge every second segment at once, with a window that lacks the buffers of
 * both, and we the new window again as soon as they are copied: instead one acknowledgement goes out when they are,
 * within a millisecond (RFC 9293 3.8.6.3 asks for one for at least every second segment, RFC 1122 4.2.3.2 for half a
 * second at most). What lwIP sends meanwhile carries it, too, and clears TF_ACK_DELAY. */
void window_received(struct socket *socket, bool several)
{
    struct tcp_pcb *pcb = socket->pcb;
    socket->service->windows_due = true;
    bool gap =
        several || pcb->ooseq != NULL; /* what fills one is acknowledged without delay (RFC 5681 3.2) */
    if (((pcb->flags & TF_ACK_NOW) == 0u && !gap) || (pcb->flags & TF_RXCLOSED) != 0u) {
        return;
    }
    tcp_clear_flags(pcb, TF_ACK_NOW);
    tcp_set_flags(pcb, TF_ACK_DELAY);
    if (!socket->ack_due) {
        socket->ack_due = true;
        socket->ack_since = (uint8_t)time_ms();
        socket->service->acks_due = true;
    }
}

/* Send what is due, unless more window will come with it in a moment. */
static void acknowledge_due(struct service *service, uint8_t now)
{
    if (!service->acks_due) {
        return;
    }
    service->acks_due = false;
    for (uint32_t i = 0; i < service->high; i++) {
        struct socket *socket = &service->sockets[i];
        struct tcp_pcb *pcb = socket->state == SOCKET_FREE ? NULL : socket->pcb;
        if (pcb == NULL || !is_ack_due(socket)) {
            continue;
        }
        const struct op *op = socket->receives.head;
        bool copying = op != NULL && op->transfers != 0u;
        if (copying && socket->ack_since == now &&
            pcb->rcv_wnd < advertised_by(pcb) + TCP_WND_UPDATE_THRESHOLD) {
            service->acks_due = true;
            continue;
        }
        socket->ack_due = false;
        acknowledge(pcb);
    }
}

/* Segments that the socket should have, in addition to what it has. */
static uint32_t wanted(const struct socket *socket, uint32_t share)
{
    const struct tcp_pcb *pcb = socket->pcb;
    uint32_t wish = 0, whole = pcb->rcv_wnd / unit_of(pcb);
    for (const struct op *op = socket->receives.head; op != NULL && wish < SOCKET_WINDOW_MAX; op = op->next) {
        wish += LWIP_MIN(op->length - op->submitted, SOCKET_WINDOW_MAX);
    }
    wish = (wish + unit_of(pcb) - 1u) / unit_of(pcb);
    if (wish == 0u) {
        wish = socket->rx_held < socket->rcvbuf ? (uint32_t)socket->rcvbuf - socket->rx_held : 0u;
    }
    if (!socket->wide && wish != 0u && pcb->rcv_wnd == 0u) {
        return FIRST_SEGMENTS;
    }
    wish = LWIP_MIN(wish, share);
    return wish > whole ? wish - whole : 0u;
}

/* True if the socket has waited long enough for a segment in excess of the sum. */
static bool is_starved(struct socket *socket)
{
    uint16_t now = (uint16_t)time_ms();
    if (!socket->thirsty) {
        socket->thirsty = true;
        socket->thirsty_since = now;
    }
    return (uint16_t)(now - socket->thirsty_since) >= STARVED_MS && rx_free_large() > RX_CONTROL_RESERVE;
}

/* lwIP's own timer is slow (TCP_TMR_INTERVAL): a sender with Nagle's algorithm would wait that long for its
 * last segment. RFC 1122 4.2.3.2 bounds the delay from above only. */
static void acknowledge_late(struct service *service, uint32_t now)
{
    if (now - service->acknowledged < DELAYED_ACK_MS) {
        return;
    }
    service->acknowledged = now;
    for (uint32_t i = 0; i < service->high; i++) {
        struct tcp_pcb *pcb = service->sockets[i].state == SOCKET_FREE ? NULL : service->sockets[i].pcb;
        if (pcb != NULL && (pcb->flags & TF_ACK_DELAY) != 0u) {
            acknowledge(pcb);
        }
    }
}

/* After something happened that may matter, and each millisecond. Hand out what there is: first one segment to each that has none, those with a RECV before those without,
 * then up to an equal share. */
void window_pump(struct service *service)
{
    enum { FIRST_WITH_RECEIVE, FIRST, SHARE, CLASSES };
    uint32_t now = time_ms();
    if (!service->windows_due && service->windows_at == now) {
        return;
    }
    service->windows_due = false;
    service->windows_at = now;
    uint32_t connections = service->open - service->udp.open;
    uint32_t share = (RX_LARGE - RX_CONTROL_RESERVE - RX_ACK_RESERVE) / LWIP_MAX(connections, 1u);
    int32_t others, left = budget(&others);
    acknowledge_late(service, now);
    share = LWIP_MAX(share, 1u);
    for (uint32_t class = 0; class < CLASSES; class ++) {
        uint32_t unserved = service->high;
        for (uint32_t i = 0; i < service->high; i++) {
            uint32_t index = (service->window_turn + i) % service->high;
            struct socket *socket = &service->sockets[index];
            if (socket->state == SOCKET_FREE || socket->pcb == NULL || socket->pcb->state == SYN_RCVD ||
                !can_receive(socket->pcb)) {
                continue;
            }
            uint32_t wish = wanted(socket, share);
            bool first = !socket->wide && socket->pcb->rcv_wnd == 0u;
            bool empty = socket->pcb->rcv_wnd < unit_of(socket->pcb);
            if (wish == 0u || !empty || socket->receives.head == NULL) {
                socket->thirsty = false;
            }
            if (wish == 0u || (class != SHARE && !empty) ||
                (class == FIRST_WITH_RECEIVE && socket->receives.head == NULL)) {
                continue;
            }
            wish = class == SHARE || first ? wish : 1u;
            bool other = !flow_has(socket->pcb);
            int32_t room = other ? LWIP_MIN(left, others) : left;
            if (room >= (int32_t)(first ? FIRST_SEGMENTS : 1u)) {
                wish = LWIP_MIN(wish, (uint32_t)room);
                left -= (int32_t)wish;
                others -= other ? (int32_t)wish : 0;
                grant(socket, wish);
                socket->wide = socket->wide || first;
                socket->thirsty = false;
            } else if (class == FIRST_WITH_RECEIVE && is_starved(socket)) {
                service->excess++;
                socket->thirsty = false;
                grant(socket, 1u);
            } else if (unserved == service->high && room == left) {
                unserved = index;
            }
        }
        if (unserved != service->high) {
            service->window_turn = unserved;
            break;
        }
    }
    acknowledge_due(service, (uint8_t)now);
}
