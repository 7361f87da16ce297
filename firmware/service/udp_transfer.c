/* Datagrams between host memory, packet memory and lwIP; the CPU touches no payload byte. */
#include "service.h"
#include "lwip/ip.h"
#include "lwip/prot/udp.h"
#include <string.h>

#define PAYLOAD_IPV4    (1500u - 20u - 8u) /* RFC 791, RFC 768 headers in an Ethernet frame */
#define PAYLOAD_IPV6    (1500u - 40u - 8u)
#define EXCESS_MS       100u /* how long a large datagram may hold more buffers than it should */
#define NO_MEMORY_MS    100u /* a datagram that lwIP has no memory for so long is given up */
#define FRAGMENT_PIECES 8u

static struct service *instance; /* pbuf_free() and DMA call back without it */

/* --- Destinations --- */

static void put_target(struct op *op, const ip_addr_t *address, uint16_t port)
{
    op->target_port = port;
    op->target_is_v6 = IP_IS_V6(address);
    op->target_zone = op->target_is_v6 ? ip6_addr_zone(ip_2_ip6(address)) : 0u;
    memcpy(op->target, address_words(address), op->target_is_v6 ? 16u : 4u);
}

static void get_target(const struct op *op, ip_addr_t *address)
{
    if (op->target_is_v6) {
        IP_ADDR6(address, op->target[0], op->target[1], op->target[2], op->target[3]);
        ip6_addr_set_zone(ip_2_ip6(address), op->target_zone);
        return;
    }
    ip_addr_set_ip4_u32(address, op->target[0]);
}

/* The network port that has a local address, or NULL. */
static struct netif *netif_of(struct stack *stack, const ip_addr_t *local)
{
    for (uint32_t port = 0; port < stack->ports; port++) {
        struct netif *netif = &stack->netifs[port];
        if (netif_is_up(netif) && !ip_addr_isany(local) && ports_has_address(netif, local)) {
            return netif;
        }
    }
    return NULL;
}

/* Where a datagram to a group, or to all, leaves: the chosen port, that of the scope, that of the socket's address, the
 * route's. */
static struct netif *route_group(const struct datagram *socket, ip_addr_t *target)
{
    const struct udp_pcb *pcb = socket->pcb;
    bool group = ip_addr_ismulticast(target), ip6 = IP_IS_V6(target);
    struct netif *netif = group ? netif_get_by_index(pcb->mcast_ifindex) : NULL;
    if (ip6 && ip6_addr_has_zone(ip_2_ip6(target))) {
        netif = netif_get_by_index(ip6_addr_zone(ip_2_ip6(target)));
    }
    netif = netif != NULL ? netif : netif_of(socket->service->stack, &pcb->local_ip);
    netif = netif != NULL ? netif : ip6 ? netif_default : ip_route(&pcb->local_ip, target);
    if (netif == NULL || !netif_is_up(netif) || !netif_is_link_up(netif)) {
        return NULL;
    }
    if (ip6) {
        ip6_addr_assign_zone(ip_2_ip6(target), IP6_MULTICAST, netif);
        return ip6_select_source_address(netif, ip_2_ip6(target)) != NULL ? netif : NULL;
    }
    return netif_ip4_addr(netif)->addr != 0u ? netif : NULL;
}

/* Where a datagram leaves, or NULL. */
static struct netif *route(const struct datagram *socket, ip_addr_t *target)
{
    ip_addr_t local, next_hop;
    bool all = IP_IS_V4(target) && ip_2_ip4(target)->addr == IPADDR_BROADCAST;
    return all || ip_addr_ismulticast(target) ? route_group(socket, target)
                                              : ports_route(target, &local, &next_hop);
}

int udp_parse(const uint32_t *words, ip_addr_t *address, uint16_t *port)
{
    int error = address_parse(words, address, port);
    return error == 0 && words[TS_SOCKET_ADDRESS_EXTRA_WORD] != 0u ? -E_INVAL : error;
}

int udp_check_family(const struct datagram *socket, const ip_addr_t *address)
{
    return IP_ADDR_PCB_VERSION_MATCH(socket->pcb, address) ? 0 : -E_AFNOSUPPORT;
}

/* --- Sending: host memory -> TX buffer by DMA -> lwIP by reference; the buffer is free when lwIP frees the pbuf, after
 * the frame or when no next hop has answered --- */

static struct piece *piece_of(struct service *service, const struct pbuf *p)
{
    uintptr_t offset = (uintptr_t)p - (uintptr_t)service->pieces;
    return &service->pieces[offset / sizeof(service->pieces[0])];
}

static void free_piece(struct service *service, struct piece *piece)
{
    if (piece->datagram != NULL) {
        piece->datagram->tx_count--;
        piece->datagram->attention = true;
    }
    piece->datagram = NULL;
    piece->op = NULL;
    piece->state = PIECE_FREE;
    service->udp.tx_buffers--;
    bank_give(&service->stack->bank, (uint32_t)(piece - service->pieces));
}

static void on_sent(struct pbuf *p)
{
    struct service *service = instance;
    struct piece *piece = piece_of(service, p);
    struct op *op = piece->op;
    int32_t length = piece->length;
    free_piece(service, piece);
    op_finish(service, op, length);
}

static void unlink_piece(struct udp *udp, struct piece *piece)
{
    struct piece *previous = NULL;
    for (struct piece *other = udp->pieces; other != piece; other = other->next) {
        previous = other;
    }
    if (previous == NULL) {
        udp->pieces = piece->next;
    } else {
        previous->next = piece->next;
    }
    udp->last_piece = udp->last_piece == piece ? previous : udp->last_piece;
    piece->next = NULL;
}

static int32_t error_of(err_t error)
{
    return error == ERR_RTE                       ? -E_NETUNREACH
           : error == ERR_MEM || error == ERR_BUF ? -E_NOBUFS
                                                  : -E_HOSTUNREACH;
}

/* Give the oldest datagram to lwIP; false if that has to wait. */
static bool output(struct service *service, struct piece *piece)
{
    struct stack *stack = service->stack;
    struct op *op = piece->op;
    uint32_t index = (uint32_t)(piece - service->pieces);
    ip_addr_t target;
    if ((uint16_t)(stack->tx.producer - stack->tx.consumer) >= TX_RING_ENTRIES) {
        return false;
    }
    get_target(op, &target);
    struct netif *netif = route(piece->datagram, &target);
    err_t error = ERR_RTE;
    if (netif != NULL) {
        piece->custom.custom_free_function = on_sent;
        /* "ROM": it stays as it is, so the queue of an unresolved next hop takes it without a copy. */
        struct pbuf *p = pbuf_alloced_custom(PBUF_RAW, piece->length, PBUF_ROM, &piece->custom,
                                             uncached(bank_address(index)), TS_TX_BUFFER_BYTES);
        error = udp_sendto_if(piece->datagram->pcb, p, &target, op->target_port, netif);
        if (error == ERR_OK) {
            unlink_piece(&service->udp, piece);
            piece->state = PIECE_WRITTEN;
            pbuf_free(p); /* only lwIP's references are left, if any */
            return true;
        }
        if (error == ERR_MEM && (uint8_t)(time_ms() - piece->since) < NO_MEMORY_MS) {
            return false;
        }
    }
    unlink_piece(&service->udp, piece);
    free_piece(service, piece);
    op_finish(service, op, error_of(error));
    return true;
}

static void pump_output(struct service *service)
{
    while (service->udp.pieces != NULL && service->udp.pieces->state == PIECE_READY &&
           output(service, service->udp.pieces)) {
    }
}

static void on_copied(void *context, void *item, uint32_t length, int error)
{
    struct service *service = context;
    struct piece *piece = item;
    struct op *op = piece->op;
    if (op->finished || error != 0) { /* closed meanwhile, or not fetched */
        unlink_piece(&service->udp, piece);
        free_piece(service, piece);
        if (!op->finished) {
            op_finish(service, op, error);
        }
        op_transferred(service, op);
    } else {
        op->transfers--;
        service->bytes_out += length;
        piece->state = PIECE_READY;
        piece->since = (uint8_t)time_ms();
    }
    pump_output(service);
}

/* Fetch waiting datagrams as far as buffers allow. */
static void fetch(struct datagram *socket)
{
    struct service *service = socket->service;
    struct stack *stack = service->stack;
    struct udp *udp = &service->udp;
    while (socket->sends.head != NULL) {
        struct op *op = socket->sends.head;
        bool first = socket->tx_count == 0u;
        int index = -E_NOBUFS;
        if (first ? udp->tx_buffers < UDP_TX_MAX
                  : socket->tx_count < socket->tx_quota && udp->tx_buffers < UDP_TX_SHARED &&
                        stack->bank.free_count > TX_FIRST_RESERVE) {
            index = dma_space(&stack->dma_in) == 0u ? -E_NOBUFS : bank_take(&stack->bank);
        }
        if (index < 0) {
            socket->attention = true;
            return;
        }
        struct piece *piece = &service->pieces[index];
        *piece = (struct piece){.datagram = socket,
                                .op = op,
                                .length = (uint16_t)op->length,
                                .state = PIECE_COPYING,
                                .since = (uint8_t)time_ms()};
        op_remove(&socket->sends, op);
        socket->tx_count++;
        udp->tx_buffers++;
        if (udp->last_piece == NULL) {
            udp->pieces = piece;
        } else {
            udp->last_piece->next = piece;
        }
        udp->last_piece = piece;
        if (op->length == 0u) {
            piece->state = PIECE_READY;
            continue;
        }
        op->transfers++;
        dma_submit(&stack->dma_in, bank_address((uint32_t)index), op->buffer, (uint16_t)op->length, op->host,
                   on_copied, service, piece);
    }
}

/* 0 if a datagram of `length` bytes may go to the target. */
static int check_target(struct datagram *socket, ip_addr_t *target, uint16_t port, uint32_t length)
{
    const struct udp_pcb *pcb = socket->pcb;
    int error = udp_check_family(socket, target);
    if (error != 0) {
        return error;
    }
    if (length > (IP_IS_V6(target) ? PAYLOAD_IPV6 : PAYLOAD_IPV4)) {
        return -E_MSGSIZE;
    }
    const struct netif *netif = route(socket, target); /* and the scope of a link-local address */
    if ((pcb->flags & UDP_FLAGS_CONNECTED) != 0u &&
        (pcb->remote_port != port || !ip_addr_eq(&pcb->remote_ip, target))) {
        return -E_ISCONN;
    }
    if (socket->error != 0u) {
        error = -socket->error;
        socket->error = 0;
        return error;
    }
    if (netif == NULL) {
        return -E_NETUNREACH;
    }
    return ip_addr_isbroadcast(target, netif) && !socket->broadcast ? -E_ACCES : 0;
}

void udp_send_op(struct service *service, struct op *op, struct datagram *socket, const uint32_t *sqe)
{
    ip_addr_t target = socket->pcb->remote_ip;
    uint16_t port = socket->pcb->remote_port;
    int error = 0;
    if (op->operation == TS_OP_SENDTO) {
        error = udp_parse(sqe + TS_SQE_INLINE_WORD, &target, &port);
        error = error == 0 && port == 0u ? -E_INVAL : error;
    } else if ((socket->pcb->flags & UDP_FLAGS_CONNECTED) == 0u) {
        error = -E_DESTADDRREQ;
    }
    error = error != 0 ? error : check_target(socket, &target, port, op->length);
    if (error != 0) {
        op_finish(service, op, error);
        return;
    }
    put_target(op, &target, port);
    op->datagram = socket;
    op_push(&socket->sends, op);
    fetch(socket);
    pump_output(service);
}

/* --- Receiving: RX buffer -> host memory by DMA --- */

static void count_buffers(struct service *service, const struct pbuf *p, int32_t step)
{
    struct rx *rx = &service->stack->rx;
    for (; p != NULL; p = p->next) {
        const struct rx_buffer *buffer = rx_buffer_of(rx, p);
        if (buffer != NULL && (uint32_t)(buffer - rx->buffers) >= RX_LARGE) {
            service->udp.kept_small += (uint32_t)step;
        } else {
            service->udp.kept_large += (uint32_t)step;
            service->udp.kept_handed += buffer == NULL ? (uint32_t)step : 0u;
        }
    }
}

uint32_t udp_held(void)
{
    return instance->udp.kept_large - instance->udp.kept_handed;
}

static struct kept *pop_kept(struct datagram *socket)
{
    struct kept *kept = socket->first;
    socket->first = kept->next;
    socket->last = socket->first == NULL ? NULL : socket->last;
    socket->kept--;
    count_buffers(socket->service, kept->p, -1);
    if (socket->service->udp.excess == kept) {
        socket->service->udp.excess = NULL;
    }
    return kept;
}

static void free_kept(struct udp *udp, struct kept *kept)
{
    kept->p = NULL;
    kept->next = udp->free_entries;
    udp->free_entries = kept;
}

static void on_delivered(void *context, void *item, uint32_t length, int error)
{
    struct pbuf *p = context;
    struct op *op = item;
    if (error != 0) {
        op->result = error;
    } else {
        instance->bytes_in += length;
    }
    if (p != NULL) {
        pbuf_free(p); /* this was its last piece */
    }
    op_transferred(instance, op);
}

static void on_address_written(void *context, void *item, uint32_t length, int error)
{
    struct op *op = item;
    (void)length;
    bank_scratch_give(&instance->stack->bank, (uint32_t)(uintptr_t)context);
    op->result = error != 0 ? error : op->result;
    op_transferred(instance, op);
}

/* The sender's address is ready in the scratch piece at `scratch`. */
static void write_address(struct service *service, struct op *op, const struct kept *kept, uint32_t scratch)
{
    uint32_t words[TS_SOCKET_ADDRESS_WORDS] = {0};
    volatile uint32_t *target = uncached(scratch);
    address_write(words, &kept->source, kept->port);
    words[TS_SOCKET_ADDRESS_EXTRA_WORD] = kept->p->tot_len;
    for (uint32_t i = 0; i < TS_SOCKET_ADDRESS_WORDS; i++) {
        target[i] = words[i];
    }
    memory_barrier();
    op->transfers++;
    dma_submit(&service->stack->dma_out, scratch, op->submitted, TS_SOCKET_ADDRESS_BYTES, op->host,
               on_address_written, (void *)(uintptr_t)scratch, op);
}

/* The oldest datagram to the oldest receive; false if the DMA queue or the scratch pieces have no space for it. */
static bool hand_out(struct datagram *socket)
{
    struct service *service = socket->service;
    struct stack *stack = service->stack;
    struct op *op = socket->receives.head;
    struct pbuf *p = socket->first->p, *last = NULL;
    uint32_t length = LWIP_MIN((uint32_t)p->tot_len, op->length), pieces = 0, at = 0, scratch = 0;
    for (struct pbuf *q = p; q != NULL && at < length; q = q->next) {
        pieces += q->len != 0u ? 1u : 0u;
        last = q->len != 0u ? q : last;
        at += q->len;
    }
    if (dma_space(&stack->dma_out) < pieces + 1u) {
        return false;
    }
    if (op->submitted != 0u) {
        scratch = bank_scratch_take(&stack->bank);
        if (scratch == 0u) {
            return false;
        }
    }
    struct kept *kept = pop_kept(socket);
    op_remove(&socket->receives, op);
    if (scratch != 0u) {
        write_address(service, op, kept, scratch);
    }
    free_kept(&service->udp, kept);
    at = 0;
    for (struct pbuf *q = p; q != NULL && at < length; q = q->next) {
        uint32_t part = LWIP_MIN((uint32_t)q->len, length - at);
        if (part != 0u) {
            op->transfers++;
            dma_submit(&stack->dma_out, rx_payload_address(&stack->rx, q), op->buffer + at, (uint16_t)part,
                       op->host, on_delivered, q == last ? p : NULL, op);
            at += part;
        }
    }
    if (pieces == 0u) {
        pbuf_free(p);
    }
    op_finish(service, op, (int32_t)length);
    return true;
}

static void pump_receive(struct datagram *socket)
{
    while (socket->first != NULL && socket->receives.head != NULL) {
        if (!hand_out(socket)) {
            socket->attention = true;
            return;
        }
    }
}

enum keep { KEEP_NOT, KEEP, KEEP_FOR_A_MOMENT };

/* Whether a datagram may wait, or go to a receive that no other one takes. One of several fragments that needs too
 * many buffers may wait for a moment: its receive may be on the way. */
static enum keep may_keep(struct datagram *socket, const struct pbuf *p)
{
    struct udp *udp = &socket->service->udp;
    uint32_t receives = 0;
    for (const struct op *op = socket->receives.head; op != NULL && receives <= socket->kept; op = op->next) {
        receives++;
    }
    if (receives > socket->kept) {
        return KEEP;
    }
    uint32_t large = udp->kept_large, small = udp->kept_small;
    count_buffers(socket->service, p, 1); /* only to look */
    bool fits = udp->kept_large <= LWIP_MAX(UDP_KEPT_LARGE, large) &&
                udp->kept_small <= LWIP_MAX(UDP_KEPT_SMALL, small);
    count_buffers(socket->service, p, -1);
    if (socket->kept >= socket->quota || (!fits && (p->next == NULL || udp->excess != NULL))) {
        return KEEP_NOT;
    }
    return fits ? KEEP : KEEP_FOR_A_MOMENT;
}

/* lwIP has removed the header, but it is still there; it does not look at its length. */
static bool trim(struct pbuf *p)
{
    const struct udp_hdr *header =
        (const struct udp_hdr *)(const void *)((const uint8_t *)p->payload - UDP_HLEN);
    uint32_t length = lwip_ntohs(header->len);
    if (length < UDP_HLEN || length - UDP_HLEN > p->tot_len) {
        return false;
    }
    pbuf_realloc(p, (u16_t)(length - UDP_HLEN));
    return true;
}

void udp_received(void *context, struct udp_pcb *pcb, struct pbuf *p, const ip_addr_t *source, u16_t port)
{
    struct datagram *socket = context;
    struct udp *udp = &socket->service->udp;
    struct kept *kept = udp->free_entries;
    (void)pcb;
    enum keep keep =
        trim(p) && kept != NULL && pbuf_clen(p) <= FRAGMENT_PIECES ? may_keep(socket, p) : KEEP_NOT;
    if (keep == KEEP_NOT) {
        udp->dropped++;
        pbuf_free(p);
        return;
    }
    udp->free_entries = kept->next;
    *kept = (struct kept){.p = p, .source = *source, .port = port};
    count_buffers(socket->service, p, 1);
    if (socket->last == NULL) {
        socket->first = kept;
    } else {
        socket->last->next = kept;
    }
    socket->last = kept;
    socket->kept++;
    if (keep == KEEP_FOR_A_MOMENT) {
        udp->excess = kept;
        udp->excess_socket = socket;
        udp->excess_since = time_ms();
    }
    pump_receive(socket);
}

void udp_receive_op(struct service *service, struct op *op, struct datagram *socket, const uint32_t *sqe)
{
    if (socket->error != 0u) {
        int32_t error = -socket->error;
        socket->error = 0;
        op_finish(service, op, error);
        return;
    }
    op->submitted = op->operation == TS_OP_RECVFROM ? sqe[TS_SQE_INLINE_WORD] : 0u;
    op->datagram = socket;
    op_push(&socket->receives, op);
    pump_receive(socket);
}

/* --- Both --- */

void udp_drop(struct datagram *socket)
{
    struct service *service = socket->service;
    op_finish_all(service, &socket->sends, -E_CANCELED);
    op_finish_all(service, &socket->receives, -E_CANCELED);
    while (socket->first != NULL) {
        struct kept *kept = pop_kept(socket);
        pbuf_free(kept->p);
        free_kept(&service->udp, kept);
    }
    for (struct piece *piece = service->udp.pieces, *next; piece != NULL; piece = next) {
        next = piece->next;
        if (piece->datagram == socket) {
            struct op *op = piece->op;
            if (piece->state == PIECE_COPYING) { /* freed when its transfer ends */
                piece->datagram = NULL;
            } else {
                unlink_piece(&service->udp, piece);
                free_piece(service, piece);
            }
            op_finish(service, op, -E_CANCELED);
        }
    }
    for (uint32_t i = 0; i < TX_BUFFERS; i++) { /* what lwIP has got goes its way without the socket */
        struct piece *piece = &service->pieces[i];
        if (piece->state == PIECE_WRITTEN && piece->custom.custom_free_function == on_sent &&
            piece->datagram == socket) {
            piece->datagram = NULL;
        }
    }
    socket->tx_count = 0;
}

/* Nobody took it. */
static void drop_excess(struct udp *udp)
{
    struct datagram *socket = udp->excess_socket;
    struct kept *kept = udp->excess, *previous = NULL;
    for (struct kept *other = socket->first; other != kept; other = other->next) {
        previous = other;
    }
    if (previous != NULL) { /* to the front, where pop_kept() takes it */
        previous->next = kept->next;
        socket->last = socket->last == kept ? previous : socket->last;
        kept->next = socket->first;
        socket->first = kept;
    }
    pbuf_free(pop_kept(socket)->p);
    free_kept(udp, kept);
    udp->dropped++;
}

void udp_pump(struct service *service)
{
    if (service->udp.excess != NULL && time_ms() - service->udp.excess_since >= EXCESS_MS) {
        drop_excess(&service->udp);
    }
    for (uint32_t i = 0; i < UDP_SOCKETS + UDP_SPREAD && service->udp.open != 0u; i++) {
        struct datagram *socket = &service->udp.sockets[i];
        if (socket->pcb != NULL && socket->attention) {
            socket->attention = false;
            pump_receive(socket);
            fetch(socket);
        }
    }
    pump_output(service);
}

void udp_transfer_init(struct service *service)
{
    instance = service;
    for (uint32_t i = 0; i < UDP_KEPT; i++) {
        free_kept(&service->udp, &service->udp.entries[i]);
    }
}
